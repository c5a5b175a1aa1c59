"""Connections to PostgreSQL, straight or through a pooler such as PgBouncer, and the transactions that run on them.

Whatever the worker needs of a session is set in each transaction, in the round trip that begins it: a pooler takes few
settings at the start of a session, and in its transaction mode the next transaction may run in another session.
"""

import os
import stat
from collections.abc import AsyncIterator, Mapping
from configparser import ConfigParser
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg

from worker.stores.port import StoreNotReadyError
from worker.stores.postgres_url import FILES, PostgresUrl, parse_postgres_url

CONNECT_TIMEOUT_S: Final = 5
"""For each host, where the URL does not say."""

_NEXT_HOST: Final = (OSError, asyncpg.TargetServerAttributeNotMatched, asyncpg.CannotConnectNowError)
"""The host is away, starts or ends, or is a standby. Timeouts are OSErrors, too."""

_OTHERS_STATEMENTS: Final = (asyncpg.DuplicatePreparedStatementError, asyncpg.InvalidSQLStatementNameError)
"""A statement of this name is another client's, or stayed in another session."""

_CACHED_STATEMENTS: Final = 100
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class Connector:
    """Makes connections to the hosts of a URL, each ready for `transaction`."""

    def __init__(self, url: str, application_name: str, *, command_timeout_s: float | None = None) -> None:
        """Read the URL. Raise ValueError."""
        self._url = parse_postgres_url(url)
        self._start_up_settings = self._url.start_up_settings(application_name)
        self._command_timeout_s = command_timeout_s
        self._cached_statements = _CACHED_STATEMENTS

    def patience_s(self, for_one_s: float) -> float:
        """Return how long a connection may take, if all hosts are tried."""
        return (len(self._url.hosts) or 1) * max(for_one_s, self._url.connect_timeout_s or 0)

    def beginning(self, settings: Mapping[str, str], *, is_read_only: bool = False) -> str:
        """Write what begins a transaction with these settings, and with the URL's search path."""
        # the isolation is stated, since the server's default may be another: each statement has to see what others
        # have committed
        words = [f"BEGIN ISOLATION LEVEL READ COMMITTED{' READ ONLY' if is_read_only else ''}"]
        words += [f"SET LOCAL {name} = {_literal(value)}" for name, value in settings.items()]
        path = self._url.parameters.get("search_path")
        if path:  # a list of names, which SET would take for one
            words.append(f"SELECT set_config('search_path', {_literal(path)}, true)")
        return "; ".join(words)

    async def connect(self, *_: object, **of_the_pool: Any) -> Any:
        """Connect to the first host that answers and fits. Raise StoreNotReadyError, or what the driver raises."""
        check_files(self._url)
        failure: Exception | None = None
        for host, port in self._url.hosts or ((None, None),):
            try:
                return await self._reach(host, port, of_the_pool)
            except _NEXT_HOST as error:
                failure = error
        assert failure is not None, "there is at least one host"
        raise failure

    async def _reach(self, host: str | None, port: int | None, of_the_pool: Mapping[str, Any]) -> Any:
        try:
            connection = await self._dial(host, port, of_the_pool)
            if not self._cached_statements or await _is_straight(connection):
                return connection
        except _OTHERS_STATEMENTS:
            if not self._cached_statements:
                raise
        self._cached_statements = 0
        return await self._dial(host, port, of_the_pool)

    async def _dial(self, host: str | None, port: int | None, of_the_pool: Mapping[str, Any]) -> Any:
        return await asyncpg.connect(
            self._url.dsn,
            host=host,
            port=port,
            ssl=True if self._url.trusts_the_system else None,
            timeout=self._url.connect_timeout_s or CONNECT_TIMEOUT_S,
            command_timeout=self._command_timeout_s,
            statement_cache_size=self._cached_statements,
            server_settings=self._start_up_settings,
            **of_the_pool,
        )


async def _is_straight(connection: Any) -> bool:
    """Return whether the session is the server's own, or end it: a pooler hands out process ids that it has made up.

    It is asked in one query without a prepared statement, which the count of its rows answers.
    """
    pid = int(connection.get_server_pid())
    is_straight = False
    try:
        answer = await connection.execute(f"SELECT 1 WHERE pg_backend_pid() = {pid}", timeout=CONNECT_TIMEOUT_S)
        is_straight = bool(answer == "SELECT 1")
    finally:
        if not is_straight:
            connection.terminate()
    return is_straight


@asynccontextmanager
async def transaction(connection: Any, beginning: str) -> AsyncIterator[None]:
    """Run a transaction that begins so; it is committed at the end, or rolled back at an error."""
    await connection.execute(beginning)
    try:
        yield
    except TimeoutError:
        connection.terminate()  # it does not answer: to roll back or say goodbye would take as long again
        raise
    except BaseException:
        if not connection.is_closed():
            await connection.execute("ROLLBACK")
        raise
    await connection.execute("COMMIT")


def check_files(url: PostgresUrl) -> None:
    """Look whether there is what a URL names on this machine. Raise StoreNotReadyError, naming the parameter."""
    for name in FILES:
        path = url.parameters.get(name)
        if path is not None and not (name == "sslrootcert" and url.trusts_the_system):
            _check_file(name, Path(path))
    service = url.parameters.get("service")
    if service is not None:
        known = ConfigParser()
        known.read(os.environ.get("PGSERVICEFILE", Path.home() / ".pg_service.conf"))
        if not known.has_section(service):
            raise StoreNotReadyError("service in USERTASK_STORE_URL: PGSERVICEFILE or ~/.pg_service.conf has it not")


def _check_file(name: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise StoreNotReadyError(f"{name} in USERTASK_STORE_URL: {path}: {error.strerror}") from None
    if name == "passfile" and mode & _OTHERS:
        raise StoreNotReadyError(
            f"passfile in USERTASK_STORE_URL: {path}: others may read it, so the driver does not; chmod 600"
        )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
