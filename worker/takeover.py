"""Takeover: how a worker becomes the owner of partitions, and its one answer to every failure.

Numbered as in docs/exactly-once.md: (1) start a producer under a fresh name, (2) read who published last, (3) fence
them, (4) compare-and-set the rows, back to 2 for those lost, (5) read K behind a barrier, final now, (6) replay what is
decided but not visible.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import structlog

from worker.blocked import Blocked
from worker.failures import PublishError
from worker.publisher import Publisher, Publishers
from worker.replay import Replay
from worker.session import Held
from worker.sightings import Sightings
from worker.starting import PASSING, Found, Start, find_start, lost_at
from worker.stores.port import PartitionRow, Store, StoreFencedError, TopicIdentity
from worker.telemetry.tracing import Tracing

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The result of a takeover."""

    publisher: Publisher
    held: dict[int, Held]
    noted: dict[int, int]
    """What the store believes to be published, by partition held."""
    positions: Mapping[int, int]
    """Where to read on, by partition: behind `applied` if retention has deleted commands there."""
    blocked: Mapping[int, Blocked]


class Takeover:
    """Takes partitions of the commands topic over."""

    def __init__(self, topic: str, store: Store, publishers: Publishers, tracing: Tracing) -> None:
        self._topic = topic
        self._store = store
        self._publishers = publishers
        self._tracing = tracing
        self._behind = Sightings()
        self._identity: TopicIdentity | None = None
        """As the last takeover found it."""

    async def run(self, partitions: Collection[int]) -> Taken:
        """Take these partitions over. Whatever is raised, nothing has to be undone: the next attempt starts afresh."""
        self._publishers.lessons.suspects.keep(partitions)
        self._behind.keep(partitions)
        while True:
            try:
                return await self._attempt(partitions)
            except PublishError as error:
                if not error.is_worth_another:
                    raise

    async def _attempt(self, partitions: Collection[int]) -> Taken:
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
            await self._publishers.fence_all({row.publisher for row in rows.values()})
            owners = {partition: rows[partition].owner if partition in rows else 0 for partition in wanted}
            claimed = await self._store.claim(self._topic, owners, name)
            won.update({partition: owners[partition] + 1 for partition in claimed})
            wanted -= claimed
        return won

    async def has_changed(self, blocked: Mapping[int, Blocked]) -> bool:
        """Return whether a takeover may run one of these now, or would find another topic or a lasting cause."""
        if not blocked:
            topic = await self._publishers.coordination.survey(self._topic, ())
            return topic.identity != self._identity
        committed = await self._publishers.coordination.committed(self._topic, blocked)
        found = await self._find(blocked, committed)
        starts = {partition: find_start(self._with_behind(partition, one)) for partition, one in found.items()}
        return any(one.identity != self._identity for one in found.values()) or any(
            isinstance(start, Start) or start.cause not in PASSING | {blocked[partition].cause}
            for partition, start in starts.items()
        )

    async def _start(self, publisher: Publisher, owners: Mapping[int, int]) -> Taken:
        committed = await self._publishers.final_offsets(publisher.transactional_id, self._topic, owners)
        found = await self._find(owners, committed)
        if lost := sorted(one for one, owner in owners.items() if one not in found or found[one].row.owner != owner):
            # K was read before they wrote: it says nothing of the rows as they are now
            raise StoreFencedError(f"{self._topic}: others have taken partitions {lost} over meanwhile")
        starts: dict[int, Start] = {}
        blocked: dict[int, Blocked] = {}
        for partition in sorted(owners):
            found[partition] = self._with_behind(partition, found[partition])
            match self._find_start(partition, found[partition]):
                case Blocked() as one:
                    blocked[partition] = one
                case Start() as start:
                    starts[partition] = start
                    await self._begin(partition, owners[partition], found[partition], start)
            self._identity = found[partition].identity
        await self._note(owners, found, starts, blocked)
        lessons = self._publishers.lessons
        await Replay(self._topic, self._store, publisher, lessons, self._tracing).run(starts, committed)
        held = {
            partition: Held(owner=owners[partition], applied=start.apply, published=start.apply)
            for partition, start in starts.items()
        }
        noted = {number: _published(found[number].row, start) for number, start in starts.items()}
        positions = {number: max(start.apply, _beginning(found[number])) for number, start in starts.items()}
        return Taken(publisher=publisher, held=held, noted=noted, positions=positions, blocked=blocked)

    def _find_start(self, partition: int, found: Found) -> Start | Blocked:
        start = find_start(found)
        return start if isinstance(start, Blocked) else self._publishers.lessons.suspects.blocked(partition) or start

    async def _find(self, partitions: Collection[int], committed: Mapping[int, int | None]) -> dict[int, Found]:
        topic = await self._publishers.coordination.survey(self._topic, partitions)
        rows = await self._store.partitions(self._topic, partitions)
        return {
            partition: Found(
                row=row,
                committed=committed[partition],
                extent=topic.extents.get(partition),
                identity=topic.identity,
            )
            for partition, row in rows.items()
        }

    def _with_behind(self, partition: int, found: Found) -> Found:
        """Add for how long every answer has been that the partition ends below `applied`."""
        is_behind = found.extent is not None and found.extent.end < (found.row.applied or 0)
        return replace(found, behind_s=self._behind.seen(partition, is_so=is_behind))

    async def _begin(self, partition: int, owner: int, found: Found, start: Start) -> None:
        about = {"topic": self._topic, "partition": partition}
        beginning = _beginning(found)
        if found.row.applied is None:
            await self._store.begin(self._topic, partition, owner, start.apply)
            return
        if found.committed is None and start.apply > beginning:
            log.warning("committed_offset_missing", **about, resumes_at=start.replay, republished_up_to=start.apply)
        if beginning > start.apply:
            log.error("commands_lost_to_retention", **about, first=start.apply, end=beginning)

    async def _note(
        self,
        owners: Mapping[int, int],
        found: Mapping[int, Found],
        starts: Collection[int],
        blocked: Mapping[int, Blocked],
    ) -> None:
        """Note in the store which topic this is, and what is blocked; as a rule both are known already."""
        new = {partition: owners[partition] for partition in starts if found[partition].row.identity is None}
        if new and self._identity is not None:
            await self._store.identify(self._topic, new, self._identity)
        ends = {number: end for number in blocked if (end := lost_at(found[number])) is not None}
        if ends:
            await self._store.note_lost(self._topic, owners, ends)
        reasons = {number: str(blocked[number]) if number in blocked else None for number in owners}
        news = {number: why for number, why in reasons.items() if why != found[number].row.blocked_because}
        if news:
            await self._store.note_blocked(self._topic, owners, news)


def _beginning(found: Found) -> int:
    return 0 if found.extent is None else found.extent.beginning


def _published(row: PartitionRow, start: Start) -> int:
    """Return what the store believes to be published; what has just begun begins with all published."""
    return start.replay if row.published is None else row.published
