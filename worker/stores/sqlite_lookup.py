"""Looking things up in a SQLite file, also while a worker has it open: read-only, and without its lock."""

import asyncio
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from worker.encoder import OutgoingRecord
from worker.lifecycle import StoredTask
from worker.stores.lookup import OUTCOME_COLUMNS, Recorded, recorded_from_row, too_slow
from worker.stores.migrations import migrations
from worker.stores.port import PartitionRow, StoreNotReadyError, StoreUnavailableError
from worker.stores.rows import partitions_from_rows, recorded_from_rows, task_from_row
from worker.stores.sqlite_file import store_error_of, words_for_a_person, words_of
from worker.stores.sqlite_open import BUSY_TIMEOUT_S, STEPS_BETWEEN_LOOKS
from worker.stores.sqlite_sql import PARTITIONS, RECORDED

_TASK: Final = (
    "SELECT user_task_key, state, version, attributes, variables, created_at_ms, ended_at_ms"
    " FROM user_tasks WHERE user_task_key = ?"
)
_OUTCOMES: Final = f"SELECT {OUTCOME_COLUMNS} FROM outcomes o JOIN partitions p ON p.id = o.partition_id"  # noqa: S608 - a constant
_OF_KEY: Final = f"{_OUTCOMES} WHERE o.command_key = ?"
_AT: Final = f'{_OUTCOMES} WHERE p.topic = ? AND p.partition = ? AND o."offset" = ?'
_OF_ID: Final = f"{_OUTCOMES} WHERE o.command_id = ? ORDER BY o.decided_at_ms DESC LIMIT ?"


class SqliteLookup:
    """A `Lookup` in one SQLite file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        self._connection = self._connection or await asyncio.to_thread(_connect, self._path)

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    async def task(self, user_task_key: int) -> StoredTask | None:
        rows = await self._query(_TASK, user_task_key)
        return task_from_row(rows[0]) if rows else None

    async def partitions(self, topic: str) -> Mapping[int, PartitionRow]:
        return partitions_from_rows(await self._query(PARTITIONS, topic))

    async def outcome_of(self, command_key: bytes) -> Recorded | None:
        return _first(await self._query(_OF_KEY, command_key))

    async def outcome_at(self, topic: str, partition: int, offset: int) -> Recorded | None:
        return _first(await self._query(_AT, topic, partition, offset))

    async def recorded(
        self, topic: str, partition: int, first: int, end: int, limit: int
    ) -> list[tuple[int, list[OutgoingRecord]]]:
        rows = await self._query(RECORDED, topic, partition, first, end, limit)
        return recorded_from_rows(rows)

    async def search(self, command_id: str, limit: int, timeout_s: float) -> list[Recorded]:
        deadline = time.monotonic() + timeout_s
        connection = self._opened()
        connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_BETWEEN_LOOKS)
        try:
            return [recorded_from_row(row) for row in await self._query(_OF_ID, command_id, limit)]
        except StoreUnavailableError:
            if time.monotonic() > deadline:
                raise StoreUnavailableError(too_slow(timeout_s)) from None
            raise
        finally:
            connection.set_progress_handler(None, 0)

    async def _query(self, sql: str, *parameters: object) -> list[Any]:
        return await asyncio.to_thread(_fetch, self._opened(), sql, parameters)

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreUnavailableError("the SQLite file is not open")
        return self._connection


def _connect(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise StoreNotReadyError(f"there is no SQLite file {path}: no worker has run on it")
    try:
        # as the file's owner, not with `immutable`: it is read while a worker writes
        uri = f"{path.absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    except sqlite3.Error as error:
        raise StoreNotReadyError(words_for_a_person(error) or words_of(error)) from None
    try:
        _check_schema(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_schema(connection: sqlite3.Connection) -> None:
    try:
        applied = {version for (version,) in connection.execute("SELECT version FROM schema_migrations")}
    except sqlite3.DatabaseError as error:
        raise store_error_of(error) from None
    if applied != {migration.version for migration in migrations("sqlite")}:
        raise StoreNotReadyError("the SQLite file was written by another release of the worker: `run` brings it up")


def _fetch(connection: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> list[Any]:
    with _errors_mapped():
        return connection.execute(sql, parameters).fetchall()


def _first(rows: Sequence[Any]) -> Recorded | None:
    return recorded_from_row(rows[0]) if rows else None


@contextmanager
def _errors_mapped() -> Iterator[None]:
    """Let no driver error pass the port, nor its text."""
    try:
        yield
    except OverflowError as error:
        raise StoreUnavailableError(f"SQLite: {type(error).__name__}") from None
    except sqlite3.Error as error:
        raise store_error_of(error) from None
