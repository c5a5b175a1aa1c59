"""The command line's root: what every command shares, and where each of them is hung in."""

from typing import Annotated

import typer

from worker.cli import check, commands, demo, dlq, health, lag, running, schemas, send, show, store, tail, topics
from worker.cli.streams import prepare_streams, write_out

# The modules above are thin and import what does the work only when called: --help must not wait for Kafka's client.

app = typer.Typer(
    name="user-task-worker",
    help="Completes user tasks from Kafka commands, exactly once.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (running, health, check, demo, commands, send, tail, show, lag, dlq, topics, store, schemas):
    group.register(app)


def _version(asked: bool) -> None:
    if asked:
        from worker.version import worker_version  # noqa: PLC0415 - see above

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
    prepare_streams()
    try:
        app()
    except SystemExit as ended:
        if write_out() or ended.code:
            raise
        typer.echo("stdout could not be written", err=True)
        raise SystemExit(1) from None
    except Exception as error:
        write_out()
        from worker.cli.endings import exit_code_of  # noqa: PLC0415 - see above

        code = exit_code_of(error)
        if code is None:
            raise
        typer.echo(str(error) or type(error).__name__, err=True)
        raise SystemExit(code) from None
