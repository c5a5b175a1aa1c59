"""`store backup` and `store restore`, for SQLite. PostgreSQL has means of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from worker.cli.tables import progressing
from worker.settings import Settings, SettingsError
from worker.stores import sqlite_backup
from worker.stores.sqlite_backup import OnStep


def back_up(settings: Settings, file: Path) -> str:
    """Copy the store into a new file, and return what was done. Raise SettingsError, StoreError or BadParameter."""
    path = _sqlite_path(settings, "pg_dump or pg_basebackup")
    if file.exists():
        raise typer.BadParameter(f"{file} is there already: name a new file", param_hint="FILE")
    with _told("copying") as on_step:
        sqlite_backup.back_up(path, file, on_step)
    return f"Backed up {path} to {file}: {file.stat().st_size} bytes, checked."


def restore(settings: Settings, file: Path) -> str:
    """Put a copy in the store's place, and return what was done. Raise SettingsError, StoreError or BadParameter."""
    path = _sqlite_path(settings, "pg_restore, or the backup of its server")
    if not file.is_file() or (path.exists() and file.samefile(path)):
        raise typer.BadParameter(f"{file} is not a file, or the store itself", param_hint="FILE")
    with _told("restoring") as on_step:
        kept = sqlite_backup.restore(file, path, on_step)
    was = "" if kept is None else f" What was there is {kept} now: remove it when nobody needs it."
    return (
        f"Restored {path} from {file}.{was} Run `user-task-worker check`: a backup may be behind the group's offsets."
    )


def _sqlite_path(settings: Settings, instead: str) -> Path:
    if settings.sqlite_path is None:
        raise SettingsError(f"USERTASK_STORE_URL: this is for SQLite alone; for PostgreSQL use {instead}")
    return settings.sqlite_path


@contextmanager
def _told(what: str) -> Iterator[OnStep]:
    done = 0
    with progressing(what, total=None) as advance:

        def on_step(_result: int, left: int, total: int) -> None:
            nonlocal done
            advance(total - left - done)
            done = total - left

        yield on_step
