"""`schemas export|diff`: the contract for machines, and whether an older one still holds."""

from pathlib import Path
from typing import Annotated

import typer

from worker.cli.options import Json

app = typer.Typer(help="The contract as JSON Schemas and as an AsyncAPI document.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    """Hang the group in."""
    root.add_typer(app, name="schemas")


@app.command()
def export(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", file_okay=False, help="Where to; it is made if it is not there.")
    ] = Path("schemas/json"),
) -> None:
    """Write the JSON Schemas, the AsyncAPI document and an example of each message. Prints what it wrote."""
    from worker.cli.exporting import generated  # noqa: PLC0415 - kept out of --help

    for name, text in generated().items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            typer.echo(f"{path} cannot be written: {error.strerror}", err=True)
            raise typer.Exit(1) from None
        typer.echo(path)


@app.command()
def diff(
    older: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|FILE", exists=True, help="An older export, one of its schemas, or its asyncapi.yaml."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Compare an older export with this release. Ends with 1 if a change breaks who sends commands or listens.

    What counts is the form of values and headers. A change that cannot be judged, such as another pattern, is breaking.
    """
    from worker.cli.comparing import compare  # noqa: PLC0415 - kept out of --help

    raise typer.Exit(compare(older, as_json=as_json))
