"""The replies of a Kafka transaction: those that can be sent are, and none holds up or changes anything else."""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder

from worker.encoder import Reply
from worker.record_batches import Batches, Sent, append, partition_of, rounds, send_round
from worker.reply_topics import FORBIDDEN, ReplyTopics, Shape
from worker.telemetry.defects import where

log = structlog.stdlib.get_logger(__name__)

_PATIENCE_S: Final = 2
"""How much longer replies may take than events and rejections."""
_DOUBT_S: Final = 1
"""After this a reply topic may be why nothing arrives: one that was deleted holds up the whole transaction."""
_METADATA_ATTEMPTS: Final = 2
_RECORD_OVERHEAD_BYTES: Final = 64
"""More than a record takes in a batch besides key, value and headers."""


class UnknownReplyTopicError(Exception):
    """A reply topic is no more, though it was there just now."""


class Replies:
    """The replies of one transaction, in batches of their own."""

    def __init__(self, producer: AIOKafkaProducer, memory: ReplyTopics) -> None:
        self.batches: dict[TopicPartition, list[BatchBuilder]] = {}
        self.left_out: Counter[tuple[str, str]] = Counter()
        """How many replies, by topic and reason."""
        self._producer = producer
        self._client: AIOKafkaClient = producer.client
        self._memory = memory

    async def write(self, replies: Sequence[Reply], own_topics: Collection[str]) -> None:
        """Write those replies that can be sent. Raise KafkaError or OSError in an outage.

        `own_topics` are those of the worker, to which no reply may go, whatever the settings were when it was decided.
        """
        try:
            await self._write_all(replies, own_topics)
        except (KafkaError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - a defect of ours must not keep the outcomes from being published
            log.error("replies_not_written", error=type(error).__name__, where=where(error))
            self.batches.clear()
            self.left_out = Counter((reply.topic, "defect") for reply in replies)

    async def _write_all(self, replies: Sequence[Reply], own_topics: Collection[str]) -> None:
        shapes = await self._memory.shapes(self._client, {reply.topic for reply in replies}.difference(own_topics))
        shaped = {topic: shape for topic, shape in shapes.items() if isinstance(shape, Shape)}
        known = await self._known_partitions(shaped, own_topics)
        addressed: set[tuple[int, TopicPartition]] = set()
        for reply in replies:
            shape = shapes.get(reply.topic, FORBIDDEN)
            if isinstance(shape, str):
                self.left_out[reply.topic, shape] += 1
                continue
            tp = TopicPartition(reply.topic, partition_of(reply, shape.partitions))
            # by identity: two replies of one outcome, which share their headers, may turn out to go to one place
            if (id(reply.headers), tp) not in addressed:
                addressed.add((id(reply.headers), tp))
                self._write(tp, reply, known[tp.topic], shape.max_message_bytes)

    async def deliver(self, batches: Batches) -> None:
        """Send replies beside the batches of other records, and wait until the brokers have all of them.

        What goes wrong with a reply is remembered, and raised like what goes wrong with any record.
        """
        others: Sent = []
        replies: Sent = []
        # the first ones of all in one tight loop, so that one request adds all their partitions to the transaction
        await send_round(self._producer, batches, 0, others)
        await send_round(self._producer, self.batches, 0, replies)
        others_arrived = time_is_up = False
        try:
            await self._others_arrive(batches, others)
            others_arrived = True
            async with asyncio.timeout(_PATIENCE_S):
                await self._arrive(self.batches, replies, asyncio.ALL_COMPLETED)
        except TimeoutError:
            time_is_up = others_arrived
            raise
        except KafkaError:
            if not others_arrived:  # one of the replies may be why
                await asyncio.wait(_futures(replies), timeout=_PATIENCE_S)
            raise
        finally:
            self._memory.judge(replies, others_arrived=others_arrived, time_is_up=time_is_up)
            for future in _futures([*others, *replies]):
                future.add_done_callback(_seen)

    async def _others_arrive(self, batches: Batches, sent: Sent) -> None:
        """Wait for events and rejections. Raise UnknownReplyTopicError if a reply topic is what they wait for."""
        arriving = asyncio.create_task(self._arrive(batches, sent, asyncio.FIRST_EXCEPTION))
        try:
            await asyncio.wait({arriving}, timeout=_DOUBT_S)
            if not arriving.done():
                await self._doubt()
            await arriving
        finally:
            arriving.cancel()
            arriving.add_done_callback(_seen)

    async def _arrive(self, batches: Batches, sent: Sent, return_when: str) -> None:
        """Send all batches but the first of each partition, and wait for all; `sent` has the first ones."""
        for number in range(1, rounds(batches)):
            await send_round(self._producer, batches, number, sent)
        if sent:
            done, _ = await asyncio.wait(_futures(sent), return_when=return_when)
            for future in done:
                future.result()

    async def _doubt(self) -> None:
        """Look at the reply topics anew. Raise UnknownReplyTopicError if one of them is no more."""
        self._memory.forget_shapes()
        try:
            shapes = await self._memory.shapes(self._client, {tp.topic for tp in self.batches})
        except (KafkaError, OSError):
            return  # an outage, then, of which the others will tell
        if gone := [topic for topic, shape in shapes.items() if isinstance(shape, str)]:
            raise UnknownReplyTopicError(", ".join(gone))

    def _write(self, tp: TopicPartition, reply: Reply, known: frozenset[int], max_bytes: int) -> None:
        if tp.partition not in known:
            self.left_out[tp.topic, "no such partition"] += 1
            return
        queue = self.batches.get(tp, [])
        # a topic's limit is one of whole batches
        if (
            queue
            and queue[-1].size() + reply.wire_bytes + _RECORD_OVERHEAD_BYTES <= max_bytes
            and append(queue[-1], reply)
        ):
            return
        batch = self._producer.create_batch()
        append(batch, reply)
        if batch.size() > max_bytes:
            self.left_out[tp.topic, "too large"] += 1
        else:
            self.batches.setdefault(tp, []).append(batch)

    async def _known_partitions(
        self, shapes: Mapping[str, Shape], own_topics: Collection[str]
    ) -> dict[str, frozenset[int]]:
        """Give the partitions that can be written to, as far as the client itself knows of them by now."""
        client = self._client
        for _ in range(_METADATA_ATTEMPTS):
            known = {topic: client.cluster.partitions_for_topic(topic) or set() for topic in shapes}
            if all(known[topic] >= shape.led for topic, shape in shapes.items()):
                break
            # the client keeps asking for what it was once told of: what is no more is dropped here
            client.set_topics(self._memory.usable.union(own_topics, shapes))
            await client.force_metadata_update()
        return {
            topic: shape.led & (client.cluster.partitions_for_topic(topic) or set()) for topic, shape in shapes.items()
        }


def _futures(sent: Sent) -> list["asyncio.Future[Any]"]:
    return [future for _, future in sent]


def _seen(future: "asyncio.Future[Any]") -> None:
    """Look at a failure that comes when nobody waits for it any more."""
    _ = future.cancelled() or future.exception()
