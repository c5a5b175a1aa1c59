"""Sets the group's offsets back to where a store from an older backup stands, which only a person can decide.

It takes the partitions over as a worker does, so that nobody else commits or writes meanwhile: it starts a producer,
fences those that are in the rows, puts its own name there, and reads the committed offsets behind a barrier.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final
from uuid import uuid4

import typer
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import InvalidProducerEpoch, ProducerFenced

from worker.blocked import Blocked
from worker.cli.endings import perform
from worker.cli.whole_topic import WholeTopic, print_partitions, whole_topic
from worker.exit_codes import ExitCode
from worker.kafka import client_options
from worker.settings import Settings
from worker.starting import Found, find_start
from worker.stores.port import PartitionRow, StoreFencedError

_COLUMNS: Final = ("partition", "committed", "applied", "again", "gone")

Line = dict[str, int]


def realign(*, dry_run: bool, as_json: bool) -> ExitCode:
    """Realign each partition that is `store_behind`, and print what becomes of it.

    Return FAILED if one cannot be realigned. Raise SettingsError, BrokerUnreachableError, TopicsNotReadyError,
    StoreUnavailableError, StoreNotReadyError, or StoreFencedError if the store changes meanwhile.
    """
    return perform(lambda settings: _realign(settings, dry_run=dry_run, as_json=as_json))


async def _realign(settings: Settings, *, dry_run: bool, as_json: bool) -> ExitCode:
    async with whole_topic(settings) as it:
        rows = await it.store.partitions(settings.commands_topic, it.partitions)
        committed = await it.coordination.committed(settings.commands_topic, it.partitions)
        lines = list(lines_of(rows, committed, it))
        if dry_run or not lines:
            _tell(lines, as_json=as_json, done="dry run, nothing is changed. Would be ")
        else:
            lines = await _set_back(settings, it, {line["partition"] for line in lines}, as_json=as_json)
    return ExitCode.FAILED if any(line["gone"] for line in lines) else ExitCode.DONE


def lines_of(rows: Mapping[int, PartitionRow], committed: Mapping[int, int | None], it: WholeTopic) -> Iterator[Line]:
    """Give a line for each partition whose group has committed more than the store has applied.

    `again` counts the offsets that are decided again; `gone` those of them that are no longer in Kafka.
    """
    for partition, row in sorted(rows.items()):
        extent, offset = it.survey.extents[partition], committed[partition]
        start = find_start(Found(row=row, committed=offset, extent=extent, identity=it.survey.identity))
        if isinstance(start, Blocked) and start.cause == "store_behind":
            applied, committed_at = row.applied or 0, offset or 0  # neither is None, or it would not be behind
            gone = max(0, min(extent.beginning, committed_at) - applied)
            again = committed_at - applied - gone
            yield dict(zip(_COLUMNS, (partition, committed_at, applied, again, gone), strict=True))


async def _set_back(settings: Settings, it: WholeTopic, partitions: Collection[int], *, as_json: bool) -> list[Line]:
    topic, name = settings.commands_topic, f"{settings.group_id}-{uuid4()}"
    async with AIOKafkaProducer(**client_options(settings), transactional_id=name) as producer:
        await _take_over(topic, it, partitions, name)
        committed = await it.coordination.final_offsets(f"{name}-barrier", topic, partitions)
        lines = list(lines_of(await it.store.partitions(topic, partitions), committed, it))
        _tell(lines, as_json=as_json)
        offsets: dict[Any, int] = {
            TopicPartition(topic, line["partition"]): line["applied"] for line in lines if not line["gone"]
        }
        if offsets:
            await _commit(producer, offsets, settings.group_id)
    return lines


async def _commit(producer: AIOKafkaProducer, offsets: dict[Any, int], group_id: str) -> None:
    try:
        async with producer.transaction():
            await producer.send_offsets_to_transaction(offsets, group_id)
    except (ProducerFenced, InvalidProducerEpoch):
        raise StoreFencedError("nothing is set: a worker has taken partitions over meanwhile; try again") from None


async def _take_over(topic: str, it: WholeTopic, partitions: Collection[int], name: str) -> None:
    """Become the owner of partitions. Raise StoreFencedError if somebody else does at the same time."""
    rows = await it.store.partitions(topic, partitions)
    for publisher in sorted({row.publisher for row in rows.values()}):
        await it.coordination.fence(publisher)
    owners = {partition: row.owner for partition, row in rows.items()}
    if await it.store.claim(topic, owners, name) != owners.keys():
        raise StoreFencedError("a worker has taken partitions over meanwhile; try again")


def _tell(lines: Collection[Line], *, as_json: bool, done: str = "") -> None:
    print_partitions(_COLUMNS, list(lines), as_json=as_json)
    if not lines:
        typer.echo("nothing to realign: the store has applied all that the group has committed", err=True)
    if again := sum(line["again"] for line in lines if not line["gone"]):
        typer.echo(
            f"{done}decided and published again: what stands at {again} offsets. Listeners see these outcomes twice.",
            err=True,
        )
    if gone := [line["partition"] for line in lines if line["gone"]]:
        typer.echo(
            f"not realigned, since Kafka no longer has all commands from `applied` on: partitions {gone}."
            " Restore a newer backup.",
            err=True,
        )
