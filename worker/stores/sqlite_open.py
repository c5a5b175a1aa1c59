"""Opening a worker's SQLite file: made and migrated where it has to be, and set for batches."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

import structlog

from worker.stores.migrations import migrations
from worker.stores.port import StoreNotReadyError
from worker.stores.sqlite_file import beside, words_for_a_person

log = structlog.stdlib.get_logger(__name__)

BUSY_TIMEOUT_S: Final = 5

_VERSIONS: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY, applied_at_ms INTEGER NOT NULL) STRICT;
"""
_CHECK_S: Final = 10
"""Enough for half a gigabyte and more. What takes longer is not looked at to its end: a start must not wait for it."""
STEPS_BETWEEN_LOOKS: Final = 10_000
"""SQLite's instructions between two looks at the clock: about a millisecond."""
_FOR_BATCHES: Final = ("wal_autocheckpoint = 4000", "cache_size = -16384")
"""Pages of 4 KiB in the log before they are moved to the file, and KiB of memory: a batch writes more than 2 MiB."""


def connect(path: Path) -> sqlite3.Connection:
    """Open a resolved, locked file. Raise StoreNotReadyError where a person has to act, and else sqlite3.Error."""
    try:
        _check_after_a_crash(path)
        return _connect(path)
    except sqlite3.Error as error:
        words = words_for_a_person(error)
        if words is None:
            raise
        raise StoreNotReadyError(words) from None


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_after_a_crash(path: Path) -> None:
    """Look for damage where a log was left behind, for it may belong to another file than the one beside it.

    Read-only, since opening to write would move the log into the file, and closing would delete it. Then not even its
    removal would help. Raise StoreNotReadyError, or sqlite3.Error.
    """
    left = beside(path, "-wal")
    if not (path.exists() and left.exists() and left.stat().st_size):
        return  # a clean stop deletes it
    started_s = time.monotonic()
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)) as connection:
        connection.set_progress_handler(lambda: time.monotonic() - started_s > _CHECK_S, STEPS_BETWEEN_LOOKS)
        try:
            found = connection.execute("PRAGMA quick_check(1)").fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            log.warning("sqlite_check_cut_short", limit_s=_CHECK_S)
            return
    if found != [("ok",)]:
        raise StoreNotReadyError(
            "the SQLite file is damaged (quick_check, after a stop that was not clean). If a backup was copied over it,"
            " the -wal beside it is of another file: use `user-task-worker store restore`"
            " (docs/operating.md, Backup and restore)"
        )
    log.info("sqlite_checked", seconds=round(time.monotonic() - started_s, 3))


def _prepare(connection: sqlite3.Connection) -> None:
    _migrate(connection)  # first: nothing is changed in a file that is another program's
    # NORMAL may lose committed transactions in a power cut, after their offsets have been committed to Kafka
    for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", *_FOR_BATCHES):
        connection.execute(f"PRAGMA {setting}")
    connection.execute("SELECT version FROM schema_migrations").fetchone()  # the first read makes what is beside it


def applied_versions(connection: sqlite3.Connection) -> set[int]:
    """Return the migrations that a file has; none of an empty one. Raise StoreNotReadyError if they are no worker's."""
    exists = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'schema_migrations'").fetchone()
    listed = connection.execute("SELECT version, applied_at_ms FROM schema_migrations") if exists else ()
    applied = {version for version, _ in listed}
    known = migrations("sqlite")
    if applied and known[0].version not in applied:
        raise StoreNotReadyError("the SQLite file is another program's: give the worker a file of its own")
    if applied - {migration.version for migration in known}:
        raise StoreNotReadyError("the SQLite file was written by a newer release of the worker")
    return applied


def _migrate(connection: sqlite3.Connection) -> None:
    applied = applied_versions(connection)
    for migration in migrations("sqlite"):
        if migration.version not in applied:
            note = f"INSERT INTO schema_migrations VALUES ({migration.version}, {time.time_ns() // 1_000_000});"  # noqa: S608
            connection.executescript(f"BEGIN IMMEDIATE;\n{_VERSIONS}\n{migration.sql}\n{note}\nCOMMIT;")
