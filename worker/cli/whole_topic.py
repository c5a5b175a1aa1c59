"""The commands topic as store and Kafka have it, for what only a person may change."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import typer

from worker.cli.clients import coordinating, reach
from worker.cli.store import make_store, within
from worker.cli.tables import for_people, print_table
from worker.coordination import Coordination
from worker.kafka import BrokerUnreachableError
from worker.settings import Settings
from worker.stores.port import Store, StoreNotReadyError
from worker.survey import Survey


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeTopic:
    """What it takes to look at all partitions, and to change where they stand."""

    store: Store
    coordination: Coordination
    survey: Survey
    partitions: range


@asynccontextmanager
async def whole_topic(settings: Settings) -> AsyncIterator[WholeTopic]:
    """Open the store, and ask Kafka for all partitions of the commands topic.

    Raise BrokerUnreachableError, also if a partition has no leader that answers, TopicsNotReadyError,
    StoreUnavailableError, or StoreNotReadyError.
    """
    topic = settings.commands_topic
    partitions = range((await reach(settings, topic))[topic].partitions)
    if settings.sqlite_path is not None and not settings.sqlite_path.is_file():
        raise StoreNotReadyError(f"there is no SQLite file {settings.sqlite_path}")  # and none is made by looking
    store = make_store(settings)
    try:
        await within(settings.start_timeout_s, store.open)
        async with coordinating(settings) as coordination:
            survey = await coordination.survey(topic, partitions)
            if missing := sorted(set(partitions) - survey.extents.keys()):
                raise BrokerUnreachableError(f"partitions without a leader that answers: {missing}")
            yield WholeTopic(store=store, coordination=coordination, survey=survey, partitions=partitions)
    finally:
        await store.close()


def print_partitions(columns: Sequence[str], lines: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print a line for each partition: a table on a terminal, JSON otherwise."""
    if for_people(as_json=as_json):
        print_table(columns, [list(line.values()) for line in lines])
        return
    for line in lines:
        typer.echo(json.dumps(line))
