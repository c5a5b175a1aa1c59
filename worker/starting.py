"""Where an owner starts in a partition, from what store and Kafka say, or why it must not. Pure.

An answer of Kafka may come from a broker that was cut off from the others: its end of a partition, and its id of the
topic, are then old. So no refusal is for good: each is looked at again (docs/exactly-once.md, Refusals).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from worker.blocked import Blocked
from worker.stores.port import PartitionRow, TopicIdentity
from worker.survey import Extent

RETRY_S: Final[Mapping[str, float]] = {"no_leader": 2, "end_behind": 2}
"""What passes by itself is looked at again soon."""
_REFUSED_RETRY_S: Final = 30
_LOST_AFTER_S: Final = 30
"""Longer than a broker's session and an election take: for so long a leader may not have caught up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where an owner starts: publish the recorded outcomes from `replay`, apply from `apply` on."""

    replay: int
    apply: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What store and Kafka say of one partition."""

    row: PartitionRow
    committed: int | None
    """K, the group's committed offset; None if there is none."""
    extent: Extent | None
    """None if its leader is not known or does not answer."""
    identity: TopicIdentity | None
    """None where the brokers have no ids of topics."""
    behind_s: float = 0
    """For how long its end has been said to be below `applied`, again and again."""


def find_start(found: Found) -> Start | Blocked:
    """Say where to start, or why not to (docs/exactly-once.md, Takeover 5)."""
    row, extent = found.row, found.extent
    if row.lost_at is not None:
        return _blocked(_of_another_topic(row, found.identity) or _lost(row), found)
    if cause := _of_another_topic(row, found.identity) or _refusal(found, extent):
        return _blocked(cause, found)
    assert extent is not None, "else it is refused"
    if row.applied is None or row.published is None:
        return Start(replay=extent.beginning, apply=extent.beginning)
    return Start(replay=row.published if found.committed is None else found.committed, apply=row.applied)


def _of_another_topic(row: PartitionRow, identity: TopicIdentity | None) -> str | None:
    if row.identity is None or identity is None or row.identity == identity:
        return None
    return "topic_recreated" if row.identity.cluster_id == identity.cluster_id else "another_cluster"


def _lost(row: PartitionRow) -> str:
    return "topic_recreated" if row.identity is None else "records_lost"


def lost_at(found: Found) -> int | None:
    """Return where the partition ends, if that shows for good that applied records are lost; None if it does not."""
    row, extent = found.row, found.extent
    if extent is None or row.applied is None or _of_another_topic(row, found.identity):
        return None
    return extent.end if extent.end < row.applied and found.behind_s >= _LOST_AFTER_S else None


def _refusal(found: Found, extent: Extent | None) -> str | None:
    row, committed = found.row, found.committed
    if extent is None:
        return "no_leader"
    if row.applied is None or row.published is None:
        return "another_store" if committed else None  # retention may have removed all that it has committed
    if extent.end < row.applied:
        return "end_behind" if found.behind_s < _LOST_AFTER_S else _lost(row)
    if committed is not None and committed > row.applied:
        return "store_behind"
    return "offset_reset" if committed is not None and committed < row.published else None


_REASONS: Final = {
    "no_leader": "the partition's leader is not known, or does not answer. It is asked again.",
    "another_store": "the group has committed offset {committed}, but the store has never seen this partition: it is"
    " not this group's store, or was restored from a backup. Use the right store, or another group.",
    "topic_recreated": "the store has applied up to offset {applied} of the topic with the id {known}, but this topic"
    " has the id {found} and ends at {end}: it was deleted and made anew. Restore the topic, use a new store, or"
    " read the new topic with `user-task-worker store adopt-topic`.",
    "another_cluster": "the store has applied up to offset {applied} of a topic in the cluster {known}, but this is the"
    " cluster {found}. Use the right cluster, a new store, or `user-task-worker store adopt-topic`.",
    "end_behind": "the store has applied up to offset {applied}, but the broker says that the partition ends at {end}:"
    " it may not have caught up. It is asked again.",
    "records_lost": "the store has applied up to offset {applied}, but the same topic had ended at {end} for a while:"
    " Kafka has lost records, for instance by an unclean leader election. What comes in their place would be taken for"
    " them. Restore the partition, or read it anew with `user-task-worker store adopt-topic`.",
    "store_behind": "the group has committed offset {committed}, but the store has applied only up to {applied}: it"
    " was restored from a backup, or is not this group's store. Restore a newer backup, use the right store, or have"
    " all since the backup decided and published again by `user-task-worker store realign`.",
    "offset_reset": "the group's offset is {committed}, but everything up to {published} is published: Kafka lost"
    " offsets, or somebody reset the group. Set the group's offset to {published}.",
}
CAUSES: Final = tuple(_REASONS)
PASSING: Final = frozenset(RETRY_S)
"""Causes that may pass by themselves."""


def _blocked(cause: str, found: Found) -> Blocked:
    row, extent = found.row, found.extent
    which = "cluster_id" if cause == "another_cluster" else "topic_id"
    end = row.lost_at if row.lost_at is not None else extent and extent.end
    figures: dict[str, Any] = {
        "committed": found.committed,
        "end": "an unknown offset" if end is None else end,
        "applied": row.applied,
        "published": row.published,
        "known": "unknown" if row.identity is None else getattr(row.identity, which),
        "found": "unknown" if found.identity is None else getattr(found.identity, which),
    }
    return Blocked(
        cause=cause,
        reason=_REASONS[cause].format(**figures),
        retry_s=RETRY_S.get(cause, _REFUSED_RETRY_S),
        is_refusal=cause not in PASSING,
    )
