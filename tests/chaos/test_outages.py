"""Broker or store away: waited out. Not ready but alive, no rejection, nothing lost or doubled, resumed by itself.

USERTASK_TEST_OUTAGE_S sets how long; the default is short.
"""

import asyncio
import os
import re
import threading
import time
from contextlib import contextmanager
from functools import partial

import asyncpg
import pytest

from tests.chaos.fleet import ChaosWorker, database
from tests.chaos.judge import Load, await_committed, judge, outcomes
from tests.embedded_postgres import EmbeddedPostgres
from tests.integration.harness import PARTITIONS, environment, make_topics
from worker.embedded import EmbeddedKafka

OUTAGE_S = float(os.environ.get("USERTASK_TEST_OUTAGE_S", "8"))
RESUMED_WITHIN_S = 5


@pytest.fixture
def own_postgres():
    server = EmbeddedPostgres()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_kafka():
    with EmbeddedKafka() as broker:
        yield broker


def await_status(worker: ChaosWorker, path: str, status: int, deadline_s: float) -> None:
    deadline = time.monotonic() + deadline_s
    while worker.get(path)[0] != status:
        worker.watch()
        assert time.monotonic() < deadline, worker.stderr()
        time.sleep(0.05)


def last_outcome_after(kafka_address, topics, moment_ms):
    later = [one.timestamp_ms for one in outcomes(kafka_address, topics) if one.timestamp_ms > moment_ms]
    return min(later)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_a_store_that_is_away_is_waited_out(how, kafka, own_postgres, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    env = environment(kafka.bootstrap_servers, topics, STORE_URL=database(own_postgres.url))
    with (
        ChaosWorker(env, tmp_path) as worker,
        Load(kafka.bootstrap_servers, topics.commands, commands_per_s=300) as load,
    ):
        load.burst(50)
        getattr(own_postgres, how)()
        await_status(worker, "/readyz", 503, 20)
        threading.Event().wait(OUTAGE_S)
        assert worker.get("/livez")[0] == 200
        assert worker.get("/readyz")[0] == 503
        own_postgres.restart()
        returned_ms = time.time() * 1000
        await_status(worker, "/readyz", 200, RESUMED_WITHIN_S + 5)
        load.stop()
        await_committed(kafka.bootstrap_servers, topics.commands, env["USERTASK_GROUP_ID"], 60)
        assert worker.terminate() == 0, worker.stderr()

    verdict = judge(load.sent, outcomes(kafka.bootstrap_servers, topics))
    assert verdict.is_clean, verdict
    resumed_ms = last_outcome_after(kafka.bootstrap_servers, topics, returned_ms)
    assert resumed_ms - returned_ms < RESUMED_WITHIN_S * 1000
    assert worker.stderr().count("consumer_paused") <= 3, worker.stderr()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("under_load", [True, False], ids=["under load", "idle"])
def test_a_broker_that_is_away_is_waited_out(under_load, own_kafka, postgres, tmp_path):
    topics = make_topics(own_kafka.bootstrap_servers)
    env = environment(own_kafka.bootstrap_servers, topics, STORE_URL=database(postgres.url))
    with (
        ChaosWorker(env, tmp_path) as worker,
        Load(own_kafka.bootstrap_servers, topics.commands, commands_per_s=300 if under_load else 0.1) as load,
    ):
        load.burst(50)
        own_kafka.terminate()
        await_status(worker, "/readyz", 503, 30)
        threading.Event().wait(OUTAGE_S)
        assert worker.get("/livez")[0] == 200
        own_kafka.restart()
        await_status(worker, "/readyz", 200, 30)
        load.stop()
        await_committed(own_kafka.bootstrap_servers, topics.commands, env["USERTASK_GROUP_ID"], 60)
        assert worker.terminate() == 0, worker.stderr()

    verdict = judge(load.sent, outcomes(own_kafka.bootstrap_servers, topics))
    assert verdict.is_clean, (verdict, worker.stderr())


@contextmanager
def trigger(url: str, sqlstate: str):
    """Let the store refuse each new outcome, while all else works."""
    function = f"BEGIN RAISE EXCEPTION USING ERRCODE = '{sqlstate}'; END"
    execute(url, f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $${function}$$")
    execute(url, "CREATE TRIGGER refuse BEFORE INSERT ON outcomes EXECUTE FUNCTION refuse()")
    yield
    execute(url, "DROP TRIGGER refuse ON outcomes")


@contextmanager
def locked_table(url: str):
    """Keep a lock on the tasks, as ALTER TABLE and CREATE INDEX do."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url))
        runner.run(connection.execute("BEGIN; LOCK TABLE user_tasks IN ACCESS EXCLUSIVE MODE"))
        yield
        runner.run(connection.close())


def taken_over(worker: ChaosWorker) -> float:
    """Return how often the worker has taken over all partitions."""
    [line] = re.findall(r"^usertask_takeovers_total (.+)$", worker.get("/metrics")[1], re.MULTILINE)
    return float(line) / PARTITIONS


def execute(url: str, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "outage",
    [
        pytest.param(locked_table, id="a lock on a table"),
        pytest.param(partial(trigger, sqlstate="53100"), id="a disk that is full"),
        pytest.param(partial(trigger, sqlstate="42501"), id="a right that was revoked"),
        pytest.param(partial(trigger, sqlstate="P0001"), id="a trigger that raises"),
    ],
)
def test_a_store_that_takes_claims_but_no_batches_is_an_outage_until_it_takes_one(outage, kafka, postgres, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    env = environment(kafka.bootstrap_servers, topics, STORE_URL=database(postgres.url))
    env["USERTASK_STALL_LIMIT_S"] = str(OUTAGE_S)
    with (
        ChaosWorker(env, tmp_path) as worker,
        Load(kafka.bootstrap_servers, topics.commands, commands_per_s=100) as load,
    ):
        with outage(env["USERTASK_STORE_URL"]):
            await_status(worker, "/readyz", 503, 20)
            takeovers = taken_over(worker)
            until_s = time.monotonic() + OUTAGE_S
            while time.monotonic() < until_s:
                assert "batches_saved" in worker.get("/readyz")[1]
                assert worker.get("/livez")[0] == 200, worker.get("/livez")
                assert 'usertask_consumer_paused{reason="store"} 1.0' in worker.get("/metrics")[1]
                time.sleep(0.2)
            assert taken_over(worker) - takeovers <= OUTAGE_S
        await_status(worker, "/readyz", 200, RESUMED_WITHIN_S)
        load.stop()
        await_committed(kafka.bootstrap_servers, topics.commands, env["USERTASK_GROUP_ID"], 60)
        assert worker.terminate() == 0, worker.stderr()

    verdict = judge(load.sent, outcomes(kafka.bootstrap_servers, topics))
    assert verdict.is_clean, verdict
    assert worker.stderr().count('"consumer_paused"') == 1, worker.stderr()
    assert worker.stderr().count('"consumer_resumed"') == 1, worker.stderr()
