"""The bench of the black-box tests: a worker as a process, and its topics through a client that is not the worker's."""

import contextlib
import functools
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

ROOT = Path(__file__).resolve().parents[2]
PARTITIONS = 3
OUTCOME_DEADLINE_S = 20
START_DEADLINE_S = 60
STOP_DEADLINE_S = 60
TOPIC_MAX_BYTES = 1_048_588  # Kafka's own default
DEAD_LETTER_MAX_BYTES = TOPIC_MAX_BYTES + 64 * 1024

COMPLETE = "user-task.complete.v1"
CREATE = "user-task.create.v1"
CANCEL = "user-task.cancel.v1"
CREATED = "user-task.created.v1"
COMPLETED = "user-task.completed.v1"
CANCELED = "user-task.canceled.v1"
REJECTED = "user-task.rejected.v1"

INSTANT = r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z"
CORRELATION_HEADERS = ("kafka_correlationId", "REPLY_CORRELATION_ID", "correlation_id")

Header = tuple[str, bytes | None]
T = TypeVar("T")


class TopicNames(Protocol):
    """The four topics of a worker, however the fixture spells them."""

    commands: str
    events: str
    rejections: str
    dead_letters: str


@dataclass(frozen=True)
class Topics:
    """Topics made for one module."""

    commands: str
    events: str
    rejections: str
    dead_letters: str


class Position(NamedTuple):
    """Where a command stands."""

    topic: str
    partition: int
    offset: int

    @property
    def path(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def instance(self) -> str:
        return f"/{self.path}"


@dataclass(frozen=True)
class Seen:
    """One record as a `read_committed` listener sees it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    raw_headers: list[Header] = field(repr=False)
    timestamp: tuple[int, int]

    @functools.cached_property
    def headers(self) -> dict[str, bytes | None]:
        return dict(self.raw_headers)

    @functools.cached_property
    def body(self) -> Any:
        return json.loads(self.value or b"null")

    def text(self, name: str) -> str | None:
        value = self.headers.get(name)
        return None if value is None else value.decode()

    @property
    def slug(self) -> str:
        return self.body["type"].rsplit(":", 1)[-1]

    @property
    def errors(self) -> dict[str, str]:
        """Pointer to code, of an `invalid-argument` rejection."""
        return {error["pointer"]: error["code"] for error in self.body["errors"]}


@dataclass(frozen=True)
class Unsent:
    """A command on its way to the broker; `timestamp` in ms since 1970, 0 for now."""

    value: bytes | None
    key: bytes | None = b"a-record-key"
    headers: Iterable[Header] = ()
    partition: int | None = None
    timestamp: int = 0


def seen(message: Message) -> Seen:
    return Seen(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        key=message.key(),
        value=message.value(),
        raw_headers=list(message.headers() or ()),
        timestamp=message.timestamp(),
    )


def fresh_key() -> str:
    """Return a user task key that nobody used; small enough for a JSON integer."""
    return str(secrets.randbelow(2**52) + 10**12)


def fresh_id() -> str:
    return str(uuid.uuid4())


def encoded(body: object) -> bytes:
    return json.dumps(body).encode()


def nested(levels: int) -> bytes:
    """Return arrays in arrays."""
    return b"[" * levels + b"]" * levels


def cloud_event(kind: str = COMPLETE, command_id: str | None = None, source: str = "/tests") -> list[Header]:
    """Return the headers of a command in binary mode."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", (command_id or fresh_id()).encode()),
        ("ce_source", source.encode()),
        ("ce_type", kind.encode()),
    ]


def without(headers: Iterable[Header], *names: str) -> list[Header]:
    return [header for header in headers if header[0] not in names]


def replaced(headers: Iterable[Header], name: str, value: bytes | None) -> list[Header]:
    return [*without(headers, name), (name, value)]


def envelope(data: object, kind: str = COMPLETE, **attributes: object) -> dict[str, object]:
    """Return a command in structured mode; an attribute given as `...` is left out."""
    whole = {"specversion": "1.0", "id": fresh_id(), "source": "/tests", "type": kind, "data": data} | attributes
    return {name: value for name, value in whole.items() if value is not ...}


STRUCTURED: list[Header] = [("content-type", b"application/cloudevents+json")]


def milliseconds(instant: str) -> int:
    """Return an RFC 3339 instant in ms since 1970."""
    return round(datetime.fromisoformat(instant).timestamp() * 1000)


def command_id_of(headers: Iterable[Header], position: Position) -> str:
    """Return what the contract calls `commandId`, of a command in binary mode or plain JSON."""
    last = dict(headers)
    named = last.get("ce_id") or last.get("idempotency-key")
    return position.path if named is None else named.decode(errors="replace")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_topics(bootstrap_servers: str, **dead_letter_config: str) -> Topics:
    """Make the four topics anew, with three partitions each, and as many replicas as the broker's default."""
    base = f"t{uuid.uuid4().hex[:12]}.user-task"
    topics = Topics(f"{base}.commands", f"{base}.events", f"{base}.rejections", f"{base}.commands.dlq")
    config = {"max.message.bytes": str(DEAD_LETTER_MAX_BYTES)} | dead_letter_config
    create_topics(
        bootstrap_servers,
        *(NewTopic(name, PARTITIONS) for name in (topics.commands, topics.events, topics.rejections)),
        NewTopic(topics.dead_letters, PARTITIONS, config=config),
    )
    return topics


def create_topics(bootstrap_servers: str, *topics: NewTopic) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    for made in admin.create_topics(list(topics)).values():
        made.result(30)


def set_config(bootstrap_servers: str, topic: str, **config: str) -> None:
    """Change a topic's configuration; `_` in a name is a dot."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    entries = [
        ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
        for name, value in config.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    for changed in admin.incremental_alter_configs([resource]).values():
        changed.result(30)


def environment(
    bootstrap_servers: str, topics: TopicNames, store: Path | str = "user-tasks.db", **settings: str
) -> dict[str, str]:
    """Return the environment of a worker; settings by their names without the prefix."""
    all_settings = {
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers,
        "GROUP_ID": f"group-{uuid.uuid4().hex[:12]}",
        "COMMANDS_TOPIC": topics.commands,
        "EVENTS_TOPIC": topics.events,
        "REJECTIONS_TOPIC": topics.rejections,
        "DEAD_LETTERS_TOPIC": topics.dead_letters,
        "STORE_URL": f"sqlite:///{store}",
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": "0",
        "LOG_FORMAT": "json",
    } | settings
    return bare_environment() | {f"USERTASK_{name}": value for name, value in all_settings.items()}


def bare_environment() -> dict[str, str]:
    """Return this process's environment without any setting of a worker."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("USERTASK_", "OTEL_"))}
    return ours | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "200"}


def command_line(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "worker", *arguments]


def run_cli(*arguments: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command line to its end."""
    return subprocess.run(
        command_line(*arguments),
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=START_DEADLINE_S,
        check=False,
    )


def commit(bootstrap_servers: str, group: str, topic: str, offsets: dict[int, int]) -> None:
    """Commit offsets, as an operator does; a coordinator that is not there yet is waited for.

    By a consumer: the request of librdkafka's admin client is lost for good where the coordinator is only just coming.
    """
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": group, "enable.auto.commit": False})
    deadline = time.monotonic() + START_DEADLINE_S
    asked = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
    with contextlib.closing(consumer):
        while True:
            try:
                committed = consumer.commit(offsets=asked, asynchronous=False)
            except KafkaException:
                assert time.monotonic() < deadline
            else:
                assert not any(one.error for one in committed)
                return


def heed_signals() -> None:
    """Let a child heed signals, though whoever started the tests (a shell's background, nohup) has them ignored."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Worker:
    """`python -m worker run` as a process of its own; leaving the context kills it."""

    command = tuple(command_line("run"))

    def __init__(self, env: dict[str, str], folder: Path) -> None:
        self.env = env
        self._folder = folder
        self._log = folder / f"stderr-{uuid.uuid4().hex[:8]}.log"
        self._out = self._log.with_name(self._log.name.replace("stderr", "stdout"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start on a free HTTP port and wait until ready."""
        self.env = self.env | {"USERTASK_HTTP_PORT": str(free_port())}
        self.start()
        try:
            self.await_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start, with the settings as they are, and do not wait."""
        with self._log.open("ab") as log, self._out.open("ab") as out:
            self._process = subprocess.Popen(
                self.command,
                env=self.env,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                preexec_fn=heed_signals,  # noqa: PLW1509 - the child only sets two handlers
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    @property
    def port(self) -> int:
        return int(self.env["USERTASK_HTTP_PORT"])

    def await_ready(self, deadline_s: float = START_DEADLINE_S) -> None:
        deadline = time.monotonic() + deadline_s
        while not self.is_ready():
            assert not self.has_ended(within_s=0.05), f"ended with {self.process.returncode}:\n{self.stderr()}"
            assert time.monotonic() < deadline, f"not ready in time:\n{self.stderr()}"

    def is_ready(self) -> bool:
        try:
            return self.get("/readyz")[0] == 200
        except OSError:
            return False

    def get(self, path: str, port: int | None = None) -> tuple[int, str]:
        """Return status and text."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def has_ended(self, within_s: float = 0) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(within_s)
        return self.process.poll() is not None

    def watch(self) -> None:
        """Fail, with the worker's own words, if it has ended."""
        assert not self.has_ended(), f"the worker ended with {self.process.returncode}:\n{self.stderr()}"

    def stop(self, by: signal.Signals = signal.SIGTERM) -> int:
        """Signal, and return the exit code."""
        self.process.send_signal(by)
        return self.process.wait(STOP_DEADLINE_S)

    def terminate(self) -> int:
        return self.stop(signal.SIGTERM)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(STOP_DEADLINE_S)

    def stderr(self) -> str:
        return self._log.read_text(errors="replace")

    def stdout(self) -> str:
        return self._out.read_text(errors="replace")

    def listening_ports(self) -> set[int]:
        """Return the TCP ports on which the process listens, as Linux tells them."""
        process = Path("/proc", str(self.process.pid))
        sockets = set()
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                sockets.add(str(descriptor.readlink()))
        rows = [
            line.split() for table in ("tcp", "tcp6") for line in (process / "net" / table).read_text().splitlines()[1:]
        ]
        return {int(row[1].rsplit(":", 1)[1], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


class Collector:
    """Reads topics into memory, `read_committed`, and wakes those who wait for news."""

    def __init__(self, bootstrap_servers: str, topics: Iterable[str]) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._partitions = [(topic, number) for topic in topics for number in range(PARTITIONS)]
        self._records: dict[str, list[Seen]] = {topic: [] for topic, _ in self._partitions}
        self._ends: dict[tuple[str, int], int] = {}
        self._news = threading.Condition()
        self._closed = threading.Event()
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers})
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join(30)

    def records(self, topic: str) -> list[Seen]:
        with self._news:
            return self._records[topic].copy()

    def count(self, *topics: str) -> int:
        with self._news:
            return sum(len(self._records[topic]) for topic in topics)

    def wait_for(self, found: Callable[[], T], watch: Callable[[], None], deadline_s: float) -> T:
        """Return what `found` finds, once it finds something."""
        deadline = time.monotonic() + deadline_s
        with self._news:
            while not (result := found()):
                watch()
                assert time.monotonic() < deadline, f"nothing of the kind in {deadline_s} s"
                self._news.wait(0.2)
            return result

    def catch_up(self, watch: Callable[[], None], deadline_s: float) -> None:
        """Return when all that stands in the topics now, committed or not yet, was read."""
        ends = self._written()

        def caught_up() -> bool:
            return all(self._ends.get(partition, 0) >= end for partition, end in ends.items())

        self.wait_for(caught_up, watch, deadline_s)

    def _written(self) -> dict[tuple[str, int], int]:
        asked = {TopicPartition(*partition): OffsetSpec.latest() for partition in self._partitions}
        answers = self._admin.list_offsets(asked)
        return {(partition.topic, partition.partition): end.result(30).offset for partition, end in answers.items()}

    def _collect(self) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": self._bootstrap_servers,
                "group.id": f"listener-{uuid.uuid4().hex}",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 50,
                "fetch.message.max.bytes": 4_000_000,
            }
        )
        with contextlib.closing(consumer):
            consumer.assign([TopicPartition(*partition, OFFSET_BEGINNING) for partition in self._partitions])
            while not self._closed.is_set():
                if (message := consumer.poll(0.1)) is not None:
                    self._take(message)

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            return  # librdkafka tries again by itself; a deadline ends what does not heal
        with self._news:
            if error is None:
                self._records[message.topic()].append(seen(message))
            self._ends[message.topic(), message.partition()] = message.offset() + (error is None)
            self._news.notify_all()


class Wire:
    """Sends commands, and looks at what came of them."""

    def __init__(self, bootstrap_servers: str, topics: TopicNames, watch: Callable[[], None] = lambda: None) -> None:
        self.topics = topics
        self._watch = watch
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "partitioner": "murmur2_random",
                "linger.ms": 0,
                "enable.idempotence": True,
                "message.max.bytes": 2_000_000,
            }
        )
        self._collector = Collector(bootstrap_servers, (topics.events, topics.rejections, topics.dead_letters))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._collector.close()

    # Sending

    def send(self, value: bytes | None, **how: Any) -> Position:
        """Send one command and wait until the broker has it. `how`: key, headers, partition, timestamp."""
        return self.send_all([Unsent(value, **how)])[0]

    def send_all(self, commands: Iterable[Unsent]) -> list[Position]:
        """Send commands one right after the other; the positions are in their order."""
        delivered: dict[int, Position] = {}
        for index, command in enumerate(commands):
            self._produce(command, functools.partial(_deliver, delivered, index))
        assert self._producer.flush(30) == 0, "the broker did not take the commands"
        return [delivered[index] for index in sorted(delivered)]

    def _produce(self, command: Unsent, on_delivery: Callable[[KafkaError | None, Message], None]) -> None:
        self._producer.produce(
            self.topics.commands,
            value=command.value,
            key=command.key,
            headers=list(command.headers),
            partition=-1 if command.partition is None else command.partition,
            timestamp=command.timestamp,
            on_delivery=on_delivery,
        )

    # What is there

    def events(self) -> list[Seen]:
        return self._collector.records(self.topics.events)

    def rejections(self) -> list[Seen]:
        return self._collector.records(self.topics.rejections)

    def dead_letters(self) -> list[Seen]:
        return self._collector.records(self.topics.dead_letters)

    def events_of(self, command_id: str) -> list[Seen]:
        return [event for event in self.events() if event.headers.get("ce_causationid") == command_id.encode()]

    def rejections_of(self, position: Position) -> list[Seen]:
        return [refusal for refusal in self.rejections() if refusal.body.get("instance") == position.instance]

    def dead_letters_of(self, position: Position) -> list[Seen]:
        return [letter for letter in self.dead_letters() if _came_from(letter) == position]

    # Waiting

    def wait_until(self, found: Callable[[], T], deadline_s: float = OUTCOME_DEADLINE_S) -> T:
        return self._collector.wait_for(found, self._watch, deadline_s)

    def wait_for(self, count: int, deadline_s: float = OUTCOME_DEADLINE_S) -> list[Seen]:
        """Return all outcomes, once there are so many."""
        topics = (self.topics.events, self.topics.rejections)
        self.wait_until(lambda: self._collector.count(*topics) >= count, deadline_s)
        return self.events() + self.rejections()

    def event(self, command_id: str) -> Seen:
        return self.wait_until(lambda: self.events_of(command_id))[0]

    def rejection(self, position: Position) -> Seen:
        return self.wait_until(lambda: self.rejections_of(position))[0]

    def dead_letter(self, position: Position) -> Seen:
        return self.wait_until(lambda: self.dead_letters_of(position))[0]

    def settle(self, after: Position) -> None:
        """Return when all that came of the commands up to there was read: exact, by a marker in the same partition."""
        marker = self.send(encoded({"userTaskKey": fresh_key()}), partition=after.partition)
        self.rejection(marker)
        self._collector.catch_up(self._watch, OUTCOME_DEADLINE_S)

    def outcomes(self, position: Position, command_id: str | None = None) -> list[Seen]:
        """Return all that came of a command, for good."""
        self.settle(position)
        return self.events_of(command_id or position.path) + self.rejections_of(position)

    # Sending and waiting

    def accepted(self, value: bytes | None, command_id: str | None = None, **how: Any) -> Seen:
        """Send, and return the event. In structured mode the command id must be told."""
        position = self.send(value, **how)
        named = command_id or command_id_of(how.get("headers", ()), position)
        outcome = self.wait_until(lambda: self.events_of(named) or self.rejections_of(position))[0]
        assert outcome.topic == self.topics.events, f"refused: {outcome.value!r}"
        return outcome

    def rejected(self, value: bytes | None, **how: Any) -> Seen:
        """Send, and return the rejection."""
        events_before = self._collector.count(self.topics.events)
        position = self.send(value, **how)
        self.wait_until(
            lambda: self.rejections_of(position) or self._collector.count(self.topics.events) > events_before
        )
        if not self.rejections_of(position):
            self.settle(position)
        refusals = self.rejections_of(position)
        assert refusals, f"an event instead of a rejection: {self.events()[-1].value!r}"
        return refusals[0]

    def malformed(self, value: bytes | None, **how: Any) -> Seen:
        refusal = self.rejected(value, **how)
        assert (refusal.slug, refusal.body["status"]) == ("malformed-command", 400), refusal.value
        return refusal

    def invalid(self, value: bytes, **how: Any) -> Seen:
        refusal = self.rejected(value, **how)
        assert (refusal.slug, refusal.body["status"]) == ("invalid-argument", 400), refusal.value
        return refusal

    # Commands in the usual form: the record key is the user task key

    def create(self, key: str | None = None, headers: Iterable[Header] = (), **members: object) -> Seen:
        """Create a task, by default a fresh one, and return the event."""
        key = key or fresh_key()
        body = {"userTaskKey": key} | members
        return self.accepted(encoded(body), key=key.encode(), headers=[*cloud_event(CREATE), *headers])

    def created(self, **members: object) -> str:
        """Return the key of a task freshly created."""
        return self.create(**members).body["userTaskKey"]

    def complete(self, key: str, headers: Iterable[Header] = (), **members: object) -> Seen:
        """Complete in plain JSON, and return the event."""
        body = {"userTaskKey": key} | members
        return self.accepted(encoded(body), key=key.encode(), headers=list(headers))

    def cancel(self, key: str, headers: Iterable[Header] = ()) -> Seen:
        body = {"userTaskKey": key}
        return self.accepted(encoded(body), key=key.encode(), headers=[*cloud_event(CANCEL), *headers])


def _deliver(delivered: dict[int, Position], index: int, error: KafkaError | None, message: Message) -> None:
    if error is not None:
        raise KafkaException(error)
    delivered[index] = Position(message.topic(), message.partition(), message.offset())


def _came_from(letter: Seen) -> Position:
    topic, partition, offset = (letter.text(f"__dlq.errors.{name}") for name in ("topic", "partition", "offset"))
    return Position(str(topic), int(partition or -1), int(offset or -1))


@dataclass(frozen=True)
class Bench:
    """A worker that runs, and its wire."""

    worker: Worker
    wire: Wire


@contextlib.contextmanager
def bench(bootstrap_servers: str, folder: Path, topics: TopicNames | None = None, **settings: str) -> Iterator[Bench]:
    """Start a worker with a store of its own on topics of its own."""
    topics = topics or make_topics(bootstrap_servers)
    env = environment(bootstrap_servers, topics, folder / "user-tasks.db", **settings)
    with Worker(env, folder) as worker, Wire(bootstrap_servers, topics, worker.watch) as wire:
        yield Bench(worker, wire)
