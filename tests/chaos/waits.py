"""How long a listener waits: for the workers' outcomes, and for the records of another client on the same cluster."""

import threading
import time
import uuid
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import NewTopic

from tests.chaos.judge import Sent
from tests.integration.harness import PARTITIONS, create_topics

QUICK = {
    "socket.timeout.ms": 3000,
    "topic.metadata.refresh.interval.ms": 1000,
    "reconnect.backoff.max.ms": 1000,
    "log_level": 0,
}
"""Settings of a client that notices soon that a broker is frozen or leads no more."""
CALL_DEADLINE_S = 5
PROBE_INTERVAL_S = 0.25
LEAD_S = 2
"""A command that was sent so shortly before a fault was, as a rule, still on its way."""


class Listener:
    """Reads topics live and `read_committed`, and notes when the first record caused by each command came in."""

    def __init__(self, bootstrap_servers: str, topics: Iterable[str]) -> None:
        self.arrived_s: dict[str, float] = {}
        self._topics = list(topics)
        self._settings = {
            "bootstrap.servers": bootstrap_servers,
            "group.id": f"listener-{uuid.uuid4()}",
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 100,
        } | QUICK
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(30)

    def _listen(self) -> None:
        with closing(Consumer(self._settings)) as consumer:
            consumer.assign(
                [
                    TopicPartition(topic, partition, OFFSET_BEGINNING)
                    for topic in self._topics
                    for partition in consumer.list_topics(topic, 30).topics[topic].partitions
                ]
            )
            while not self._stopped.is_set():
                message = consumer.poll(0.1)
                if message is not None and message.error() is None:
                    command_id = dict(message.headers())["ce_causationid"].decode()
                    self.arrived_s.setdefault(command_id, time.time())


class Probe:
    """Another client: transactions of a plain producer, each with a record to each partition and an offset of a group.

    It commits for `group`, which should have the workers' coordinator, under each of `transactional_ids` at a time, so
    that what the loss of one coordinator or leader costs anybody is seen.
    """

    def __init__(self, bootstrap_servers: str, group: str, transactional_ids: Iterable[str]) -> None:
        self.sent: list[Sent] = []
        self.topic = f"probe-{uuid.uuid4().hex[:8]}"
        create_topics(bootstrap_servers, NewTopic(self.topic, PARTITIONS))
        self._bootstrap_servers = bootstrap_servers
        self._member = {"bootstrap.servers": bootstrap_servers, "group.id": group} | QUICK
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=[name], daemon=True) for name in transactional_ids]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, transactional_id: str) -> None:
        producer = None
        with closing(Consumer(self._member)) as consumer:
            member = consumer.consumer_group_metadata()
            while not self._stopped.wait(PROBE_INTERVAL_S):
                name = f"{transactional_id}-{uuid.uuid4().hex[:8]}"
                self.sent.append(Sent(name, "", time.time()))
                while not self._stopped.is_set():
                    try:
                        producer = producer or self._started(transactional_id)
                        self._transact(producer, name, member)
                        break
                    except KafkaException as error:
                        producer = self._recovered(producer, error)

    def _started(self, transactional_id: str) -> Producer:
        settings = {
            "bootstrap.servers": self._bootstrap_servers,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": 10_000,
            "message.timeout.ms": 8000,
            "request.timeout.ms": 3000,
        }
        producer = Producer(settings | QUICK)
        self._until_done(producer.init_transactions)
        return producer

    def _transact(self, producer: Producer, name: str, member: object) -> None:
        producer.begin_transaction()
        for partition in range(PARTITIONS):
            producer.produce(self.topic, b"", partition=partition, headers={"ce_causationid": name.encode()})
        reached = [TopicPartition(self.topic, 0, len(self.sent))]
        self._until_done(producer.send_offsets_to_transaction, reached, member)
        self._until_done(producer.commit_transaction)

    def _recovered(self, producer: Producer | None, error: KafkaException) -> Producer | None:
        """Abort, or give the producer up: the next one under its name ends its transaction."""
        if producer is None or not error.args[0].txn_requires_abort():
            return None
        try:
            self._until_done(producer.abort_transaction)
        except KafkaException:
            return None
        return producer

    def _until_done(self, call, *args: object) -> None:
        """Call again what may be called again: the library goes on where it was."""
        while True:
            try:
                return call(*args, CALL_DEADLINE_S)
            except KafkaException as error:
                if not error.args[0].retriable() or self._stopped.is_set():
                    raise


@dataclass(frozen=True)
class Window:
    """The time from one fault to the next."""

    fault: str
    began_s: float
    healthy_s: float
    """When the fault was over, and the cluster healthy."""


@dataclass
class Wait:
    """The longest waits of one kind of fault, in seconds."""

    fault: str
    times: int = 0
    outcome_s: float = 0
    """From a command's arrival at the brokers to its outcome at the listener."""
    probe_s: float = 0
    """From the beginning of the other client's transaction to its record at the listener."""
    complete_s: float = 0
    """From a healthy cluster until all is answered that was there before."""


def longest_waits(
    windows: Sequence[Window], sent: Iterable[Sent], probed: Iterable[Sent], seen_s: Mapping[str, float]
) -> list[Wait]:
    """Return the longest waits by kind of fault, the longest first. What was never answered counts nowhere."""
    waits = {window.fault: Wait(window.fault) for window in windows}
    for window in windows:
        waits[window.fault].times += 1
    for window, one, wait_s in _waits(windows, sent, seen_s):
        kind = waits[window.fault]
        kind.outcome_s = max(kind.outcome_s, wait_s)
        if (one.arrived_s or 0) <= window.healthy_s:
            kind.complete_s = max(kind.complete_s, seen_s[one.command_id] - window.healthy_s)
    for window, _, wait_s in _waits(windows, probed, seen_s):
        waits[window.fault].probe_s = max(waits[window.fault].probe_s, wait_s)
    return sorted(waits.values(), key=lambda wait: -wait.outcome_s)


def _waits(
    windows: Sequence[Window], sent: Iterable[Sent], seen_s: Mapping[str, float]
) -> Iterator[tuple[Window, Sent, float]]:
    began_s = [window.began_s - LEAD_S for window in windows]
    for one in sent:
        number = bisect_right(began_s, one.sent_s) - 1
        if number >= 0 and one.command_id in seen_s:
            yield windows[number], one, seen_s[one.command_id] - (one.arrived_s or one.sent_s)


def table(waits: Iterable[Wait]) -> str:
    """Return the waits as lines of a table in Markdown."""
    lines = ["| fault | times | outcome s | other client s | complete after s |", "|---|---|---|---|---|"]
    lines += [
        f"| {one.fault} | {one.times} | {one.outcome_s:.1f} | {one.probe_s:.1f} | {one.complete_s:.1f} |"
        for one in waits
    ]
    return "\n".join(lines)
