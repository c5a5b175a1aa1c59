"""`topics create`: what the worker needs of the cluster."""

from typing import Annotated

import typer

from worker.cli.options import Json

topics = typer.Typer(name="topics", help="The worker's four topics.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    """Hang the commands in."""
    topics.command("create")(create)
    root.add_typer(topics)


def _setting(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals or not name:
        raise typer.BadParameter("not NAME=VALUE")
    return name, value


def create(
    partitions: Annotated[int, typer.Option(min=1, help="Of each topic that is made.")] = 12,
    replication_factor: Annotated[int, typer.Option(min=1, help="Of each topic that is made.")] = 1,
    config: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A setting of each topic that is made, such as min.insync.replicas=2."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Create the topics that are missing, and check those that exist. Safe to repeat."""
    from worker.cli.provisioning import Plan, provision  # noqa: PLC0415 - kept out of --help

    settings = dict(_setting(given) for given in config or ())
    raise typer.Exit(provision(Plan(partitions, replication_factor, settings), as_json=as_json))
