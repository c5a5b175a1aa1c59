"""Backups of a SQLite store, and what is noticed of one that was put back by other means."""

import asyncio
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.contract.backends import TOPIC, a_task, an_advance, an_outcome, save, take_over
from worker.stores import sqlite_open
from worker.stores.port import StoreError, StoreNotReadyError
from worker.stores.sqlite import SqliteStore
from worker.stores.sqlite_backup import back_up, restore

STEP = 200


def nothing(*_: int) -> None:
    """Be told of a step."""


async def fill(store: SqliteStore, first: int, end: int) -> None:
    """Create tasks under the keys from `first` on, one a command."""
    for offset in range(first, end, STEP):
        keys = range(offset, offset + STEP)
        outcomes = [an_outcome(key, key.to_bytes(16, "big")) for key in keys]
        await save(
            store, [an_advance(offset, offset + STEP)], [a_task(key, attributes="x" * 300) for key in keys], outcomes
        )


async def a_store(path: Path, tasks: int = STEP) -> SqliteStore:
    store = SqliteStore(path)
    await store.open()
    await take_over(store, 0)
    await fill(store, 0, tasks)
    return store


async def left_by_a_crash(path: Path, backup: Path) -> None:
    """Let a process take a backup of a store, go on until its log was moved to the file and grew again, and die."""
    script = (
        "import asyncio, os, sys; from pathlib import Path; from tests.contract import test_sqlite_backup as t\n"
        "async def main(path, backup):\n"
        "    store = await t.a_store(path, 2400)\n"
        "    t.back_up(path, backup, t.nothing)\n"
        "    await t.fill(store, 2400, 22400)\n"
        "    os._exit(9)\n"
        "asyncio.run(main(*map(Path, sys.argv[1:])))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, path, backup)
    assert await process.wait() == 9
    assert path.with_name("store.db-wal").stat().st_size > 0


async def tasks_in(path: Path) -> int | None:
    """Open a store as a worker does, and return how many tasks it has if its progress says the same."""
    store = SqliteStore(path)
    await store.open()
    applied = (await store.partitions(TOPIC, [0]))[0].applied
    with closing(sqlite3.connect(path)) as connection:
        [(tasks,)] = connection.execute("SELECT count(*) FROM user_tasks")
    await store.close()
    return tasks if tasks == applied else None


async def test_a_backup_of_a_store_at_work_is_one_file_of_one_instant(tmp_path):
    path, copy = tmp_path / "store.db", tmp_path / "copy.db"
    store = await a_store(path)
    filling = asyncio.create_task(fill(store, STEP, 40 * STEP))
    await asyncio.to_thread(back_up, path, copy, nothing)
    await filling
    await store.close()

    assert {file.name for file in tmp_path.iterdir()} == {"store.db", "store.db.lock", "copy.db"}
    assert STEP <= (await tasks_in(copy) or 0) <= 40 * STEP


async def test_what_is_restored_is_the_backup_and_what_was_there_is_kept(tmp_path):
    path, copy = tmp_path / "store.db", tmp_path / "copy.db"
    await left_by_a_crash(path, copy)

    kept = await asyncio.to_thread(restore, copy, path, nothing)

    assert await tasks_in(path) == 2400
    assert kept == tmp_path / "store.db.replaced"
    assert await tasks_in(kept) == 22400
    await asyncio.to_thread(restore, kept, path, nothing)
    assert await tasks_in(path) == 22400


@pytest.mark.parametrize("moved", [[""], ["", "-wal"]], ids=["the file", "the file and its log"])
async def test_a_restore_that_was_interrupted_and_is_run_again_keeps_what_was_there(tmp_path, moved):
    path, copy = tmp_path / "store.db", tmp_path / "copy.db"
    await left_by_a_crash(path, copy)
    for suffix in moved:
        path.with_name(f"store.db{suffix}").rename(tmp_path / f"store.db.replaced{suffix}")

    kept = await asyncio.to_thread(restore, copy, path, nothing)

    assert await tasks_in(path) == 2400
    assert await tasks_in(kept) == 22400


async def test_a_second_restore_keeps_what_the_first_has_kept(tmp_path):
    path, copies = tmp_path / "store.db", [tmp_path / "one.db", tmp_path / "two.db"]
    store = await a_store(path)
    for end, copy in enumerate(copies, 1):
        await asyncio.to_thread(back_up, path, copy, nothing)
        await fill(store, end * STEP, (end + 1) * STEP)
    await store.close()

    kept = [await asyncio.to_thread(restore, copy, path, nothing) for copy in copies]

    assert [await tasks_in(one) for one in (path, *kept)] == [2 * STEP, 3 * STEP, STEP]


async def test_a_restore_where_nothing_was_makes_the_store(tmp_path):
    store = await a_store(tmp_path / "store.db")
    await store.close()
    assert restore(tmp_path / "store.db", tmp_path / "new" / "store.db", nothing) is None
    assert await tasks_in(tmp_path / "new" / "store.db") == STEP


async def test_a_copy_with_its_log_is_restored_whole(tmp_path):
    store = await a_store(tmp_path / "store.db")
    for suffix in ("", "-wal"):
        shutil.copy(tmp_path / f"store.db{suffix}", tmp_path / f"copy.db{suffix}")
    await store.close()
    restore(tmp_path / "copy.db", tmp_path / "other.db", nothing)
    assert await tasks_in(tmp_path / "other.db") == STEP


async def test_no_store_is_replaced_under_a_worker(tmp_path):
    path, copy = tmp_path / "store.db", tmp_path / "copy.db"
    store = await a_store(path)
    back_up(path, copy, nothing)
    with pytest.raises(StoreNotReadyError, match="in use by another worker"):
        restore(copy, path, nothing)
    await store.ping()
    await store.close()


@pytest.mark.parametrize("wrong", ["damaged", "text", "another program's", "newer", "empty", "missing"])
async def test_what_is_no_sound_store_is_not_restored(tmp_path, wrong):
    path, copy = tmp_path / "store.db", tmp_path / "copy.db"
    store = await a_store(path)
    back_up(path, copy, nothing)
    await store.close()
    spoil(copy, wrong)
    before = path.read_bytes()

    with pytest.raises(StoreNotReadyError):
        restore(copy, path, nothing)

    assert path.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} <= {"store.db", "store.db.lock", "copy.db"}


def spoil(copy: Path, wrong: str) -> None:
    match wrong:
        case "missing":
            copy.unlink()
        case "empty":
            copy.write_bytes(b"")
        case "text":
            copy.write_text("no database, but long enough to be looked at" * 100)
        case "damaged":
            with copy.open("r+b") as file:
                file.seek(copy.stat().st_size // 2)
                file.write(b"\xa5" * 8192)
        case _:
            with closing(sqlite3.connect(copy)) as connection, connection:
                change = "version = version + 10000000000" if wrong == "newer" else "version = -1"
                connection.execute(f"UPDATE schema_migrations SET {change} WHERE version = (SELECT {extreme(wrong)})")


def extreme(wrong: str) -> str:
    return f"{'max' if wrong == 'newer' else 'min'}(version) FROM schema_migrations"


async def test_a_copy_that_cannot_be_written_says_so_and_leaves_nothing(tmp_path):
    store = await a_store(tmp_path / "store.db")
    with pytest.raises(StoreError):
        back_up(tmp_path / "store.db", Path("/proc/copy.db"), nothing)
    await store.close()


# Put back by other means


async def test_a_backup_copied_over_a_file_whose_log_remains_is_noticed_before_anything_is_changed(tmp_path):
    path, copy = tmp_path / "store.db", tmp_path / "copy.db"
    await left_by_a_crash(path, copy)
    shutil.copy(copy, path)
    log = path.with_name("store.db-wal").read_bytes()

    store = SqliteStore(path)
    with pytest.raises(StoreNotReadyError, match="store restore"):
        await store.open()
    await store.close()

    assert path.with_name("store.db-wal").read_bytes() == log
    restore(copy, path, nothing)
    assert await tasks_in(path) == 2400


async def test_a_file_after_a_crash_is_looked_at_and_used(tmp_path):
    path = tmp_path / "store.db"
    await left_by_a_crash(path, tmp_path / "copy.db")
    assert await tasks_in(path) == 22400


async def test_looking_at_a_large_file_ends_in_time_and_the_start_goes_on(tmp_path, monkeypatch):
    path = tmp_path / "store.db"
    await left_by_a_crash(path, tmp_path / "copy.db")
    monkeypatch.setattr(sqlite_open, "_CHECK_S", 0)
    assert await tasks_in(path) == 22400
