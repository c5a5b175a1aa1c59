"""Takeover: how a worker becomes the owner of partitions, and its one answer to every failure.

Numbered as in docs/exactly-once.md: (1) start a producer under a fresh name, (2) read who published last, (3) fence
them, (4) compare-and-set the rows, back to 2 for those lost, (5) read K, final now, (6) replay what is decided but not
visible.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from worker.publisher import Publisher, Publishers
from worker.session import Decided, Held, Outgoing
from worker.stores.port import PartitionRow, Store
from worker.telemetry.tracing import Tracing

log = structlog.stdlib.get_logger(__name__)

_REPLAY_OUTCOMES_MAX: Final = 1000
"""Outcomes replayed in one transaction, or fewer if they are large."""
_PAGE_OUTCOMES: Final = 100
"""Outcomes read at a time: bounds memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offsets:
    """What Kafka says of one input partition."""

    committed: int | None
    """K, the group's committed offset; None if there is none."""
    beginning: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where an owner starts: publish the recorded outcomes from `replay`, apply from `apply` on."""

    replay: int
    apply: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A partition that must not be run as it stands."""

    cause: str
    reason: str
    """In words, with what to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The result of a takeover."""

    publisher: Publisher
    held: dict[int, Held]
    positions: Mapping[int, int]
    """Where to read on, by partition: behind `applied` if retention has deleted commands there."""
    refused: Mapping[int, str]


def find_start(row: PartitionRow, offsets: Offsets) -> Start | Refused:
    """Say where to start from what store and Kafka say, or why not to. Pure (docs/exactly-once.md, Takeover 5)."""
    committed = offsets.committed
    if row.applied is None or row.published is None:
        if committed is not None and committed > offsets.beginning:
            return _refused("another_store", committed, row, offsets)
        return Start(replay=offsets.beginning, apply=offsets.beginning)
    if row.applied > offsets.end:
        return _refused("topic_recreated", committed, row, offsets)
    if committed is not None and committed > row.applied:
        return _refused("store_behind", committed, row, offsets)
    if committed is not None and committed < row.published:
        return _refused("offset_reset", committed, row, offsets)
    return Start(replay=row.published if committed is None else committed, apply=row.applied)


_REASONS: Final = {
    "another_store": "the group has committed offset {committed}, but the store has never seen this partition: it is"
    " not this group's store, or was restored from a backup. Use the right store, or another group.",
    "topic_recreated": "the store has applied up to offset {applied}, but the partition ends at {end}: the topic was"
    " recreated or truncated. Use a new store, or restore the topic.",
    "store_behind": "the group has committed offset {committed}, but the store has applied only up to {applied}: it"
    " was restored from a backup, or is not this group's store. Restore a newer backup, or use the right store.",
    "offset_reset": "the group's offset is {committed}, but everything up to {published} is published: Kafka lost"
    " offsets, or somebody reset the group. Set the group's offset to {published}.",
}


def _refused(cause: str, committed: int | None, row: PartitionRow, offsets: Offsets) -> Refused:
    figures = {"committed": committed, "applied": row.applied, "published": row.published, "end": offsets.end}
    return Refused(cause, _REASONS[cause].format(**figures))


class Takeover:
    """Takes partitions of the commands topic over."""

    def __init__(
        self, topic: str, consumer: AIOKafkaConsumer, store: Store, publishers: Publishers, tracing: Tracing
    ) -> None:
        self._topic = topic
        self._consumer = consumer
        self._store = store
        self._publishers = publishers
        self._tracing = tracing

    async def run(self, partitions: Collection[int]) -> Taken:
        """Take these partitions over. Whatever is raised, nothing has to be undone: the next attempt starts afresh."""
        publisher = await self._publishers.start()
        try:
            owners = await self._claim(partitions, publisher.transactional_id)
            return await self._start(publisher, owners)
        except BaseException:
            await publisher.discard()
            raise

    async def _claim(self, partitions: Collection[int], name: str) -> dict[int, int]:
        wanted, won = set(partitions), {}
        while wanted:
            rows = await self._store.partitions(self._topic, wanted)
            await asyncio.gather(*map(self._publishers.fence, {row.publisher for row in rows.values()}))
            owners = {partition: rows[partition].owner if partition in rows else 0 for partition in wanted}
            claimed = await self._store.claim(self._topic, owners, name)
            won.update({partition: owners[partition] + 1 for partition in claimed})
            wanted -= claimed
        return won

    async def _start(self, publisher: Publisher, owners: Mapping[int, int]) -> Taken:
        offsets = await self._offsets(owners)
        rows = await self._store.partitions(self._topic, owners)
        starts: dict[int, Start] = {}
        refused: dict[int, str] = {}
        for partition in sorted(owners):
            match find_start(rows[partition], offsets[partition]):
                case Refused(cause, reason):
                    refused[partition] = cause
                    about = {"topic": self._topic, "partition": partition}
                    log.error("partition_refused", **about, cause=cause, reason=reason)
                case Start() as start:
                    starts[partition] = start
                    await self._begin(partition, owners[partition], rows[partition], start, offsets[partition])
        await self._replay(publisher, starts, offsets)
        held = {
            partition: Held(owner=owners[partition], applied=start.apply, published=start.apply)
            for partition, start in starts.items()
        }
        positions = {partition: max(start.apply, offsets[partition].beginning) for partition, start in starts.items()}
        return Taken(publisher=publisher, held=held, positions=positions, refused=refused)

    async def _offsets(self, partitions: Collection[int]) -> dict[int, Offsets]:
        asked = [TopicPartition(self._topic, partition) for partition in partitions]
        if not asked:
            return {}
        beginnings = await self._consumer.beginning_offsets(asked)
        ends = await self._consumer.end_offsets(asked)
        committed = await asyncio.gather(*map(self._consumer.committed, asked))
        return {
            tp.partition: Offsets(committed=offset, beginning=beginnings[tp], end=ends[tp])
            for tp, offset in zip(asked, committed, strict=True)
        }

    async def _begin(self, partition: int, owner: int, row: PartitionRow, start: Start, offsets: Offsets) -> None:
        about = {"topic": self._topic, "partition": partition}
        if row.applied is None:
            await self._store.begin(self._topic, partition, owner, start.apply)
        elif offsets.committed is None and start.apply > offsets.beginning:
            log.warning("committed_offset_missing", **about, resumes_at=start.replay, republished_up_to=start.apply)
        if row.applied is not None and offsets.beginning > start.apply:
            log.error("commands_lost_to_retention", **about, first=start.apply, end=offsets.beginning)

    async def _replay(self, publisher: Publisher, starts: Mapping[int, Start], offsets: Mapping[int, Offsets]) -> None:
        """Publish what is decided but not visible, at once: nobody knows when the next command comes."""
        outcomes: list[Outgoing] = []
        for partition, start in starts.items():
            position = start.replay
            while position < start.apply:
                page = await self._store.recorded(self._topic, partition, position, start.apply, _PAGE_OUTCOMES)
                position = page[-1][0] + 1 if len(page) == _PAGE_OUTCOMES else start.apply
                outcomes += [(partition, offset + 1, outgoing) for offset, outgoing in page]
                outcomes.append((partition, position, ()))
                if len(outcomes) >= _REPLAY_OUTCOMES_MAX:
                    await self._publish(publisher, outcomes)
                    outcomes = []
            if (offsets[partition].committed or 0) < start.apply and start.replay == start.apply:
                # nothing to replay, but K is behind where this owner begins: retention has moved the beginning
                outcomes.append((partition, start.apply, ()))
        if outcomes:
            await self._publish(publisher, outcomes)

    async def _publish(self, publisher: Publisher, outcomes: list[Outgoing]) -> None:
        for piece in Decided.split(outcomes, {}):
            reached = {TopicPartition(self._topic, partition): offset for partition, offset in piece.offsets.items()}
            with self._tracing.republishing(piece.records):
                await publisher.publish(piece.records, reached)
            log.info("outcomes_replayed", records=len(piece.records), partitions=sorted(piece.offsets))
