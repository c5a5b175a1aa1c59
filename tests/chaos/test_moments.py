"""SIGKILL and SIGSTOP at every named moment of a batch, and the controls: without a guard, the same run must fail."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.chaos.failing_worker import MOMENTS
from tests.chaos.fleet import ChaosWorker, database
from tests.chaos.judge import Load, Verdict, await_committed, judge, outcomes
from tests.integration.harness import environment, make_topics

SESSION_TIMEOUT_S = 3
NTH = 5


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tasks.db'}"
    return database(request.getfixturevalue("postgres").url)


@pytest.fixture
def postgres_url(postgres):
    return database(postgres.url)


def settings_for(kafka, store_url, **more):
    topics = make_topics(kafka.bootstrap_servers)
    return topics, environment(
        kafka.bootstrap_servers, topics, SESSION_TIMEOUT_S=str(SESSION_TIMEOUT_S), STORE_URL=store_url, **more
    )


def fail_at(moment: str, how: str, nth: int = NTH, without: str = "") -> dict[str, str]:
    return {
        "USERTASK_TEST_MOMENT": moment,
        "USERTASK_TEST_SIGNAL": how,
        "USERTASK_TEST_COUNT": str(nth),
        "USERTASK_TEST_WITHOUT": without,
    }


def finish(kafka, topics, env, load, folder) -> Verdict:
    """Let a sound worker work everything off, and judge."""
    load.stop()
    with ChaosWorker(env, folder) as worker:
        await_committed(kafka.bootstrap_servers, topics.commands, env["USERTASK_GROUP_ID"], 60)
        assert worker.terminate() == 0, worker.stderr()
    return judge(load.sent, outcomes(kafka.bootstrap_servers, topics))


@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_at(moment, kafka, store_url, tmp_path):
    topics, env = settings_for(kafka, store_url)
    with Load(kafka.bootstrap_servers, topics.commands, commands_per_s=500) as load:
        with ChaosWorker(env | fail_at(moment, "KILL"), tmp_path) as worker:
            assert worker.has_ended(within_s=60), worker.stderr()
            assert worker.process.returncode == -signal.SIGKILL

        verdict = finish(kafka, topics, env, load, tmp_path)

    assert verdict.is_clean, verdict


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


def await_stopped(worker: ChaosWorker) -> None:
    deadline = time.monotonic() + 60
    while not is_stopped(worker.process.pid):
        worker.watch()
        assert time.monotonic() < deadline, worker.stderr()
        time.sleep(0.01)


def stop_and_wake_a_worker(kafka, topics, env, load, tmp_path, fault) -> list[str]:
    """Stop one worker at the moment, let a successor take over, wake the zombie, and let both work on."""
    with ChaosWorker(env | fault, tmp_path) as zombie:
        await_stopped(zombie)
        with ChaosWorker(env, tmp_path) as successor:  # ready: it has joined and taken everything over
            load.pause_until_committed(env["USERTASK_GROUP_ID"])
            os.kill(zombie.process.pid, signal.SIGCONT)
            zombie.await_ready()  # it has noticed, and joined again
            load.burst(50)
            await_committed(kafka.bootstrap_servers, topics.commands, env["USERTASK_GROUP_ID"], 60)
            assert successor.terminate() == 0, successor.stderr()
            assert zombie.terminate() == 0, zombie.stderr()
            return [zombie.stderr(), successor.stderr()]


@pytest.mark.parametrize("moment", MOMENTS)
def test_stop_past_the_session_timeout_at(moment, kafka, postgres_url, tmp_path):
    topics, env = settings_for(kafka, postgres_url)
    with Load(kafka.bootstrap_servers, topics.commands, commands_per_s=500) as load:
        logs = stop_and_wake_a_worker(kafka, topics, env, load, tmp_path, fail_at(moment, "STOP"))
        verdict = finish(kafka, topics, env, load, tmp_path)

    assert verdict.is_clean, (verdict, *logs)
