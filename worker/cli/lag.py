"""`lag`: how far the group is behind, partition by partition."""

import typer

from worker.cli.options import Json


def register(root: typer.Typer) -> None:
    """Hang the command in."""
    root.command("lag")(lag)


def lag(as_json: Json = False) -> None:
    """Print for each partition its end, what is applied, published and committed, and who holds it.

    Ends with 0 also while there is lag.
    """
    from worker.cli.lagging import print_lag  # noqa: PLC0415 - kept out of --help

    raise typer.Exit(print_lag(as_json=as_json))
