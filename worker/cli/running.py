"""`run` and `config`: the worker itself, and how it is set."""

import asyncio
import json
from collections.abc import Callable
from typing import Annotated, Any

import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from worker import app as application
from worker.settings import PREFIX, SECRETS, Settings, load_settings
from worker.telemetry.logs import configure_logging

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def register(root: typer.Typer) -> None:
    """Hang the commands in."""
    root.command("run")(run)
    root.command("config")(config)


def run() -> None:
    """Run one worker until SIGTERM or SIGINT. Configured by USERTASK_… variables; see `config`."""
    settings = load_settings()
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(application.run(settings))
    raise typer.Exit(code)


def config(as_json: Json = False) -> None:
    """Print every setting: its variable, its value now, and what it means. Secrets are masked."""
    settings = load_settings()
    rows = [_row(settings, name) for name in Settings.model_fields]
    if as_json:
        typer.echo(json.dumps({row["variable"]: row for row in rows}))
        return
    table = Table("variable", "value", "default", "meaning")
    for row in rows:
        table.add_row(row["variable"], str(row["value"]), str(row["default"]), row["meaning"])
    Console(width=None if Console().is_terminal else 160).print(table)


def _row(settings: Settings, name: str) -> dict[str, Any]:
    field = Settings.model_fields[name]
    variable = f"{PREFIX}{name.upper()}"
    also = f" Also {variable}_FILE." if name in SECRETS else ""
    return {
        "variable": variable,
        "value": _shown(getattr(settings, name)),
        "default": _shown(field.get_default(call_default_factory=True, validated_data={})),
        "meaning": f"{field.description or ''}{also}",
    }


def _shown(value: object) -> Any:
    if isinstance(value, SecretStr):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - there are systems without it
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
