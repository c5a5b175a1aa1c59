"""`store`: the operators' commands for the store, to prepare it, to copy it, and to make it forget."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from worker.settings import Settings
    from worker.stores.port import Store

_PRUNE_STEP: Final = 1000
_RETRY_S: Final = 0.5
_MS_PER_DAY: Final = 86_400_000

app = typer.Typer(help="Prepare the store, copy it, and make it forget.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    """Hang the group in."""
    root.add_typer(app, name="store")


@app.command()
def migrate() -> None:
    """Bring the database's schema to this release's. Safe to repeat."""
    _perform(lambda settings: asyncio.run(_migrate(settings)))


@app.command()
def prune(
    older_than_days: Annotated[
        float | None, typer.Option(min=0, help="Forget what was decided before; default: USERTASK_RETENTION_DAYS.")
    ] = None,
) -> None:
    """Forget old command ids and their outcomes, never one that is not published yet."""
    _perform(lambda settings: asyncio.run(_prune(settings, older_than_days)))


@app.command("adopt-topic")
def adopt_topic(
    from_committed: Annotated[
        bool, typer.Option("--from-committed", help="Read another topic from the group's offsets, not its beginning.")
    ] = False,
    abandon_unpublished: Annotated[
        bool, typer.Option("--abandon-unpublished", help="Accept that outcomes are never published.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON line for each partition.")] = False,
) -> None:
    """Read the commands topic as it is now, after it was deleted and made anew, or has lost records."""
    from worker.cli.adopting import Wish, adopt  # noqa: PLC0415 - kept out of --help

    wish = Wish(
        from_committed=from_committed, abandon_unpublished=abandon_unpublished, dry_run=dry_run, as_json=as_json
    )
    raise typer.Exit(adopt(wish))


@app.command()
def realign(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON line for each partition.")] = False,
) -> None:
    """Set the group's offsets back to where a store from an older backup stands.

    What was decided since the backup is decided again, and its outcomes are published again.
    """
    from worker.cli.realigning import realign  # noqa: PLC0415 - kept out of --help

    raise typer.Exit(realign(dry_run=dry_run, as_json=as_json))


@app.command()
def backup(file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file.")]) -> None:
    """Copy a SQLite store into one file, also while a worker runs."""
    from worker.cli.copying import back_up  # noqa: PLC0415 - kept out of --help

    _perform(lambda settings: back_up(settings, file))


@app.command()
def restore(file: Annotated[Path, typer.Argument(metavar="FILE", help="What `store backup` has made.")]) -> None:
    """Put a backup in the place of a SQLite store; what was there is kept beside it. No worker may run."""
    from worker.cli.copying import restore  # noqa: PLC0415 - kept out of --help

    _perform(lambda settings: restore(settings, file))


def _perform(work: Callable[["Settings"], str]) -> None:
    """Do the work, print what it says, and end with one of the contract's codes."""
    from worker.exit_codes import ExitCode  # noqa: PLC0415 - kept out of --help
    from worker.settings import load_settings  # noqa: PLC0415 - the same
    from worker.stores.port import StoreError, StoreNotReadyError, StoreUnavailableError  # noqa: PLC0415 - the same

    settings = load_settings()
    try:
        typer.echo(work(settings))
    except StoreError as error:
        typer.echo(str(error), err=True)
        if isinstance(error, StoreNotReadyError):
            raise typer.Exit(ExitCode.NOT_READY) from None
        is_unreachable = isinstance(error, StoreUnavailableError)
        raise typer.Exit(ExitCode.UNREACHABLE if is_unreachable else ExitCode.FAILED) from None


async def _migrate(settings: "Settings") -> str:
    if settings.sqlite_path is not None:
        return "A SQLite file needs no migration by hand: `run` makes it, and brings it up to date."
    migrate_postgres = _postgres().migrate
    url = settings.store_url.get_secret_value()
    versions = await within(settings.start_timeout_s, lambda: migrate_postgres(url))
    return f"Applied: {', '.join(map(str, versions))}." if versions else "The schema is up to date."


async def _prune(settings: "Settings", older_than_days: float | None) -> str:
    older_than_days = settings.retention_days if older_than_days is None else older_than_days
    store = make_store(settings)
    try:
        await within(settings.start_timeout_s, store.open)
        return f"Forgot {await _prune_all(store, older_than_days)} outcomes."
    finally:
        await store.close()


async def _prune_all(store: "Store", older_than_days: float) -> int:
    """Go in steps: one long transaction would hold up the workers."""
    from worker.cli.tables import progressing  # noqa: PLC0415 - kept out of --help

    decided_before_ms = await _now_ms(store) - int(older_than_days * _MS_PER_DAY)
    total = 0
    with progressing("forgetting", total=None) as advance:
        while count := await store.prune(decided_before_ms, _PRUNE_STEP):
            total += count
            advance(count)
    return total


async def _now_ms(store: "Store") -> int:
    """Return what has come by this machine's clock, and by the store's if it has one."""
    from worker.clocks import Clocks  # noqa: PLC0415 - kept out of --help

    clocks = Clocks()
    clocks.store_said(await store.clock_ms())
    times = clocks.times()
    if times is None:
        return clocks.wall_ms()
    if times.differ:
        typer.echo(f"{times}: nothing is forgotten that is not old by both", err=True)
    return times.earlier_ms


async def within(timeout_s: float, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Repeat the work until the store answers. Raise StoreUnavailableError if it does not, in all that time."""
    from worker.stores.port import StoreUnavailableError  # noqa: PLC0415 - kept out of --help

    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return await work()  # is not cut short: it may be a long migration, and gives up by itself on a dead server
        except StoreUnavailableError as error:
            if time.monotonic() + _RETRY_S > deadline:
                words = f"the store could not be reached within {timeout_s:g} s: {error}"
                raise StoreUnavailableError(words) from None
        await asyncio.sleep(_RETRY_S)


def make_store(settings: "Settings") -> "Store":
    """Make the store that the settings name; it is not open yet. Raise SettingsError if its driver is missing."""
    from worker.stores.sqlite import SqliteStore  # noqa: PLC0415 - kept out of --help

    if settings.sqlite_path is not None:
        return SqliteStore(settings.sqlite_path)
    store: Store = _postgres().PostgresStore(settings.store_url.get_secret_value())
    return store


def _postgres() -> Any:
    """Import what needs the extra. Raise SettingsError where it is missing."""
    from worker.settings import SettingsError  # noqa: PLC0415 - kept out of --help

    try:
        from worker.stores import postgres  # noqa: PLC0415 - its driver is an extra
    except ImportError as error:
        if error.name != "asyncpg":
            raise
        raise SettingsError("PostgreSQL needs its driver: install user-task-worker[postgres]") from None
    return postgres
