"""Three brokers that move, stop, die and freeze: each outcome once, in order; and the control that shows it can fail.

USERTASK_TEST_MOVES sets how often the coordinator moves, USERTASK_TEST_ROUNDS how often a broker freezes.
"""

import asyncio
import os
import uuid

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as ClientPartition
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.chaos import soak
from tests.chaos.fleet import database
from tests.chaos.leaders import Leaders
from tests.chaos.scenes import SHORT_SESSION, coordinator_of_yesterday, leader_of_yesterday, orderly_moves, stage
from tests.chaos.storm import Ground
from tests.embedded_cluster import EmbeddedCluster
from tests.embedded_postgres import EmbeddedPostgres
from tests.integration.harness import make_topics
from worker.publisher import Publishers

MOVES = int(os.environ.get("USERTASK_TEST_MOVES", "10"))
ROUNDS = int(os.environ.get("USERTASK_TEST_ROUNDS", "1"))
SEED = 20261128


@pytest.fixture(scope="module")
def cluster():
    with EmbeddedCluster(SHORT_SESSION) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def own_postgres():
    with EmbeddedPostgres() as server:
        yield server


def assert_clean(it) -> None:
    verdict = it.end()
    assert verdict.is_clean, verdict
    assert not it.storm.failures, it.storm.failures


@pytest.mark.timeout(600)
def test_the_groups_coordinator_moves_from_broker_to_broker_under_load(cluster, own_postgres, tmp_path):
    with stage(cluster, database(own_postgres.url), tmp_path) as it:
        orderly_moves(it, MOVES)

        assert_clean(it)


async def test_control_while_the_coordinator_moves_the_client_says_that_nothing_is_committed(cluster):
    """A takeover that believed it would publish again; ours asks on until a coordinator answers."""
    topic, group = make_topics(cluster.bootstrap_servers).commands, f"group-{uuid.uuid4()}"
    admin, leaders = AdminClient({"bootstrap.servers": cluster.bootstrap_servers}), Leaders(cluster)
    offsets = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 17)])
    admin.alter_consumer_group_offsets([offsets])[group].result(30)
    place, theirs, ours = leaders.group_place(group), [], []
    publishers = Publishers({"bootstrap_servers": cluster.bootstrap_servers}, group, 1_000_000)
    async with AIOKafkaConsumer(
        bootstrap_servers=cluster.bootstrap_servers, group_id=group, enable_auto_commit=False
    ) as consumer:
        partition = ClientPartition(topic, 0)
        consumer.assign([partition])
        assert await consumer.committed(partition) == 17
        for number in range(4):
            to = leaders.others(leaders.leader(place))[number % 2].node_id
            await asyncio.to_thread(leaders.move, place, to)
            theirs.append(await consumer.committed(partition))
            ours += [await publishers.final_offsets("a-publisher", topic, [0])]
    await publishers.close()

    assert None in theirs, "the client no longer overlooks the errors of a coordinator that has moved"
    assert ours == [{0: 17}] * 4


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scene", [coordinator_of_yesterday, leader_of_yesterday])
def test_a_broker_that_was_frozen_wakes_up_while_workers_take_over(scene, cluster, own_postgres, tmp_path):
    with stage(cluster, database(own_postgres.url), tmp_path) as it:
        scene(it, ROUNDS)

        assert_clean(it)


@pytest.mark.timeout(600)
def test_a_short_soak_on_three_brokers_with_faults_of_brokers_workers_and_the_store(cluster, own_postgres, tmp_path):
    plan = soak.Plan(commands=3000, workers=3, faults=6, seed=SEED)
    ground = Ground(cluster, own_postgres)
    result = soak.run(cluster.bootstrap_servers, database(own_postgres.url), tmp_path, plan, ground)

    assert not result.storm.failures, result.storm.failures
    assert result.verdict.is_clean, result.verdict
    assert result.sent >= 3000
