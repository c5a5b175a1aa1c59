"""The embedded PostgreSQL is a real one, keeps its data over an outage, and leaves nothing behind."""

import asyncpg
import psutil
import pytest

from tests.embedded_postgres import EmbeddedPostgres


async def ask(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_the_fixture_answers(postgres) -> None:
    assert await ask(postgres.url, "select 6 * 7") == 42


async def test_a_server_keeps_its_data_over_outages_and_leaves_nothing_behind() -> None:
    with EmbeddedPostgres() as server:
        url, pid, folder = server.url, server.pid, server._folder
        assert str(await ask(url, "select version()")).startswith("PostgreSQL 18")
        await ask(url, "create table kept as select 1 as figure")
        for end in (server.kill, server.terminate):
            end()
            with pytest.raises(ConnectionError):
                await ask(url, "select 1")
            server.restart()
            assert await ask(url, "select figure from kept") == 1
    assert pid is not None
    assert not psutil.pid_exists(pid)
    assert not folder.exists()
