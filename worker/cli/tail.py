"""`tail`: what a listener sees, live."""

from enum import StrEnum
from typing import Annotated

import typer

from worker.cli.options import Json


class Outgoing(StrEnum):
    """The topics that can be listened to."""

    EVENTS = "events"
    REJECTIONS = "rejections"
    DLQ = "dlq"


def register(root: typer.Typer) -> None:
    """Hang the command in."""
    root.command("tail")(tail)


def tail(
    which: Annotated[Outgoing, typer.Argument(metavar="events|rejections|dlq", show_default=False)],
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Start with the oldest record.")] = False,
    max_records: Annotated[int | None, typer.Option("--max", metavar="N", min=1, help="End after N records.")] = None,
    as_json: Json = False,
) -> None:
    """Print events, rejections or dead letters as they are committed, until Ctrl-C; JSON lines off a terminal."""
    from worker.cli.listening import follow  # noqa: PLC0415 - kept out of --help

    raise typer.Exit(follow(which.value, from_beginning=from_beginning, max_records=max_records, as_json=as_json))
