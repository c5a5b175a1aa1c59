"""The commands: tasks are created as a warm-up; then most are completed, some twice, and some that do not exist."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from confluent_kafka import Producer

from benchmarks.ground import Course

FIRST_KEY: Final = 2_251_799_813_685_249
_UNKNOWN_TASK_EVERY: Final = 20
_SECOND_COMPLETION_EVERY: Final = 20
_PRIME: Final = 1_000_003
"""Scatters the commands over the stored tasks, of whose number it is no divisor."""
_SOURCE: Final = b"/benchmark"

Command = tuple[bytes, bytes, list[tuple[str, bytes]]]
"""Key, value and headers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """How much there is to do. One in ten of the measured commands is refused: half 404, half 409."""

    tasks: int
    """User tasks to be created before measuring: a warm-up, too."""
    commands: int
    """The measured commands, at most as many as there are tasks."""
    stored_tasks: int = 0
    """More user tasks, which are in the PostgreSQL store beforehand; the measured commands then are about these."""
    variable_bytes: int = 0
    """Size of one more variable that each completion carries."""
    traced: bool = False
    """Whether each measured command has a `traceparent` of its own, sampled."""

    def creates(self) -> Iterator[Command]:
        """Give the create commands."""
        for number in range(self.tasks):
            body = {"name": "Approve the invoice", "assignee": "demo", "variables": {"amount": number}}
            key = FIRST_KEY + self.stored_tasks + number
            yield _record(key, json.dumps(body).encode(), b"user-task.create.v1", b"create-%d" % number)

    def completes(self) -> Iterator[Command]:
        """Give the measured commands."""
        filling = {"document": "x" * self.variable_bytes} if self.variable_bytes else {}
        body = {"variables": {"approved": True, "comment": "Seen and agreed.", **filling}, "action": "approve"}
        value = json.dumps(body).encode()
        for number in range(self.commands):
            key, trace = FIRST_KEY + self._target(number), self._trace(number)
            yield _record(key, value, b"user-task.complete.v1", b"complete-%d" % number, trace)

    def _trace(self, number: int) -> list[tuple[str, bytes]]:
        return [("traceparent", b"00-%032x-%016x-01" % (number + 1, number + 1))] if self.traced else []

    def _target(self, number: int) -> int:
        if number % _UNKNOWN_TASK_EVERY == 1:
            return self.stored_tasks + self.tasks + number  # there is no such task
        if number % _SECOND_COMPLETION_EVERY == 2:  # noqa: PLR2004 - any place behind one that is completed
            number -= 2
        return number * _PRIME % self.stored_tasks if self.stored_tasks else number


def _record(
    key: int, value: bytes, command_type: bytes, command_id: bytes, more: Sequence[tuple[str, bytes]] = ()
) -> Command:
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", command_id),
        ("ce_source", _SOURCE),
        ("ce_type", command_type),
        ("content-type", b"application/json"),
        *more,
    ]
    return str(key).encode(), value, headers


class Sender:
    """Writes commands in one Kafka transaction: they all appear at once, at a known instant, as a backlog."""

    def __init__(self, servers: str, course: Course) -> None:
        self._topic = course.commands
        self._partitions = course.partitions
        self._ends = dict.fromkeys(range(course.partitions), 0)
        self._producer = Producer(
            {
                "bootstrap.servers": servers,
                "transactional.id": f"{course.name}-sender",
                "transaction.timeout.ms": 600_000,
                "partitioner": "murmur2_random",
                "linger.ms": 20,
                "batch.size": 262_144,
                "queue.buffering.max.messages": 1_000_000,
            }
        )
        self._producer.init_transactions()

    def send(self, records: Iterator[Command]) -> float:
        """Write all records; return the monotonic instant, in seconds, at which they became visible."""
        self._producer.begin_transaction()
        for key, value, headers in records:
            self._produce(key, value, headers)
        self._producer.flush()
        time.sleep(1)  # so that nothing of the writing is still going on
        visible_s = time.monotonic()
        self._producer.commit_transaction()
        return visible_s

    def ends(self) -> dict[int, int]:
        """Give the offset behind the last command of each partition."""
        return dict(self._ends)

    def _produce(self, key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> None:
        while True:
            try:
                self._producer.produce(self._topic, value, key, headers=headers, on_delivery=self._delivered)
            except BufferError:
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return

    def _delivered(self, error: object, message: object) -> None:
        assert error is None, error
        self._ends[message.partition()] = message.offset() + 1
