"""Looking things up in PostgreSQL: one connection, in transactions that can write nothing."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import asyncpg

from worker.encoder import OutgoingRecord
from worker.lifecycle import StoredTask
from worker.stores.lookup import OUTCOME_COLUMNS, Recorded, recorded_from_row, too_slow
from worker.stores.port import PartitionRow, StoreUnavailableError
from worker.stores.postgres_connect import CONNECT_TIMEOUT_S, Connector, transaction
from worker.stores.postgres_errors import DRIVER_ERRORS, errors_mapped
from worker.stores.postgres_schema import DURABLE, check_durability, check_schema, setup_errors_mapped
from worker.stores.postgres_sql import RECORDED, TASK
from worker.stores.rows import PARTITION_COLUMNS, partitions_from_rows, recorded_from_rows, task_from_row

_STATEMENT_TIMEOUT_S: Final = 10
_CLIENT_PATIENCE_S: Final = 5
"""By how much longer than the server the client waits: the server's answer says more than silence."""
_COMMAND_TIMEOUT_S: Final = _STATEMENT_TIMEOUT_S + _CLIENT_PATIENCE_S

_PARTITIONS: Final = f"SELECT {PARTITION_COLUMNS} FROM partitions WHERE topic = $1"  # noqa: S608 - a constant
_OUTCOMES: Final = f"SELECT {OUTCOME_COLUMNS} FROM outcomes o JOIN partitions p ON p.id = o.partition_id"  # noqa: S608 - a constant
_OF_KEY: Final = f"{_OUTCOMES} WHERE o.command_key = $1"
_AT: Final = f'{_OUTCOMES} WHERE p.topic = $1 AND p.partition = $2 AND o."offset" = $3'
_OF_ID: Final = f"{_OUTCOMES} WHERE o.command_id = $1 ORDER BY o.decided_at_ms DESC LIMIT $2"


class PostgresLookup:
    """A `Lookup` in a PostgreSQL database."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connector: Connector | None = None
        self._connection: Any = None

    async def open(self) -> None:
        if self._connection is not None:
            return
        with setup_errors_mapped():
            self._connector = Connector(self._url, "user-task-worker lookup", command_timeout_s=_COMMAND_TIMEOUT_S)
            connection = await self._connector.connect()
            try:
                async with transaction(connection, self._beginning()):
                    await check_schema(connection)
                    await check_durability(connection)
            except BaseException:
                connection.terminate()
                raise
            self._connection = connection

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*DRIVER_ERRORS):
                await connection.close(timeout=CONNECT_TIMEOUT_S)
            connection.terminate()

    async def task(self, user_task_key: int) -> StoredTask | None:
        rows = await self._fetch(TASK, user_task_key)
        return task_from_row(rows[0]) if rows else None

    async def partitions(self, topic: str) -> Mapping[int, PartitionRow]:
        return partitions_from_rows(await self._fetch(_PARTITIONS, topic))

    async def outcome_of(self, command_key: bytes) -> Recorded | None:
        return _first(await self._fetch(_OF_KEY, command_key))

    async def outcome_at(self, topic: str, partition: int, offset: int) -> Recorded | None:
        return _first(await self._fetch(_AT, topic, partition, offset))

    async def recorded(
        self, topic: str, partition: int, first: int, end: int, limit: int
    ) -> list[tuple[int, list[OutgoingRecord]]]:
        rows = await self._fetch(RECORDED, topic, partition, first, end, limit)
        return recorded_from_rows(rows)

    async def search(self, command_id: str, limit: int, timeout_s: float) -> list[Recorded]:
        with errors_mapped():
            try:
                async with transaction(self._opened(), self._beginning(timeout_s)):
                    rows = await self._opened().fetch(_OF_ID, command_id, limit, timeout=timeout_s + _CLIENT_PATIENCE_S)
            except asyncpg.QueryCanceledError:
                raise StoreUnavailableError(too_slow(timeout_s)) from None
        return [recorded_from_row(row) for row in rows]

    async def _fetch(self, statement: str, *parameters: object) -> list[Any]:
        with errors_mapped():
            async with transaction(self._opened(), self._beginning()):
                rows: list[Any] = await self._opened().fetch(statement, *parameters)
        return rows

    def _beginning(self, timeout_s: float = _STATEMENT_TIMEOUT_S) -> str:
        """Write what begins a transaction that writes nothing; a read-only session would look like a standby."""
        assert self._connector is not None, "open"
        settings = DURABLE | {"statement_timeout": f"{timeout_s * 1000:.0f}ms"}
        return self._connector.beginning(settings, is_read_only=True)

    def _opened(self) -> Any:
        if self._connection is None:
            raise StoreUnavailableError("the PostgreSQL store is not open")
        return self._connection


def _first(rows: Sequence[Any]) -> Recorded | None:
    return recorded_from_row(rows[0]) if rows else None
