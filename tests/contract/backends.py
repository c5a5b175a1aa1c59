"""The stores under test, each on data of its own, and what the tests ask them to hold."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg

from schemas.user_task import UserTaskState
from worker.encoder import OutgoingRecord
from worker.lifecycle import StoredTask
from worker.stores.port import Advance, Changes, Outcome, Snapshot, Store
from worker.stores.postgres import PostgresStore, migrate
from worker.stores.sqlite import SqliteStore

TOPIC = "commands"
REFUSED_KEY = 666

SQLITE_TRIGGER = f"""
CREATE TRIGGER refuse BEFORE INSERT ON user_tasks WHEN NEW.user_task_key = {REFUSED_KEY}
BEGIN SELECT RAISE(ABORT, 'secret'); END
"""
POSTGRES_TRIGGER = f"""
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'secret'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON user_tasks FOR EACH ROW WHEN (NEW.user_task_key = {REFUSED_KEY})
EXECUTE FUNCTION refuse();
"""


@dataclass(frozen=True)
class Backend:
    """One store's data; `make` gives a store on it that is not open."""

    name: str
    make: Callable[[], Store]
    url: str = ""
    path: Path = Path()

    async def refuse_one_key(self) -> None:
        """Let the database itself refuse REFUSED_KEY."""
        if self.name == "postgres":
            await execute(self.url, POSTGRES_TRIGGER)
        else:
            connection = sqlite3.connect(self.path)
            connection.execute(SQLITE_TRIGGER)
            connection.close()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Store]:
        store = self.make()
        await store.open()
        try:
            yield store
        finally:
            await store.close()


def sqlite_backend(folder: Path) -> Backend:
    path = folder / "store.db"
    return Backend("sqlite", lambda: SqliteStore(path), path=path)


@asynccontextmanager
async def fresh_schema(server_url: str) -> AsyncIterator[str]:
    """Give a URL that leads into an empty schema, which goes afterwards."""
    name = f"t_{uuid4().hex[:12]}"
    await execute(server_url, f"CREATE SCHEMA {name}")
    try:
        yield f"{server_url}{'&' if '?' in server_url else '?'}search_path={name}"
    finally:
        await execute(server_url, f"DROP SCHEMA {name} CASCADE")


@asynccontextmanager
async def postgres_backend(server_url: str) -> AsyncIterator[Backend]:
    async with fresh_schema(server_url) as url:
        await migrate(url)
        yield Backend("postgres", lambda: PostgresStore(url), url=url)


async def execute(url: str, statement: str) -> list[asyncpg.Record]:
    settings = {"client_min_messages": "warning", "default_transaction_read_only": "off"}
    connection = await asyncpg.connect(url, server_settings=settings)
    try:
        return (
            await connection.fetch(statement) if statement.startswith("SELECT") else await connection.execute(statement)
        )
    finally:
        await connection.close()


def a_task(key: int, version: int = 1, **changed: object) -> StoredTask:
    about = {"user_task_key": key, "state": UserTaskState.CREATED, "version": version}
    return StoredTask(**(about | {"attributes": '{"priority":50}', "variables": {}, "created_at_ms": 1} | changed))


def a_record(value: bytes | None = b"{}", **changed: object) -> OutgoingRecord:
    return OutgoingRecord("events", b"1", value, (("ce_id", b"1"),), 1)._replace(**changed)


def an_outcome(offset: int, command_key: bytes | None = None, partition: int = 0, **changed: object) -> Outcome:
    about = {"command_id": f"id-{offset}", "user_task_key": 1, "status": 204, "decided_at_ms": 1}
    occupied = {"command_key": command_key, "fingerprint": command_key and b"f" * 16, "records": (a_record(),)}
    return Outcome(**(about | occupied | {"partition": partition, "offset": offset} | changed))


def an_advance(applied: int, next_applied: int, partition: int = 0, owner: int = 1, published: int = 0) -> Advance:
    return Advance(partition=partition, owner=owner, applied=applied, next_applied=next_applied, published=published)


async def take_over(store: Store, *partitions: int) -> None:
    """Become the first owner of partitions, from offset 0 on."""
    assert await store.claim(TOPIC, dict.fromkeys(partitions, 0), "first") == set(partitions)
    for partition in partitions:
        await store.begin(TOPIC, partition, 1, 0)


async def save(
    store: Store, advances: Sequence[Advance], tasks: Sequence[StoredTask] = (), outcomes: Sequence[Outcome] = ()
) -> Snapshot:
    """Apply these changes, whatever is there, and give what they would have been decided on."""
    seen: list[Snapshot] = []

    def decide(snapshot: Snapshot) -> Changes:
        seen.append(snapshot)
        return Changes(tasks={task.user_task_key: task for task in tasks}, outcomes=list(outcomes))

    keys = {outcome.command_key for outcome in outcomes if outcome.command_key is not None}
    await store.apply(TOPIC, advances, {task.user_task_key for task in tasks}, keys, decide)
    return seen[-1]
