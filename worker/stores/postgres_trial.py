"""Trying to write to PostgreSQL as a worker does, in a transaction that is rolled back."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final
from uuid import uuid4

import asyncpg

from worker.stores import postgres_sql as sql
from worker.stores.port import StoreNotReadyError
from worker.stores.postgres_connect import CONNECT_TIMEOUT_S, Connector
from worker.stores.postgres_errors import DRIVER_ERRORS, READ_ONLY
from worker.stores.postgres_pruning import PRUNE, Places
from worker.stores.postgres_schema import DURABLE, setup_errors_mapped

_TIMEOUT_S: Final = 10
_CLIENT_TIMEOUT_S: Final = 15
_SETTINGS: Final = DURABLE | dict.fromkeys(("statement_timeout", "lock_timeout"), f"{_TIMEOUT_S}s")


async def try_to_write(url: str) -> None:
    """Raise StoreNotReadyError unless a worker may write here, StoreUnavailableError if the server does not answer."""
    with setup_errors_mapped():
        connector = Connector(url, "user-task-worker check", command_timeout_s=_CLIENT_TIMEOUT_S)
        connection = await connector.connect()
        try:
            await connection.execute(connector.beginning(_SETTINGS))
            await _write(connection)
            await connection.execute("ROLLBACK")
        except READ_ONLY:
            raise StoreNotReadyError(
                "PostgreSQL takes no writes from here: it is a standby, or the user or the database is read-only"
            ) from None
        finally:
            with suppress(*DRIVER_ERRORS):
                await connection.close(timeout=CONNECT_TIMEOUT_S)
            connection.terminate()


async def _write(connection: Any) -> None:
    """Write what a worker writes, under a topic and a key that no worker has."""
    topic, key = f"user-task-worker-check-{uuid4()}", -1 - secrets.randbelow(2**62)
    await _try(connection, "insert into partitions", sql.CLAIM_NEW, topic, [0], topic)
    await _try(connection, "update partitions", sql.CLAIM, topic, [0], [1], topic)
    await _try(connection, "update partitions", sql.BEGIN, topic, 0, 2, 0)
    [held] = await _try(connection, "update partitions", sql.ADVANCE, topic, [0], [2], [0], [1], [0])
    await _try(
        connection, "insert into user_tasks", sql.INSERT_TASKS, [key], ["CREATED"], [1], ["{}"], ["{}"], [0], [0]
    )
    await _try(connection, "update user_tasks", sql.LOAD_TASKS, [key])
    await _try(connection, "update user_tasks", sql.UPDATE_TASKS, ["CANCELED"], [2], ["{}"], [0], [key])
    outcome = (held["id"], 0, None, None, "check", key, 204, 0, b"")
    with _named("insert into outcomes"):
        await connection.copy_records_to_table("outcomes", records=[outcome], columns=sql.OUTCOME_COLUMNS)
    await _try(connection, "delete from outcomes", PRUNE, 0, 1, *Places().columns())


async def _try(connection: Any, right: str, statement: str, *parameters: object) -> list[Any]:
    with _named(right):
        rows: list[Any] = await connection.fetch(statement, *parameters)
    return rows


@contextmanager
def _named(right: str) -> Iterator[None]:
    """Name the right that is missing: the driver's own words are not passed on."""
    try:
        yield
    except asyncpg.InsufficientPrivilegeError:
        raise StoreNotReadyError(f"PostgreSQL's user has no right to {right}: grant it") from None
