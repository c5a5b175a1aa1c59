"""A real PgBouncer between the workers and their PostgreSQL: in the two modes that keep the promise, and the third."""

import time

import pytest

from tests.chaos.fleet import database
from tests.chaos.judge import Load, await_committed, judge, outcomes
from tests.embedded_postgres import EmbeddedPostgres
from tests.integration.harness import Worker, environment, make_topics, run_cli
from tests.pgbouncer import PgBouncer

LOAD_S = 4


@pytest.fixture(scope="module")
def server():
    with EmbeddedPostgres() as server:
        yield server


def a_pooler(server, mode: str, **settings: str) -> PgBouncer:
    """A pool that gives each client a session, or one of three sessions for each transaction."""
    size = "30" if mode == "session" else "3"
    return PgBouncer(server.url, pool_mode=mode, default_pool_size=size, **settings)


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_behind_a_pooler_every_command_has_one_outcome(mode, kafka, server, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    with a_pooler(server, mode) as pooler:
        url = pooler.url_for(database(server.url))
        env = environment(kafka.bootstrap_servers, topics, STORE_URL=url, SESSION_TIMEOUT_S="3")
        checked = run_cli("check", env=env, cwd=tmp_path)
        assert checked.returncode == 0, checked.stdout
        with (
            Load(kafka.bootstrap_servers, topics.commands, commands_per_s=500) as load,
            Worker(env, tmp_path) as first,
            Worker(env, tmp_path) as second,
        ):
            time.sleep(LOAD_S)  # the time is the point: transactions of two workers share the pooler's sessions
            first.kill()
            load.stop()
            await_committed(kafka.bootstrap_servers, topics.commands, env["USERTASK_GROUP_ID"], 60)
            assert "consumer_paused" not in second.stderr()
            assert run_cli("lag", env=env, cwd=tmp_path).returncode == 0
            assert second.terminate() == 0, second.stderr()

    verdict = judge(load.sent, outcomes(kafka.bootstrap_servers, topics))

    assert verdict.is_clean, verdict
    assert verdict.seen == len({command.command_id for command in load.sent}) > 1000


def test_an_ignored_start_up_parameter_is_none_that_the_promise_stands_on(kafka, server, tmp_path):
    """As installed by those who have met PgBouncer's `unsupported startup parameter` before."""
    topics = make_topics(kafka.bootstrap_servers)
    url = database(server.url)
    ignored = "synchronous_commit,statement_timeout,lock_timeout,idle_in_transaction_session_timeout,options"
    with a_pooler(server, "transaction", ignore_startup_parameters=ignored) as pooler:
        env = environment(kafka.bootstrap_servers, topics, STORE_URL=pooler.url_for(url))
        with Worker(env, tmp_path) as worker:
            assert worker.terminate() == 0


def test_a_pooler_that_parts_transactions_is_refused_by_run_and_check(kafka, server, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    with a_pooler(server, "statement") as pooler:
        env = environment(kafka.bootstrap_servers, topics, STORE_URL=pooler.url_for(database(server.url)))
        for words in ("run", "check"):
            ended = run_cli(words, env=env, cwd=tmp_path)
            assert ended.returncode == 4, ended.stderr
            assert "session or transaction mode" in ended.stdout + ended.stderr
