"""`check`: would a worker with these settings run, and if not, why not."""

import typer

from worker.cli.options import Json


def register(root: typer.Typer) -> None:
    """Hang the command in."""
    root.command("check")(check)


def check(as_json: Json = False) -> None:
    """Check settings, broker, topics, rights and store, a line each. Ends with 0 if all is well, else with 3 or 4.

    Rights are found out by trying: with transactions that are aborted, under a transactional id of the check's own.
    """
    from worker.cli.checking import run_checks  # noqa: PLC0415 - kept out of --help

    raise typer.Exit(run_checks(as_json=as_json))
