"""SIGKILL and SIGSTOP at every named moment of a batch, and the controls: without a guard, the same run must fail."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.chaos.failing_worker import MOMENTS
from tests.chaos.fleet import ChaosWorker, DoomedWorker, database
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
        with DoomedWorker(env | fail_at(moment, "KILL"), tmp_path) as worker:
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
    with DoomedWorker(env | fault, tmp_path) as zombie:
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


def test_control_without_fencing_the_same_run_shows_outcomes_twice(kafka, postgres_url, tmp_path):
    """Without the barrier, too: read behind it, K is not told as long as the zombie's transaction may change it."""
    topics, env = settings_for(kafka, postgres_url)
    env |= {"USERTASK_TEST_WITHOUT": "fence,barrier"}
    with Load(kafka.bootstrap_servers, topics.commands, commands_per_s=500) as load:
        with DoomedWorker(env | fail_at("after-offsets", "STOP", without="fence,barrier"), tmp_path) as zombie:
            await_stopped(zombie)
            with ChaosWorker(env, tmp_path) as successor:
                # awake before the broker ends its transaction; what fencing would have done by now
                os.kill(zombie.process.pid, signal.SIGCONT)
                zombie.await_ready()
                assert successor.terminate() == zombie.terminate() == 0
        verdict = finish(kafka, topics, env, load, tmp_path)

    assert verdict.doubled, "the check is blind: it does not see what fencing prevents"


def test_control_without_the_compare_and_set_the_store_goes_back(kafka, postgres_url, tmp_path):
    """The command ids keep outcomes single even then; but a zombie sets `applied` back, and nobody can go on."""
    topics, env = settings_for(kafka, postgres_url)
    env |= {"USERTASK_TEST_WITHOUT": "compare-and-set"}
    group = env["USERTASK_GROUP_ID"]
    fault = fail_at("before-store-transaction", "STOP", without="compare-and-set")
    with (
        Load(kafka.bootstrap_servers, topics.commands, commands_per_s=500) as load,
        DoomedWorker(env | fault, tmp_path) as zombie,
    ):
        await_stopped(zombie)
        with ChaosWorker(env, tmp_path) as successor:
            load.stop()
            await_committed(kafka.bootstrap_servers, topics.commands, group, 60)
            os.kill(zombie.process.pid, signal.SIGCONT)
            successor.kill()
            await_words("partition_refused", zombie)

    assert '"cause": "store_behind"' in zombie.stderr()


def await_words(words: str, worker: ChaosWorker) -> None:
    deadline = time.monotonic() + 30
    while words not in worker.stderr():
        worker.watch()
        assert time.monotonic() < deadline, worker.stderr()
        time.sleep(0.05)
