"""Killing, draining or rolling workers under steady load: how long a listener waits for any outcome."""

import threading
import time
from contextlib import ExitStack

import pytest

from tests.chaos.fleet import ChaosWorker, database
from tests.chaos.judge import Load, await_committed, judge, outcomes
from tests.chaos.waits import Listener
from tests.integration.harness import environment, make_topics

SESSION_TIMEOUT_S = 6
SLACK_S = 2
WORKERS = 3
LONGEST_GAP_S = 3


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("how", "longest_s"), [("kill", SESSION_TIMEOUT_S + SLACK_S), ("terminate", SLACK_S)])
def test_no_listener_waits_longer_when_one_of_three_workers_is_ended_by(how, longest_s, kafka, postgres, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    url = database(postgres.url)
    env = environment(
        kafka.bootstrap_servers, topics, STORE_URL=url, SESSION_TIMEOUT_S=str(SESSION_TIMEOUT_S), LOG_LEVEL="info"
    )
    with ExitStack() as stack:
        workers = [stack.enter_context(ChaosWorker(env, tmp_path)) for _ in range(WORKERS)]
        for worker in workers:
            worker.await_ready()
        listener = stack.enter_context(Listener(kafka.bootstrap_servers, (topics.events, topics.rejections)))
        load = stack.enter_context(Load(kafka.bootstrap_servers, topics.commands, commands_per_s=200))
        threading.Event().wait(3)
        getattr(workers[0], how)()
        threading.Event().wait(SESSION_TIMEOUT_S + 2 * SLACK_S)
        seen = _all_outcomes(kafka.bootstrap_servers, topics, env, load, listener)

    _assert_clean_and_prompt(load, seen, listener, longest_s)


@pytest.mark.timeout(300)
def test_workers_rolled_one_by_one_under_load_end_well_and_keep_no_listener_waiting(kafka, postgres, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    env = environment(kafka.bootstrap_servers, topics, STORE_URL=database(postgres.url), LOG_LEVEL="info")
    with ExitStack() as stack:
        old = [stack.enter_context(ChaosWorker(env, tmp_path)) for _ in range(WORKERS)]
        for worker in old:
            worker.await_ready()
        listener = stack.enter_context(Listener(kafka.bootstrap_servers, (topics.events, topics.rejections)))
        load = stack.enter_context(Load(kafka.bootstrap_servers, topics.commands, commands_per_s=200))
        threading.Event().wait(3)
        for worker in old:  # as a deployment with maxSurge 0 does it: one ends, one starts, and so on
            assert worker.terminate() == 0
            stack.enter_context(ChaosWorker(env, tmp_path)).await_ready()
        threading.Event().wait(3)
        seen = _all_outcomes(kafka.bootstrap_servers, topics, env, load, listener)

    _assert_clean_and_prompt(load, seen, listener, LONGEST_GAP_S)


def _all_outcomes(bootstrap_servers, topics, env, load, listener):
    """End the load, and give what is there when all is answered and the listener has seen it."""
    load.stop()
    await_committed(bootstrap_servers, topics.commands, env["USERTASK_GROUP_ID"], 60)
    seen = outcomes(bootstrap_servers, topics)
    deadline = time.monotonic() + 20
    while len(listener.arrived_s) < len(seen):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return seen


def _assert_clean_and_prompt(load, seen, listener, longest_s):
    verdict = judge(load.sent, seen)
    assert verdict.is_clean, verdict
    waits = sorted(listener.arrived_s[command.command_id] - command.sent_s for command in load.sent)
    assert waits[-1] <= longest_s, f"longest {waits[-1]:.2f} s, median {waits[len(waits) // 2]:.3f} s"
