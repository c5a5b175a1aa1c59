"""kill -9 at random moments, with the embedded store: one outcome a command, in order, none lost."""

import random

import pytest

from tests.chaos.judge import Load, await_committed, judge, outcomes
from tests.integration.harness import Worker, environment, make_topics

KILLS = 20
SEED = 20261123


@pytest.mark.timeout(600)
def test_every_command_has_one_outcome_after_twenty_kills_at_random_moments(kafka, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    env = environment(
        kafka.bootstrap_servers, topics, tmp_path / "tasks.db", SESSION_TIMEOUT_S="2", LOG_LEVEL="warning"
    )
    moments = random.Random(SEED)
    with Load(kafka.bootstrap_servers, topics.commands, commands_per_s=1000) as load:
        for _ in range(KILLS):
            with Worker(env, tmp_path) as worker:
                # the moment is the point: nothing to poll for
                assert not worker.has_ended(within_s=moments.uniform(0, 1.5)), worker.stderr()
                worker.kill()
        load.stop()
        with Worker(env, tmp_path) as worker:
            await_committed(kafka.bootstrap_servers, topics.commands, env["USERTASK_GROUP_ID"], 120)
            assert worker.terminate() == 0, worker.stderr()

    verdict = judge(load.sent, outcomes(kafka.bootstrap_servers, topics))

    assert verdict.is_clean, verdict
    assert verdict.seen == len({command.command_id for command in load.sent})
