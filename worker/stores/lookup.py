"""Looking things up in the store, for operators: read-only, beside running workers. No part of the write path."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from worker.encoder import OutgoingRecord, unpack
from worker.lifecycle import StoredTask
from worker.stores.port import Outcome, PartitionRow

OUTCOME_COLUMNS: Final = (
    'p.topic, p.partition, o."offset", o.command_key, o.fingerprint, o.command_id, o.user_task_key, o.status,'
    " o.decided_at_ms, o.records"
)
"""Of `outcomes o JOIN partitions p`, in the order that `recorded_from_row` reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An outcome, and the topic of its command."""

    topic: str
    outcome: Outcome

    @property
    def position(self) -> str:
        """Give the command's `topic/partition/offset`."""
        return f"{self.topic}/{self.outcome.partition}/{self.outcome.offset}"


class Lookup(Protocol):
    """Reads what the store knows, without being a worker: it takes no partition, and locks nobody out.

    Every method raises StoreUnavailableError while the store cannot be reached.
    """

    async def open(self) -> None:
        """Connect, and check the schema. Raise StoreNotReadyError where a person has to act."""

    async def close(self) -> None:
        """Disconnect. Never raises; may be called twice."""

    async def task(self, user_task_key: int) -> StoredTask | None:
        """Read one user task."""

    async def partitions(self, topic: str) -> Mapping[int, PartitionRow]:
        """Read the rows of all partitions of a topic that were ever taken over."""

    async def outcome_of(self, command_key: bytes) -> Recorded | None:
        """Read the outcome that occupies a command id."""

    async def outcome_at(self, topic: str, partition: int, offset: int) -> Recorded | None:
        """Read the outcome of the command at a position; a duplicate has none, unless it asked for a reply."""

    async def recorded(
        self, topic: str, partition: int, first: int, end: int, limit: int
    ) -> list[tuple[int, list[OutgoingRecord]]]:
        """Read the outgoing records of the first outcomes from offset `first` on and before `end`, as a replay does."""

    async def search(self, command_id: str, limit: int, timeout_s: float) -> list[Recorded]:
        """Read all outcomes for at most `limit` with this text as command id, whatever its source; latest first.

        Also those that occupy no id. Looks through all outcomes, for no index costs every command one more write.
        Raise StoreUnavailableError if that takes longer than the timeout.
        """


def recorded_from_row(row: Sequence[Any]) -> Recorded:
    """Read a row of `OUTCOME_COLUMNS`."""
    topic, partition, offset, command_key, fingerprint, command_id, user_task_key, status, decided_at_ms, records = row
    outcome = Outcome(
        partition=partition,
        offset=offset,
        command_key=command_key,
        fingerprint=fingerprint,
        command_id=command_id,
        user_task_key=user_task_key,
        status=status,
        decided_at_ms=decided_at_ms,
        records=tuple(unpack(records)),
    )
    return Recorded(topic=topic, outcome=outcome)


def too_slow(timeout_s: float) -> str:
    """Say that a search was given up."""
    return f"the search was given up after {timeout_s:g} s; a longer --timeout may find it"
