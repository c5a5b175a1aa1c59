"""Several workers on PostgreSQL, and random faults: the short form of the soak; and rebalances from 1 to 4 and back."""

import pytest

from tests.chaos import soak
from tests.chaos.fleet import ChaosWorker, database
from tests.chaos.judge import Load, await_committed, judge, outcomes
from tests.integration.harness import environment, make_topics

SEED = 20261123


@pytest.mark.timeout(600)
def test_a_short_soak_of_three_workers_and_ten_faults(kafka, postgres, tmp_path):
    plan = soak.Plan(commands=10_000, workers=3, faults=10, seed=SEED)
    result = soak.run(kafka.bootstrap_servers, database(postgres.url), tmp_path, plan)

    assert not result.storm.failures, result.storm.failures
    assert result.verdict.is_clean, result.verdict
    assert result.sent >= 10_000


@pytest.mark.timeout(600)
def test_from_one_worker_to_four_and_back_with_a_kill_at_each_step(kafka, postgres, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    url = database(postgres.url)
    env = environment(kafka.bootstrap_servers, topics, SESSION_TIMEOUT_S="3", STORE_URL=url)
    workers: list[ChaosWorker] = []

    def add() -> None:
        workers.append(ChaosWorker(env, tmp_path).__enter__())

    try:
        with Load(kafka.bootstrap_servers, topics.commands, commands_per_s=500) as load:
            for _ in range(4):
                add()
                if len(workers) > 1:
                    workers.pop(0).kill()
                    add()
            while len(workers) > 1:
                assert workers.pop(0).terminate() == 0
                load.burst(20)
        await_committed(kafka.bootstrap_servers, topics.commands, env["USERTASK_GROUP_ID"], 60)
        assert workers[0].terminate() == 0
    finally:
        for worker in workers:
            worker.kill()

    verdict = judge(load.sent, outcomes(kafka.bootstrap_servers, topics))
    assert verdict.is_clean, verdict
