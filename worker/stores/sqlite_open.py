"""Opening a worker's SQLite file: made and migrated where it has to be, and set for batches."""

import sqlite3
import time
from pathlib import Path
from typing import Final

from worker.stores.migrations import migrations
from worker.stores.port import StoreNotReadyError
from worker.stores.sqlite_file import words_for_a_person

BUSY_TIMEOUT_S: Final = 5

_VERSIONS: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY, applied_at_ms INTEGER NOT NULL) STRICT;
"""
_FOR_BATCHES: Final = ("wal_autocheckpoint = 4000", "cache_size = -16384")
"""Pages of 4 KiB in the log before they are moved to the file, and KiB of memory: a batch writes more than 2 MiB."""


def connect(path: Path) -> sqlite3.Connection:
    """Open a resolved, locked file. Raise StoreNotReadyError where a person has to act, and else sqlite3.Error."""
    connection = None
    try:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        _prepare(connection)
    except BaseException as error:
        if connection is not None:
            connection.close()
        words = words_for_a_person(error) if isinstance(error, sqlite3.Error) else None
        if words is None:
            raise
        raise StoreNotReadyError(words) from None
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    _migrate(connection)  # first: nothing is changed in a file that is another program's
    # NORMAL may lose committed transactions in a power cut, after their offsets have been committed to Kafka
    for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", *_FOR_BATCHES):
        connection.execute(f"PRAGMA {setting}")
    connection.execute("SELECT version FROM schema_migrations").fetchone()  # the first read makes what is beside it


def _migrate(connection: sqlite3.Connection) -> None:
    exists = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'schema_migrations'").fetchone()
    listed = connection.execute("SELECT version, applied_at_ms FROM schema_migrations") if exists else ()
    applied = {version for version, _ in listed}
    known = migrations("sqlite")
    if applied and known[0].version not in applied:
        raise StoreNotReadyError("the SQLite file is another program's: give the worker a file of its own")
    if applied - {migration.version for migration in known}:
        raise StoreNotReadyError("the SQLite file was written by a newer release of the worker")
    for migration in known:
        if migration.version not in applied:
            note = f"INSERT INTO schema_migrations VALUES ({migration.version}, {time.time_ns() // 1_000_000});"  # noqa: S608
            connection.executescript(f"BEGIN IMMEDIATE;\n{_VERSIONS}\n{migration.sql}\n{note}\nCOMMIT;")
