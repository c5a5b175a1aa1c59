"""A SQLite file as the file system has it: who holds it, and what is said of one that cannot be used."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from worker.stores.port import StoreNotReadyError, StoreUnavailableError

BESIDE: Final = ("-wal", "-shm")
"""What SQLite keeps beside a file while it is open: the log of what is not in the file yet, and the log's index."""
_DESCRIPTORS: Final = Path("/proc/self/fd")
_DAMAGED: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_FOR_A_PERSON: Final = {
    "SQLITE_ERROR": "the SQLite file is another program's: give the worker a file of its own",
    "SQLITE_READONLY": "the SQLite file, or its folder, cannot be written",
    "SQLITE_CANTOPEN": "the SQLite file, or its folder, cannot be opened or written",
    "SQLITE_PERM": "the SQLite file cannot be opened: permission denied",
}


def resolved(path: Path) -> Path:
    """Return the one file that all spellings of a path lead to. Raise StoreNotReadyError if it has several names."""
    try:
        file = path.resolve()
        names = file.stat().st_nlink if file.exists() else 1
    except (OSError, RuntimeError) as error:  # links in a ring, by Python's version
        raise StoreNotReadyError(f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    if names > 1:
        raise StoreNotReadyError(f"{path} has several names (hard links), under which it would be damaged: leave one")
    return file


def lock(path: Path) -> IO[str]:
    """Keep other workers out of a resolved path for as long as this process lives, whatever ends it.

    Raise StoreNotReadyError where another one is in, or nothing can be locked.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = path.with_name(path.name + ".lock").open("w")
    except OSError as error:
        raise StoreNotReadyError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        raise StoreNotReadyError(
            f"{path} is in use by another worker: stop it first. SQLite serves one process only;"
            " use PostgreSQL to run several"
        ) from None
    except OSError as error:
        held.close()
        raise StoreNotReadyError(
            f"{path} cannot be locked: {error.strerror}. SQLite needs a disk of this machine, not NFS or the like"
        ) from None
    return held


class OpenFiles:
    """A store's files as they were when they were opened.

    SQLite writes on into a file that was deleted or replaced, and reports nothing. All of that is gone at a restart.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened = {name: _identity(name) for name in (path, *(beside(path, suffix) for suffix in BESIDE))}

    def raise_if_moved(self) -> None:
        """Raise StoreUnavailableError, with words on how to rescue the content, unless each is still in its place."""
        moved = [name for name, identity in self._opened.items() if _identity(name) != identity]
        if not moved:
            return
        gone = f"{moved[0]} was deleted, moved or replaced while it was open"
        if self._path in moved:
            rescue = (
                f"What it held is lost when this worker ends. Copy it first: `{self._copying()}`. Then stop the worker,"
                " run `user-task-worker store restore COPY`, and start it"
            )
        else:
            rescue = "Stop this worker by SIGTERM, never by SIGKILL: it then writes all that it has to the file"
        raise StoreUnavailableError(f"{gone}. {rescue}. See docs/operating.md, A file that is gone")

    def _copying(self) -> str:
        """Return the command that copies what is open, as Linux lets others reach it."""
        numbers = {identity: number for number, identity in _descriptors()}
        return " && ".join(
            f"cp /proc/{os.getpid()}/fd/{numbers.get(self._opened[name], '?')} COPY{suffix}"
            for suffix, name in (("", self._path), ("-wal", beside(self._path, "-wal")))
        )


def beside(path: Path, suffix: str) -> Path:
    """Return the path of a name with something after it."""
    return path.with_name(path.name + suffix)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode; None where there is no file, or none that can be reached."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _descriptors() -> Iterator[tuple[str, tuple[int, int] | None]]:
    """Return this process's open files, by number; none where the system does not say."""
    for link in _DESCRIPTORS.iterdir() if _DESCRIPTORS.is_dir() else ():
        yield link.name, _identity(link)


def words_of(error: sqlite3.Error) -> str:
    """Say what happened by its code: the text may repeat a value."""
    code = _code(error)
    if code.startswith(_DAMAGED):
        return f"the SQLite file is damaged ({code}): restore it from a backup (docs/operating.md, Backup and restore)"
    return f"SQLite: {code or type(error).__name__}"


def words_for_a_person(error: sqlite3.Error) -> str | None:
    """Put into words what was met while opening and no waiting mends, or return None for what may pass."""
    code = _code(error)
    if code.startswith(_DAMAGED):
        return words_of(error)
    return next((f"{words} ({code})" for known, words in _FOR_A_PERSON.items() if code.startswith(known)), None)


def store_error_of(error: sqlite3.Error) -> StoreNotReadyError | StoreUnavailableError:
    """Return what the port raises: where a person has to act, or for what may pass."""
    words = words_for_a_person(error)
    return StoreUnavailableError(words_of(error)) if words is None else StoreNotReadyError(words)


def _code(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", None) or ""
