"""What PostgreSQL and its driver raise, in the port's words."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from worker.stores.port import StoreError, StoreRefusedError, StoreUnavailableError

DRIVER_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""Timeouts are OSErrors, too."""

READ_ONLY: Final = asyncpg.ReadOnlySQLTransactionError

_SERIALIZATION: Final = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, lock timeout: the others' doing; nothing was written."""

_RACES: Final = frozenset({"user_tasks_pkey", "outcomes_command_key"})
"""Another worker has just written the same task or command id, through another partition."""

_REFUSALS: Final = ("22", "23", "54", "P0001")
"""Data exceptions, integrity violations, limits exceeded, and what a trigger raises: another try would end the same."""


def is_repeatable(error: BaseException) -> bool:
    """Tell whether the whole transaction, repeated at once, may succeed: the next one sees what was in its way."""
    sqlstate = getattr(error, "sqlstate", None)
    return sqlstate in _SERIALIZATION or (sqlstate == "23505" and getattr(error, "constraint_name", None) in _RACES)


def name_of(error: BaseException) -> str:
    """Give an error's type and code. Its text may repeat a value, or the password."""
    return " ".join(filter(None, (type(error).__name__, getattr(error, "sqlstate", None))))


@contextmanager
def errors_mapped() -> Iterator[None]:
    """Let no driver error pass the port."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise _mapped(error) from None


def _mapped(error: BaseException) -> StoreError:
    sqlstate = getattr(error, "sqlstate", None) or ""
    # the driver's own data error, for what does not fit its column, is a ValueError without a code
    refused = sqlstate.startswith(_REFUSALS) or (isinstance(error, ValueError) and not sqlstate)
    if refused and not is_repeatable(error):
        return StoreRefusedError(f"PostgreSQL: {name_of(error)}")
    return StoreUnavailableError(f"PostgreSQL: {name_of(error)}")
