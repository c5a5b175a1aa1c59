"""A session: what lies between two takeovers. Some partitions, one producer, and outcomes on their way out."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import structlog
from aiokafka import TopicPartition
from opentelemetry.trace import SpanContext

from worker.encoder import OutgoingRecord, Reply
from worker.failures import PublishError
from worker.publisher import Publisher
from worker.stores.port import Store
from worker.telemetry.tracing import Tracing

log = structlog.stdlib.get_logger(__name__)

_DECIDED_BATCHES_MAX: Final = 4
"""Batches that may be decided ahead of the Kafka transaction in flight: bounds memory and what a successor replays."""


TRANSACTION_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes of values and of whole replies in a Kafka transaction, unless one outcome is larger: it has to end in time."""


Outgoing = tuple[int, int, Sequence[OutgoingRecord]]
"""Partition and next offset of a command, and the records of its outcome."""


class SessionLostError(Exception):
    """The session's producer failed or was fenced: everything has to be taken over anew."""


class RetakeError(SessionLostError):
    """Nothing is wrong with the session, but a takeover anew may find a partition otherwise than before."""


@dataclass(slots=True)
class Held:
    """One partition as its owner knows it."""

    owner: int
    applied: int
    """The next offset to apply."""
    published: int
    """The next offset to publish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """Outcomes that the store has, on their way to Kafka."""

    outcomes: Sequence[Outgoing]
    offsets: Mapping[int, int]
    """The next offset of each partition, also where its last commands have no outcome."""
    timestamps_ms: Sequence[int] = field(default=())
    """When its commands were sent."""
    origins: Sequence[SpanContext] = field(default=())
    """The spans of the batches that it comes from."""

    @classmethod
    def split(
        cls,
        outcomes: Iterable[Outgoing],
        offsets: Mapping[int, int],
        timestamps_ms: Sequence[int] = (),
        origins: Sequence[SpanContext] = (),
    ) -> list["Decided"]:
        """Make pieces of at most TRANSACTION_BYTES_MAX, unless a single outcome is larger; the last has all offsets."""
        pieces: list[Decided] = []
        some: list[Outgoing] = []
        size_bytes = 0
        for outcome in outcomes:
            weight = _weight_bytes(outcome[2])
            if some and size_bytes + weight > TRANSACTION_BYTES_MAX:
                pieces.append(cls(outcomes=some, offsets=_reached(some), origins=origins))
                some, size_bytes = [], 0
            some.append(outcome)
            size_bytes += weight
        offsets = {**_reached(some), **offsets}
        return [*pieces, cls(outcomes=some, offsets=offsets, timestamps_ms=timestamps_ms, origins=origins)]

    def cut(self, outcomes: int) -> tuple["Decided", "Decided"]:
        """Make two: the first with so many outcomes and their offsets, the other with the rest and all offsets."""
        head = self.outcomes[:outcomes]
        first = Decided(outcomes=head, offsets=_reached(head), origins=self.origins)
        return first, replace(self, outcomes=self.outcomes[outcomes:])

    @property
    def records(self) -> list[OutgoingRecord]:
        """Give the records of all outcomes, in order."""
        return [record for _, _, records in self.outcomes for record in records]

    @property
    def size_bytes(self) -> int:
        """Give about how much it is: the bytes of values, and all of replies."""
        return _weight_bytes(self.records)

    @classmethod
    def joined(cls, batches: Sequence["Decided"]) -> "Decided":
        """Make one of several, in order."""
        offsets: dict[int, int] = {}
        for batch in batches:
            offsets.update(batch.offsets)
        return cls(
            outcomes=[outcome for batch in batches for outcome in batch.outcomes],
            offsets=offsets,
            timestamps_ms=[timestamp for batch in batches for timestamp in batch.timestamps_ms],
            origins=[origin for batch in batches for origin in batch.origins],
        )


def _reached(outcomes: Iterable[Outgoing]) -> dict[int, int]:
    return {partition: next_offset for partition, next_offset, _ in outcomes}


def _weight_bytes(records: Iterable[OutgoingRecord]) -> int:
    """Count a reply whole: a command may ask for several, each with the headers of its outcome."""
    return sum(one.wire_bytes if type(one) is Reply else len(one.value or b"") for one in records)


class Session:
    """Partitions held under one producer. Kafka transactions go one at a time and in order; deciding runs ahead."""

    def __init__(
        self,
        publisher: Publisher,
        topic: str,
        held: dict[int, Held],
        noted: dict[int, int],
        tracing: Tracing,
        on_published: Callable[[Decided, float], None] = lambda _decided, _seconds: None,
    ) -> None:
        self.held = held
        self.noted = noted
        """What the store was last told to be published."""
        self._publisher = publisher
        self._topic = topic
        self._tracing = tracing
        self._on_published = on_published
        self._queue: deque[Decided] = deque()
        self._changed = asyncio.Condition()
        self._in_flight = False
        self._failure: BaseException | None = None
        self._task = asyncio.create_task(self._publish_all(), name="publish")

    @property
    def lost(self) -> bool:
        """Tell whether the session has failed."""
        return self._failure is not None

    @property
    def fenced(self) -> bool:
        """Tell whether it failed since its producer was fenced, by another owner or by a transaction's timeout."""
        return isinstance(self._failure, PublishError) and self._failure.fenced

    @property
    def spent(self) -> bool:
        """Tell whether nothing failed, but the producer must not be used again."""
        return isinstance(self._failure, PublishError) and self._failure.spent

    @property
    def idle(self) -> bool:
        """Tell whether all that is decided is published."""
        return not self._queue and not self._in_flight

    def raise_if_lost(self) -> None:
        """Raise SessionLostError if the session has failed."""
        if self._failure is not None:
            raise SessionLostError(str(self._failure)) from self._failure

    async def submit(self, decided: Decided) -> None:
        """Queue a batch for publishing; waits while too many are ahead. Raise SessionLostError if it fails."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.lost or len(self._queue) < _DECIDED_BATCHES_MAX)
            self.raise_if_lost()
            self._queue.append(decided)
            self._changed.notify_all()

    async def drain(self) -> None:
        """Wait until all that is decided is published. Raise SessionLostError if the session failed."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.lost or self.idle)
            if not self.idle:
                self.raise_if_lost()

    async def note_published(self, store: Store) -> None:
        """Note in the store how far it is published, so that nothing appears twice should Kafka lose the offsets."""
        published = {
            partition: held.published for partition, held in self.held.items() if held.published > self.noted[partition]
        }
        if published:
            owners = {partition: self.held[partition].owner for partition in published}
            await store.note_published(self._topic, owners, published)
            self.noted.update(published)

    async def close(self) -> None:
        """End the session, whatever state it is in. What was not published is for the next owner to replay."""
        self._failure = self._failure or SessionLostError("closed")
        self._task.cancel()
        await asyncio.wait({self._task})
        await self._publisher.discard()

    async def _publish_all(self) -> None:
        try:
            while True:
                await self._publish_next(await self._take_all())
                self._publisher.raise_if_spent()
        except asyncio.CancelledError as error:
            self._failure = self._failure or error
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody must wait for this session any more
            self._failure = self._failure or error
        finally:
            async with self._changed:
                self._changed.notify_all()

    async def _take_all(self) -> Decided:
        """Join what is decided into one transaction, up to a limit: the busier, the larger."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._queue))
            taken = self._take()
            self._in_flight = True
            self._changed.notify_all()
        return taken

    def _take(self) -> Decided:
        first, most = self._queue.popleft(), self._publisher.outcomes_max
        if len(first.outcomes) > most:
            first, rest = first.cut(most)
            self._queue.appendleft(rest)
            return first
        waiting, size_bytes, outcomes = [first], first.size_bytes, len(first.outcomes)
        while self._queue:
            size_bytes += self._queue[0].size_bytes
            outcomes += len(self._queue[0].outcomes)
            if size_bytes > TRANSACTION_BYTES_MAX or outcomes > most:
                break
            waiting.append(self._queue.popleft())
        return waiting[0] if len(waiting) == 1 else Decided.joined(waiting)

    async def _publish_next(self, decided: Decided) -> None:
        started = asyncio.get_running_loop().time()
        offsets = {TopicPartition(self._topic, partition): offset for partition, offset in decided.offsets.items()}
        records = decided.records
        with self._tracing.publishing(records, decided.origins):
            await self._publisher.publish(records, offsets, len(decided.outcomes))
        for partition, offset in decided.offsets.items():
            self.held[partition].published = offset
        self._on_published(decided, asyncio.get_running_loop().time() - started)
        async with self._changed:
            self._in_flight = False
            self._changed.notify_all()
