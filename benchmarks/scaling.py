"""How throughput changes with what surrounds the worker; every table has its own first row as the measure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks.comparison import POSTGRES
from benchmarks.ground import Ground
from benchmarks.subjects import Subject
from benchmarks.throughput import Run, measure
from benchmarks.workload import Workload

_PARTITIONS: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row."""

    name: str
    subject: Subject = POSTGRES
    workload: Workload
    partitions: int = _PARTITIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a row's runs have shown."""

    case: str
    runs: Sequence[Run]
    ratio: float
    """Median throughput by the first row's."""


def batch_sizes(commands: int) -> list[Case]:
    """Vary USERTASK_MAX_BATCH_RECORDS."""
    return [
        Case(
            name=f"batches of at most {size:,}",
            subject=Subject(name=f"{size}", store="postgres", environment={"USERTASK_MAX_BATCH_RECORDS": str(size)}),
            workload=Workload(tasks=commands, commands=commands),
        )
        for size in (100, 500, 1000, 2000, 5000)
    ]


def partitions(commands: int) -> list[Case]:
    """Vary the number of partitions."""
    workload = Workload(tasks=commands, commands=commands)
    return [Case(name=f"{count} partitions", workload=workload, partitions=count) for count in (4, 24, 96)]


def tasks(commands: int) -> list[Case]:
    """Vary how many user tasks the store has."""
    return [
        Case(name=f"{count:,} tasks", workload=Workload(tasks=commands, commands=commands, stored_tasks=count))
        for count in (100_000, 1_000_000, 5_000_000)
    ]


def variables(commands: int) -> list[Case]:
    """Vary how large the variables are."""
    few = max(1, commands // 10)
    return [
        Case(name="small variables", workload=Workload(tasks=commands, commands=commands)),
        Case(name="20 KB of variables", workload=Workload(tasks=few, commands=few, variable_bytes=20_000)),
    ]


def workers(commands: int) -> list[Case]:
    """Vary how many workers share the partitions and the machine."""
    workload = Workload(tasks=commands, commands=commands)
    return [
        Case(
            name=f"{count} worker{'s' if count > 1 else ''}",
            subject=Subject(name=f"{count}", store="postgres", processes=count),
            workload=workload,
        )
        for count in (1, 2)
    ]


TABLES: Final = {
    "batch-size": batch_sizes,
    "partitions": partitions,
    "tasks": tasks,
    "variables": variables,
    "workers": workers,
}


def scale(ground: Ground, cases: Sequence[Case], runs: int, tell: Callable[[str], None]) -> list[Result]:
    """Measure the cases in turn, `runs` times."""
    measured: dict[str, list[Run]] = {case.name: [] for case in cases}
    for number in range(runs):
        for case in cases:
            run = measure(case.subject, ground, case.workload, case.partitions)
            measured[case.name].append(run)
            tell(f"{number + 1}/{runs} {case.name}: {run.commands_per_s:,.0f}/s, {run.memory_peak_mib:.0f} MiB")
    first = median(run.commands_per_s for run in measured[cases[0].name])
    return [
        Result(case=name, runs=of_case, ratio=median(run.commands_per_s for run in of_case) / first)
        for name, of_case in measured.items()
    ]
