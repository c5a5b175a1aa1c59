"""PostgreSQL's schema: checking that a database fits this release, and bringing it there."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import asyncpg

from worker.stores.migrations import Migration, migrations
from worker.stores.port import StoreNotReadyError
from worker.stores.postgres_connect import CONNECT_TIMEOUT_S, Connector, transaction
from worker.stores.postgres_errors import ANOTHER_TOOLS, errors_mapped, words_for_a_person
from worker.stores.postgres_url import StoreUrlError

DURABLE: Final = {"synchronous_commit": "on"}
"""A lost commit would be found missing behind offsets that Kafka has."""

_MIGRATION_LOCK_TIMEOUT_S: Final = 30
_SERVER_VERSION_MIN: Final = 14
_MIGRATION_LOCK: Final = 0x7573_6572_7461_736B
"""The number of the advisory lock under which schemas are changed: "usertask" in ASCII."""

_CREATE_VERSIONS: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations
    (version INTEGER PRIMARY KEY, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())
"""


async def migrate(url: str) -> list[int]:
    """Bring a database's schema to this release's, and return the versions that were missing.

    May be repeated, and run by several at once: each migration is one transaction, and one caller waits for the other.
    Raise StoreNotReadyError where a person has to act, StoreUnavailableError if the server does not answer in time.
    """
    settings = {"lock_timeout": f"{_MIGRATION_LOCK_TIMEOUT_S}s", "client_min_messages": "warning"}
    with setup_errors_mapped():
        connector = Connector(url, "user-task-worker migrate")
        connection = await connector.connect()
        try:
            async with transaction(connection, connector.beginning(settings)):
                return await _migrate(connection)
        except asyncpg.LockNotAvailableError:
            raise StoreNotReadyError(
                f"the migration waited {_MIGRATION_LOCK_TIMEOUT_S} s for another one, or for a transaction on the"
                " worker's tables: end that (pg_stat_activity shows it), then try again"
            ) from None
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT_S)


async def _migrate(connection: Any) -> list[int]:
    _check_server(connection)
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
    await connection.execute(_CREATE_VERSIONS)
    missing = await _missing(connection)
    for migration in missing:
        await connection.execute(migration.sql)
        await connection.execute("INSERT INTO schema_migrations (version) VALUES ($1)", migration.version)
    return [migration.version for migration in missing]


async def check_durability(connection: Any) -> None:
    """Raise StoreNotReadyError unless this transaction has kept what DURABLE has set at its beginning."""
    for name, wanted in DURABLE.items():
        found = await connection.fetchval("SELECT current_setting($1)", name)
        if found != wanted:
            raise StoreNotReadyError(
                f"PostgreSQL commits with {name}={found}, though the worker has set it to {wanted}: something between"
                " the two drops what is set in a transaction"
            )


async def check_schema(connection: Any) -> None:
    """Raise StoreNotReadyError unless the server and the schema are what this release needs."""
    _check_server(connection)
    try:
        missing = await _missing(connection)
    except asyncpg.UndefinedTableError:
        missing = migrations("postgres")
    if missing:
        raise StoreNotReadyError(
            "the database's schema is behind this release, or not there: run `user-task-worker store migrate`"
        )


@contextmanager
def setup_errors_mapped() -> Iterator[None]:
    """Put into words what only a person can put right. The words hold nothing of the URL, for the password's sake."""
    try:
        with errors_mapped():
            try:
                yield
            except Exception as error:
                words = words_for_a_person(error)
                if words is None:
                    raise
                raise StoreNotReadyError(words) from None
    except StoreUrlError as error:
        raise StoreNotReadyError(f"USERTASK_STORE_URL: {error}") from None


def _check_server(connection: Any) -> None:
    if connection.get_server_version().major < _SERVER_VERSION_MIN:
        raise StoreNotReadyError(f"PostgreSQL is older than {_SERVER_VERSION_MIN}")
    if connection.get_settings().server_encoding != "UTF8":
        raise StoreNotReadyError("the database's encoding is not UTF8, so not every command can be kept in it")


async def _missing(connection: Any) -> list[Migration]:
    rows = await connection.fetch("SELECT version, applied_at FROM schema_migrations")
    applied = {row["version"] for row in rows}
    known = migrations("postgres")
    if applied and known[0].version not in applied:
        raise StoreNotReadyError(ANOTHER_TOOLS)
    if applied - {migration.version for migration in known}:
        raise StoreNotReadyError("the database's schema is newer than this release of the worker")
    return [migration for migration in known if migration.version not in applied]
