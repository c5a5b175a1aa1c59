"""What PostgreSQL and its driver raise, in the port's words."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from worker.stores.port import StoreError, StoreRefusedError, StoreUnavailableError

DRIVER_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""Timeouts are OSErrors, too."""

READ_ONLY: Final = asyncpg.ReadOnlySQLTransactionError

_SERIALIZATION: Final = frozenset({"40001", "40P01"})
"""Serialization failure, deadlock: the others' doing, and over; a lock that was waited for in vain may last."""

_RACES: Final = frozenset({"user_tasks_pkey", "outcomes_command_key"})
"""Another worker has just written the same task or command id, through another partition."""

_REFUSALS: Final = ("22", "23", "54", "P0001")
"""Data exceptions, integrity violations, limits exceeded, and what a trigger raises: another try would end the same."""


_MEANINGS: Final[dict[type[Exception], str]] = {
    socket.gaierror: "the host's name does not resolve",
    asyncpg.TargetServerAttributeNotMatched: "no host is what target_session_attrs asks for",
    asyncpg.LockNotAvailableError: "somebody keeps a lock",
    READ_ONLY: "the server takes no writes: it is a standby, or default_transaction_read_only is on",
    asyncpg.InsufficientPrivilegeError: "the user lacks a right, see docs/operating.md, Rights in PostgreSQL",
}


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


def words_for_a_person(error: Exception) -> str | None:
    """Put into words what was met while setting up and no waiting mends, or return None for an outage.

    The words hold nothing of the driver's, which may repeat the URL.
    """
    for kind, words in _IN_WORDS.items():
        if isinstance(error, kind):
            return f"{words} ({name_of(error)})"
    if isinstance(error, ssl.SSLError) and not isinstance(error, _CUT_OFF):
        return f"TLS with PostgreSQL fails: {error.reason or name_of(error)}"
    if type(error) is ConnectionError and "rejected SSL" in str(error):
        return "PostgreSQL does not speak TLS there, which sslmode in USERTASK_STORE_URL asks for"
    if isinstance(error, asyncpg.ProtocolViolationError | asyncpg.ConnectionDoesNotExistError):
        return next((words for said, words in _OF_A_POOLER.items() if said in str(error)), None)
    return None


_ANOTHERS: Final = "; give the worker a database of its own, or a schema by search_path in USERTASK_STORE_URL"
ANOTHER_TOOLS: Final = f"the table schema_migrations in the database is another tool's{_ANOTHERS}"

_IN_WORDS: Final[dict[type[Exception], str]] = {
    asyncpg.InvalidCatalogNameError: "PostgreSQL has no database of the name in USERTASK_STORE_URL; create it",
    asyncpg.InvalidPasswordError: "PostgreSQL refuses the user or password in USERTASK_STORE_URL",
    asyncpg.InvalidAuthorizationSpecificationError: (
        "PostgreSQL lets this user not in from here, or not without TLS (sslmode in USERTASK_STORE_URL)"
    ),
    asyncpg.InsufficientPrivilegeError: "PostgreSQL's user lacks rights: to connect, to create or to use the tables",
    asyncpg.InvalidSchemaNameError: "no schema of the search path is there; create the one in USERTASK_STORE_URL",
    asyncpg.DuplicateTableError: f"a table of the worker's names is there, and is another program's{_ANOTHERS}",
    asyncpg.UndefinedColumnError: ANOTHER_TOOLS,
    asyncpg.CantChangeRuntimeParamError: "PostgreSQL cannot change a setting that options in USERTASK_STORE_URL names",
    asyncpg.UndefinedObjectError: "PostgreSQL does not know a setting that options in USERTASK_STORE_URL names",
    asyncpg.InvalidParameterValueError: "PostgreSQL refuses a value in options of USERTASK_STORE_URL",
    asyncpg.ClientConfigurationError: (
        "the driver refuses USERTASK_STORE_URL or a PG… variable; verify-ca and verify-full need sslrootcert, a file of"
        " certificates or `system`"
    ),
    ssl.SSLCertVerificationError: "PostgreSQL's certificate is not trusted, or is for another host name",
}
_CUT_OFF: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
_OF_A_POOLER: Final = {
    "unsupported startup parameter": "the pooler takes no `options` in USERTASK_STORE_URL",
    "transaction blocks not allowed": "the pooler has to work in session or transaction mode",
    "does not exist": "the pooler has no database of the name in USERTASK_STORE_URL",
    "no such database": "the pooler has no database of the name in USERTASK_STORE_URL",
    "no such user": "the pooler refuses the user or password in USERTASK_STORE_URL",
    "authentication failed": "the pooler refuses the user or password in USERTASK_STORE_URL",
}
"""PgBouncer has one code for all that it says, outages too; by what it says where only a person can help."""


def _is_of_the_data(error: BaseException) -> bool:
    """Return whether this is the driver's own data error, for what does not fit its column.

    It hides behind a server's error of the same name, so it is known by its bases. Certificates that are not trusted
    are ValueErrors as well, and no command's fault.
    """
    is_a_value = isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)
    return is_a_value and not isinstance(error, asyncpg.ClientConfigurationError)


def _mapped(error: BaseException) -> StoreError:
    sqlstate = getattr(error, "sqlstate", None) or ""
    refused = sqlstate.startswith(_REFUSALS) or _is_of_the_data(error)
    if refused and not is_repeatable(error):
        return StoreRefusedError(f"PostgreSQL: {name_of(error)}")
    meaning = next((f": {words}" for kind, words in _MEANINGS.items() if isinstance(error, kind)), "")
    return StoreUnavailableError(f"PostgreSQL: {name_of(error)}{meaning}")
