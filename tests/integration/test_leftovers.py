"""What is left of a producer that was given up: nothing, whatever it had under way."""

import asyncio
import gc
import socket
import threading
import time
from contextlib import suppress

import pytest
from aiokafka import TopicPartition
from confluent_kafka.admin import NewTopic

from tests.chaos.proxy import proxied_kafka
from tests.integration.harness import PARTITIONS, create_topics, fresh_id
from worker.encoder import OutgoingRecord
from worker.failures import PublishError
from worker.publisher import Publishers


@pytest.fixture
async def complaints():
    """What nobody has looked at: asyncio tells it when it is thrown away."""
    told: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    return told


def outgoing(topic: str, partition: int, size: int = 900_000) -> OutgoingRecord:
    return OutgoingRecord(topic, None, b"x" * size, (), time.time_ns() // 1_000_000, partition)


def made_topics(bootstrap_servers: str) -> tuple[str, str]:
    names = fresh_id(), fresh_id()
    create_topics(bootstrap_servers, *(NewTopic(name, PARTITIONS, 1) for name in names))
    return names


async def settled(before: set[asyncio.Task]) -> None:
    """Return in a moment, when what was cancelled has ended; fail if anything goes on."""
    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() == before
    gc.collect()
    await asyncio.sleep(0)


async def test_a_producer_on_a_slow_path_is_gone_at_once_with_all_that_it_had_to_send(complaints):
    with proxied_kafka() as (kafka, proxy):
        commands, events = made_topics(kafka)
        publishers = Publishers({"bootstrap_servers": proxy.bootstrap_servers}, fresh_id(), 1_000_000)
        before = asyncio.all_tasks()
        publisher = await publishers.start()
        proxy.bytes_per_s = 200_000
        many = [outgoing(events, number % PARTITIONS) for number in range(9)]
        with pytest.raises(PublishError, match="TimeoutError"):
            await publisher.publish(many, {TopicPartition(commands, 0): 1})
        await publisher.discard()
        await settled(before)
        await asyncio.sleep(0.5)
        assert not proxy._connections, "what was not sent yet is still on its way"
        started_s = time.monotonic()
        successor = await publishers.start()
        assert time.monotonic() - started_s < 2, "what was left is in the way"
        await successor.discard()
    assert complaints == []


async def test_a_fenced_producer_leaves_no_failure_that_nobody_looked_at(kafka, complaints):
    commands, events = made_topics(kafka.bootstrap_servers)
    publishers = Publishers({"bootstrap_servers": kafka.bootstrap_servers}, fresh_id(), 1_000_000)
    before = asyncio.all_tasks()
    publisher = await publishers.start()
    await publishers.fence(publisher.transactional_id)
    many = [outgoing(events, number % PARTITIONS) for number in range(9)]
    with pytest.raises(PublishError) as failed:
        await publisher.publish(many, {TopicPartition(commands, 0): 1})
    assert failed.value.fenced
    await publisher.discard()
    await publishers.close()
    del publisher, failed
    await settled(before)
    assert complaints == []


async def test_a_producer_that_cannot_start_leaves_nothing(complaints):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Thread(target=_take_all, args=(silent,), daemon=True).start()
        server = f"127.0.0.1:{silent.getsockname()[1]}"
        publishers = Publishers({"bootstrap_servers": server}, fresh_id(), 1_000_000)
        before = asyncio.all_tasks()
        starting = asyncio.create_task(publishers.start())
        await asyncio.sleep(0.3)
        starting.cancel()
        await asyncio.wait({starting})
        await settled(before)
    assert complaints == []


def _take_all(listener: socket.socket) -> None:
    taken = []
    with suppress(OSError):
        while True:
            taken.append(listener.accept())
