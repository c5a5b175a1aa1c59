"""What is still to do: Kafka's offsets beside the store's, for each partition. Joins no group, and writes nothing."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import typer
from aiokafka import TopicPartition
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import KafkaError

from worker.cli.clients import administering, coordinating, reach, reading
from worker.cli.endings import perform
from worker.cli.holders import OpenTransaction, find_open
from worker.cli.looking import looking
from worker.cli.tables import for_people, print_table, printable
from worker.cli.unread import find_read
from worker.exit_codes import ExitCode
from worker.kafka import TopicShape
from worker.settings import Settings
from worker.stores.port import PartitionRow

_COLUMNS: Final = (
    "partition",
    "end",
    "applied",
    "published",
    "committed",
    "lag",
    "unpublished",
    "owner",
    "publisher",
    "member",
    "blocked",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offsets:
    """What Kafka knows of a partition."""

    beginning: int
    end: int
    """The last stable offset: records from there on cannot be read yet."""
    committed: int | None
    is_read: bool = False
    """Whether no record that can be read stands before the end and is not committed yet."""

    @property
    def done(self) -> int:
        """Return the offset up to which all that is still there is committed."""
        return max(self.committed or 0, self.beginning)

    @property
    def lag(self) -> int:
        """Return how many offsets from there to the end wait; 0 if they are markers and aborted records alone."""
        return 0 if self.is_read else max(self.end - self.done, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Who holds a partition in the consumer group, in the coordinator's words."""

    member_id: str
    client_id: str
    client_host: str


def print_lag(*, as_json: bool) -> ExitCode:
    """Print the lag.

    Raise SettingsError, BrokerUnreachableError, TopicsNotReadyError, StoreUnavailableError or StoreNotReadyError.
    """
    return perform(lambda settings: _print_lag(settings, as_json=as_json))


async def _print_lag(settings: Settings, *, as_json: bool) -> ExitCode:
    topic = settings.commands_topic
    shape = (await reach(settings, topic))[topic]
    # the store first: what has been applied by then is before the ends that are read afterwards
    async with looking(settings) as lookup:
        rows = await lookup.partitions(topic)
    offsets = await _offsets(settings, shape)
    members = await _members(settings)
    holders = await _holders(settings, offsets)
    partitions = [
        line_of(number, offsets.get(number), rows.get(number), members.get(number), holders.get(number))
        for number in sorted({*offsets, *rows})
    ]
    _print(settings, partitions, as_json=as_json)
    return ExitCode.DONE


async def _offsets(settings: Settings, shape: TopicShape) -> dict[int, Offsets]:
    topic = settings.commands_topic
    partitions = [TopicPartition(topic, number) for number in range(shape.partitions)]
    async with reading(settings, {topic: shape}) as reader, coordinating(settings) as coordination:
        beginnings = await reader.beginning_offsets(partitions)
        committed = await coordination.committed(topic, range(shape.partitions))
        ends = await reader.end_offsets(partitions)
    offsets = {
        one: Offsets(beginning=beginnings[one], end=ends[one], committed=committed[one.partition]) for one in partitions
    }
    read = await find_read(settings, {tp: (one.done, one.end) for tp, one in offsets.items() if one.lag})
    return {tp.partition: replace(one, is_read=tp in read) for tp, one in offsets.items()}


async def _members(settings: Settings) -> dict[int, Member]:
    """Ask the coordinator who holds what; where it does not say, the rest is worth printing."""
    try:
        async with administering(settings) as admin:
            answers: list[Any] = await admin.describe_consumer_groups([settings.group_id])
    except KafkaError as error:
        typer.echo(f"the group's members are not known: {type(error).__name__}", err=True)
        return {}
    return {
        partition: Member(member_id=member_id, client_id=client_id, client_host=client_host.removeprefix("/"))
        for answer in answers
        for _, _, _, _, _, group_members, *_ in answer.groups
        for member_id, client_id, client_host, _, assignment in group_members
        for topic, partition in _assigned(assignment)
        if topic == settings.commands_topic
    }


async def _holders(settings: Settings, partitions: Collection[int]) -> dict[int, OpenTransaction]:
    """Ask the leaders which open transactions hold partitions; where they do not say, the rest is worth printing."""
    try:
        return await find_open(settings, settings.commands_topic, partitions)
    except (KafkaError, OSError) as error:  # TimeoutError is one
        typer.echo(f"open transactions are not known: {type(error).__name__}", err=True)
        return {}


def _assigned(assignment: bytes) -> list[TopicPartition]:
    """Read a member's assignment; it has none while the group rebalances."""
    return ConsumerProtocolMemberAssignment.decode(assignment).partitions() if assignment else []


def line_of(
    partition: int,
    offsets: Offsets | None,
    row: PartitionRow | None,
    member: Member | None,
    holder: OpenTransaction | None = None,
) -> dict[str, Any]:
    """Put together what is known of one partition; the lag is what can be read and is not committed yet."""
    applied = row.applied if row else None
    published = row.published if row else None
    return {
        "partition": partition,
        "end": offsets and offsets.end,
        "applied": applied,
        "published": published,
        "committed": offsets and offsets.committed,
        "lag": offsets and offsets.lag,
        "unpublished": None if applied is None or offsets is None else max(applied - offsets.done, 0),
        "owner": row and row.owner,
        "publisher": row and row.publisher,
        "blocked": row and row.blocked_because,
        "member": member and {"memberId": member.member_id, "clientId": member.client_id, "host": member.client_host},
        "transaction": holder
        and {
            "offset": holder.offset,
            "waiting": holder.waiting,
            "openSeconds": holder.open_s,
            "producerId": holder.producer_id,
            "transactionalId": holder.transactional_id,
        },
    }


def _print(settings: Settings, partitions: list[dict[str, Any]], *, as_json: bool) -> None:
    total = {name: sum(one[name] or 0 for one in partitions) for name in ("lag", "unpublished")}
    if not for_people(as_json=as_json):
        about = {"group": settings.group_id, "topic": settings.commands_topic}
        typer.echo(json.dumps(about | {"partitions": partitions, "total": total}))
        return
    rows = [[_cell(one[column]) for column in _COLUMNS] for one in partitions]
    print_table(_COLUMNS, [*rows, [str(({"partition": "total"} | total).get(column, "")) for column in _COLUMNS]])
    for one in partitions:
        if one["transaction"] is not None:
            typer.echo(printable(_in_words(one["partition"], one["transaction"])))


def _in_words(partition: int, transaction: Mapping[str, Any]) -> str:
    """Write out what holds a partition; a transactional id is the sender's own choice."""
    about = {
        "open for": transaction["openSeconds"] and f"{transaction['openSeconds']:g} s",
        "transactional id": transaction["transactionalId"],
        "producer id": transaction["producerId"],
    }
    known = "".join(f", {name} {value}" for name, value in about.items() if value is not None)
    offset, waiting = transaction["offset"], transaction["waiting"]
    return f"partition {partition} is held at offset {offset} by an open transaction{known}; {waiting} offsets wait"


def _cell(value: object) -> object:
    return f"{value['clientId']}@{value['host']}" if isinstance(value, Mapping) else value
