"""The one transactional producer: outgoing records and input offsets become visible together, or not at all."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.producer import sender
from aiokafka.producer.message_accumulator import BatchBuilder

from worker.asking import together
from worker.coordination import TRANSACTION_TIMEOUT_S, Coordination
from worker.encoder import OutgoingRecord, Reply
from worker.failures import Culprit, PublishError
from worker.lessons import Attempt, Lessons
from worker.producers import kill, mortal
from worker.record_batches import Batches, append, end_of, partition_of, send_all
from worker.replies import Replies
from worker.reply_topics import ReplyTopics
from worker.timestamps import TimeLimits, fitting_ms

log = structlog.stdlib.get_logger(__name__)

RETRY_BACKOFF_S: Final = 0.5
"""Far above what a commit takes, even on a busy machine: one that takes longer may have been sent twice."""
_REQUEST_TIMEOUT_S: Final = 3
"""A broker that hangs costs no more than this before another is asked."""
_MARKERS_S: Final = 0.02
"""Longer than the broker takes, as a rule, to write the last transaction's markers."""
_PUBLISH_DEADLINE_S: Final = TRANSACTION_TIMEOUT_S * 0.8
_STOP_GRACE_S: Final = 1
_MAX_PRODUCE_BATCH_BYTES: Final = 1_000_000
"""A partition has one batch on its way at a time: fewer are faster."""

# The broker answers CONCURRENT_TRANSACTIONS until the last transaction's markers are written, 1 to 2 ms later. The
# client asks again after 20 ms and has no setting for it; its sender reads this name each time.
sender.BACKOFF_OVERRIDE = 0.002


class Publishers:
    """Starts producers, fences those of others, and sees to it that no discarded one lingers.

    Args:
        client_options: the arguments that every aiokafka client takes.
        group_id: the consumer group.
        max_message_bytes: the smallest limit of a topic that is written to.
        reply_topics: what is known of the topics that commands have named.
        times: which timestamps the worker's own topics take.
        on_failed: told of each transaction that failed, by a cause in one word.

    """

    def __init__(
        self,
        client_options: Mapping[str, Any],
        group_id: str,
        max_message_bytes: int,
        reply_topics: ReplyTopics | None = None,
        times: Mapping[str, TimeLimits] | None = None,
        on_failed: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.coordination = Coordination(client_options, group_id)
        self.lessons = Lessons(
            reply_topics or ReplyTopics(), times or {}, min(_MAX_PRODUCE_BATCH_BYTES, max_message_bytes), on_failed
        )
        self._options = {
            **client_options,
            "request_timeout_ms": _REQUEST_TIMEOUT_S * 1000,
            "retry_backoff_ms": int(RETRY_BACKOFF_S * 1000),
            "transaction_timeout_ms": TRANSACTION_TIMEOUT_S * 1000,
            "linger_ms": 0,
        }
        self._group_id = group_id
        self._stopping: set[asyncio.Task[None]] = set()

    async def start(self) -> "Publisher":
        """Start a producer under a fresh name, which nobody can know before it is initialised."""
        name = f"{self._group_id}-{uuid4()}"
        self._options["max_batch_size"] = self.lessons.batch_bytes
        producer = self._producer(name)
        await self._start(producer)
        return Publisher(producer, name, self._group_id, self)

    async def fence(self, transactional_id: str) -> None:
        """End another producer and its open transaction, and that of its barrier.

        When this returns, that producer's offsets are final: its last commit is applied, or will never be.
        """
        names = (transactional_id, _barrier_of(transactional_id))
        await together(*map(self.coordination.fence, names))

    async def fence_all(self, transactional_ids: Iterable[str]) -> None:
        """Fence several side by side. Raise what the first failure raises; then none is under way any more."""
        await together(*map(self.fence, transactional_ids))

    async def final_offsets(
        self, transactional_id: str, topic: str, partitions: Collection[int]
    ) -> dict[int, int | None]:
        """Return the group's committed offsets, once all who published before this producer are fenced."""
        return await self.coordination.final_offsets(_barrier_of(transactional_id), topic, partitions)

    async def stop(self, producer: AIOKafkaProducer) -> None:
        """End a producer at once, whatever it has under way: it does so also if the caller is cancelled meanwhile."""
        task = asyncio.create_task(kill(producer))
        self._stopping.add(task)
        task.add_done_callback(self._stopped)
        await asyncio.wait({task}, timeout=_STOP_GRACE_S)

    async def close(self) -> None:
        """Give up on the producers that have not stopped yet. For the end of the process."""
        for task in list(self._stopping):
            task.cancel()
        if self._stopping:
            await asyncio.wait(self._stopping, timeout=_STOP_GRACE_S)
        await self.coordination.close()

    def _producer(self, transactional_id: str) -> AIOKafkaProducer:
        return mortal(AIOKafkaProducer(transactional_id=transactional_id, **self._options))

    async def _start(self, producer: AIOKafkaProducer) -> None:
        try:
            async with asyncio.timeout(TRANSACTION_TIMEOUT_S * 2):  # another's open transaction may have to end first
                await producer.start()
        except Exception as error:
            await self.stop(producer)
            raise PublishError(f"{type(error).__name__}: {error}") from error
        except BaseException:
            await self.stop(producer)
            raise

    def _stopped(self, task: asyncio.Task[None]) -> None:
        self._stopping.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.debug("producer_stop_failed", error=type(error).__name__)


class Publisher:
    """One producer, from its start to its first failure."""

    def __init__(self, producer: AIOKafkaProducer, transactional_id: str, group_id: str, origin: Publishers) -> None:
        self.transactional_id = transactional_id
        self._may_have_resent = False
        self._producer = producer
        self._group_id = group_id
        self._origin = origin

    @property
    def outcomes_max(self) -> int:
        """Give how many outcomes may go into a transaction now."""
        return self._origin.lessons.portions.most

    async def publish(
        self,
        records: Sequence[OutgoingRecord],
        offsets: Mapping[TopicPartition, int],
        outcomes: int = 1,
        deadline_s: float = _PUBLISH_DEADLINE_S,
    ) -> None:
        """Publish records and commit offsets in one transaction. Raise PublishError if that is not known to be done."""
        self.raise_if_spent()
        attempt, started_s = Attempt(), time.monotonic()
        try:
            async with asyncio.timeout(deadline_s):
                await self._publish(records, offsets, attempt)
        except Exception as error:
            raise self._origin.lessons.failed(error, attempt, outcomes) from error
        self._origin.lessons.portions.succeeded(outcomes, time.monotonic() - started_s)

    def raise_if_spent(self) -> None:
        """Raise PublishError if the producer must not be used again, though its transactions are committed."""
        if self._may_have_resent:
            failure = PublishError("a commit took so long that it may have been sent twice")
            failure.spent = True
            raise failure

    async def discard(self) -> None:
        """End the producer, whatever state it is in. Its open transaction ends when its name is fenced."""
        await self._origin.stop(self._producer)

    async def _publish(
        self, records: Sequence[OutgoingRecord], offsets: Mapping[TopicPartition, int], attempt: Attempt
    ) -> None:
        asked = [record for record in records if type(record) is Reply]
        batches = await self._batches([one for one in records if type(one) is not Reply] if asked else records, attempt)
        replies = Replies(self._producer, self._origin.lessons.reply_topics, self._origin.lessons.timestamps)
        if asked:
            await replies.write(asked)
        await self._producer.begin_transaction()
        # awaited before the offsets: sent side by side, the broker stalls both; unawaited, a lost record goes unnoticed
        await send_all(self._producer, batches, attempt.sent)
        await end_of(attempt.sent)
        if replies.batches:
            await self._deliver(replies, attempt)
        if not batches and not replies.batches:
            # The offsets come first then. Before the last transaction's markers are written they are put off by the
            # whole back-off, as if they had to be sent twice.
            await asyncio.sleep(_MARKERS_S)
        started_s = time.monotonic()
        await self._producer.send_offsets_to_transaction(dict(offsets), self._group_id)
        await self._producer.commit_transaction()
        # aiokafka resends after the retry back-off; a late first copy could then commit the next transaction half way
        self._may_have_resent = time.monotonic() - started_s >= RETRY_BACKOFF_S
        if replies.left_out:
            self._origin.lessons.reply_topics.tell_left_out(replies.left_out)

    async def _batches(self, records: Sequence[OutgoingRecord], attempt: Attempt) -> Batches:
        """Write the records into batches; a tenth of the cost of sending each, and a record may be all null."""
        counts = {topic: await self._count_partitions(topic, attempt) for topic in {one.topic for one in records}}
        timestamps, now_ms = self._origin.lessons.timestamps, time.time_ns() // 1_000_000
        limits = {topic: timestamps.limits(topic) for topic in counts}
        batches: dict[TopicPartition, list[BatchBuilder]] = {}
        for record in records:
            tp = TopicPartition(record.topic, partition_of(record, counts[record.topic]))
            queue = batches.setdefault(tp, [])
            timestamp_ms = fitting_ms(record.timestamp_ms, now_ms, limits[record.topic])
            if not queue or not append(queue[-1], record, timestamp_ms):
                queue.append(self._producer.create_batch())
                append(queue[-1], record, timestamp_ms)
        return batches

    async def _count_partitions(self, topic: str, attempt: Attempt) -> int:
        try:
            return len(await self._producer.partitions_for(topic))
        except KafkaError as error:
            attempt.culprit = Culprit(topic=topic, error=type(error))
            raise

    async def _deliver(self, replies: Replies, attempt: Attempt) -> None:
        try:
            await replies.deliver()
        except Exception:  # not the deadline, which cancels: what is wrong with these replies is remembered
            attempt.will_differ = True
            raise


def _barrier_of(transactional_id: str) -> str:
    """Return the name of a producer's barrier: a successor that knows the one can end the other's transaction, too."""
    return f"{transactional_id}-barrier"
