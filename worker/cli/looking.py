"""Opens the store for operators' commands: read-only, beside running workers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from worker.cli.store import within
from worker.settings import Settings, SettingsError
from worker.stores.lookup import Lookup
from worker.stores.sqlite_lookup import SqliteLookup


@asynccontextmanager
async def looking(settings: Settings) -> AsyncIterator[Lookup]:
    """Give the store that the settings name.

    Raise StoreUnavailableError if it does not answer within the start timeout, StoreNotReadyError if somebody has to
    act, SettingsError if its driver is missing.
    """
    lookup = make_lookup(settings)
    try:
        await within(settings.start_timeout_s, lookup.open)
        yield lookup
    finally:
        await lookup.close()


def make_lookup(settings: Settings) -> Lookup:
    """Make the lookup; it is not open yet. Raise SettingsError if its driver is missing."""
    if settings.sqlite_path is not None:
        return SqliteLookup(settings.sqlite_path)
    try:
        from worker.stores.postgres_lookup import PostgresLookup  # noqa: PLC0415 - its driver is an extra
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise SettingsError("PostgreSQL needs its driver: install user-task-worker[postgres]") from None
    return PostgresLookup(settings.store_url.get_secret_value())
