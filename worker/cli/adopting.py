"""Lets the store go on with another topic of the same name, which only a person can decide."""

import json
from collections.abc import Mapping
from typing import Any, Final

import typer

from worker.cli.clients import coordinating, reach
from worker.cli.endings import perform
from worker.cli.store import make_store, within
from worker.cli.tables import for_people, print_table
from worker.exit_codes import ExitCode
from worker.kafka import BrokerUnreachableError
from worker.settings import Settings
from worker.starting import is_confirmed
from worker.stores.port import PartitionRow
from worker.survey import Survey

_PARTITIONS_MAX: Final = 10_000
_COLUMNS: Final = ("partition", "applied", "start", "unpublished")


def adopt(*, dry_run: bool, as_json: bool) -> ExitCode:
    """Adopt the topic, and print what becomes of each partition.

    Raise SettingsError, BrokerUnreachableError, TopicsNotReadyError, StoreUnavailableError or StoreNotReadyError.
    """
    return perform(lambda settings: _adopt(settings, dry_run=dry_run, as_json=as_json))


async def _adopt(settings: Settings, *, dry_run: bool, as_json: bool) -> ExitCode:
    topic = settings.commands_topic
    shape = (await reach(settings, topic))[topic]
    survey, committed = await _ask_kafka(settings, range(shape.partitions))
    store = make_store(settings)
    try:
        await within(settings.start_timeout_s, store.open)
        rows = await store.partitions(topic, range(_PARTITIONS_MAX))
        starts = starts_of(rows, survey, committed)
        if not dry_run:
            await store.adopt(topic, survey.identity, starts)
    finally:
        await store.close()
    _print([_line(number, rows[number], start) for number, start in sorted(starts.items())], as_json=as_json)
    if not starts:
        typer.echo(f"nothing to adopt: what the store has applied is of this {topic}", err=True)
    return ExitCode.DONE


async def _ask_kafka(settings: Settings, partitions: range) -> tuple[Survey, Mapping[int, int | None]]:
    async with coordinating(settings) as coordination:
        survey = await coordination.survey(settings.commands_topic, partitions)
        committed = await coordination.committed(settings.commands_topic, partitions)
    if missing := sorted(set(partitions) - survey.extents.keys()):
        raise BrokerUnreachableError(f"partitions without a leader that answers: {missing}")
    return survey, committed


def starts_of(
    rows: Mapping[int, PartitionRow], survey: Survey, committed: Mapping[int, int | None]
) -> dict[int, int | None]:
    """Return where each partition is to be read from; those that fit are left out, and None is for one that is gone."""
    starts: dict[int, int | None] = {}
    for partition, row in rows.items():
        extent = survey.extents.get(partition)
        if extent is None:
            starts[partition] = None
        elif is_confirmed(row) or (row.identity is not None and row.identity != survey.identity):
            known = committed[partition]
            starts[partition] = extent.beginning if known is None else known
    return starts


def _line(partition: int, row: PartitionRow, start: int | None) -> dict[str, Any]:
    unpublished = (row.applied or 0) - (row.published or 0)
    return {"partition": partition, "applied": row.applied, "start": start, "unpublished": unpublished}


def _print(lines: list[dict[str, Any]], *, as_json: bool) -> None:
    if for_people(as_json=as_json):
        print_table(_COLUMNS, [list(line.values()) for line in lines])
        return
    for line in lines:
        typer.echo(json.dumps(line))
