"""Three brokers that move, stop, die and freeze: each outcome once, in order; and the control that shows it can fail.

USERTASK_TEST_MOVES sets how often the coordinator moves, USERTASK_TEST_ROUNDS how often a broker freezes.
"""

import os

import pytest

from tests.chaos import soak
from tests.chaos.fleet import database
from tests.chaos.judge import each_outcome, judge
from tests.chaos.scenes import SHORT_SESSION, coordinator_of_yesterday, leader_of_yesterday, orderly_moves, stage
from tests.chaos.storm import Ground
from tests.embedded_cluster import EmbeddedCluster
from tests.embedded_postgres import EmbeddedPostgres

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


@pytest.mark.timeout(600)
def test_control_with_offsets_as_the_client_reads_them_the_same_run_shows_outcomes_twice(
    cluster, own_postgres, tmp_path
):
    with stage(cluster, database(own_postgres.url), tmp_path, without="offset-errors") as it:
        for _ in range(10):  # each five moves double something as a rule, and not always
            orderly_moves(it, 5)
            if (verdict := judge(it.load.sent, each_outcome(cluster.bootstrap_servers, it.topics))).doubled:
                break

        assert verdict.doubled, "the check is blind: it does not see what the errors of a moving coordinator do"


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
