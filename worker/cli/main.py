"""The command line's root: what every command shares, and where each of them is hung in."""

from typing import Annotated

import typer

from worker.app import ExitCode, worker_version
from worker.cli import running
from worker.settings import SettingsError

app = typer.Typer(
    name="user-task-worker",
    help="Completes user tasks from Kafka commands, exactly once.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
running.register(app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"user-task-worker {worker_version()}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Completes user tasks from Kafka commands, exactly once."""


def main() -> None:
    """Run the command line and exit with one of the contract's codes."""
    try:
        app()
    except SettingsError as error:
        typer.echo(str(error), err=True)
        raise SystemExit(ExitCode.CONFIGURATION) from None
    except KeyboardInterrupt:
        raise SystemExit(ExitCode.INTERRUPTED) from None
