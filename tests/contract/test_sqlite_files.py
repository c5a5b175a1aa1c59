"""What may be wrong with a SQLite file, by store and lookup: told in words, and nothing in it is changed."""

import errno
import fcntl
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.backends import TOPIC, a_task, an_advance, an_outcome, save, sqlite_backend, take_over
from worker.stores.port import Changes, Snapshot, StoreNotReadyError, StoreUnavailableError
from worker.stores.sqlite import SqliteStore
from worker.stores.sqlite_lookup import SqliteLookup

PAGE_BYTES = 4096


async def refused(path: Path, *doors: type) -> str:
    """Return what store and lookup say; both the same."""
    said = set()
    for door in doors or (SqliteStore, SqliteLookup):
        opened = door(path)
        with pytest.raises(StoreNotReadyError) as refusal:
            await opened.open()
        await opened.close()
        said.add(str(refusal.value))
    [words] = said
    return words


# One worker, however the file is spelled


@pytest.mark.parametrize("spelled", ["link.db", "folder/../store.db", "linked/store.db", "./store.db"])
async def test_another_spelling_of_a_file_in_use_is_refused(tmp_path, spelled):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.db").symlink_to("store.db")
    (tmp_path / "linked").symlink_to(tmp_path, target_is_directory=True)
    async with sqlite_backend(tmp_path).opened():
        assert "in use by another worker" in await refused(tmp_path / spelled, SqliteStore)


async def test_a_link_that_is_made_first_leads_to_the_one_lock_too(tmp_path):
    (tmp_path / "link.db").symlink_to("store.db")
    first = SqliteStore(tmp_path / "link.db")
    await first.open()
    assert "in use by another worker" in await refused(tmp_path / "store.db", SqliteStore)
    await first.close()


async def test_a_file_with_several_names_is_refused(tmp_path):
    async with sqlite_backend(tmp_path).opened():
        pass
    os.link(tmp_path / "store.db", tmp_path / "other.db")
    assert "several names" in await refused(tmp_path / "other.db", SqliteStore)


async def test_links_in_a_ring_are_refused(tmp_path):
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    assert "cannot be opened" in await refused(tmp_path / "one", SqliteStore)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EIO])
async def test_a_disk_that_cannot_lock_is_told(tmp_path, monkeypatch, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", fail)
    words = await refused(tmp_path / "store.db", SqliteStore)
    assert os.strerror(code) in words
    assert "NFS" in words


# Damage


async def filled(path: Path) -> None:
    """Make a store of many pages, all of them in the file itself."""
    store = SqliteStore(path)
    await store.open()
    await take_over(store, 0)
    for offset in range(20):
        outcomes = [an_outcome(20 * offset + number, bytes([offset, number]) * 8) for number in range(20)]
        tasks = [a_task(100 * offset + number, attributes="x" * 500) for number in range(20)]
        await save(store, [an_advance(20 * offset, 20 * offset + 20)], tasks, outcomes)
    await store.close()


def overwrite(path: Path, first_page: int, pages: int) -> None:
    with path.open("r+b") as file:
        file.seek(first_page * PAGE_BYTES)
        file.write(b"\xa5" * PAGE_BYTES * pages)


@pytest.mark.parametrize("first_page", [0, 1], ids=["header", "schema and first tables"])
async def test_a_damaged_file_asks_for_a_backup(tmp_path, first_page):
    path = tmp_path / "store.db"
    await filled(path)
    overwrite(path, first_page, path.stat().st_size // PAGE_BYTES - first_page)
    words = await refused(path)
    assert "is damaged" in words
    assert "restore it from a backup" in words


async def test_text_is_no_store(tmp_path):
    (tmp_path / "text").write_text("no database, but long enough to be looked at" * 100)
    assert "SQLITE_NOTADB" in await refused(tmp_path / "text")


async def test_damage_that_is_met_later_says_so_too_and_writes_nothing(tmp_path):
    path = tmp_path / "store.db"
    await filled(path)
    overwrite(path, 8, path.stat().st_size // PAGE_BYTES - 8)
    store, lookup = SqliteStore(path), SqliteLookup(path)
    await store.open()
    keys = [100 * offset + number for offset in range(20) for number in range(20)]
    with pytest.raises(StoreUnavailableError, match=r"is damaged .*restore it from a backup"):
        await store.apply(TOPIC, [an_advance(400, 401)], keys, [], lambda _: pytest.fail("nothing is decided"))
    assert (await store.partitions(TOPIC, [0]))[0].applied == 400
    await lookup.open()
    with pytest.raises(StoreNotReadyError, match="restore it from a backup"):
        await lookup.search("id-399", 1, 30)
    await lookup.close()
    await store.close()


# A file that is gone while it is open


def deleted(path: Path) -> None:
    path.unlink()


def moved(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def replaced(path: Path) -> None:
    shutil.copy(path, path.with_name("copy.db"))
    path.with_name("copy.db").rename(path)


def moved_with_its_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def log_deleted(path: Path) -> None:
    path.with_name("store.db-wal").unlink()


def log_replaced(path: Path) -> None:
    log_deleted(path)
    path.with_name("store.db-wal").write_bytes(b"another's" * 1000)


def index_deleted(path: Path) -> None:
    path.with_name("store.db-shm").unlink()


async def opened_with_a_task(path: Path) -> SqliteStore:
    """Return an open store that has applied one command."""
    path.parent.mkdir(exist_ok=True)
    store = SqliteStore(path)
    await store.open()
    await take_over(store, 0)
    await save(store, [an_advance(0, 1)], [a_task(1)], [an_outcome(0, b"k" * 16)])
    await store.ping()
    return store


async def applied(path: Path) -> int | None:
    store = SqliteStore(path)
    await store.open()
    row = (await store.partitions(TOPIC, [0]))[0]
    await store.close()
    return row.applied


@pytest.mark.parametrize(
    "lose", [deleted, moved, replaced, moved_with_its_folder, log_deleted, log_replaced, index_deleted]
)
async def test_a_file_that_is_gone_while_it_is_open_stops_all_until_it_is_back(tmp_path, lose: Callable[[Path], None]):
    path = tmp_path / "folder" / "store.db"
    store = await opened_with_a_task(path)

    lose(path)

    with pytest.raises(StoreUnavailableError, match="while it was open"):
        await store.ping()
    with pytest.raises(StoreUnavailableError, match="while it was open"):
        await store.apply(TOPIC, [an_advance(1, 2)], [], [], lambda _: pytest.fail("nothing is decided"))
    await store.close()


async def test_a_file_that_comes_back_is_used_again(tmp_path):
    path = tmp_path / "store.db"
    store = await opened_with_a_task(path)
    moved(path)
    with pytest.raises(StoreUnavailableError):
        await store.ping()
    (tmp_path / "elsewhere.db").rename(path)
    await store.ping()
    await save(store, [an_advance(1, 2)])
    await store.close()
    assert await applied(path) == 2


async def test_a_batch_is_not_saved_if_the_file_goes_before_its_commit(tmp_path):
    path = tmp_path / "store.db"
    store = await opened_with_a_task(path)

    def decide(_: Snapshot) -> Changes:
        deleted(path)
        return Changes()

    with pytest.raises(StoreUnavailableError, match="while it was open"):
        await store.apply(TOPIC, [an_advance(1, 2)], [], [], decide)
    await store.close()


@pytest.mark.parametrize("lose", [deleted, replaced, moved_with_its_folder])
async def test_what_is_said_of_a_file_that_is_gone_rescues_it(tmp_path, lose):
    path = tmp_path / "folder" / "store.db"
    store = await opened_with_a_task(path)
    lose(path)
    with pytest.raises(StoreUnavailableError) as said:
        await store.ping()

    for source, suffix in re.findall(r"cp (/proc/\d+/fd/\d+) COPY(-wal|)", str(said.value)):
        shutil.copy(source, tmp_path / f"rescued.db{suffix}")
    await store.close()

    assert await applied(tmp_path / "rescued.db") == 1


@pytest.mark.parametrize("lose", [log_deleted, log_replaced, index_deleted])
async def test_a_log_that_is_gone_costs_nothing_once_the_worker_has_stopped(tmp_path, lose):
    path = tmp_path / "store.db"
    store = await opened_with_a_task(path)
    lose(path)
    with pytest.raises(StoreUnavailableError, match="by SIGTERM"):
        await store.ping()
    await store.close()
    assert await applied(path) == 1


# Another program's


@pytest.mark.parametrize(
    "made",
    [
        "CREATE TABLE schema_migrations (version TEXT)",
        "CREATE TABLE schema_migrations AS SELECT 20260101120000 AS version, 1 AS applied_at_ms",
        "CREATE TABLE user_tasks (theirs INTEGER)",
    ],
    ids=["columns", "versions", "tables"],
)
async def test_another_programs_file_is_told_and_left_as_it_is(tmp_path, made):
    path = tmp_path / "theirs.db"
    connection = sqlite3.connect(path)
    connection.executescript(made)
    connection.close()
    before = path.read_bytes()
    assert "another program's" in await refused(path, SqliteStore)
    assert path.read_bytes() == before
    assert "another" in await refused(path, SqliteLookup)
