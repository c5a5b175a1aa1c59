"""Where a command's CPU goes, stage by stage: the worker's own code on one batch, without a broker or a database."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Final, TypeVar

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import ConsumerRecord

from benchmarks.workload import Command, Workload
from worker.batch import Batch, Limits, decode_all
from worker.encoder import Destinations, Encoder, OutgoingRecord, pack
from worker.murmur2 import murmur2
from worker.stores.port import Snapshot
from worker.stores.rows import changed_task_to_row, task_from_row, task_to_row

T = TypeVar("T")

_COMMANDS: Final = 3000
_PARTITIONS: Final = 12
_NOW_MS: Final = 1_800_000_000_000
_BATCH_BYTES: Final = 16 * 1024 * 1024
_EMPTY: Final = Snapshot(tasks={}, fingerprints={})
_LIMITS: Final = Limits(event_bytes=1_000_000, rejection_bytes=1_000_000, dead_letter_bytes=1_000_000)
_DESTINATIONS: Final = Destinations(
    events_topic="user-task.events",
    rejections_topic="user-task.rejections",
    dead_letters_topic="user-task.commands.dlq",
    dead_letters_partitions=_PARTITIONS,
    event_source="/user-task-worker",
    problem_type_base="urn:problem-type:user-task:",
    group_id="user-task-worker",
    reply_topics=re.compile(r"user-task\.replies"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage and its cost."""

    name: str
    cpu_us_per_command: float


class _Stopwatch:
    """Takes the CPU time of stages, run by run."""

    def __init__(self) -> None:
        self._taken_us: dict[str, list[float]] = {}

    def __call__(self, name: str, work: Callable[[], T]) -> T:
        started_s = time.process_time()
        result = work()
        spent_us = (time.process_time() - started_s) * 1e6
        self._taken_us.setdefault(name, []).append(spent_us / _COMMANDS)
        return result

    def stages(self) -> list[Stage]:
        return [Stage(name=name, cpu_us_per_command=median(taken)) for name, taken in self._taken_us.items()]


def measure(runs: int) -> list[Stage]:
    """Take a batch through all stages so many times; give the median of each."""
    workload = Workload(tasks=_COMMANDS, commands=_COMMANDS)
    creates, completes = _received(workload.creates()), _received(workload.completes())
    created = Batch(decode_all(creates), Encoder(_DESTINATIONS), _LIMITS).decide(_EMPTY, _NOW_MS)
    rows = [task_to_row(task) for task in created.tasks.values()]
    take = _Stopwatch()
    for _ in range(runs):
        commands = take("decode the record", lambda: decode_all(completes))
        tasks = take("read the task's row", lambda: {row[0]: task_from_row(row) for row in rows})
        batch = Batch(commands, Encoder(_DESTINATIONS), _LIMITS)
        take("collect the keys to load", lambda it=batch: (it.task_keys, it.command_keys))
        snapshot = Snapshot(tasks=tasks, fingerprints={})
        changes = take("decide, and write the event", lambda it=batch, on=snapshot: it.decide(on, _NOW_MS))
        take("write the task's row", lambda it=changes: [changed_task_to_row(task) for task in it.tasks.values()])
        take("pack the outgoing record", lambda it=changes: [pack(outcome.records) for outcome in it.outcomes])
        records = [record for outcome in changes.outcomes for record in outcome.records]
        take("find its partition", lambda it=records: [murmur2(record.key) % _PARTITIONS for record in it])
        take("put it into a batch", lambda it=records: _append_all(it))
    return take.stages()


def _received(commands: Iterator[Command]) -> list[ConsumerRecord]:
    return [
        ConsumerRecord(
            "user-task.commands", number % _PARTITIONS, number, _NOW_MS, 0, key, value, None, len(key), len(value),
            tuple(headers),
        )
        for number, (key, value, headers) in enumerate(commands)
    ]  # fmt: skip


def _append_all(records: list[OutgoingRecord]) -> None:
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=0, is_transactional=1, producer_id=1, producer_epoch=0, base_sequence=0,
        batch_size=_BATCH_BYTES,
    )  # fmt: skip
    for offset, record in enumerate(records):
        builder.append(
            offset, timestamp=record.timestamp_ms, key=record.key, value=record.value, headers=list(record.headers)
        )
    builder.build()
