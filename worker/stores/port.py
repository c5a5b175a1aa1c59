"""The store's promise. Every adapter is held to it by one contract suite, `tests/contract`."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from worker.encoder import OutgoingRecord
from worker.lifecycle import StoredTask


class StoreError(Exception):
    """The root of what a store may raise."""


class StoreUnavailableError(StoreError):
    """The store does not answer, or not in time: wait and try again. What was asked may or may not have happened."""


class StoreFencedError(StoreError):
    """Another owner took a partition over, or its progress is not what the caller believed. Nothing was written."""


class StoreRefusedError(StoreError):
    """The store will never take these rows: one of the commands is beyond it. Nothing was written."""


class StoreNotReadyError(StoreError):
    """The store cannot be used as it is: in use by another worker, or its schema is not this version's."""


REPEATED_BYTES_MAX: Final = 32 * 1024 * 1024
"""Of first outcomes that are loaded or repeated in a batch: duplicates of a few bytes may ask for many large ones."""


class TooMuchRepeatedError(Exception):
    """The duplicates of a batch ask for more than REPEATED_BYTES_MAX: fewer commands at a time are to be decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicIdentity:
    """Which topic it is, whatever its name: Kafka never uses an id again (KIP-516)."""

    cluster_id: str
    topic_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionRow:
    """What the store knows of one input partition (docs/exactly-once.md, State)."""

    owner: int
    """Counts the takeovers; whoever holds the latest count may write."""
    publisher: str
    """The transactional.id of the owner's producer: to be fenced by the next owner."""
    applied: int | None
    """The next offset to apply. None until the first owner has found where to start."""
    published: int | None
    """The next offset known to be published; may lag. None together with `applied`."""
    identity: TopicIdentity | None = None
    """The topic that `applied` counts in. None in a store from before ids were kept."""
    lost_at: int | None = None
    """Where the partition ended when it was found for good that it has lost records that were applied."""
    blocked_because: str | None = None
    """Cause and reason, in words, why its owner does not run the partition; None if it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """How one partition is to begin anew."""

    applied: int | None
    """What the caller believes that the row says."""
    known: TopicIdentity | None
    """The same of its identity."""
    start: int | None
    """The offset to apply first; None if the topic no longer has the partition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """One partition's progress through a batch: a compare-and-set of `applied`, under an owner count."""

    partition: int
    owner: int
    applied: int
    """What the caller believes it is."""
    next_applied: int
    published: int
    """The next offset that the caller knows to be published, to be noted in passing."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of one command, with its outgoing records, complete."""

    partition: int
    offset: int
    command_key: bytes | None
    """16 bytes that stand for the command id; None where the outcome occupies none. Unique in the store."""
    fingerprint: bytes | None
    command_id: str
    user_task_key: int | None
    status: int
    """204, 400, 404, 409 or 500, as the endpoint would have answered."""
    decided_at_ms: int
    records: tuple[OutgoingRecord, ...]
    """The event or rejection comes first; of a duplicate, there is only the reply that it asked for."""


@dataclass(frozen=True, slots=True)
class First:
    """The outcome that occupies a command id, as far as a reply to a duplicate needs it."""

    status: int
    record: OutgoingRecord
    """The event or rejection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a batch was decided on."""

    tasks: Mapping[int, StoredTask]
    fingerprints: Mapping[bytes, bytes]
    """Of the commands that were seen before, by command key."""
    first: Mapping[bytes, First] = field(default_factory=dict)
    """The outcomes of those of them that were asked for."""


@dataclass(slots=True, kw_only=True)
class Changes:
    """What a batch changes."""

    tasks: dict[int, StoredTask] = field(default_factory=dict)
    """Each changed task as it stands after the whole batch, by user task key."""
    outcomes: list[Outcome] = field(default_factory=list)
    """In record order. A duplicate has none, unless it asks for a reply."""


class Store(Protocol):
    """Keeps tasks, outcomes and progress, for one or many workers.

    Every method raises StoreUnavailableError while the store cannot be reached. A method either happens as a whole or
    not at all, and has happened for good (it survives a power cut) when it returns.
    """

    async def open(self) -> None:
        """Connect, and check the schema. Raise StoreNotReadyError where a person has to act."""

    async def close(self) -> None:
        """Disconnect. Never raises; may be called twice."""

    async def ping(self) -> None:
        """Return if the store answers and takes writes."""

    async def partitions(self, topic: str, partitions: Collection[int]) -> Mapping[int, PartitionRow]:
        """Read the rows of these partitions; one that was never taken over is missing."""

    async def claim(self, topic: str, owners: Mapping[int, int], publisher: str) -> set[int]:
        """Compare-and-set `owner + 1` and `publisher` for each partition whose owner count is still the given one.

        A partition that was never taken over has owner 0. Return the partitions won: each whose count was as given.
        """

    async def begin(self, topic: str, partition: int, owner: int, offset: int) -> None:
        """Set `applied` and `published` of a partition that has neither. Raise StoreFencedError if `owner` is past."""

    async def apply(
        self,
        topic: str,
        advances: Sequence[Advance],
        task_keys: Collection[int],
        command_keys: Collection[bytes],
        decide: Callable[[Snapshot], Changes],
        asking_keys: Collection[bytes] = (),
    ) -> Changes:
        """Decide and save one batch, in one transaction.

        Compare-and-set every advance's `applied`, load the tasks and the earlier outcomes named by the keys, call
        `decide`, write what it returns, and return it. Of an earlier outcome only the fingerprint is loaded, unless its
        key is among `asking_keys`, which are some of `command_keys`. `decide` does no I/O, and is called again when the
        transaction has to be repeated; what it raises is passed on, and nothing is written. Raise StoreFencedError if
        a single advance does not hold, StoreRefusedError if the rows can never be written, TooMuchRepeatedError before
        it loads more than REPEATED_BYTES_MAX of earlier outcomes; that of a single asking key is always loaded.
        """

    async def recorded(
        self, topic: str, partition: int, first: int, end: int, limit: int
    ) -> list[tuple[int, list[OutgoingRecord]]]:
        """Read (offset, outgoing records) of the outcomes in [first, end), in offset order, at most `limit` of them."""

    async def note_published(self, topic: str, owners: Mapping[int, int], published: Mapping[int, int]) -> None:
        """Raise `published` of partitions that are still held under the given owner counts; others are left alone."""

    async def identify(self, topic: str, owners: Mapping[int, int], identity: TopicIdentity) -> None:
        """Note the topic's identity for partitions that are still held under the given owner counts."""

    async def note_blocked(self, topic: str, owners: Mapping[int, int], reasons: Mapping[int, str | None]) -> None:
        """Set `blocked_because` of partitions that are still held under the given owner counts."""

    async def note_lost(self, topic: str, owners: Mapping[int, int], ends: Mapping[int, int]) -> None:
        """Set `lost_at` of partitions that have none and are still held under the given owner counts."""

    async def adopt(self, topic: str, identity: TopicIdentity | None, adoptions: Mapping[int, Adoption]) -> None:
        """Begin anew with another topic of the same name, or with what is left of the same one.

        The rows as they were are set aside under the name `topic@id`, with their outcomes, so that command ids stay
        known. Ids that are positions are forgotten: the same positions are other commands now. Owner counts go on, so
        that nobody who held a partition before can write. Raise StoreFencedError if a row is no longer what the caller
        believes.
        """

    async def task(self, user_task_key: int) -> StoredTask | None:
        """Read one user task."""

    async def prune(self, decided_before_ms: int, limit: int) -> int:
        """Forget at most `limit` outcomes decided before then, never an unpublished one. Return how many."""

    async def oldest_ms(self) -> int | None:
        """Return when the oldest outcome was decided, in ms since 1970; None if there is none."""

    async def clock_ms(self) -> int | None:
        """Return the time by the store's own clock, in ms since 1970; None if it has only this machine's."""
