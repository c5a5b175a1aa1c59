"""A reply topic that never says anything: a publisher on a real broker, and a client that does not hear an answer."""

import asyncio
import time
from collections.abc import Container
from contextlib import closing

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.producer.sender import SendProduceReqHandler
from confluent_kafka.admin import NewTopic

from tests.integration.harness import PARTITIONS, Collector, create_topics, fresh_id
from worker.encoder import OutgoingRecord, Reply
from worker.failures import PublishError
from worker.publisher import Publishers
from worker.reply_topics import ReplyTopics

ENDS_WITHIN_S = 10


@pytest.fixture
def names(kafka):
    made = tuple(f"{fresh_id()}.{name}" for name in ("commands", "events", "replies", "silent"))
    create_topics(kafka.bootstrap_servers, *(NewTopic(name, PARTITIONS, 1) for name in made))
    return made


def silence(monkeypatch: pytest.MonkeyPatch, topic: str, among: Container[int] = range(PARTITIONS)) -> None:
    """Let the client try again whenever a broker takes a record of the topic's partitions; a refusal it hears."""
    handle = SendProduceReqHandler.handle_response

    def handle_others(self, response):
        heard = []
        for name, partitions in response.topics:
            silent = [one for one in partitions if name == topic and one[0] in among and one[1] == 0]
            self._to_reenqueue += [self._batches[TopicPartition(name, partition)] for partition, *_ in silent]
            heard.append((name, [one for one in partitions if one not in silent]))
        response.topics = heard
        handle(self, response)

    monkeypatch.setattr(SendProduceReqHandler, "handle_response", handle_others)


def outgoing(topic: str) -> OutgoingRecord:
    return OutgoingRecord(topic, b"1", b"{}", (("ce_id", b"1"),), time.time_ns() // 1_000_000)


def reply_to(topic: str, partition: int | None = None) -> Reply:
    return Reply._make(outgoing(topic)._replace(partition=partition))


async def publish(publishers: Publishers, *records: OutgoingRecord, offset: int, commands: str) -> None:
    publisher = await publishers.start()
    try:
        await publisher.publish(records, {TopicPartition(commands, 0): offset})
    finally:
        await publisher.discard()
        await publishers.fence(publisher.transactional_id)
        await publishers.close()


async def end_of(tasks: set[asyncio.Task]) -> None:
    """Return when they have ended by themselves."""
    async with asyncio.timeout(ENDS_WITHIN_S):
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("others", [1, 0], ids=["beside events", "alone"])
@pytest.mark.parametrize("silences", [1, 5], ids=["in one batch", "in several"])
async def test_it_is_refused_at_the_second_time_and_leaves_nothing_behind(kafka, names, monkeypatch, others, silences):
    commands, events, replies, silent = names
    ignored: list[int] = []
    publishers = Publishers(
        {"bootstrap_servers": kafka.bootstrap_servers}, fresh_id(), 1_000_000, ReplyTopics(on_ignored=ignored.append)
    )
    many = [Reply._make(outgoing(silent)._replace(value=b"x" * 900_000)) for _ in range(silences)]
    records = [*[outgoing(events)] * others, *many, reply_to(replies)]
    silence(monkeypatch, silent)
    before = asyncio.all_tasks()

    for _ in range(2):
        with pytest.raises(PublishError, match="TimeoutError"):
            await publish(publishers, *records, offset=1, commands=commands)
        assert ignored == []
    await publish(publishers, *records, offset=1, commands=commands)

    assert ignored == [silences]
    await end_of(asyncio.all_tasks() - before)
    with closing(Collector(kafka.bootstrap_servers, names[1:])) as listener:
        listener.catch_up(lambda: None, 20)
        assert [len(listener.records(name)) for name in (events, replies, silent)] == [others, 1, 0]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_a_topic_of_which_one_partition_is_silent_is_refused_too(kafka, names, monkeypatch, order):
    commands, events, _, silent = names
    ignored: list[int] = []
    publishers = Publishers(
        {"bootstrap_servers": kafka.bootstrap_servers}, fresh_id(), 1_000_000, ReplyTopics(on_ignored=ignored.append)
    )
    records = [outgoing(events), *(reply_to(silent, partition) for partition in order)]
    silence(monkeypatch, silent, [0])

    for _ in range(2):
        with pytest.raises(PublishError, match="TimeoutError"):
            await publish(publishers, *records, offset=1, commands=commands)
    await publish(publishers, *records, offset=1, commands=commands)

    assert ignored == [2]


async def test_an_outage_costs_no_reply(kafka, names, monkeypatch):
    commands, events, replies, _ = names
    ignored: list[int] = []
    publishers = Publishers(
        {"bootstrap_servers": kafka.bootstrap_servers}, fresh_id(), 1_000_000, ReplyTopics(on_ignored=ignored.append)
    )
    with monkeypatch.context() as outage:
        silence(outage, events)
        with pytest.raises(PublishError):
            await publish(publishers, outgoing(events), reply_to(replies), offset=1, commands=commands)

    await publish(publishers, outgoing(events), reply_to(replies), offset=1, commands=commands)

    assert ignored == []
    with closing(Collector(kafka.bootstrap_servers, [events, replies])) as listener:
        listener.catch_up(lambda: None, 20)
        assert [len(listener.records(name)) for name in (events, replies)] == [1, 1]


async def test_a_reply_to_what_has_become_a_topic_of_the_workers_own_is_left_out(kafka, names):
    commands, events, *_ = names
    ignored: list[int] = []
    own = ReplyTopics([commands, events], ignored.append)
    publishers = Publishers({"bootstrap_servers": kafka.bootstrap_servers}, fresh_id(), 1_000_000, own)

    await publish(publishers, outgoing(events), reply_to(events), offset=1, commands=commands)
    await publish(publishers, reply_to(events), reply_to(commands), offset=2, commands=commands)

    assert ignored == [1, 2]
    with closing(Collector(kafka.bootstrap_servers, [events])) as listener:
        listener.catch_up(lambda: None, 20)
        assert len(listener.records(events)) == 1


async def test_a_producer_is_closed_also_where_its_sender_has_failed(kafka):
    publishers = Publishers({"bootstrap_servers": kafka.bootstrap_servers}, fresh_id(), 1_000_000)
    before = asyncio.all_tasks()
    publisher = await publishers.start()
    producer: AIOKafkaProducer = publisher._producer
    producer._sender.sender_task.cancel()

    await publisher.discard()

    assert asyncio.all_tasks() == before
