"""PostgreSQL's schema: checking that a database fits this release, and bringing it there."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import asyncpg

from worker.stores.migrations import Migration, migrations
from worker.stores.port import StoreNotReadyError
from worker.stores.postgres_errors import errors_mapped, name_of

CONNECT_TIMEOUT_S: Final = 5
_MIGRATION_LOCK_TIMEOUT_S: Final = 10
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
    settings = {
        "application_name": "user-task-worker migrate",
        "lock_timeout": f"{_MIGRATION_LOCK_TIMEOUT_S}s",
        "client_min_messages": "warning",
    }
    with setup_errors_mapped():
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, server_settings=settings)
        try:
            _check_server(connection)
            await connection.execute("SELECT pg_advisory_lock($1)", _MIGRATION_LOCK)
            await connection.execute(_CREATE_VERSIONS)
            return [await _apply(connection, migration) for migration in await _missing(connection)]
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT_S)  # and with it the lock


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
            except _FOR_A_PERSON as error:
                raise StoreNotReadyError(_in_words(error)) from None
    except ValueError:
        # a password with "/", "#" or "?" in it, for one: the parser's own text would repeat a part of it
        raise StoreNotReadyError(_IN_WORDS[asyncpg.ClientConfigurationError]) from None


_IN_WORDS: Final[dict[type[Exception], str]] = {
    asyncpg.InvalidCatalogNameError: "PostgreSQL has no database of the name in USERTASK_STORE_URL; create it",
    asyncpg.InvalidAuthorizationSpecificationError: "PostgreSQL refuses the user or password in USERTASK_STORE_URL",
    asyncpg.InsufficientPrivilegeError: "PostgreSQL's user lacks rights: to connect, to create or to use the tables",
    asyncpg.ClientConfigurationError: "USERTASK_STORE_URL is no PostgreSQL URL; special characters need %-encoding",
    ssl.SSLCertVerificationError: "PostgreSQL's certificate is not trusted",
}
_FOR_A_PERSON: Final = tuple(_IN_WORDS)


def _in_words(error: Exception) -> str:
    words = next(text for kind, text in _IN_WORDS.items() if isinstance(error, kind))
    return f"{words} ({name_of(error)})"


def _check_server(connection: Any) -> None:
    if connection.get_server_version().major < _SERVER_VERSION_MIN:
        raise StoreNotReadyError(f"PostgreSQL is older than {_SERVER_VERSION_MIN}")
    if connection.get_settings().server_encoding != "UTF8":
        raise StoreNotReadyError("the database's encoding is not UTF8, so not every command can be kept in it")


async def _missing(connection: Any) -> list[Migration]:
    applied = {row["version"] for row in await connection.fetch("SELECT version FROM schema_migrations")}
    known = migrations("postgres")
    if applied - {migration.version for migration in known}:
        raise StoreNotReadyError("the database's schema is newer than this release of the worker")
    return [migration for migration in known if migration.version not in applied]


async def _apply(connection: Any, migration: Migration) -> int:
    async with connection.transaction():
        await connection.execute(migration.sql)
        await connection.execute("INSERT INTO schema_migrations (version) VALUES ($1)", migration.version)
    return migration.version
