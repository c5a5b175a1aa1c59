"""The replies of a Kafka transaction: those that can be sent are, and none holds up or changes anything else."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder

from worker.encoder import Reply
from worker.record_batches import Sent, append, partition_of, send_all
from worker.reply_topics import ReplyTopics, Shape
from worker.telemetry.defects import where
from worker.timestamps import Timestamps, fitting_ms

log = structlog.stdlib.get_logger(__name__)

_PATIENCE_S: Final = 2
"""How long replies may take, after the events and rejections of their transaction have arrived."""
_METADATA_ATTEMPTS: Final = 2
_RECORD_OVERHEAD_BYTES: Final = 64
"""More than a record takes in a batch besides key, value and headers."""


class Replies:
    """The replies of one transaction, in batches of their own."""

    def __init__(self, producer: AIOKafkaProducer, memory: ReplyTopics, timestamps: Timestamps) -> None:
        self.batches: dict[TopicPartition, list[BatchBuilder]] = {}
        self.left_out: Counter[tuple[str, str]] = Counter()
        """How many replies, by topic and reason."""
        self._producer = producer
        self._client: AIOKafkaClient = producer.client
        self._memory = memory
        self._timestamps = timestamps
        self._now_ms = time.time_ns() // 1_000_000

    async def write(self, replies: Sequence[Reply]) -> None:
        """Write those replies that can be sent. Raise KafkaError or OSError in an outage."""
        try:
            await self._write_all(replies)
        except (KafkaError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - a defect of ours must not keep the outcomes from being published
            log.error("replies_not_written", error=type(error).__name__, where=where(error))
            self.batches.clear()
            self.left_out = Counter((reply.topic, "defect") for reply in replies)

    async def _write_all(self, replies: Sequence[Reply]) -> None:
        shapes = await self._memory.shapes(self._client, {reply.topic for reply in replies})
        known = await self._known_partitions({topic: one for topic, one in shapes.items() if isinstance(one, Shape)})
        addressed: set[tuple[int, TopicPartition]] = set()
        for reply in replies:
            shape = shapes[reply.topic]
            if isinstance(shape, str):
                self.left_out[reply.topic, shape] += 1
                continue
            tp = TopicPartition(reply.topic, partition_of(reply, shape.partitions))
            # by identity: two replies of one outcome, which share their headers, may turn out to go to one place
            if (id(reply.headers), tp) in addressed:
                continue
            addressed.add((id(reply.headers), tp))
            if tp.partition not in known[tp.topic]:
                self.left_out[tp.topic, "no such partition"] += 1
            elif reply.key is None and shape.is_compacted:
                self.left_out[tp.topic, "no key"] += 1
            else:
                self._write(tp, reply, shape)

    async def deliver(self) -> None:
        """Send the replies, and wait until the brokers have all of them; they have the transaction's other records.

        So what goes wrong is a reply's doing, unless it is an outage. It is remembered, and raised like what goes wrong
        with any record.
        """
        sent: Sent = []
        patience = asyncio.timeout(_PATIENCE_S)
        try:
            async with patience:
                await self._send(sent)
        finally:
            self._memory.judge([(one.tp.topic, one.future) for one in sent], time_is_up=patience.expired())
        for one in sent:
            one.future.result()

    async def _send(self, sent: Sent) -> None:
        try:
            await send_all(self._producer, self.batches, sent)
        except Exception:  # the client takes no more: what became of those before says why
            await _end_of(sent)
            raise
        await _end_of(sent)

    def _write(self, tp: TopicPartition, reply: Reply, shape: Shape) -> None:
        queue, max_bytes = self.batches.get(tp, []), shape.max_message_bytes
        timestamp_ms = fitting_ms(reply.timestamp_ms, self._now_ms, self._timestamps.limits(tp.topic, shape.times))
        # a topic's limit is one of whole batches
        if (
            queue
            and queue[-1].size() + reply.wire_bytes + _RECORD_OVERHEAD_BYTES <= max_bytes
            and append(queue[-1], reply, timestamp_ms)
        ):
            return
        batch = self._producer.create_batch()
        append(batch, reply, timestamp_ms)
        if batch.size() > max_bytes:
            self.left_out[tp.topic, "too large"] += 1
        else:
            self.batches.setdefault(tp, []).append(batch)

    async def _known_partitions(self, shapes: Mapping[str, Shape]) -> dict[str, frozenset[int]]:
        """Give the partitions that can be written to, as far as the client itself knows of them by now."""
        client = self._client
        for _ in range(_METADATA_ATTEMPTS):
            known = {topic: client.cluster.partitions_for_topic(topic) or set() for topic in shapes}
            if all(known[topic] >= shape.led for topic, shape in shapes.items()):
                break
            # the client keeps asking for what it was once told of: what is no more is dropped here
            client.set_topics(self._memory.own_topics.union(self._memory.usable, shapes))
            await client.force_metadata_update()
        return {
            topic: shape.led & (client.cluster.partitions_for_topic(topic) or set()) for topic, shape in shapes.items()
        }


async def _end_of(sent: Sent) -> None:
    if sent:
        await asyncio.wait([one.future for one in sent])
