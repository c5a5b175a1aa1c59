"""Load and verdict: sends commands, judges by what a `read_committed` listener sees, knows nothing of the store."""

import json
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition

from tests.integration.harness import COMPLETE, COMPLETED, CREATE, CREATED, REJECTED, TopicNames, cloud_event

FIRST_KEY = 2251799813685249
SENT_PER_TASK = 5


@dataclass(frozen=True, slots=True)
class Command:
    """A command to send, and what has to become of it: exactly one record of this type."""

    command_id: str
    key: str
    headers: list[tuple[str, bytes | None]]
    value: bytes
    expected: str


@dataclass(slots=True)
class Sent:
    """What is remembered of a command that was sent: little, for there may be a million."""

    command_id: str
    expected: str
    sent_s: float
    arrived_s: float | None = None
    """When the broker said that it has the command."""


def story(key: str) -> Iterator[Command]:
    """Create, complete, complete under the same id again, and two more that come too late."""
    create, complete, late, later = (str(uuid.uuid4()) for _ in range(4))
    body = json.dumps({"userTaskKey": key, "action": "approve", "variables": {"approved": True}}).encode()
    yield _command(create, key, CREATE, json.dumps({"userTaskKey": key, "assignee": "ann"}).encode(), CREATED)
    yield _command(complete, key, COMPLETE, body, COMPLETED)
    yield _command(complete, key, COMPLETE, body, COMPLETED)
    yield _command(late, key, COMPLETE, body, REJECTED)
    yield _command(later, key, COMPLETE, body, REJECTED)


def _command(command_id: str, key: str, kind: str, value: bytes, expected: str) -> Command:
    return Command(command_id, key, cloud_event(kind, command_id), value, expected)


PATIENT = {
    "enable.idempotence": True,
    "message.timeout.ms": 0,  # a command is never given up, however long the brokers are away
    "request.timeout.ms": 5000,
    "socket.timeout.ms": 10_000,
    "reconnect.backoff.max.ms": 1000,
    "log_level": 0,
}
"""Settings of a producer whom no fault of a broker may cost a record."""


class Load:
    """Sends stories of ever new tasks, interleaved, from a thread, at a rate, until it is told to stop."""

    def __init__(
        self, bootstrap_servers: str, topic: str, *, commands_per_s: float, first_key: int = FIRST_KEY
    ) -> None:
        self.sent: list[Sent] = []
        self._bootstrap_servers = bootstrap_servers
        self._topic = topic
        self._running = threading.Event()
        self._running.set()
        self._lock = threading.Lock()
        self._pause_s = 10 * SENT_PER_TASK / commands_per_s
        self._next_key = first_key
        self._producer = Producer({"bootstrap.servers": bootstrap_servers} | PATIENT)
        self._stopped = threading.Event()
        self._failures: list[object] = []
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, deadline_s: float = 60) -> None:
        """Stop sending; every command sent is on the broker when this returns."""
        self._stopped.set()
        self._thread.join(60)
        self._flush(deadline_s)

    def _send(self) -> None:
        try:
            while not self._stopped.is_set():
                if self._running.is_set():
                    self.burst(10)
                self._poll(self._pause_s)
        except Exception as error:  # noqa: BLE001 - told by the thread that stops the load
            self._failures.append(error)

    def _poll(self, for_s: float) -> None:
        """Wait, and hear meanwhile what has arrived when."""
        until = time.monotonic() + for_s
        while (left_s := until - time.monotonic()) > 0 and not self._stopped.is_set():
            self._producer.poll(min(left_s, 0.1))

    def _flush(self, deadline_s: float = 60) -> None:
        assert self._producer.flush(deadline_s) == 0, "the brokers have not taken all commands"
        assert not self._failures, self._failures[:3]

    def pause_until_committed(self, group: str, deadline_s: float = 60) -> None:
        """Send nothing until the group has caught up; then go on."""
        self.pause(group, deadline_s)
        self.resume()

    def pause(self, group: str, deadline_s: float = 60) -> None:
        """Send nothing more until told to go on; return when the group has caught up."""
        self._running.clear()
        with self._lock:
            self._flush()
        await_committed(self._bootstrap_servers, self._topic, group, deadline_s)

    def resume(self) -> None:
        """Send on."""
        self._running.set()

    def flush(self) -> None:
        """Wait until the broker has all that was sent."""
        assert self._producer.flush(60) == 0

    def burst(self, tasks: int) -> None:
        """Send the stories of so many new tasks at once, their commands interleaved."""
        with self._lock:
            self._burst(tasks)

    def _burst(self, tasks: int) -> None:
        stories = [list(story(str(self._next_key + number))) for number in range(tasks)]
        self._next_key += tasks
        for step in zip(*stories, strict=True):
            for command in step:
                self._produce(command)
        self._producer.poll(0)

    def _produce(self, command: Command) -> None:
        sent = Sent(command.command_id, command.expected, time.time())

        def delivered(error: KafkaError | None, _: object) -> None:
            sent.arrived_s = time.time()
            if error is not None:
                self._failures.append(error)

        while True:
            try:
                self._producer.produce(
                    self._topic, command.value, command.key.encode(), headers=command.headers, on_delivery=delivered
                )
            except BufferError:
                self._producer.poll(0.5)
            else:
                self.sent.append(sent)
                return


@dataclass
class Verdict:
    """What is wrong with what a listener saw; all empty is right."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    seen: int = 0

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.doubled or self.wrong or self.out_of_order)


@dataclass(frozen=True)
class Outcome:
    """One record that a listener saw."""

    topic: str
    command_id: str
    key: str
    kind: str
    timestamp_ms: int


def outcomes(bootstrap_servers: str, topics: TopicNames) -> list[Outcome]:
    """Read everything that is visible on the outcome topics, in the order of each partition."""
    return list(each_outcome(bootstrap_servers, topics))


def each_outcome(bootstrap_servers: str, topics: TopicNames) -> Iterator[Outcome]:
    """Read the same one by one: there may be a million."""
    for topic in (topics.events, topics.rejections):
        yield from _read(bootstrap_servers, topic)


def _read(bootstrap_servers: str, topic: str) -> Iterator[Outcome]:
    settings = {
        "bootstrap.servers": bootstrap_servers,
        "group.id": f"judge-{uuid.uuid4()}",
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
    }
    with closing(Consumer(settings)) as consumer:
        partitions = consumer.list_topics(topic, 30).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
        open_partitions = set(partitions)
        while open_partitions:
            message = consumer.poll(30)
            assert message is not None, "the topic could not be read to its end"
            if message.error() is None:
                headers = {name: value.decode() for name, value in message.headers() if value is not None}
                yield Outcome(
                    topic, headers["ce_causationid"], message.key().decode(), headers["ce_type"], message.timestamp()[1]
                )
            else:
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                open_partitions.discard(message.partition())


def judge(sent: Iterable[Command | Sent], seen: Iterable[Outcome]) -> Verdict:
    """Compare what was sent with what was seen: one outcome per command id, the right one, in order per key."""
    expected = {command.command_id: command.expected for command in sent}
    steps = {command_id: number for number, command_id in enumerate(expected)}
    found: Counter[str] = Counter()
    wrong: dict[str, None] = {}
    last_step: dict[tuple[str, str], int] = defaultdict(lambda: -1)
    verdict = Verdict()
    for outcome in seen:
        verdict.seen += 1
        found[outcome.command_id] += 1
        if expected.get(outcome.command_id) != outcome.kind:
            wrong[outcome.command_id] = None
        step = steps.get(outcome.command_id, -1)
        if step <= last_step[outcome.topic, outcome.key]:
            verdict.out_of_order.append(outcome.command_id)
        last_step[outcome.topic, outcome.key] = step
    verdict.lost = [command_id for command_id in expected if command_id not in found]
    verdict.doubled = [command_id for command_id, times in found.items() if times > 1]
    verdict.wrong = list(wrong)
    return verdict


def await_committed(bootstrap_servers: str, topic: str, group: str, deadline_s: float) -> None:
    """Wait until the group's committed offsets are the ends of the topic."""
    deadline = time.monotonic() + deadline_s
    settings = {"bootstrap.servers": bootstrap_servers, "group.id": group, "enable.auto.commit": False}
    with closing(Consumer(settings)) as consumer:
        partitions = [
            TopicPartition(topic, number) for number in consumer.list_topics(topic, 30).topics[topic].partitions
        ]
        while True:
            ends = {tp.partition: consumer.get_watermark_offsets(tp, 10)[1] for tp in partitions}
            committed = {tp.partition: tp.offset for tp in consumer.committed(partitions, 10)}
            if all(committed[partition] == end or end == 0 for partition, end in ends.items()):
                return
            assert time.monotonic() < deadline, f"committed {committed}, ends {ends}"
            threading.Event().wait(0.2)
