"""The main table: all subjects beside each other, run after run in turn, so that a noisy minute meets them all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks.ground import Ground
from benchmarks.subjects import Subject
from benchmarks.throughput import Run, measure
from benchmarks.workload import Workload

POSTGRES: Final = Subject(name="this worker, PostgreSQL", store="postgres")
TWO_WORKERS: Final = Subject(name="this worker, two processes, PostgreSQL", store="postgres", processes=2)
"""As many as Kafka Streams has threads: one for each core."""
SQLITE: Final = Subject(name="this worker, SQLite", store="sqlite")
STREAMS_ROCKSDB: Final = Subject(name="Kafka Streams, RocksDB", peer="streams-rocksdb")
STREAMS_MEMORY: Final = Subject(name="Kafka Streams, in memory", peer="streams-memory")
FASTSTREAM: Final = Subject(name="FastStream, PostgreSQL", peer="faststream", store="postgres")
COPY: Final = Subject(name="bare transactional copy", peer="copy")

SUBJECTS: Final = (POSTGRES, TWO_WORKERS, SQLITE, STREAMS_ROCKSDB, STREAMS_MEMORY, FASTSTREAM, COPY)

TARGETS: Final = (
    (POSTGRES, STREAMS_ROCKSDB, 1.0),
    (TWO_WORKERS, STREAMS_ROCKSDB, 1.0),
    (SQLITE, STREAMS_ROCKSDB, 1.3),
    (POSTGRES, FASTSTREAM, 50),
    (POSTGRES, COPY, 0.25),
)
"""Ratios of throughput that were set as the aim."""

_SLOW_SHARE: Final = 40
"""A subject that takes a transaction per message gets so much less to do: it would take most of the time."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """One subject's throughput by another's, run by run."""

    of: str
    to: str
    values: Sequence[float]
    target: float

    @property
    def median(self) -> float:
        """Give the middle one."""
        return median(self.values)


def compare(
    ground: Ground, subjects: Sequence[Subject], runs: int, commands: int, partitions: int, tell: Callable[[str], None]
) -> dict[str, list[Run]]:
    """Measure every subject `runs` times, in turn; give the runs by the subject's name."""
    results: dict[str, list[Run]] = {subject.name: [] for subject in subjects}
    for number in range(runs):
        for subject in subjects:
            count = commands // _SLOW_SHARE if subject.peer == "faststream" else commands
            run = measure(subject, ground, Workload(tasks=count, commands=count), partitions)
            results[subject.name].append(run)
            tell(f"{number + 1}/{runs} {subject.name}: {run.commands_per_s:,.0f}/s, {run.cpu_us_per_command:.0f} us")
    return results


def ratios(results: Mapping[str, Sequence[Run]]) -> list[Ratio]:
    """Give the ratios that were set as aims, of the subjects that ran; each run by its neighbour in the same round."""
    found = []
    for one, other, target in TARGETS:
        if one.name in results and other.name in results:
            pairs = zip(results[one.name], results[other.name], strict=True)
            values = [mine.commands_per_s / theirs.commands_per_s for mine, theirs in pairs]
            found.append(Ratio(one.name, other.name, values, target))
    return found
