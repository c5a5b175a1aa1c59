"""The embedded store: one SQLite file, for one worker. The standard library's driver on a thread of its own."""

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, ParamSpec, TypeVar

from worker.encoder import OutgoingRecord
from worker.lifecycle import StoredTask
from worker.stores import sqlite_sql as sql
from worker.stores.port import (
    Adoption,
    Advance,
    Changes,
    First,
    PartitionRow,
    Snapshot,
    StoreFencedError,
    StoreRefusedError,
    StoreUnavailableError,
    TopicIdentity,
)
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
from worker.stores.sqlite_adoption import adopt
from worker.stores.sqlite_file import OpenFiles, lock, resolved, words_of
from worker.stores.sqlite_open import connect

P = ParamSpec("P")
T = TypeVar("T")

_PARAMETERS_MAX: Final = 10_000  # below SQLite's own limit of 32,766


class SqliteStore:
    """A `Store` in one SQLite file; in WAL mode, with an fsync for each commit."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _File(path)
        self._thread: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        await self._run(self._file.open)

    async def close(self) -> None:
        if self._thread is not None:
            await self._run(self._file.close)
            self._thread.shutdown(wait=False)
            self._thread = None

    async def ping(self) -> None:
        await self._run(self._file.query, "SELECT 1")

    async def partitions(self, topic: str, partitions: Collection[int]) -> Mapping[int, PartitionRow]:
        rows = await self._run(self._file.query, sql.PARTITIONS, (topic,))
        return partitions_from_rows(row for row in rows if row[0] in partitions)

    async def claim(self, topic: str, owners: Mapping[int, int], publisher: str) -> set[int]:
        return await self._run(self._file.claim, topic, owners, publisher)

    async def begin(self, topic: str, partition: int, owner: int, offset: int) -> None:
        if await self._run(self._file.change, sql.BEGIN, [(offset, offset, topic, partition, owner)]) != 1:
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
        return await self._run(self._file.apply, topic, advances, task_keys, command_keys, decide, asking_keys)

    async def recorded(
        self, topic: str, partition: int, first: int, end: int, limit: int
    ) -> list[tuple[int, list[OutgoingRecord]]]:
        rows = await self._run(self._file.query, sql.RECORDED, (topic, partition, first, end, limit))
        return recorded_from_rows(rows)

    async def note_published(self, topic: str, owners: Mapping[int, int], published: Mapping[int, int]) -> None:
        rows = [(offset, topic, partition, owners[partition]) for partition, offset in published.items()]
        await self._run(self._file.change, sql.NOTE_PUBLISHED, rows)

    async def identify(self, topic: str, owners: Mapping[int, int], identity: TopicIdentity) -> None:
        ids = (identity.cluster_id, identity.topic_id)
        await self._run(self._file.change, sql.IDENTIFY, [(*ids, topic, *owned) for owned in owners.items()])

    async def note_blocked(self, topic: str, owners: Mapping[int, int], reasons: Mapping[int, str | None]) -> None:
        rows = [(reason, topic, partition, owners[partition]) for partition, reason in reasons.items()]
        await self._run(self._file.change, sql.NOTE_BLOCKED, rows)

    async def note_lost(self, topic: str, owners: Mapping[int, int], ends: Mapping[int, int]) -> None:
        rows = [(end, topic, partition, owners[partition]) for partition, end in ends.items()]
        await self._run(self._file.change, sql.NOTE_LOST, rows)

    async def adopt(self, topic: str, identity: TopicIdentity | None, adoptions: Mapping[int, Adoption]) -> None:
        await self._run(self._file.adopt, topic, identity, adoptions)

    async def task(self, user_task_key: int) -> StoredTask | None:
        rows = await self._run(self._file.query, sql.SELECT_TASKS.format("?"), (user_task_key,))
        return task_from_row(rows[0]) if rows else None

    async def prune(self, decided_before_ms: int, limit: int) -> int:
        return await self._run(self._file.prune, decided_before_ms, limit)

    async def oldest_ms(self) -> int | None:
        [(decided_at_ms,)] = await self._run(self._file.query, sql.OLDEST)
        oldest: int | None = decided_at_ms
        return oldest

    async def clock_ms(self) -> int | None:
        return None

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._thread is None:
            raise StoreUnavailableError("the SQLite store is not open")
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))


class _File:
    """The file itself; every method runs on the store's thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: IO[str] | None = None
        self._connection: sqlite3.Connection | None = None
        self._files: OpenFiles | None = None

    def open(self) -> None:
        if self._connection is None:
            path = resolved(self._path)
            self._lock = self._lock or lock(path)
            with _errors_mapped():
                self._connection = connect(path)
            self._files = OpenFiles(path)

    def close(self) -> None:
        if self._connection:
            self._connection.close()
        if self._lock:
            self._lock.close()
        self._connection = self._lock = None

    def query(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with _errors_mapped():
            return self._open_connection().execute(statement, parameters).fetchall()

    def change(self, statement: str, rows: Sequence[Sequence[Any]]) -> int:
        with self._transaction() as connection:
            return connection.executemany(statement, rows).rowcount

    def claim(self, topic: str, owners: Mapping[int, int], publisher: str) -> set[int]:
        won = set()
        with self._transaction() as connection:
            for partition, owner in owners.items():
                if owner == 0:
                    cursor = connection.execute(sql.CLAIM_NEW, (topic, partition, publisher))
                else:
                    cursor = connection.execute(sql.CLAIM, (publisher, topic, partition, owner))
                if cursor.rowcount == 1:
                    won.add(partition)
        return won

    def apply(
        self,
        topic: str,
        advances: Sequence[Advance],
        task_keys: Collection[int],
        command_keys: Collection[bytes],
        decide: Callable[[Snapshot], Changes],
        asking_keys: Collection[bytes],
    ) -> Changes:
        with self._transaction() as connection:
            ids = {advance.partition: _advance(connection, topic, advance) for advance in advances}
            tasks = map(task_from_row, _select_in(connection, sql.SELECT_TASKS, task_keys))
            fingerprints = dict(_select_in(connection, sql.SELECT_OUTCOMES, command_keys))
            asked = [key for key in asking_keys if key in fingerprints]
            snapshot = Snapshot(
                tasks={task.user_task_key: task for task in tasks},
                fingerprints=fingerprints,
                first=_select_first(connection, asked),
            )
            changes = decide(snapshot)
            _save(connection, ids, snapshot, changes)
        return changes

    def adopt(self, topic: str, identity: TopicIdentity | None, adoptions: Mapping[int, Adoption]) -> None:
        with self._transaction() as connection:
            adopt(connection, topic, identity, adoptions)

    def prune(self, decided_before_ms: int, limit: int) -> int:
        """Prune partition by partition, each from its oldest outcome: one that stands still keeps no other."""
        left = limit
        with self._transaction() as connection:
            for partition_id, published in connection.execute("SELECT id, published FROM partitions").fetchall():
                left -= connection.execute(sql.PRUNE, (partition_id, published, left, decided_before_ms)).rowcount
        return limit - left

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _errors_mapped():
            connection = self._open_connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
                self._open_connection()  # raises if the commit went where a restart finds nothing
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None or self._files is None:
            raise StoreUnavailableError("the SQLite file is not open")
        self._files.raise_if_moved()
        return self._connection


def _advance(connection: sqlite3.Connection, topic: str, advance: Advance) -> int:
    row = connection.execute(
        sql.ADVANCE,
        (advance.next_applied, advance.published, topic, advance.partition, advance.owner, advance.applied),
    ).fetchone()
    if row is None:
        raise StoreFencedError(f"{topic}/{advance.partition} has another owner or stands elsewhere")
    partition_id: int = row[0]
    return partition_id


def _select_in(connection: sqlite3.Connection, statement: str, keys: Collection[Any]) -> Iterator[Any]:
    listed = list(keys)
    for start in range(0, len(listed), _PARAMETERS_MAX):
        some = listed[start : start + _PARAMETERS_MAX]
        yield from connection.execute(statement.format(",".join("?" * len(some))), some)


def _select_first(connection: sqlite3.Connection, asked: Collection[bytes]) -> dict[bytes, First]:
    raise_if_too_much(asked, sum(size for (size,) in _select_in(connection, sql.FIRST_BYTES, asked)))
    return first_from_rows(_select_in(connection, sql.SELECT_FIRST, asked))


def _save(connection: sqlite3.Connection, ids: Mapping[int, int], snapshot: Snapshot, changes: Changes) -> None:
    new = [task_to_row(task) for key, task in changes.tasks.items() if key not in snapshot.tasks]
    changed = [changed_task_to_row(task) for key, task in changes.tasks.items() if key in snapshot.tasks]
    connection.executemany(sql.INSERT_TASK, new)
    connection.executemany(sql.UPDATE_TASK, changed)
    outcomes = (outcome_to_row(ids[outcome.partition], outcome) for outcome in changes.outcomes)
    connection.executemany(sql.SAVE_OUTCOME, outcomes)


@contextmanager
def _errors_mapped() -> Iterator[None]:
    """Let no driver error pass the port. Its text may repeat a value, so only the type and code go on."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError) as error:
        raise StoreRefusedError(type(error).__name__) from None
    except sqlite3.Error as error:
        raise StoreUnavailableError(words_of(error)) from None
