"""Three brokers that move, stop, die and freeze: each outcome once, in order; and the control that shows it can fail.

USERTASK_TEST_MOVES sets how often the coordinator moves, USERTASK_TEST_ROUNDS how often a broker freezes.
"""

import asyncio
import os
import uuid

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as ClientPartition
from aiokafka.client import CoordinationType

from tests.chaos import soak
from tests.chaos.fleet import database
from tests.chaos.leaders import Leaders
from tests.chaos.scenes import SHORT_SESSION, coordinator_of_yesterday, leader_of_yesterday, orderly_moves, stage
from tests.chaos.storm import Ground
from tests.embedded_cluster import EmbeddedCluster
from tests.embedded_postgres import EmbeddedPostgres
from tests.integration.harness import commit, make_topics
from worker.coordination import Coordination
from worker.publisher import Publishers

MOVES = int(os.environ.get("USERTASK_TEST_MOVES", "10"))
ROUNDS = int(os.environ.get("USERTASK_TEST_ROUNDS", "1"))
SEED = 20261128
TRIES = 5
HEALTHY_DEADLINE_S = 120


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
    commit(cluster.bootstrap_servers, group, topic, {0: 17})
    leaders = Leaders(cluster)
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


class Misled(Coordination):
    """One that takes the group's coordinator of yesterday for today's, once."""

    misled_by: int | None = None

    async def _coordinator(self, client, kind, key):
        if kind == CoordinationType.GROUP and self.misled_by is not None:
            node_id, self.misled_by = self.misled_by, None
            return node_id
        return await super()._coordinator(client, kind, key)


@pytest.mark.timeout(600)
async def test_control_a_coordinator_that_wakes_up_tells_an_old_offset_to_all_but_the_barrier(cluster):
    """Published again from there, outcomes would come twice."""
    options, leaders = {"bootstrap_servers": cluster.bootstrap_servers}, Leaders(cluster)
    topic, believed = make_topics(cluster.bootstrap_servers).commands, []
    for _ in range(TRIES):
        group = f"group-{uuid.uuid4()}"
        plain, behind = Misled(options, group), Misled(options, group)
        commit(cluster.bootstrap_servers, group, topic, {0: 7})
        place = leaders.group_place(group)
        assert await plain.committed(topic, [0]) == await behind.final_offsets(f"{group}-1", topic, [0]) == {0: 7}
        yesterday = leaders.leader(place)
        yesterday.freeze()
        await asyncio.to_thread(leaders.await_leader, place, lambda leader: leader not in (-1, yesterday.node_id))  # noqa: B023
        await asyncio.to_thread(commit, leaders.leader(place).bootstrap_servers, group, topic, {0: 20})
        plain.misled_by = behind.misled_by = yesterday.node_id
        asked = [plain.committed(topic, [0]), behind.final_offsets(f"{group}-2", topic, [0])]
        asking = asyncio.gather(*asked)
        await asyncio.sleep(0.5)  # both questions wait in its sockets
        yesterday.thaw()
        old, final = await asking
        await asyncio.gather(plain.close(), behind.close())
        await asyncio.to_thread(leaders.await_healthy, HEALTHY_DEADLINE_S)
        assert final == {0: 20}
        believed.append(old[0])
        if old[0] == 7:
            return
    pytest.fail(f"a coordinator of yesterday always knew better: {believed}")


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
