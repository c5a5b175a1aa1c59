"""What is remembered of reply topics: which were refused, for how long, and what does not count."""

import asyncio
from collections import Counter

import pytest
from aiokafka import client
from aiokafka.errors import (
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTxnState,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    TopicAuthorizationFailedError,
    UnknownError,
    UnknownProducerId,
)
from aiokafka.protocol.metadata import MetadataRequest_v5
from structlog.testing import capture_logs

from worker import kafka
from worker.reply_topics import FORBIDDEN, REFUSED, UNKNOWN, ReplyTopics, Shape, lasts_s

LIFE_S = 60


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def memory(clock):
    return ReplyTopics(clock=clock)


def future(failure: Exception | None = None, *, done: bool = True) -> asyncio.Future:
    made = asyncio.get_running_loop().create_future()
    if failure:
        made.set_exception(failure)
    elif done:
        made.set_result(None)
    return made


async def refused(memory: ReplyTopics, *topics: str) -> set[str]:
    """Ask of topics that are known to be refused; of others, a broker would be asked, and there is none."""
    found = set()
    for topic in topics:
        try:
            assert await memory.shapes(nobody(), {topic}) == {topic: REFUSED}
            found.add(topic)
        except KafkaError:
            pass
    return found


def nobody() -> client.AIOKafkaClient:
    unconnected = client.AIOKafkaClient(bootstrap_servers="127.0.0.1:1")
    unconnected.cluster._bootstrap_brokers.clear()
    return unconnected


@pytest.mark.parametrize("failure", [MessageSizeTooLargeError(), TopicAuthorizationFailedError("a"), UnknownError()])
async def test_a_topic_that_says_no_is_refused_for_a_while(memory, clock, failure):
    with capture_logs() as lines:
        memory.judge([("a", future()), ("a", future(failure)), ("b", future())], time_is_up=False)

    assert await refused(memory, "a", "b") == {"a"}
    assert [(line["event"], line["topic"]) for line in lines] == [("reply_topic_refused", "a")]
    clock.now_s += LIFE_S + 1
    assert await refused(memory, "a") == set()


@pytest.mark.parametrize(
    "failure",
    [
        InvalidTxnState(),
        InvalidProducerEpoch(),
        InvalidProducerIdMapping(),
        OutOfOrderSequenceNumber(),
        UnknownProducerId(),
        KafkaError("fenced"),
    ],
)
async def test_what_is_wrong_with_the_transaction_is_no_topics_fault(memory, failure):
    for _ in range(3):
        memory.judge([("a", future(failure)), ("b", future(done=False))], time_is_up=False)

    assert await refused(memory, "a", "b") == set()


async def test_a_topic_that_says_nothing_is_refused_the_second_time_in_a_row(memory):
    silent = [("a", future(done=False))]
    memory.judge(silent, time_is_up=True)
    memory.judge([("a", future())], time_is_up=False)
    memory.judge(silent, time_is_up=True)
    assert await refused(memory, "a") == set()

    memory.judge(silent, time_is_up=True)
    assert await refused(memory, "a") == {"a"}


@pytest.mark.parametrize("order", [(False, True), (True, False), (True, False, True)])
async def test_one_silent_partition_counts_whatever_the_others_say_and_in_any_order(memory, order):
    for _ in range(2):
        assert await refused(memory, "a") == set()
        memory.judge([("a", future(done=done)) for done in order], time_is_up=True)

    assert await refused(memory, "a") == {"a"}


async def test_two_silent_batches_of_one_transaction_are_silent_once(memory):
    memory.judge([("a", future(done=False))] * 2, time_is_up=True)

    assert await refused(memory, "a") == set()


async def test_a_silence_of_long_ago_does_not_count(memory, clock):
    silent = [("a", future(done=False))]
    memory.judge(silent, time_is_up=True)
    clock.now_s += LIFE_S + 1
    memory.judge(silent, time_is_up=True)

    assert await refused(memory, "a") == set()


async def test_who_had_no_time_yet_is_not_silent(memory):
    for _ in range(5):
        memory.judge([("a", future(done=False))], time_is_up=False)

    assert await refused(memory, "a") == set()


async def test_any_number_of_topics_is_refused_at_once_and_forgotten_when_time_is_up(memory, clock):
    topics = [f"t{number}" for number in range(3000)]
    memory.judge([(topic, future(MessageSizeTooLargeError())) for topic in topics], time_is_up=False)

    assert await memory.shapes(nobody(), topics) == dict.fromkeys(topics, REFUSED)
    clock.now_s += LIFE_S + 1
    memory.judge([], time_is_up=False)
    assert memory._failed == {}


@pytest.mark.parametrize(
    ("found", "lasts"), [(Shape(2, frozenset({0, 1}), 1000, is_compacted=False), 30), (UNKNOWN, 5), (FORBIDDEN, 5)]
)
def test_what_keeps_replies_from_being_sent_is_looked_at_anew_soon(found, lasts):
    assert lasts_s(found) == lasts


def test_a_partition_without_leader_is_looked_at_anew_soon():
    assert lasts_s(Shape(2, frozenset({1}), 1000, is_compacted=False)) == lasts_s(UNKNOWN)


async def test_the_workers_own_topics_are_forbidden_before_anybody_is_asked():
    memory = ReplyTopics(["commands", "events"])

    assert await memory.shapes(nobody(), ["commands", "events"]) == {"commands": FORBIDDEN, "events": FORBIDDEN}


def test_each_reply_that_is_left_out_is_told_at_once_or_with_the_next_line(clock):
    counted = Counter()
    memory = ReplyTopics(on_ignored=lambda number: counted.update(replies=number), clock=clock)
    with capture_logs() as lines:
        for number in range(1000):
            memory.tell_left_out(Counter({(f"t{number}", UNKNOWN): 1}))
        assert len(lines) == 10
        clock.now_s += 1
        memory.tell_left_out(Counter({("last", UNKNOWN): 1}))

    assert sum(line["replies"] for line in lines) == counted["replies"] == 1001
    assert lines[0]["by"] == {"t0: unknown": 1}
    assert (len(lines), max(len(line["by"]) for line in lines)) == (11, 20)


def test_the_kafka_client_asks_for_topics_without_making_them():
    assert kafka.client is client

    request = client.MetadataRequest(["absent"]).build(MetadataRequest_v5)

    assert request.allow_auto_topic_creation is False
