"""Copies of a SQLite store: taken while a worker runs, and put in its place while none does."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from worker.stores.port import StoreError, StoreNotReadyError
from worker.stores.sqlite_file import BESIDE, beside, lock, resolved, words_for_a_person, words_of
from worker.stores.sqlite_open import BUSY_TIMEOUT_S, applied_versions

_STEP_PAGES: Final = 4096
_REPLACED: Final = ".replaced"

OnStep = Callable[[int, int, int], object]
"""Told of SQLite's result, of the pages that are left, and of all pages."""


def back_up(path: Path, copy: Path, on_step: OnStep) -> None:
    """Copy a store, as it stands at one instant, into one new file that is whole and on the disk.

    Raise StoreNotReadyError if the store is missing or damaged, StoreError where the copy cannot be written.
    """
    with _errors_mapped():
        made = _copied(path, beside(copy, ".partial"), on_step)
        made.rename(copy)
        _sync(copy.parent)


def restore(copy: Path, path: Path, on_step: OnStep) -> Path | None:
    """Put a copy in the place of a store. Return under which name the store that was there is kept.

    The old file is moved away before its log is, and the copy comes last. So at no instant does a log stand beside a
    file that it does not belong to, which SQLite would not notice. Raise StoreNotReadyError if a worker uses the store,
    or the copy is damaged or no store; StoreError where it cannot be written.
    """
    file = resolved(path)
    with lock(file), _errors_mapped():
        made = _copied(copy, beside(file, ".restoring"), on_step)
        kept = _set_aside(file)
        made.rename(file)
        _sync(file.parent)
    return kept


def _copied(source: Path, target: Path, on_step: OnStep) -> Path:
    """Copy and check a store. Half a copy does not stay."""
    target.unlink(missing_ok=True)  # half a copy of one that was killed
    try:
        with closing(_read_only(source)) as old, closing(sqlite3.connect(target, isolation_level=None)) as new:
            old.execute("BEGIN")
            if not applied_versions(old):  # the first read: one snapshot, or a busy worker would start the copy anew
                raise StoreNotReadyError(f"{source} holds no store of a worker")  # noqa: TRY301 - it does not stay
            old.backup(new, pages=_STEP_PAGES, progress=on_step)
            new.execute("PRAGMA journal_mode = DELETE")  # one file, with nothing beside it
            if new.execute("PRAGMA integrity_check(1)").fetchall() != [("ok",)]:
                raise StoreNotReadyError(f"{source} is damaged: take another backup")  # noqa: TRY301 - the same
        _sync(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target


def _read_only(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise StoreNotReadyError(f"there is no file {path}")
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None
    )


def _set_aside(file: Path) -> Path | None:
    """Move a store away with its log, so that it can be had again. Return its new name, or None if there is none.

    What an earlier restore has kept stays. One that was interrupted here had moved the file, and not its log yet.
    """
    last, free = _kept(file)
    kept = free if file.exists() or last is None else last
    for suffix in ("", *BESIDE):
        if beside(file, suffix).exists():
            beside(file, suffix).rename(beside(kept, suffix))
            _sync(file.parent)
    return kept if kept.exists() else None


def _kept(file: Path) -> tuple[Path | None, Path]:
    """Return where the last store was kept, if there is one, and the next free name."""
    last, free, number = None, beside(file, _REPLACED), 1
    while any(beside(free, suffix).exists() for suffix in ("", *BESIDE)):
        number += 1
        last, free = free, beside(file, f"{_REPLACED}-{number}")
    return last, free


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _errors_mapped() -> Iterator[None]:
    """Let no driver error pass: neither waiting nor another try mends these."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{error.filename}: {error.strerror}") from None
    except sqlite3.Error as error:
        words = words_for_a_person(error)
        raise (StoreError(words_of(error)) if words is None else StoreNotReadyError(words)) from None
