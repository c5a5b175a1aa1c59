"""A takeover against a real broker, step by step: what it must not believe."""

import asyncio
import os
import signal
import uuid

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka import TopicPartition as KafkaPartition

from tests.integration.harness import PARTITIONS, commit, make_topics
from worker.embedded import EmbeddedKafka
from worker.publisher import Publishers
from worker.shared_client import SharedClient
from worker.stores.port import StoreFencedError
from worker.stores.sqlite import SqliteStore
from worker.takeover import Takeover
from worker.telemetry.tracing import Tracing


class Overtaken(Publishers):
    """Lets another worker take partition 0 over just when K has been read."""

    store: SqliteStore

    async def final_offsets(self, transactional_id, topic, partitions):
        offsets = await super().final_offsets(transactional_id, topic, partitions)
        owner = (await self.store.partitions(topic, [0]))[0].owner
        assert await self.store.claim(topic, {0: owner}, "another") == {0}
        return offsets


@pytest.fixture
async def store(tmp_path):
    store = SqliteStore(tmp_path / "tasks.db")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def topic(kafka):
    return make_topics(kafka.bootstrap_servers).commands


def make_publishers(kafka, kind=Publishers):
    return kind({"bootstrap_servers": kafka.bootstrap_servers}, f"group-{uuid.uuid4()}", 1_000_000)


async def test_one_that_was_overtaken_after_it_read_k_does_not_judge_by_the_others_rows(kafka, topic, store):
    publishers = make_publishers(kafka, Overtaken)
    publishers.store = store

    with pytest.raises(StoreFencedError, match=r"partitions \[0\]"):
        await Takeover(topic, store, publishers, Tracing(topic, "group")).run([0, 1])

    await publishers.close()


async def test_the_offsets_of_the_barrier_are_never_the_groups(kafka, topic, store):
    publishers = make_publishers(kafka)
    takeover = Takeover(topic, store, publishers, Tracing(topic, "group"))
    for _ in range(3):
        taken = await takeover.run(range(PARTITIONS))
        assert not taken.blocked
        await taken.publisher.discard()

    assert await publishers.coordination.committed(topic, range(PARTITIONS)) == dict.fromkeys(range(PARTITIONS))
    await publishers.close()


async def test_what_the_group_has_committed_is_read_behind_the_barrier(kafka, topic):
    publishers = make_publishers(kafka)
    commit(kafka.bootstrap_servers, publishers.coordination._group_id, topic, {1: 17})

    assert await publishers.final_offsets("a-publisher", topic, [0, 1]) == {0: None, 1: 17}
    await publishers.close()


async def test_a_barrier_that_was_left_open_keeps_nobody_waiting_once_its_owner_is_fenced(kafka, topic):
    publishers = make_publishers(kafka)
    group = publishers.coordination._group_id
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, transactional_id="dead-barrier") as dead:
        await dead.begin_transaction()
        await dead.send_offsets_to_transaction({KafkaPartition(topic, 0): 0}, group)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await publishers.final_offsets("alive", topic, [0])

        await publishers.fence("dead")

        async with asyncio.timeout(5):
            assert await publishers.final_offsets("alive", topic, [0]) == {0: None}
    await publishers.close()


async def test_one_that_is_cancelled_in_its_barrier_ends_as_cancelled_though_the_broker_hangs(tmp_path):
    with EmbeddedKafka() as broker:
        topic = make_topics(broker.bootstrap_servers).commands
        publishers = make_publishers(broker)
        await publishers.final_offsets("a-publisher", topic, [0])
        for lead_s in range(20):
            asking = asyncio.create_task(publishers.final_offsets("a-publisher", topic, [0]))
            await asyncio.sleep(lead_s / 1000)
            os.kill(broker.pid, signal.SIGSTOP)
            await asyncio.sleep(0.05)
            asking.cancel()
            done, _ = await asyncio.wait({asking}, timeout=2.5)
            os.kill(broker.pid, signal.SIGCONT)
            assert done, "it goes on asking"
            assert asking.cancelled() or asking.exception() is None
        await publishers.close()


async def test_a_client_that_is_closed_under_its_user_is_no_error_of_the_users(kafka):
    clients = SharedClient({"bootstrap_servers": kafka.bootstrap_servers})
    async with clients.lent():
        await clients.close()

    async with clients.lent() as another:
        assert another.cluster.brokers()
    await clients.close()
