"""Trying to write to a store, as `check` does: what a worker may not do is named, and nothing is left behind."""

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.contract.backends import execute, fresh_schema, sqlite_backend, take_over
from worker.stores.port import StoreNotReadyError
from worker.stores.postgres import migrate
from worker.stores.postgres_trial import try_to_write as try_postgres
from worker.stores.sqlite_trial import try_to_write as try_sqlite

NOBODY = 65534
RIGHTS = {
    "partitions": ("SELECT", "INSERT", "UPDATE"),
    "user_tasks": ("SELECT", "INSERT", "UPDATE"),
    "outcomes": ("SELECT", "INSERT", "DELETE"),
}


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Be a user without rights, who may pass through the folders."""
    for one in (folder, *folder.parents):
        if one == Path(tempfile.gettempdir()):
            break
        one.chmod(0o755)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


# SQLite


async def test_a_file_that_may_be_written_is_left_as_it_is(tmp_path):
    async with sqlite_backend(tmp_path).opened() as store:
        await take_over(store, 0)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    try_sqlite(tmp_path / "store.db")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_that_is_not_there_is_not_made(tmp_path):
    try_sqlite(tmp_path / "folder" / "store.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
@pytest.mark.parametrize("closed", ["folder", "store.db", "store.db.lock"])
async def test_a_file_a_folder_or_a_lock_that_may_not_be_written_is_named(tmp_path, closed):
    folder = tmp_path / "folder"
    folder.mkdir()
    async with sqlite_backend(folder).opened() as store:
        await take_over(store, 0)
    for path in (folder, *folder.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    wrong = folder if closed == "folder" else folder / closed
    os.chown(wrong, 0, 0)
    with as_nobody(folder), pytest.raises(StoreNotReadyError, match=r"cannot be (opened or )?written"):
        try_sqlite(folder / "store.db")


# PostgreSQL


@pytest.fixture
async def owners(postgres):
    """The owner's URL of a schema that is migrated."""
    async with fresh_schema(postgres.url) as url:
        await migrate(url)
        yield url


@asynccontextmanager
async def limited(url: str, without: tuple[str, str] = ("", "")) -> AsyncIterator[str]:
    """Give the URL of a user who has all rights that a worker needs but one: a table, and what may be done to it."""
    name, schema = f"u_{uuid4().hex[:12]}", url.rpartition("=")[2]
    await execute(url, f"CREATE ROLE {name} LOGIN PASSWORD 'p'")
    try:
        await execute(url, f"GRANT USAGE ON SCHEMA {schema} TO {name}")
        await execute(url, f"GRANT SELECT ON schema_migrations TO {name}")
        for table, rights in RIGHTS.items():
            given = [right for right in rights if (table, right) != without]
            await execute(url, f"GRANT {', '.join(given)} ON {table} TO {name}")
        yield as_user(url, name)
    finally:
        await execute(url, f"DROP OWNED BY {name}")
        await execute(url, f"DROP ROLE {name}")


def as_user(url: str, name: str) -> str:
    return urlsplit(url)._replace(netloc=f"{name}:p@{urlsplit(url).netloc.rpartition('@')[2]}").geturl()


async def test_a_user_with_every_right_may_write_and_nothing_is_left(owners):
    async with limited(owners) as url:
        await try_postgres(url)
    for table in RIGHTS:
        assert await execute(owners, f"SELECT 1 FROM {table}") == []


@pytest.mark.parametrize(
    "without", [(table, right) for table, rights in RIGHTS.items() for right in rights], ids="-".join
)
async def test_a_right_that_is_missing_is_named(owners, without):
    async with limited(owners, without) as url:
        with pytest.raises(StoreNotReadyError, match=without[0]):
            await try_postgres(url)


async def test_a_standby_or_a_read_only_user_is_named(owners):
    with pytest.raises(StoreNotReadyError, match="takes no writes"):
        await try_postgres(f"{owners}&options=-c%20default_transaction_read_only%3Don")
