"""The store for many workers: PostgreSQL 14 or later, by set-based statements, one transaction for each batch."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeVar

import asyncpg

from worker.encoder import OutgoingRecord
from worker.lifecycle import StoredTask
from worker.stores import postgres_sql as sql
from worker.stores.port import (
    Adoption,
    Advance,
    Changes,
    First,
    Outcome,
    PartitionRow,
    Snapshot,
    StoreFencedError,
    StoreNotReadyError,
    StoreUnavailableError,
    TopicIdentity,
)
from worker.stores.postgres_adoption import adopt
from worker.stores.postgres_connect import Connector, transaction
from worker.stores.postgres_errors import DRIVER_ERRORS, READ_ONLY, errors_mapped, is_repeatable, name_of
from worker.stores.postgres_pruning import OLDEST, PRUNE, Places
from worker.stores.postgres_schema import DURABLE, check_durability, check_schema, migrate, setup_errors_mapped
from worker.stores.rows import (
    changed_task_to_row,
    first_from_rows,
    outcome_to_row,
    partitions_from_rows,
    raise_if_too_much,
    recorded_from_rows,
    task_from_row,
    task_to_row,
)

__all__ = ["PostgresStore", "migrate"]

T = TypeVar("T")

_CONNECTIONS_MAX: Final = 4
_ATTEMPTS_MAX: Final = 5
_CLOSE_TIMEOUT_S: Final = 5
_CLIENT_PATIENCE: Final = 1.5
"""By how much longer than the server the client waits: the server's answer says more than silence."""


class PostgresStore:
    """A `Store` in a PostgreSQL database."""

    def __init__(self, url: str, *, statement_timeout_s: float = 10, lock_timeout_s: float = 5) -> None:
        self._url = url
        self._timeout_s = statement_timeout_s * _CLIENT_PATIENCE
        self._settings = {
            "statement_timeout": f"{statement_timeout_s * 1000:.0f}ms",
            "lock_timeout": f"{lock_timeout_s * 1000:.0f}ms",
            # a worker that was paused in a transaction must not keep its successor waiting
            "idle_in_transaction_session_timeout": f"{statement_timeout_s * 1000:.0f}ms",
        } | DURABLE
        self._begin = ""
        self._acquire_timeout_s = self._timeout_s
        self._pool: Any = None
        self._places = Places()

    async def open(self) -> None:
        if self._pool is not None:
            return
        with setup_errors_mapped():
            connector = Connector(self._url, "user-task-worker", command_timeout_s=self._timeout_s)
            self._begin = connector.beginning(self._settings)
            self._acquire_timeout_s = connector.patience_s(self._timeout_s)
            pool = await asyncpg.create_pool(
                connect=connector.connect,
                min_size=0,  # asyncpg would log every attempt to keep more alive during an outage
                max_size=_CONNECTIONS_MAX,
                reset=_leave_as_is,
            )
            try:
                async with (
                    pool.acquire(timeout=self._acquire_timeout_s) as connection,
                    transaction(connection, self._begin),
                ):
                    await check_schema(connection)
                    await check_durability(connection)
            except BaseException:
                pool.terminate()
                raise
            self._pool = pool

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        with suppress(*DRIVER_ERRORS):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await pool.close()
        pool.terminate()

    async def ping(self) -> None:
        with errors_mapped():
            async with self._connection() as connection:
                if await connection.execute(sql.TAKES_WRITES) != "SELECT 1":
                    raise READ_ONLY

    async def partitions(self, topic: str, partitions: Collection[int]) -> Mapping[int, PartitionRow]:
        rows = await self._fetch(sql.PARTITIONS, topic, list(partitions))
        return partitions_from_rows(rows)

    async def claim(self, topic: str, owners: Mapping[int, int], publisher: str) -> set[int]:
        new = [partition for partition, owner in owners.items() if owner == 0]
        old = {partition: owner for partition, owner in owners.items() if owner != 0}

        async def work(connection: Any) -> set[int]:
            won = await connection.fetch(sql.CLAIM_NEW, topic, new, publisher) if new else []
            if old:
                won += await connection.fetch(sql.CLAIM, topic, list(old), list(old.values()), publisher)
            return {row["partition"] for row in won}

        return await self._transact(work)

    async def begin(self, topic: str, partition: int, owner: int, offset: int) -> None:
        async def work(connection: Any) -> bool:
            return await connection.fetchval(sql.BEGIN, topic, partition, owner, offset) is not None

        if not await self._transact(work):
            raise StoreFencedError(f"{topic}/{partition} has another owner or has begun")

    async def apply(
        self,
        topic: str,
        advances: Sequence[Advance],
        task_keys: Collection[int],
        command_keys: Collection[bytes],
        decide: Callable[[Snapshot], Changes],
        asking_keys: Collection[bytes] = (),
    ) -> Changes:
        async def work(connection: Any) -> Changes:
            ids = await _advance(connection, topic, advances)
            snapshot = await _load(connection, task_keys, command_keys, asking_keys)
            changes = decide(snapshot)
            await _save_tasks(connection, changes.tasks, snapshot.tasks)
            await _save_outcomes(connection, ids, changes.outcomes)
            return changes

        return await self._transact(work)

    async def recorded(
        self, topic: str, partition: int, first: int, end: int, limit: int
    ) -> list[tuple[int, list[OutgoingRecord]]]:
        rows = await self._fetch(sql.RECORDED, topic, partition, first, end, limit)
        return recorded_from_rows(rows)

    async def note_published(self, topic: str, owners: Mapping[int, int], published: Mapping[int, int]) -> None:
        counts = [owners[partition] for partition in published]

        async def work(connection: Any) -> None:
            await connection.execute(sql.NOTE_PUBLISHED, topic, list(published), counts, list(published.values()))

        await self._transact(work)

    async def identify(self, topic: str, owners: Mapping[int, int], identity: TopicIdentity) -> None:
        ids = (identity.cluster_id, identity.topic_id)
        await self._change_each(sql.IDENTIFY, [(topic, *owned, *ids) for owned in sorted(owners.items())])

    async def note_blocked(self, topic: str, owners: Mapping[int, int], reasons: Mapping[int, str | None]) -> None:
        rows = [(topic, partition, owners[partition], reason) for partition, reason in sorted(reasons.items())]
        await self._change_each(sql.NOTE_BLOCKED, rows)

    async def note_lost(self, topic: str, owners: Mapping[int, int], ends: Mapping[int, int]) -> None:
        rows = [(topic, partition, owners[partition], end) for partition, end in sorted(ends.items())]
        await self._change_each(sql.NOTE_LOST, rows)

    async def adopt(self, topic: str, identity: TopicIdentity | None, adoptions: Mapping[int, Adoption]) -> None:
        await self._transact(lambda connection: adopt(connection, topic, identity, adoptions))

    async def task(self, user_task_key: int) -> StoredTask | None:
        rows = await self._fetch(sql.TASK, user_task_key)
        return task_from_row(rows[0]) if rows else None

    async def prune(self, decided_before_ms: int, limit: int) -> int:
        async def work(connection: Any) -> list[Any]:
            rows: list[Any] = await connection.fetch(PRUNE, decided_before_ms, limit, *self._places.columns())
            return rows

        rows = await self._transact(work)
        self._places.note((number, place) for number, place, _ in rows)
        return sum(count for *_, count in rows)

    async def oldest_ms(self) -> int | None:
        rows = await self._fetch(OLDEST, *self._places.columns())
        self._places.note((number, place) for number, place, _ in rows)
        return min((decided_at_ms for *_, decided_at_ms in rows), default=None)

    async def clock_ms(self) -> int | None:
        [(now_ms,)] = await self._fetch(sql.CLOCK)
        return int(now_ms)

    async def _change_each(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        async def work(connection: Any) -> None:
            await connection.executemany(statement, rows)

        await self._transact(work)

    async def _fetch(self, statement: str, *parameters: object) -> list[Any]:
        with errors_mapped():
            async with self._connection() as connection, transaction(connection, self._begin):
                rows: list[Any] = await connection.fetch(statement, *parameters)
        return rows

    async def _transact(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Run `work` in a transaction, as a whole and anew where another worker was in its way."""
        obstacle = ""
        for _ in range(_ATTEMPTS_MAX):
            with errors_mapped():
                try:
                    async with self._connection() as connection, transaction(connection, self._begin):
                        return await work(connection)
                except asyncpg.PostgresError as error:
                    if not is_repeatable(error):
                        raise
                    obstacle = name_of(error)
        raise StoreUnavailableError(f"PostgreSQL: {obstacle}, {_ATTEMPTS_MAX} times in a row")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        pool = self._pool
        if pool is None:
            raise StoreUnavailableError("the PostgreSQL store is not open")
        try:
            async with pool.acquire(timeout=self._acquire_timeout_s) as connection:
                try:
                    yield connection
                except TimeoutError:
                    connection.terminate()  # it does not answer: to say goodbye would take as long again
                    raise
                except READ_ONLY:
                    await pool.expire_connections()  # the server became a standby: look for its successor
                    raise
        except StoreNotReadyError as error:  # a file that the URL names is gone, while the worker runs
            raise StoreUnavailableError(str(error)) from None


async def _leave_as_is(_connection: Any) -> None:
    """Save a round trip: no statement here changes the session, and asyncpg ends transactions by itself."""


async def _advance(connection: Any, topic: str, advances: Sequence[Advance]) -> dict[int, int]:
    """Move the partitions on; they stay locked. Return their ids."""
    rows = [(a.partition, a.owner, a.applied, a.next_applied, a.published) for a in advances]
    held = await connection.fetch(sql.ADVANCE, topic, *_columns(rows, 5))
    ids: dict[int, int] = {row["partition"]: row["id"] for row in held}
    if len(ids) != len(advances):
        lost = ", ".join(f"{topic}/{a.partition}" for a in advances if a.partition not in ids)
        raise StoreFencedError(f"{lost}: another owner, or another offset")
    return ids


async def _load(
    connection: Any, task_keys: Collection[int], command_keys: Collection[bytes], asking_keys: Collection[bytes]
) -> Snapshot:
    tasks = await connection.fetch(sql.LOAD_TASKS, list(task_keys)) if task_keys else []
    outcomes = await connection.fetch(sql.LOAD_OUTCOMES, list(command_keys)) if command_keys else []
    fingerprints: dict[bytes, bytes] = dict(outcomes)
    asked = [key for key in asking_keys if key in fingerprints]
    return Snapshot(
        tasks={row["user_task_key"]: task_from_row(row) for row in tasks},
        fingerprints=fingerprints,
        first=await _load_first(connection, asked) if asked else {},
    )


async def _load_first(connection: Any, asked: Sequence[bytes]) -> dict[bytes, First]:
    raise_if_too_much(asked, await connection.fetchval(sql.FIRST_BYTES, asked))
    return first_from_rows(await connection.fetch(sql.LOAD_FIRST, asked))


async def _save_tasks(connection: Any, tasks: Mapping[int, StoredTask], loaded: Collection[int]) -> None:
    ordered = sorted(tasks.items())
    new = [task_to_row(task) for key, task in ordered if key not in loaded]
    changed = [changed_task_to_row(task) for key, task in ordered if key in loaded]
    if new:
        await connection.execute(sql.INSERT_TASKS, *_columns(new, 7))
    if changed:
        await connection.execute(sql.UPDATE_TASKS, *_columns(changed, 5))


async def _save_outcomes(connection: Any, ids: Mapping[int, int], outcomes: Sequence[Outcome]) -> None:
    if not outcomes:
        return
    # in one order for all workers: two batches with the same command ids then wait for each other, but never in a ring
    ordered = sorted(outcomes, key=lambda outcome: outcome.command_key or b"")
    rows = [outcome_to_row(ids[one.partition], one) for one in ordered]
    await connection.copy_records_to_table("outcomes", records=rows, columns=sql.OUTCOME_COLUMNS)


def _columns(rows: Sequence[Sequence[Any]], count: int) -> list[Sequence[Any]]:
    return list(zip(*rows, strict=True)) if rows else [()] * count
