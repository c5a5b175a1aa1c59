"""Latency in an open loop: commands come at their times, whether or not those before them were answered."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import quantiles
from threading import Thread
from typing import Final

from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.ground import Course, Ground
from benchmarks.subjects import Started, Subject
from benchmarks.throughput import wait_until_done
from benchmarks.workload import Command, Sender, Workload

_ANSWER_TIMEOUT_S: Final = 60
_WARM_UP_S: Final = 3
"""So long after the first command nothing counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """From the instant at which a command was due, which is its record's timestamp, to its answer at a listener."""

    per_s: int
    p50_ms: float
    p99_ms: float
    max_ms: float


def measure(subject: Subject, ground: Ground, per_s: int, seconds: int, partitions: int) -> Latency:
    """Send `per_s` commands a second for so many seconds and see when a listener has the answers.

    A command that could not be sent in time counts from when it was due: no delay is left out for being long.
    """
    workload = Workload(tasks=per_s * (seconds + _WARM_UP_S), commands=per_s * (seconds + _WARM_UP_S))
    with ground.course(f"latency-{per_s}", partitions) as course:
        sender = Sender(ground.servers, course)
        with subject.running(ground, course) as started:
            sender.send(workload.creates())
            wait_until_done(started, ground, course, sender.ends())
            return _listen_and_send(ground, course, started, workload, per_s)


def _listen_and_send(ground: Ground, course: Course, started: Started, workload: Workload, per_s: int) -> Latency:
    listener = _Listener(ground.servers, course)
    thread = Thread(target=_send, args=(ground.servers, course, workload.completes(), per_s), name="sender")
    thread.start()
    try:
        seen_ms = listener.answers(workload.commands, started)
    finally:
        thread.join()
        listener.close()
    due_ms = sorted(due for due, _ in seen_ms)
    counted = [seen - due for due, seen in seen_ms if due >= due_ms[0] + _WARM_UP_S * 1000]
    percentiles = quantiles(counted, n=100)
    return Latency(per_s=per_s, p50_ms=percentiles[49], p99_ms=percentiles[98], max_ms=max(counted))


def _send(servers: str, course: Course, commands: Iterator[Command], per_s: int) -> None:
    producer = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random", "linger.ms": 0, "acks": "all"})
    start_s = time.time() + 1
    for number, (key, value, headers) in enumerate(commands):
        due_s = start_s + number / per_s
        while (early_s := due_s - time.time()) > 0:
            producer.poll(0)
            time.sleep(min(early_s, 0.001))
        stamped = [*headers, ("ce_correlationid", b"%.3f" % (due_s * 1000))]
        producer.produce(course.commands, value, key, headers=stamped, timestamp=int(due_s * 1000))
    producer.flush()


class _Listener:
    """Somebody downstream: reads committed answers only."""

    def __init__(self, servers: str, course: Course) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": f"{course.name}-listener",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 10,
            }
        )
        partitions = []
        for topic in (course.events, course.rejections):
            for number in range(course.partitions):
                _, end = self._consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_ANSWER_TIMEOUT_S)
                partitions.append(TopicPartition(topic, number, end))
        self._consumer.assign(partitions)

    def answers(self, count: int, started: Started) -> list[tuple[float, float]]:
        """Give for each answer when its command was due and when it came, in milliseconds since 1970."""
        seen: list[tuple[float, float]] = []
        quiet_since_s = time.monotonic()
        while len(seen) < count:
            started.raise_if_ended()
            messages = self._consumer.consume(1000, timeout=0.005)
            now_ms = time.time() * 1000
            seen += [(float(dict(message.headers())["ce_correlationid"]), now_ms) for message in messages]
            if messages:
                quiet_since_s = time.monotonic()
            elif time.monotonic() - quiet_since_s > _ANSWER_TIMEOUT_S:
                raise TimeoutError(f"{len(seen)} of {count} answers came")
        return seen

    def close(self) -> None:
        """Leave."""
        self._consumer.close()
