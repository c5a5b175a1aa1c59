"""Stuck or waiting: /livez is red within its limit where a restart helps, and green where store or broker is away."""

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from tests.chaos.fleet import database
from tests.chaos.judge import Load, await_committed
from tests.embedded_postgres import EmbeddedPostgres
from tests.integration.harness import Worker, environment, make_topics
from worker.embedded import EmbeddedKafka

LIMIT_S = 3
SLACK_S = 3
"""A look takes a while, and so does a busy machine."""
NOT_READY_WITHIN_S = {"kafka": 8 + SLACK_S, "postgres": LIMIT_S + SLACK_S}
"""A hung broker is noticed by a Kafka transaction's deadline, a hung store by asking it."""


class StuckWorker(Worker):
    command = (sys.executable, "-m", "tests.chaos.stuck_worker")

    def get_stuck(self) -> None:
        self.process.send_signal(signal.SIGUSR1)


def settings_for(bootstrap_servers, store_url, how=""):
    topics = make_topics(bootstrap_servers)
    limits = {"STALL_LIMIT_S": str(LIMIT_S), "SESSION_TIMEOUT_S": "6"}
    env = environment(bootstrap_servers, topics, STORE_URL=store_url, **limits)
    return topics, env | {"USERTASK_TEST_STUCK": how}


def red_checks(worker: Worker) -> set[str]:
    report = json.loads(worker.get("/livez?verbose")[1])
    return {check["name"] for check in report["checks"] if not check["ok"]}


def await_red(worker: Worker, check: str, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while check not in (red := red_checks(worker)):
        worker.watch()
        assert time.monotonic() < deadline, (red, worker.stderr())
        time.sleep(0.05)


def assert_green(worker: Worker, for_s: float) -> None:
    until = time.monotonic() + for_s
    while time.monotonic() < until:
        assert worker.get("/livez")[0] == 200, (worker.get("/livez"), worker.stderr())
        time.sleep(0.1)


def await_not_ready(worker: Worker, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while worker.get("/readyz")[0] != 503:
        assert worker.get("/livez")[0] == 200, (worker.get("/livez"), worker.stderr())
        assert time.monotonic() < deadline, worker.stderr()
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("how", "check"),
    [
        ("blocked-loop", "consumer_loop_turns"),
        ("hung-loop", "moves"),
        ("hung-fetch", "moves"),
        ("dropped-records", "moves"),
        ("hung-join", "moves"),
        ("dead-fetch", "kafka_client_runs"),
        ("dead-coordination", "kafka_client_runs"),
    ],
)
def test_a_worker_that_is_stuck_turns_red_within_the_limit(how, check, kafka, tmp_path):
    topics, env = settings_for(kafka.bootstrap_servers, f"sqlite:///{tmp_path / 'tasks.db'}", how)
    with (
        StuckWorker(env, tmp_path) as worker,
        Load(kafka.bootstrap_servers, topics.commands, commands_per_s=50) as load,
    ):
        load.burst(10)
        assert_green(worker, LIMIT_S)
        worker.get_stuck()
        await_red(worker, check, LIMIT_S + SLACK_S)
        assert ("liveness_lost" in worker.stderr()) == (check != "consumer_loop_turns")


def test_a_worker_without_work_stays_green(kafka, tmp_path):
    _, env = settings_for(kafka.bootstrap_servers, f"sqlite:///{tmp_path / 'tasks.db'}")
    with StuckWorker(env, tmp_path) as worker:
        assert_green(worker, LIMIT_S * 3)


@contextmanager
def suspended(pid: int) -> Iterator[None]:
    """Suspend a server and all its processes: its connections stay open, and nothing is answered."""
    server = psutil.Process(pid)
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


@contextmanager
def ended(server: EmbeddedKafka | EmbeddedPostgres) -> Iterator[None]:
    server.terminate()
    yield
    server.restart()


AWAY = {"suspended": lambda server: suspended(server.pid), "ended": ended}


@pytest.mark.parametrize("how", AWAY)
@pytest.mark.parametrize("which", ["kafka", "postgres"])
def test_an_outage_is_no_standstill(which, how, tmp_path):
    with EmbeddedKafka() as own_kafka, EmbeddedPostgres() as own_postgres:
        topics, env = settings_for(own_kafka.bootstrap_servers, database(own_postgres.url))
        with (
            StuckWorker(env, tmp_path) as worker,
            Load(own_kafka.bootstrap_servers, topics.commands, commands_per_s=50) as load,
        ):
            load.burst(10)
            with AWAY[how](own_kafka if which == "kafka" else own_postgres):
                await_not_ready(worker, NOT_READY_WITHIN_S[which])
                assert_green(worker, LIMIT_S * 5)
                assert worker.get("/readyz")[0] == 503
            until = time.monotonic() + 60
            while worker.get("/readyz")[0] != 200:
                assert worker.get("/livez")[0] == 200, (worker.get("/livez"), worker.stderr())
                assert time.monotonic() < until, worker.stderr()
                time.sleep(0.1)
            load.stop()
            await_committed(own_kafka.bootstrap_servers, topics.commands, env["USERTASK_GROUP_ID"], 60)
            assert_green(worker, LIMIT_S)
            assert worker.terminate() == 0, worker.stderr()
