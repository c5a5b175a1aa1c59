"""User tasks and outcomes as table rows, the same for every SQL store."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from pydantic_core import from_json

from schemas.user_task import UserTaskState
from worker.encoder import OutgoingRecord, pack, unpack
from worker.lifecycle import StoredTask
from worker.stores.port import (
    REPEATED_BYTES_MAX,
    Adoption,
    First,
    Outcome,
    PartitionRow,
    StoreFencedError,
    TooMuchRepeatedError,
    TopicIdentity,
)
from worker.strict_json import write

PARTITION_COLUMNS: Final = (
    "partition, owner, publisher, applied, published, cluster_id, topic_id, lost_at, blocked_because"
)
_STATES: Final = {state.value: state for state in UserTaskState}


def partitions_from_rows(rows: Iterable[Sequence[Any]]) -> dict[int, PartitionRow]:
    """Read rows of `PARTITION_COLUMNS`, by partition."""
    return {row[0]: _partition_from_row(row) for row in rows}


def raise_if_changed(row: PartitionRow, adoption: Adoption) -> None:
    """Raise StoreFencedError if the row is not what the adoption was decided on."""
    if (row.applied, row.identity) != (adoption.applied, adoption.known):
        raise StoreFencedError("the store has changed meanwhile; look at it again")


def _partition_from_row(row: Sequence[Any]) -> PartitionRow:
    _, owner, publisher, applied, published, cluster_id, topic_id, lost_at, blocked_because = row
    return PartitionRow(
        owner=owner,
        publisher=publisher,
        applied=applied,
        published=published,
        identity=None if topic_id is None else TopicIdentity(cluster_id=cluster_id, topic_id=topic_id),
        lost_at=lost_at,
        blocked_because=blocked_because,
    )


def task_to_row(task: StoredTask) -> tuple[Any, ...]:
    """Give key, state, version, attributes and variables (JSON text), created_at_ms, ended_at_ms."""
    return (
        task.user_task_key,
        task.state.value,
        task.version,
        task.attributes,
        write(task.variables).decode(),
        task.created_at_ms,
        task.ended_at_ms,
    )


def changed_task_to_row(task: StoredTask) -> tuple[Any, ...]:
    """Give state, version, variables (JSON text), ended_at_ms and key: what a transition changes, and of which task."""
    return task.state.value, task.version, write(task.variables).decode(), task.ended_at_ms, task.user_task_key


def task_from_row(row: Sequence[Any]) -> StoredTask:
    """Read what `task_to_row` gave."""
    key, state, version, attributes, variables, created_at_ms, ended_at_ms = row
    return StoredTask(
        user_task_key=key,
        state=_STATES[state],
        version=version,
        attributes=attributes,
        variables=from_json(variables),
        created_at_ms=created_at_ms,
        ended_at_ms=ended_at_ms,
    )


def outcome_to_row(partition_id: int, outcome: Outcome) -> tuple[Any, ...]:
    """Give the columns of an outcome in the order of the table's, its own id left out."""
    return (
        partition_id,
        outcome.offset,
        outcome.command_key,
        outcome.fingerprint,
        outcome.command_id,
        outcome.user_task_key,
        outcome.status,
        outcome.decided_at_ms,
        pack(outcome.records),
    )


def recorded_from_rows(rows: Iterable[Sequence[Any]]) -> list[tuple[int, list[OutgoingRecord]]]:
    """Return offsets and outgoing records of outcomes, as a replay needs them."""
    return [(offset, unpack(records)) for offset, records in rows]


def raise_if_too_much(asked: Collection[bytes], size_bytes: int) -> None:
    """Raise TooMuchRepeatedError if the outcomes of several command keys are too much to be loaded at once."""
    if len(asked) > 1 and size_bytes > REPEATED_BYTES_MAX:
        raise TooMuchRepeatedError


def first_from_rows(rows: Iterable[Sequence[Any]]) -> dict[bytes, First]:
    """Read command key, status and packed records of outcomes that occupy their command id."""
    return {command_key: First(status, unpack(records)[0]) for command_key, status, records in rows}
