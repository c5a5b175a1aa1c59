"""Lets the store go on with another topic of the same name, which only a person can decide."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import typer
from aiokafka import AIOKafkaProducer, TopicPartition

from worker.cli.endings import perform
from worker.cli.whole_topic import print_partitions, whole_topic
from worker.coordination import Coordination
from worker.exit_codes import ExitCode
from worker.kafka import client_options
from worker.settings import Settings
from worker.stores.port import Adoption, PartitionRow, Store
from worker.survey import Survey

_PARTITIONS_MAX: Final = 10_000
_COLUMNS: Final = ("partition", "applied", "start", "unpublished")

Committed = Mapping[int, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the operator has asked for."""

    from_committed: bool
    """Whether another topic is read from what the group has committed in it."""
    abandon_unpublished: bool
    dry_run: bool
    as_json: bool


def adopt(wish: Wish) -> ExitCode:
    """Adopt the topic, and print what becomes of each partition.

    Raise SettingsError, BrokerUnreachableError, TopicsNotReadyError, StoreUnavailableError, StoreNotReadyError, or
    StoreFencedError if the store changes meanwhile.
    """
    return perform(lambda settings: _adopt(settings, wish))


async def _adopt(settings: Settings, wish: Wish) -> ExitCode:
    async with whole_topic(settings) as it:
        return await _adopt_with(settings, wish, it.store, it.coordination, it.survey, it.partitions)


async def _adopt_with(
    settings: Settings, wish: Wish, store: Store, coordination: Coordination, survey: Survey, partitions: range
) -> ExitCode:
    topic = settings.commands_topic
    rows = await store.partitions(topic, range(_PARTITIONS_MAX))
    rows = {partition: row for partition, row in rows.items() if is_to_be_adopted(partition, row, survey)}
    committed = await _committed(settings, wish, coordination, rows, partitions)
    starts = {partition: start_of(partition, rows[partition], survey, committed, wish) for partition in sorted(rows)}
    lines = [_line(number, rows[number], start, committed, survey) for number, start in starts.items()]
    print_partitions(_COLUMNS, lines, as_json=wish.as_json)
    if not lines:
        typer.echo(f"nothing to adopt: what the store has applied is of this {topic}", err=True)
    if any(line["unpublished"] for line in lines) and not wish.abandon_unpublished:
        typer.echo("outcomes would never be published: --abandon-unpublished accepts that", err=True)
        return ExitCode.DONE if wish.dry_run else ExitCode.FAILED
    if lines and not wish.dry_run:
        await _commit(settings, {one: start for one, start in starts.items() if start is not None}, committed)
        adoptions = {
            one: Adoption(applied=rows[one].applied, known=rows[one].identity, start=start)
            for one, start in starts.items()
        }
        await store.adopt(topic, survey.identity, adoptions)
    return ExitCode.DONE


def is_to_be_adopted(partition: int, row: PartitionRow, survey: Survey) -> bool:
    """Return whether the row does not belong to the partition that is there now."""
    if partition not in survey.extents or row.lost_at is not None:
        return True
    return None not in (row.identity, survey.identity) and row.identity != survey.identity


def start_of(partition: int, row: PartitionRow, survey: Survey, committed: Committed, wish: Wish) -> int | None:
    """Return where to read the partition from; None if it is gone.

    What the group has committed in another topic is believed only if a person says so: a worker that had not noticed
    yet may have gone on in the middle of it.
    """
    extent = survey.extents.get(partition)
    if extent is None:
        return None
    if row.lost_at is not None and row.identity == survey.identity:
        return max(extent.beginning, row.lost_at)
    known = committed.get(partition) if wish.from_committed else None
    return extent.beginning if known is None else known


async def _committed(
    settings: Settings, wish: Wish, coordination: Coordination, rows: Mapping[int, PartitionRow], partitions: range
) -> Committed:
    """Read what the group has committed: for good, behind fences and a barrier, unless nothing shall be changed."""
    if wish.dry_run:
        return await coordination.committed(settings.commands_topic, partitions)
    for name in {row.publisher for row in rows.values()}:
        await coordination.fence(name)
    return await coordination.final_offsets(f"{settings.group_id}-{uuid4()}", settings.commands_topic, partitions)


async def _commit(settings: Settings, starts: Mapping[int, int], committed: Committed) -> None:
    """Let the group's offsets agree with where the store begins, as far as it has any."""
    offsets = {
        TopicPartition(settings.commands_topic, partition): start
        for partition, start in starts.items()
        if committed.get(partition) not in (None, start)
    }
    if offsets:
        name = f"{settings.group_id}-{uuid4()}"
        producer = AIOKafkaProducer(**client_options(settings), transactional_id=name)
        async with producer, producer.transaction():
            await producer.send_offsets_to_transaction(offsets, settings.group_id)


def _line(partition: int, row: PartitionRow, start: int | None, committed: Committed, survey: Survey) -> dict[str, Any]:
    known = committed.get(partition) if row.identity == survey.identity else None
    published = max(row.published or 0, known or 0)
    return {
        "partition": partition,
        "applied": row.applied,
        "start": start,
        "unpublished": max(0, (row.applied or 0) - published),
    }
