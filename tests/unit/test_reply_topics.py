"""What is remembered of reply topics: which were refused, for how long, and what an outage does not count for."""

import asyncio

import pytest
from aiokafka import client
from aiokafka.errors import InvalidTxnState, KafkaError, MessageSizeTooLargeError, TopicAuthorizationFailedError
from aiokafka.protocol.metadata import MetadataRequest_v5
from structlog.testing import capture_logs

from worker import kafka
from worker.reply_topics import REFUSED, ReplyTopics

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


def judge(memory: ReplyTopics, replies: list, *, in_time: bool) -> None:
    memory.judge(replies, others_arrived=in_time, time_is_up=in_time)


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


@pytest.mark.parametrize("failure", [MessageSizeTooLargeError(), TopicAuthorizationFailedError("a")])
async def test_a_topic_that_says_no_is_refused_for_a_while(memory, clock, failure):
    with capture_logs() as lines:
        judge(memory, [("a", future(failure)), ("b", future())], in_time=True)
        judge(memory, [("a", future(failure))], in_time=True)

    assert await refused(memory, "a", "b") == {"a"}
    assert [(line["event"], line["topic"]) for line in lines] == [("reply_topic_refused", "a")]
    clock.now_s += LIFE_S + 1
    assert await refused(memory, "a") == set()


async def test_when_others_have_failed_too_only_a_lack_of_rights_is_the_topics_own(memory):
    failures = {
        "a": InvalidTxnState(),
        "b": TopicAuthorizationFailedError("b"),
        "c": KafkaError("the producer has died"),
    }

    judge(memory, [(topic, future(failure)) for topic, failure in failures.items()], in_time=False)

    assert await refused(memory, *failures) == {"b"}


async def test_a_fenced_producer_is_no_topics_fault(memory):
    judge(memory, [("a", future(KafkaError("fenced")))], in_time=True)

    assert await refused(memory, "a") == set()


async def test_a_topic_that_says_nothing_is_refused_the_second_time_in_a_row(memory):
    silent = [("a", future(done=False))]
    judge(memory, silent, in_time=True)
    judge(memory, [("a", future())], in_time=True)
    judge(memory, silent, in_time=True)
    assert await refused(memory, "a") == set()

    judge(memory, silent, in_time=True)
    assert await refused(memory, "a") == {"a"}


async def test_who_had_no_time_yet_is_not_silent(memory):
    for _ in range(5):
        memory.judge([("a", future(done=False))], others_arrived=True, time_is_up=False)

    assert await refused(memory, "a") == set()


async def test_silence_counts_for_nothing_in_an_outage(memory):
    for _ in range(5):
        judge(memory, [("a", future(done=False))], in_time=False)

    assert await refused(memory, "a") == set()


async def test_no_more_than_so_many_topics_are_remembered(memory):
    for number in range(3000):
        judge(memory, [(f"t{number}", future(MessageSizeTooLargeError()))], in_time=True)

    assert len(memory._refused) == 1000
    assert await refused(memory, "t0", "t2999") == {"t2999"}


def test_the_kafka_client_asks_for_topics_without_making_them():
    assert kafka.client is client

    request = client.MetadataRequest(["absent"]).build(MetadataRequest_v5)

    assert request.allow_auto_topic_creation is False
