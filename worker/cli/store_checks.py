"""What `check` says of the store, and of what a takeover would find in it beside the group's offsets."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Final

from worker.blocked import Blocked
from worker.cli.clients import coordinating
from worker.cli.looking import make_lookup
from worker.cli.topic_checks import ClusterFacts, Finding, bad, good, skipped
from worker.encoder import OutgoingRecord, Reply
from worker.kafka import BrokerUnreachableError
from worker.settings import Settings
from worker.starting import Found, Start, find_start
from worker.stores.lookup import Lookup
from worker.stores.port import PartitionRow, StoreError, StoreNotReadyError, StoreUnavailableError
from worker.stores.sqlite_trial import try_to_write as try_to_write_sqlite

CHANGING: Final = "right to change the store"
TAKEOVER: Final = "takeover"
_UNSEEN: Final = PartitionRow(owner=0, publisher="", applied=None, published=None)
_SHOWN_MAX: Final = 100
_OUTCOMES_MAX: Final = 20
"""Of each partition. The first are those that hold up the others."""
_WAITING_MAX: Final = 50
_WAITING_BYTES_MAX: Final = 2 * 1024 * 1024


@dataclass(slots=True, kw_only=True)
class StoreReport:
    """What was found, and records that are decided and not published yet."""

    findings: list[Finding]
    waiting: list[OutgoingRecord] | None = None


async def check_store(settings: Settings, facts: ClusterFacts | None, *, sees_group: bool) -> StoreReport:
    """Look at the store, try to write to it, and judge each partition as a takeover would. Nothing is changed."""
    async with AsyncExitStack() as stack:
        path = settings.sqlite_path
        lookup = None if path is not None and not path.exists() else make_lookup(settings)
        try:
            if lookup is not None:
                stack.push_async_callback(lookup.close)
                await lookup.open()
            rows = {} if lookup is None else await lookup.partitions(settings.commands_topic)
        except StoreError as error:
            return StoreReport(findings=[_refusal("store", error), skipped(CHANGING), skipped(TAKEOVER)])
        store = _store(settings, rows, facts, is_there=lookup is not None)
        report = StoreReport(findings=[store, await _writing(settings)])
        if store.result != "ok" or facts is None or settings.commands_topic not in facts.topics or not sees_group:
            report.findings.append(skipped(TAKEOVER))
        else:
            await _judge(settings, facts.topics[settings.commands_topic].partitions, rows, lookup, report)
        return report


def _refusal(name: str, error: StoreError) -> Finding:
    words = (
        str(error)
        if isinstance(error, StoreNotReadyError | StoreUnavailableError)
        else f"{type(error).__name__}: {error}"
    )
    return bad(name, words, is_unreachable=isinstance(error, StoreUnavailableError))


def _store(
    settings: Settings, rows: Mapping[int, PartitionRow], facts: ClusterFacts | None, *, is_there: bool
) -> Finding:
    if not is_there:
        return good("store", f"{settings.sqlite_path} is not there: `run` makes a new one")
    topic = settings.commands_topic
    seen = max(rows, default=-1) + 1
    count = facts.topics[topic].partitions if facts is not None and topic in facts.topics else seen
    if seen > count:
        return bad("store", f"it has seen {seen} partitions of {topic}, which has {count}: the topic was recreated")
    return good("store", "it answers, and its schema is this release's")


async def _writing(settings: Settings) -> Finding:
    """Try while the lookup is open, which keeps this from being the last to close a SQLite file."""
    try:
        if settings.sqlite_path is not None:
            await asyncio.to_thread(try_to_write_sqlite, settings.sqlite_path)
        else:
            from worker.stores.postgres_trial import try_to_write  # noqa: PLC0415 - its driver is an extra

            await try_to_write(settings.store_url.get_secret_value())
    except StoreError as error:
        return _refusal(CHANGING, error)
    return good(CHANGING, "tried, and rolled back")


async def _judge(
    settings: Settings, count: int, rows: Mapping[int, PartitionRow], lookup: Lookup | None, report: StoreReport
) -> None:
    """Judge each partition by its row, the group's offset and the topic, without fencing anybody."""
    try:
        found = await _find(settings, count, rows, lookup)
        starts = {partition: find_start(one) for partition, one in found.items()}
        report.findings += _told(starts, found)
        report.waiting = [] if lookup is None else await _waiting(settings.commands_topic, starts, lookup)
    except BrokerUnreachableError as error:
        report.findings.append(bad(TAKEOVER, str(error), is_unreachable=True))
    except StoreError as error:
        report.findings.append(_refusal(TAKEOVER, error))


async def _find(
    settings: Settings, count: int, before: Mapping[int, PartitionRow], lookup: Lookup | None
) -> dict[int, Found]:
    topic = settings.commands_topic
    async with coordinating(settings) as coordination:
        committed = await coordination.committed(topic, range(count))
        after = {} if lookup is None else await lookup.partitions(topic)
        survey = await coordination.survey(topic, range(count))
    return {
        partition: Found(
            row=_between(before.get(partition, _UNSEEN), after.get(partition, _UNSEEN)),
            committed=committed[partition],
            extent=survey.extents.get(partition),
            identity=survey.identity,
        )
        for partition in range(count)
    }


def _between(before: PartitionRow, after: PartitionRow) -> PartitionRow:
    """Return a row that holds for an offset read in between: a worker may go on, and what is published lags behind."""
    return after if before.published is None else replace(after, published=before.published)


def _told(starts: Mapping[int, Start | Blocked], found: Mapping[int, Found]) -> list[Finding]:
    blocked = [bad(f"partition {number}", str(one)) for number, one in starts.items() if isinstance(one, Blocked)]
    noted = [
        Finding(f"partition {number}", "warning", f"its last owner has noted: {why}")
        for number, one in starts.items()
        if isinstance(one, Start) and (why := found[number].row.blocked_because)
    ]
    if blocked:
        summary = bad(TAKEOVER, f"of {len(starts)} partitions, {len(blocked)} would be blocked")
        return [summary, *(blocked + noted)[:_SHOWN_MAX]]
    places = [f"{number} from {one.apply}" for number, one in starts.items() if isinstance(one, Start)]
    more = f", and {len(places) - _SHOWN_MAX} more" if len(places) > _SHOWN_MAX else ""
    return [good(TAKEOVER, f"partition {', '.join(places[:_SHOWN_MAX])}{more}"), *noted[:_SHOWN_MAX]]


async def _waiting(topic: str, starts: Mapping[int, Start | Blocked], lookup: Lookup) -> list[OutgoingRecord]:
    """Return records that the next owners would publish first, from each partition, and not too many together."""
    waiting: list[OutgoingRecord] = []
    size_bytes = 0
    for partition, one in starts.items():
        if isinstance(one, Blocked) or one.replay == one.apply:
            continue
        for _, records in await lookup.recorded(topic, partition, one.replay, one.apply, _OUTCOMES_MAX):
            waiting += [record for record in records if type(record) is not Reply]
            size_bytes += sum(record.wire_bytes for record in records)
            if size_bytes > _WAITING_BYTES_MAX or len(waiting) > _WAITING_MAX:  # listeners wait meanwhile
                return waiting
    return waiting
