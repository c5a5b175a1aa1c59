"""Replies: the outcome once more, on the topic that a command names, and nothing else for it."""

import json
import re
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from tests.integration.harness import (
    COMPLETED,
    CORRELATION_HEADERS,
    CREATE,
    OUTCOME_DEADLINE_S,
    PARTITIONS,
    REJECTED,
    STRUCTURED,
    Bench,
    Collector,
    Position,
    Seen,
    Unsent,
    bench,
    cloud_event,
    create_topics,
    encoded,
    fresh_id,
    fresh_key,
    run_cli,
)
from worker.embedded import EmbeddedKafka

TOPIC_HEADERS = ("kafka_replyTopic", "REPLY_TOPIC", "reply_to")
PARTITION_HEADERS = {"kafka_replyTopic": "kafka_replyPartition", "REPLY_TOPIC": "REPLY_PARTITION"}
SMALL_BYTES = 2000
HELD_UP_MAX_S = 7
"""By a reply topic that is no more, with the takeover; a transaction is given up after 8 s."""


class Replies:
    """Reply topics of a test's own, and what a listener sees there."""

    def __init__(self, bootstrap_servers: str, it: Bench) -> None:
        self.it, self.wire = it, it.wire
        self.bootstrap_servers = bootstrap_servers
        base = f"user-task.replies.{fresh_id()}"
        self.one, self.other, self.small, self.absent = (
            f"{base}.{name}" for name in ("one", "other", "small", "absent")
        )
        small = NewTopic(self.small, PARTITIONS, 1, config={"max.message.bytes": str(SMALL_BYTES)})
        create_topics(bootstrap_servers, *(NewTopic(name, PARTITIONS, 1) for name in (self.one, self.other)), small)
        self.collector = Collector(bootstrap_servers, (self.one, self.other, self.small))
        self.await_leaders()

    def await_leaders(self) -> None:
        """Return when the new topics can be written to."""
        deadline = time.monotonic() + OUTCOME_DEADLINE_S
        while True:
            try:
                return self.collector.catch_up(self.it.worker.watch, OUTCOME_DEADLINE_S)
            except KafkaException:
                assert time.monotonic() < deadline

    def all(self) -> list[Seen]:
        """Return all replies there are, for good."""
        self.collector.catch_up(self.it.worker.watch, OUTCOME_DEADLINE_S)
        return [one for topic in (self.one, self.other, self.small) for one in self.collector.records(topic)]

    def only(self) -> Seen:
        [reply] = self.all()
        return reply

    def after(self, position: Position) -> list[Seen]:
        """Return all replies, once everything that came of the commands up to there was read."""
        self.wire.settle(position)
        return self.all()

    def ignored(self) -> float:
        text = self.it.worker.get("/metrics")[1]
        return float(re.search(r"^usertask_replies_ignored_total (.+)$", text, re.MULTILINE)[1])

    def has_ignored(self, count: float) -> bool:
        """Tell whether so many were, once it is counted: just after listeners can see it."""
        self.wire.wait_until(lambda: self.ignored() >= count)
        return self.ignored() == count

    def takeovers(self) -> int:
        return self.it.worker.stderr().count('"partitions_taken_over"')


@pytest.fixture(scope="module")
def it(kafka, tmp_path_factory) -> Iterator[Bench]:
    with bench(kafka.bootstrap_servers, tmp_path_factory.mktemp("worker")) as running:
        yield running


@pytest.fixture
def wire(it):
    return it.wire


@contextmanager
def replies_of(bootstrap_servers: str, it: Bench) -> Iterator[Replies]:
    made = Replies(bootstrap_servers, it)
    try:
        yield made
    finally:
        made.collector.close()


@pytest.fixture
def replies(kafka, it):
    with replies_of(kafka.bootstrap_servers, it) as made:
        yield made


@pytest.fixture
def unharmed(replies):
    """Check that a command has its event and no reply, that one is ignored, and that nothing was taken over anew."""
    ignored, takeovers = replies.ignored(), replies.takeovers()

    def check(event: Seen) -> None:
        assert event.topic == replies.wire.topics.events
        assert replies.after(Position(replies.wire.topics.commands, 0, 0)) == []
        assert replies.has_ignored(ignored + 1)
        assert replies.takeovers() == takeovers

    return check


def asking(style: str, topic: str, partition: bytes | None = None) -> list[tuple[str, bytes]]:
    asked = [(style, topic.encode())]
    return asked if partition is None else [*asked, (PARTITION_HEADERS[style], partition)]


def same_outcome(reply: Seen, outcome: Seen) -> bool:
    about = [(one.key, one.value, one.raw_headers, one.timestamp) for one in (reply, outcome)]
    return about[0] == about[1]


def position_in(refusal: Seen) -> Position:
    topic, partition, offset = refusal.body["instance"][1:].rsplit("/", 2)
    return Position(topic, int(partition), int(offset))


# What a reply is


@pytest.mark.parametrize("style", TOPIC_HEADERS)
def test_the_event_goes_to_the_topic_that_the_command_names_too(wire, replies, style):
    correlation = [(name, b"\x00\xff raw") for name in CORRELATION_HEADERS]
    event = wire.complete(wire.created(), headers=[*asking(style, replies.one), *correlation, ("traceparent", b"00-1")])
    reply = replies.only()
    assert same_outcome(reply, event)
    assert (reply.topic, reply.text("ce_type")) == (replies.one, COMPLETED)
    assert [(name, reply.headers[name]) for name in CORRELATION_HEADERS] == correlation
    assert not {*TOPIC_HEADERS, *PARTITION_HEADERS.values()} & reply.headers.keys()


@pytest.mark.parametrize("style", TOPIC_HEADERS)
def test_the_rejection_goes_there_too(wire, replies, style):
    refusal = wire.rejected(encoded({"userTaskKey": fresh_key()}), headers=asking(style, replies.one))
    assert (refusal.slug, refusal.text("ce_type")) == ("not-found", REJECTED)
    assert same_outcome(replies.only(), refusal)


def test_so_does_the_rejection_of_what_cannot_be_read(wire, replies):
    headers = [*asking("reply_to", replies.one), ("correlation_id", b"7")]
    refusal = wire.malformed(b"no json", key=None, headers=headers)
    reply = replies.only()
    assert same_outcome(reply, refusal)
    assert (reply.key, reply.text("correlation_id")) == (None, "7")
    assert "reply_to" in wire.dead_letter(position_in(refusal)).headers


def test_so_does_that_of_a_reused_id_and_that_of_structured_mode(wire, replies):
    headers = [*cloud_event(CREATE), *asking("reply_to", replies.one)]
    event = wire.accepted(encoded({"userTaskKey": fresh_key()}), headers=headers)
    reused = wire.rejected(encoded({"userTaskKey": fresh_key()}), headers=headers)
    structured = wire.malformed(b"{}", headers=[*STRUCTURED, *asking("reply_to", replies.one)])
    found = replies.all()
    assert {reply.text("ce_id") for reply in found} == {one.text("ce_id") for one in (event, reused, structured)}
    assert len(found) == 3


def test_a_command_that_asks_for_nothing_gets_none(wire, replies):
    wire.complete(
        wire.created(), headers=[(name, b"1") for name in (*CORRELATION_HEADERS, *PARTITION_HEADERS.values())]
    )
    assert replies.all() == []


def test_the_last_of_two_headers_counts_and_a_null_one_is_absent(wire, replies):
    wire.complete(wire.created(), headers=[*asking("reply_to", replies.one), *asking("reply_to", replies.other)])
    wire.complete(wire.created(), headers=[*asking("reply_to", replies.one), ("reply_to", None)])
    assert [reply.topic for reply in replies.all()] == [replies.other]


# Where it goes


@pytest.mark.parametrize("style", PARTITION_HEADERS)
@pytest.mark.parametrize("partition", range(PARTITIONS))
def test_the_partition_is_the_one_asked_for(wire, replies, style, partition):
    wire.complete(wire.created(), headers=asking(style, replies.one, struct.pack(">i", partition)))
    assert replies.only().partition == partition


@pytest.mark.parametrize("style", PARTITION_HEADERS)
@pytest.mark.parametrize("form", ["{}", '"{}"', "000{}"])
def test_the_partition_may_be_digits(wire, replies, style, form):
    wire.complete(wire.created(), headers=asking(style, replies.one, form.format(PARTITIONS - 1).encode()))
    assert replies.only().partition == PARTITIONS - 1


@pytest.mark.parametrize("style", TOPIC_HEADERS)
def test_a_topic_in_quotes_is_the_one_without(wire, replies, style):
    wire.complete(wire.created(), headers=asking(style, f'"{replies.one}"'))
    assert replies.only().topic == replies.one


def test_headers_in_other_spellings_are_taken_for_what_they_mean(wire, replies):
    headers = [("Kafka-Reply-Topic", replies.one.encode()), ("KAFKA_REPLYPARTITION", b"1"), ("replyTo", b"no")]
    wire.complete(wire.created(), headers=headers)
    assert replies.only().partition == 1


def test_without_one_it_is_kafkas_default_partitioners(kafka, wire, replies):
    partitions = {}
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "partitioner": "murmur2_random"})
    for _ in range(10):
        event = wire.complete(wire.created(), headers=asking("reply_to", replies.one))
        producer.produce(
            replies.other, b"", event.key, on_delivery=lambda _, sent: partitions.update({sent.key(): sent.partition()})
        )
    assert producer.flush(30) == 0
    assert {reply.key: reply.partition for reply in replies.all() if reply.topic == replies.one} == partitions


def test_it_goes_to_each_style_once_and_to_each_place_once(wire, replies):
    three = [
        *asking("kafka_replyTopic", replies.one),
        *asking("REPLY_TOPIC", replies.other),
        *asking("reply_to", replies.one),
    ]
    wire.complete(wire.created(), headers=three)
    assert sorted(reply.topic for reply in replies.all()) == [replies.one, replies.other]


def test_a_partition_and_the_one_of_the_key_may_be_the_same_place(wire, replies):
    key = wire.created()
    wire.complete(key, headers=asking("reply_to", replies.one))
    there = replies.only().partition
    again = [*asking("reply_to", replies.one), *asking("REPLY_TOPIC", replies.one, struct.pack(">i", there))]
    wire.rejected(encoded({"userTaskKey": key}), headers=again)
    assert [reply.partition for reply in replies.all()] == [there, there]


def test_replies_are_in_the_order_of_the_commands(wire, replies):
    partition = struct.pack(">i", 1)
    commands = [Unsent(b"{}", b"404", asking("REPLY_TOPIC", replies.one, partition), partition=0) for _ in range(300)]
    positions = wire.send_all(commands)
    found = replies.after(positions[-1])
    assert [reply.body["instance"] for reply in found] == [position.instance for position in positions]


# Duplicates


def test_a_duplicate_gets_the_first_outcome_with_headers_of_its_own(wire, replies):
    headers, value = cloud_event(CREATE), encoded({"userTaskKey": fresh_key()})
    first = [("correlation_id", b"first"), ("traceparent", b"00-1"), ("ce_correlationid", b"flow-1")]
    event = wire.accepted(value, headers=[*headers, *first])
    again = [("correlation_id", b"\xffagain"), ("ce_correlationid", b"flow-2"), *asking("reply_to", replies.one)]
    position = wire.send(value, headers=[*headers, *again])
    [reply] = replies.after(position)
    assert (reply.key, reply.value) == (event.key, event.value)
    assert {name: value for name, value in reply.raw_headers if name.startswith(("ce_", "content"))} == {
        name: value for name, value in event.raw_headers if name.startswith(("ce_", "content"))
    }
    assert (reply.headers["correlation_id"], "traceparent" in reply.headers) == (b"\xffagain", False)
    assert reply.timestamp > event.timestamp
    assert wire.events_of(event.body["commandId"]) == [event]


def test_it_gets_the_first_rejection_too_and_each_time(wire, replies):
    headers, value = [*cloud_event(), *asking("reply_to", replies.one)], encoded({"userTaskKey": fresh_key()})
    refusal = wire.rejected(value, headers=headers)
    for _ in range(2):
        position = wire.send(value, headers=headers)
    found = replies.after(position)
    assert [(one.value, one.text("ce_id")) for one in found] == [(refusal.value, refusal.text("ce_id"))] * 3
    assert len(wire.rejections_of(position_in(refusal))) == 1


def test_duplicates_at_once_get_it_each(wire, replies):
    headers, value = cloud_event(CREATE), encoded({"userTaskKey": fresh_key()})
    commands = [
        Unsent(value, b"1", [*headers, ("correlation_id", str(number).encode()), *asking("reply_to", replies.one)])
        for number in range(100)
    ]
    positions = wire.send_all(commands)
    found = replies.after(positions[-1])
    assert [reply.text("correlation_id") for reply in found] == [str(number) for number in range(100)]
    assert len({reply.value for reply in found}) == 1
    assert len(wire.events_of(found[0].body["commandId"])) == 1


def test_duplicates_of_a_large_outcome_are_all_answered(wire, replies):
    """Together they are far more than a transaction takes."""
    headers = [*cloud_event(CREATE), *asking("REPLY_TOPIC", replies.one, struct.pack(">i", 0))]
    value = encoded({"userTaskKey": fresh_key(), "candidateUsers": ["x" * 255] * 1000})
    positions = wire.send_all([Unsent(value, b"1", headers)] + [Unsent(value, b"1", headers)] * 200)
    wire.wait_until(lambda: len(replies.collector.records(replies.one)) >= 201, 60)
    assert len(replies.after(positions[-1])) == 201
    assert len({reply.value for reply in replies.all()}) == 1


def test_a_duplicates_reply_is_shown_at_its_position_and_the_first_outcome_by_the_id(wire, replies, tmp_path):
    headers, value = [("idempotency-key", fresh_id().encode())], encoded({"userTaskKey": fresh_key()})
    refusal = wire.rejected(value, headers=headers)
    position = wire.send(value, headers=[*headers, *asking("reply_to", replies.one)])
    [reply] = replies.after(position)
    env = replies.it.worker.env
    [at] = shown(run_cli("show", "command", "--position", position.path, env=env, cwd=tmp_path))
    [by_id] = shown(run_cli("show", "command", refusal.body["commandId"], env=env, cwd=tmp_path))
    assert (at["status"], at["occupiesId"], at["commandId"]) == (404, False, by_id["commandId"])
    assert at["records"] == [{"topic": replies.one, "type": REJECTED, "id": reply.text("ce_id")}]
    assert (by_id["occupiesId"], by_id["records"][0]["topic"]) == (True, wire.topics.rejections)


def shown(ended: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


# What cannot be sent is left out


@pytest.mark.parametrize("style", TOPIC_HEADERS)
@pytest.mark.parametrize(
    "topic",
    [b"not\xffutf-8", b"", b".", b"user-task.replies.\n", b"user-task.repliesX", b"user-task.replies.", b"a" * 1000],
)
def test_a_topic_that_is_none_or_not_allowed(wire, unharmed, style, topic):
    unharmed(wire.complete(wire.created(), headers=[(style, topic)]))


@pytest.mark.parametrize("own", ["commands", "events", "rejections", "dead_letters"])
def test_a_topic_of_the_workers_own(kafka, tmp_path, own):
    with (
        bench(kafka.bootstrap_servers, tmp_path, REPLY_TOPICS=".*") as it,
        replies_of(kafka.bootstrap_servers, it) as replies,
    ):
        for topic in (getattr(it.wire.topics, own), "__consumer_offsets", replies.one):
            it.wire.complete(it.wire.created(), headers=asking("reply_to", topic))
        assert replies.has_ignored(2)
        assert (len(replies.all()), replies.takeovers()) == (1, 1)
        assert (len(it.wire.events()), len(it.wire.rejections() + it.wire.dead_letters())) == (6, 0)


def test_a_topic_that_is_not_there(wire, replies, unharmed):
    unharmed(wire.complete(wire.created(), headers=asking("reply_to", replies.absent)))


@pytest.mark.parametrize("style", PARTITION_HEADERS)
@pytest.mark.parametrize(
    "partition",
    [b"", b"-1", b"9", b"\x00" * 8, struct.pack(">i", -1), struct.pack(">i", PARTITIONS), struct.pack("<i", 1)],
)
def test_a_partition_that_is_none(wire, replies, unharmed, style, partition):
    unharmed(wire.complete(wire.created(), headers=asking(style, replies.one, partition)))


def test_a_reply_that_is_larger_than_its_topic_takes(wire, replies, unharmed):
    variables = {"text": "x" * SMALL_BYTES}
    unharmed(wire.complete(wire.created(), headers=asking("reply_to", replies.small), variables=variables))


def test_many_small_ones_fit_a_topic_with_a_small_limit(wire, replies):
    positions = wire.send_all([Unsent(b"{}", b"404", asking("reply_to", replies.small), partition=0)] * 50)
    assert len(replies.after(positions[-1])) == 50


def test_the_largest_record_that_a_topic_takes_is_sent(kafka, wire, replies):
    reply_bytes = 1200
    sizes = range(reply_bytes - 700, reply_bytes, 50)
    limit_topic(kafka.bootstrap_servers, replies.one, reply_bytes)
    before, takeovers = replies.ignored(), replies.takeovers()
    for size in sizes:
        wire.complete(wire.created(), headers=asking("reply_to", replies.one), variables={"text": "x" * size})
    sent = len(replies.all())
    assert replies.has_ignored(before + len(sizes) - sent)
    assert 0 < sent < len(sizes)
    assert replies.takeovers() == takeovers


def limit_topic(bootstrap_servers: str, topic: str, max_message_bytes: int) -> None:
    entry = ConfigEntry("max.message.bytes", str(max_message_bytes), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    for altered in admin.incremental_alter_configs([resource]).values():
        altered.result(30)


def test_one_reply_is_left_out_and_the_others_are_sent(wire, replies):
    before = replies.ignored()
    headers = [
        *asking("kafka_replyTopic", replies.absent),
        *asking("REPLY_TOPIC", replies.one),
        *asking("reply_to", "no"),
    ]
    wire.complete(wire.created(), headers=headers)
    assert replies.only().topic == replies.one
    assert replies.has_ignored(before + 2)


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ([("reply_to", b"user-task.commands.reply")], "user-task.commands.reply: not allowed"),
        ([("REPLY_TOPIC", b"my topic\n")], "my?topic?: no topic's name"),
        ([("kafka_replyTopic", b"{one}"), ("kafka_replyPartition", b"x")], "{one}: no partition's number"),
        ([("kafka_replyTopic", b"{one}"), ("kafka_replyPartition", b"77")], "{one}: no such partition"),
        ([("reply_to", b"{absent}")], "{absent}: unknown"),
        ([("reply_to", b"{small}")], "{small}: too large"),
    ],
)
def test_each_reply_that_is_left_out_is_logged_with_topic_and_reason(wire, replies, headers, told):
    names = {"one": replies.one, "absent": replies.absent, "small": replies.small}
    asked = [(name, value.decode().format(**names).encode()) for name, value in headers]
    wire.complete(wire.created(), headers=asked, variables={"text": "x" * SMALL_BYTES})
    wire.wait_until(lambda: told.format(**names) in left_out(replies))


def left_out(replies: Replies) -> set[str]:
    lines = [json.loads(line) for line in replies.it.worker.stderr().splitlines() if '"replies_left_out"' in line]
    return {told for line in lines for told in line["by"]}


# A topic that changes under the worker's hands


def test_a_topic_that_has_become_too_small_is_left_out_and_the_event_is_published(kafka, wire, replies):
    wire.complete(wire.created(), headers=asking("reply_to", replies.one))
    limit_topic(kafka.bootstrap_servers, replies.one, 200)
    before = replies.ignored()
    position = wire.send(encoded({"userTaskKey": wire.created()}), headers=asking("reply_to", replies.one))
    assert len(wire.outcomes(position)) == 1
    assert replies.has_ignored(before + 1)
    assert len(replies.all()) == 1


def test_a_topic_that_is_deleted_is_left_out_and_holds_nobody_up_for_long(kafka, wire, replies):
    topic = fresh_topic(kafka.bootstrap_servers)
    wire.complete(wire.created(), headers=asking("reply_to", topic))
    before = replies.ignored()
    delete_topic(kafka.bootstrap_servers, topic)
    position = wire.send(encoded({"userTaskKey": wire.created()}), headers=asking("reply_to", topic))
    wire.wait_until(lambda: wire.events_of(position.path), HELD_UP_MAX_S)
    assert len(wire.outcomes(position)) == 1
    assert replies.has_ignored(before + 1)


def fresh_topic(bootstrap_servers: str) -> str:
    topic = f"user-task.replies.{fresh_id()}"
    create_topics(bootstrap_servers, NewTopic(topic, PARTITIONS, 1))
    return topic


def delete_topic(bootstrap_servers: str, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    for deleted in admin.delete_topics([topic]).values():
        deleted.result(30)


def test_no_topic_is_made_where_the_broker_would_let_it(tmp_path):
    with EmbeddedKafka(overrides={"auto.create.topics.enable": "true"}) as broker:
        address = broker.bootstrap_servers
        with bench(address, tmp_path) as it, replies_of(address, it) as replies:
            gone = fresh_topic(address)
            it.wire.complete(it.wire.created(), headers=asking("reply_to", gone))
            delete_topic(address, gone)
            # the client, which has been told of the deleted one, is told of another one and asks for both
            for topic in (replies.one, replies.absent, gone):
                position = it.wire.send(encoded({"userTaskKey": it.wire.created()}), headers=asking("reply_to", topic))
                it.wire.wait_until(lambda at=position: it.wire.events_of(at.path), HELD_UP_MAX_S)
            assert len(replies.all()) == 1
            assert replies.has_ignored(2)
            topics = AdminClient({"bootstrap.servers": address}).list_topics(timeout=30).topics
            assert not {gone, replies.absent} & topics.keys()


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
def test_a_compacted_topic_gets_no_reply_without_key_and_all_others(kafka, wire, replies, policy):
    topic = f"user-task.replies.{fresh_id()}"
    create_topics(kafka.bootstrap_servers, NewTopic(topic, PARTITIONS, 1, config={"cleanup.policy": policy}))
    ignored, takeovers = replies.ignored(), replies.takeovers()
    position = wire.send(b"no json", key=None, headers=asking("reply_to", topic), partition=0)
    wire.wait_until(lambda: wire.rejections_of(position))
    assert len(wire.outcomes(position)) == 1
    assert replies.has_ignored(ignored + 1)
    wire.malformed(b"no json", key=b"1", headers=asking("reply_to", topic))
    wire.complete(wire.created(), headers=asking("reply_to", topic))
    assert (replies.ignored(), replies.takeovers()) == (ignored + 1, takeovers)
