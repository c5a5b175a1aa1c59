"""A store from an older backup, and the group's offsets set back to where it stands, with both stores."""

import json
import shutil
from collections.abc import Callable

import asyncpg
import pytest

from tests.chaos.judge import await_committed
from tests.embedded_postgres import EmbeddedPostgres
from tests.integration.harness import PARTITIONS, Worker, run_cli
from tests.integration.test_guards import DEADLINE_S, Bench, assert_refused, await_words


class SqliteFile:
    """Backups of a bench's file."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    async def back_up(self) -> None:
        shutil.copy(self.bench.store, self.bench.folder / "backup.db")

    async def restore(self) -> None:
        shutil.copy(self.bench.folder / "backup.db", self.bench.store)


class Database:
    """Backups of a database, as copies of it."""

    def __init__(self, url: str) -> None:
        self.server_url, self.url = url, url.replace("/postgres", "/tasks")

    async def execute(self, *statements: str) -> None:
        connection = await asyncpg.connect(self.server_url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    async def back_up(self) -> None:
        await self.execute("CREATE DATABASE backup TEMPLATE tasks")

    async def restore(self) -> None:
        await self.execute("DROP DATABASE tasks WITH (FORCE)", "CREATE DATABASE tasks TEMPLATE backup")


@pytest.fixture
def bench(kafka, tmp_path):
    return Bench(kafka.bootstrap_servers, tmp_path)


@pytest.fixture
def cli(bench) -> Callable:
    return lambda *words: run_cli(*words, env=bench.env, cwd=bench.folder)


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request, bench, cli):
    if request.param == "sqlite":
        yield SqliteFile(bench)
        return
    with EmbeddedPostgres() as server:
        database = Database(server.url)
        await database.execute("CREATE DATABASE tasks")
        bench.env["USERTASK_STORE_URL"] = database.url
        assert cli("store", "migrate").returncode == 0
        yield database


async def test_the_groups_offsets_are_set_back_and_all_since_the_backup_is_decided_again(bench, cli, store):
    bench.work_off(20)
    await store.back_up()
    bench.work_off(20)
    since = {sent.command_id for sent in bench.load.sent[-100:]}
    await store.restore()
    assert_refused("store_behind", bench.env, bench.folder)

    planned = cli("store", "realign", "--dry-run")
    assert_refused("store_behind", bench.env, bench.folder)
    realigned = cli("store", "realign")

    assert planned.returncode == realigned.returncode == 0, realigned.stderr
    assert planned.stdout == realigned.stdout
    lines = [json.loads(line) for line in realigned.stdout.splitlines()]
    assert [line["partition"] for line in lines] == list(range(PARTITIONS))
    assert all(0 < line["again"] == line["committed"] - line["applied"] for line in lines)
    assert f"at {sum(line['again'] for line in lines)} offsets" in planned.stderr
    bench.work_off(20)
    verdict = bench.verdict()
    assert not [*verdict.lost, *verdict.wrong]
    assert set(verdict.doubled) <= since
    assert len(verdict.doubled) == 80
    nothing = cli("store", "realign")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "nothing to realign" in nothing.stderr


async def test_beside_a_worker_on_postgres_its_partitions_go_on_by_themselves(bench, cli, store):
    if isinstance(store, SqliteFile):
        with Worker(bench.env, bench.folder):
            refused = cli("store", "realign")
        assert refused.returncode == 4
        assert "in use by another worker" in refused.stderr
        return
    bench.work_off(20)
    await store.back_up()
    bench.work_off(20)
    await store.restore()
    worker = Worker(bench.env, bench.folder)
    worker.start()
    try:
        await_words('"cause": "store_behind"', worker)
        assert cli("store", "realign").returncode == 0
        await_words('"event": "partition_unblocked"', worker)
        bench.send(20)
        await_committed(bench.bootstrap_servers, bench.topics.commands, bench.group, DEADLINE_S)
        assert worker.terminate() == 0, worker.stderr()
    finally:
        worker.kill()
    assert not [*bench.verdict().lost, *bench.verdict().wrong]
