"""`health`: asks the worker on this machine how it is, for the probes of containers."""

from typing import Annotated

import typer

from worker.cli.options import Json


def register(root: typer.Typer) -> None:
    """Hang the command in."""
    root.command("health")(health)


def health(
    live: Annotated[
        bool, typer.Option("--live", help="Ask /livez: would a restart help? This is the default.")
    ] = False,
    ready: Annotated[bool, typer.Option("--ready", help="Ask /readyz: are commands worked off?")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", metavar="S", min=0.1, help="How long to wait.")] = 3,
    as_json: Json = False,
) -> None:
    """Ask the worker at USERTASK_HTTP_HOST and _PORT how it is. Ends with 0 if well, else with 1."""
    if live and ready:
        raise typer.BadParameter("either --live or --ready")
    from worker.cli.probing import probe  # noqa: PLC0415 - kept out of --help

    raise typer.Exit(probe("/readyz" if ready else "/livez", timeout_s, as_json=as_json))
