"""Trying to write to a SQLite store as a worker would, with nothing left behind."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from worker.stores.port import StoreNotReadyError
from worker.stores.sqlite_file import resolved, store_error_of
from worker.stores.sqlite_open import BUSY_TIMEOUT_S
from worker.stores.sqlite_sql import CLAIM_NEW


def try_to_write(path: Path) -> None:
    """Raise StoreNotReadyError unless a worker may write here, StoreUnavailableError while somebody else writes.

    To be called while a lookup has the file open: the last connection that closes would move the log into the file.
    """
    file = resolved(path)
    lock = file.with_name(file.name + ".lock")
    with _named(file.parent), TemporaryFile(dir=_there(file.parent)):  # a file without a name
        pass
    if lock.exists():
        with _named(lock), lock.open("r+"):
            pass
    if file.exists():
        _try_file(file)


def _there(folder: Path) -> Path:
    """Return the folder, or the one in which a worker would make it."""
    return next(one for one in (folder, *folder.parents) if one.exists())


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreNotReadyError(f"{path} cannot be written: {error.strerror}") from None


def _try_file(path: Path) -> None:
    try:
        uri = f"{path.as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(CLAIM_NEW, ("user-task-worker-check", 0, ""))
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise store_error_of(error) from None
