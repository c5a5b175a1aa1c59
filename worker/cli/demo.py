"""`demo`: everything at once, on a real broker, without Docker."""

from typing import Annotated

import typer


def register(root: typer.Typer) -> None:
    """Hang the command in."""
    root.command("demo")(demo)


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave broker and worker running until Ctrl-C.")] = False,
) -> None:
    """Start a real Kafka and a worker, send nine commands, and show what a listener saw. Needs the extra `embedded`."""
    from worker.cli.demonstration import demonstrate  # noqa: PLC0415 - kept out of --help

    raise typer.Exit(demonstrate(keep=keep))
