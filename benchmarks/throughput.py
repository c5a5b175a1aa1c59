"""Commands per second through a backlog that appears at once before a warm process."""

import time
from dataclasses import dataclass
from typing import Final

from benchmarks.ground import Course, Ground
from benchmarks.subjects import Started, Subject
from benchmarks.workload import Sender, Workload

_LOOK_EVERY_S: Final = 0.05
_RUN_TIMEOUT_S: Final = 600
_MIB: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run has shown."""

    commands_per_s: float
    cpu_us_per_command: float
    """CPU of the measured processes; broker and database are not in it."""
    memory_peak_mib: float
    """The largest resident set of a measured process, sampled."""


def measure(subject: Subject, ground: Ground, workload: Workload, partitions: int) -> Run:
    """Measure one run; raise if an outgoing record is missing or too many.

    A command counts as done when the group's offset behind it is committed: all subjects commit it with or after the
    outgoing records. The clock starts when the broker has made the backlog visible, in one transaction.
    """
    with ground.course(subject.peer or f"worker-{subject.store}", partitions) as course:
        sender = Sender(ground.servers, course)
        with subject.running(ground, course, workload.stored_tasks) as started:
            sender.send(workload.creates())
            wait_until_done(started, ground, course, sender.ends())
            cpu_s = started.cpu_s()
            visible_s = sender.send(workload.completes())
            done_s, peak_bytes = wait_until_done(started, ground, course, sender.ends())
            cpu_s = started.cpu_s() - cpu_s
        _check(subject, ground, course, workload)
    return Run(
        commands_per_s=workload.commands / (done_s - visible_s),
        cpu_us_per_command=cpu_s / workload.commands * 1e6,
        memory_peak_mib=peak_bytes / _MIB,
    )


def wait_until_done(started: Started, ground: Ground, course: Course, ends: dict[int, int]) -> tuple[float, int]:
    """Wait until all is committed; return when (monotonic seconds), and the peak of memory."""
    deadline_s = time.monotonic() + _RUN_TIMEOUT_S
    peak_bytes = 0
    while True:
        started.raise_if_ended()
        committed = ground.committed(started.group, course)
        now_s = time.monotonic()
        peak_bytes = max(peak_bytes, *(process.memory_info().rss for process in started.processes))
        if all(committed[number] >= end for number, end in ends.items()):
            return now_s, peak_bytes
        if now_s > deadline_s:
            raise TimeoutError(f"not done within {_RUN_TIMEOUT_S} s: {committed} of {ends}")
        time.sleep(_LOOK_EVERY_S)


def _check(subject: Subject, ground: Ground, course: Course, workload: Workload) -> None:
    """Count the answers: a run that lost or doubled one has no speed."""
    outgoing = [course.events] if subject.peer == "copy" else [course.events, course.rejections]
    answers = sum(ground.count(topic, course.partitions) for topic in outgoing)
    if answers != workload.tasks + workload.commands:
        raise AssertionError(f"{subject.name}: {answers} answers to {workload.tasks + workload.commands} commands")
