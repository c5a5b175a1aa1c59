"""`show task|command`: what became of it, answered from the store."""

from typing import Annotated

import typer

from worker.cli.numerals import INT64_MAX, is_numeral
from worker.cli.options import Json

_POSITION_PARTS = 3

app = typer.Typer(help="What became of a user task, or of a command.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    """Hang the group in."""
    root.add_typer(app, name="show")


def read_position(given: str) -> tuple[str, int, int]:
    """Read `TOPIC/PARTITION/OFFSET`, with or without a slash before it. Raise BadParameter."""
    parts = given.removeprefix("/").split("/")
    numbers = [int(part) for part in parts[1:] if is_numeral(part) and int(part) <= INT64_MAX]
    if len(parts) != _POSITION_PARTS or not parts[0] or len(numbers) != _POSITION_PARTS - 1 or numbers[0] >= 2**31:
        raise typer.BadParameter("not TOPIC/PARTITION/OFFSET")
    return parts[0], numbers[0], numbers[1]


@app.command()
def task(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The user task key.")],
    variables: Annotated[bool, typer.Option("--variables", help="Print the variables' values, too.")] = False,
    as_json: Json = False,
) -> None:
    """Print a user task as it stands. Ends with 1 if there is none."""
    from worker.cli.findings import show_task  # noqa: PLC0415 - kept out of --help

    raise typer.Exit(show_task(key, with_values=variables, as_json=as_json))


@app.command()
def command(
    command_id: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="The `ce_id`, `idempotency-key` or position, as `commandId` says."),
    ] = None,
    source: Annotated[str | None, typer.Option(help="The `ce_source` that belongs to the id.")] = None,
    position: Annotated[
        str | None, typer.Option(metavar="TOPIC/PARTITION/OFFSET", help="Where the command stands, in place of its id.")
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Look through all outcomes for the id, whatever its source. Slow.")
    ] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", metavar="S", min=0.1, help="Of --search.")] = 30,
    as_json: Json = False,
) -> None:
    """Print what became of a command. Ends with 1 if the store does not know."""
    if (command_id is None) == (position is None) or (search and command_id is None):
        raise typer.BadParameter("give an ID, or --position")
    if source is not None and (search or command_id is None):
        raise typer.BadParameter("--source goes with an ID, and without --search")
    from worker.cli.findings import Question, show_command  # noqa: PLC0415 - kept out of --help

    question = Question(
        command_id=command_id,
        source=source,
        position=None if position is None else read_position(position),
        search_s=timeout_s if search else None,
    )
    raise typer.Exit(show_command(question, as_json=as_json))
