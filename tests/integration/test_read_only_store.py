"""A PostgreSQL that takes no writes any more, as a failover leaves a standby, and a worker that has nothing to do."""

import asyncio

import pytest

from tests.contract.backends import execute
from tests.embedded_postgres import EmbeddedPostgres
from tests.integration.harness import Wire, Worker, environment, make_topics, run_cli

DEADLINE_S = 20


@pytest.fixture
def server():
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture
def topics(kafka):
    return make_topics(kafka.bootstrap_servers)


@pytest.fixture
def env(kafka, topics, server, tmp_path):
    env = environment(kafka.bootstrap_servers, topics, STORE_URL=f"{server.url}?target_session_attrs=read-write")
    assert run_cli("store", "migrate", env=env, cwd=tmp_path).returncode == 0
    return env


async def configured(server, change: str) -> None:
    await execute(server.url, f"ALTER SYSTEM {change}")
    await execute(server.url, "SELECT pg_reload_conf()")


async def until_ready(worker: Worker, *, is_so: bool) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while worker.is_ready() is not is_so:  # noqa: ASYNC110 - a process tells nobody
            await asyncio.sleep(0.1)


async def test_an_idle_worker_is_not_ready_says_why_and_goes_on_when_the_store_takes_writes_again(
    kafka, topics, server, env, tmp_path
):
    with Worker(env, tmp_path) as worker, Wire(kafka.bootstrap_servers, topics, worker.watch) as wire:
        wire.create()
        await configured(server, "SET default_transaction_read_only = on")
        await until_ready(worker, is_so=False)
        await asyncio.sleep(3)  # it is not ready for as long as it lasts
        assert not worker.is_ready()
        assert worker.get("/livez")[0] == 200
        assert 'usertask_consumer_paused{reason="store"} 1.0' in worker.get("/metrics")[1]
        assert "25006: the server takes no writes" in worker.stderr()

        await configured(server, "RESET default_transaction_read_only")
        await until_ready(worker, is_so=True)
        wire.create()


@pytest.mark.parametrize("words", [("check",), ("lag",), ("show", "task", "1")], ids=lambda words: words[0])
def test_the_command_line_reads_a_store_whose_url_asks_for_one_that_takes_writes(env, tmp_path, words):
    ended = run_cli(*words, env=env, cwd=tmp_path)

    assert ended.returncode == (1 if words[0] == "show" else 0), ended.stdout + ended.stderr
    assert "no user task 1" in ended.stderr or words[0] != "show"
