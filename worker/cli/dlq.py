"""`dlq list|show|redrive`: the operators' commands for dead letters."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from worker.cli.options import Json

app = typer.Typer(help="Look at dead letters, and send them back.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    """Hang the group in."""
    root.add_typer(app, name="dlq")


def _instant_ms(given: str) -> int:
    try:
        instant = datetime.fromisoformat(given)
    except ValueError:
        raise typer.BadParameter("not an RFC 3339 time") from None
    return round((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp() * 1000)


def _place(given: str) -> tuple[int, int]:
    partition, slash, offset = given.partition("/")
    if not slash or not all(number.isascii() and number.isdecimal() for number in (partition, offset)):
        raise typer.BadParameter("not PARTITION/OFFSET")
    if int(partition) >= 2**31 or int(offset) >= 2**63:
        raise typer.BadParameter("there is no such partition or offset")
    return int(partition), int(offset)


ErrorType = Annotated[
    str | None, typer.Option(metavar="SLUG", help="Only those with this error: `malformed-command` or `internal`.")
]
Partition = Annotated[int | None, typer.Option(min=0, help="Only those in this partition.")]
Key = Annotated[str | None, typer.Option(help="Only those with this record key.")]
Since = Annotated[
    int | None,
    typer.Option(parser=_instant_ms, metavar="RFC3339", help="Only those that failed then or later; UTC if not said."),
]
Until = Annotated[
    int | None, typer.Option(parser=_instant_ms, metavar="RFC3339", help="Only those that failed before then.")
]
Place = Annotated[str, typer.Argument(metavar="PARTITION/OFFSET", help="Where in the dead letter topic.")]


@app.command("list")
def list_letters(
    error_type: ErrorType = None,
    partition: Partition = None,
    key: Key = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, help="Print at most so many, the oldest of each partition.")] = 100,
    as_json: Json = False,
) -> None:
    """Print dead letters without their values, a JSON line each off a terminal."""
    from worker.cli.letters import Choice, list_letters  # noqa: PLC0415 - kept out of --help

    choice = Choice(error_type, partition, key, since, until)
    raise typer.Exit(list_letters(choice, limit, as_json=as_json))


@app.command("show")
def show_letter(
    place: Place,
    value: Annotated[bool, typer.Option("--value", help="Print the command's value, too.")] = False,
    as_json: Json = False,
) -> None:
    """Print one dead letter with all its headers. Ends with 1 if there is none at this place."""
    from worker.cli.letters import show_letter  # noqa: PLC0415 - kept out of --help

    raise typer.Exit(show_letter(_place(place), with_value=value, as_json=as_json))


@app.command()
def redrive(  # noqa: PLR0913 - ways to choose are many
    places: Annotated[
        list[str] | None, typer.Argument(metavar="[PARTITION/OFFSET]...", help="These dead letters, of whatever error.")
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All of the error type.")] = False,
    error_type: ErrorType = None,
    partition: Partition = None,
    key: Key = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Send at most so many.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    rate: Annotated[float, typer.Option(metavar="N", min=0.01, help="Send at most so many a second.")] = 100,
    max_redrives: Annotated[int, typer.Option(min=1, help="Leave those that came back so often.")] = 3,
    as_json: Json = False,
) -> None:
    """Send dead letters back to the commands topic, of the error `internal` if no other is named.

    Safe to repeat: whatever is sent twice is applied once. Of several letters of one command, only the latest goes.

    Commands of the same task that came later have been decided before: a redriven one comes after them.
    """
    narrowed = [error_type, partition, key, since, until]
    if bool(places) + every + any(one is not None for one in narrowed) == 0:
        raise typer.BadParameter("say which: PARTITION/OFFSET, a filter, or --all")
    if places and (every or any(one is not None for one in narrowed)):
        raise typer.BadParameter("either PARTITION/OFFSET, or filters")
    from worker.cli.letters import Choice  # noqa: PLC0415 - kept out of --help
    from worker.cli.redriving import DEFAULT_ERROR_TYPE, Order, redrive  # noqa: PLC0415 - the same

    wanted = frozenset(map(_place, places or ()))
    errors = error_type or (None if wanted else DEFAULT_ERROR_TYPE)
    choice = Choice(errors, partition, key, since, until, wanted)
    order = Order(choice=choice, limit=limit, rate=rate, max_redrives=max_redrives, dry_run=dry_run)
    raise typer.Exit(redrive(order, as_json=as_json))
