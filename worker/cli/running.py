"""`run` and `config`: the worker itself, and how it is set."""

import typer

from worker.cli.options import Json


def register(root: typer.Typer) -> None:
    """Hang the commands in."""
    root.command("run")(run)
    root.command("config")(config)


def run() -> None:
    """Run one worker until SIGTERM, SIGINT or SIGHUP. Configured by USERTASK_… variables; see `config`."""
    from worker.cli.launching import launch  # noqa: PLC0415 - kept out of --help

    raise typer.Exit(launch())


def config(as_json: Json = False) -> None:
    """Print every setting: its variable, its value now, and what it means. Secrets are masked."""
    from worker.cli.configuration import print_settings  # noqa: PLC0415 - kept out of --help

    print_settings(as_json=as_json)
