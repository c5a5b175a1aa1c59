"""`send`: many commands at once, a line each."""

from enum import StrEnum
from typing import Annotated
from uuid import uuid4

import typer

from worker.cli.options import Json

_MAX_ID_CHARS = 200  # with a line's number behind it, it still is an id


class Kind(StrEnum):
    """What lines ask for that do not say it themselves."""

    COMPLETE = "complete"
    CREATE = "create"
    CANCEL = "cancel"


def register(root: typer.Typer) -> None:
    """Hang the command in."""
    root.command("send")(send)


def _header(given: str) -> tuple[str, bytes]:
    name, equals, value = given.partition("=")
    if not equals or not name or not name.isprintable():
        raise typer.BadParameter("not NAME=VALUE")
    return name, value.encode("utf-8", "surrogateescape")


def _id(given: str) -> str:
    if not 1 <= len(given) <= _MAX_ID_CHARS or not given.isprintable():
        raise typer.BadParameter(f"not 1 to {_MAX_ID_CHARS} printable characters")
    return given


def send(
    source: Annotated[typer.FileBinaryRead, typer.Argument(metavar="FILE|-", help="Where the lines are; - for stdin.")],
    kind: Annotated[Kind, typer.Option("--type", help="What lines ask for that are not CloudEvents.")] = Kind.COMPLETE,
    run: Annotated[
        str | None,
        typer.Option(
            "--id", parser=_id, help="Lines that are not CloudEvents get the id ID/LINE: the same file is applied once."
        ),
    ] = None,
    headers: Annotated[
        list[str] | None,
        typer.Option("--header", metavar="NAME=VALUE", help="A header for every command. Repeatable."),
    ] = None,
    rate: Annotated[float | None, typer.Option(metavar="N", min=0.01, help="Send at most so many a second.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is wrong with the lines, and send none.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Send a command for each line: a CloudEvent in JSON, or a command's own members.

    Lines that cannot be sent are told on stderr by their number, without a value of them; the others are sent. Ends
    with 1 if there were any.
    """
    from schemas.commands import CommandType  # noqa: PLC0415 - kept out of --help
    from worker.cli.bulk import Form  # noqa: PLC0415 - the same
    from worker.cli.bulk_sending import Order, send_lines  # noqa: PLC0415 - the same

    named = tuple(_header(given) for given in headers or ())
    form = Form(command_type=CommandType[kind.name], run=run or str(uuid4()), headers=named)
    order = Order(descriptor=source.fileno(), form=form, rate=rate, dry_run=dry_run)
    raise typer.Exit(send_lines(order, as_json=as_json))
