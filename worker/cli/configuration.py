"""Prints the settings, documented by the descriptions of the model itself."""

import json
from typing import Any

import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from worker.settings import PREFIX, SECRETS, Settings, load_settings


def print_settings(*, as_json: bool) -> None:
    """Print every setting, secrets masked. Raise SettingsError."""
    settings = load_settings()
    rows = [_row(settings, name) for name in Settings.model_fields]
    if as_json:
        typer.echo(json.dumps({row["variable"]: row for row in rows}))
        return
    table = Table("variable", "value", "default", "meaning")
    for row in rows:
        table.add_row(row["variable"], str(row["value"]), str(row["default"]), row["meaning"])
    Console(width=None if Console().is_terminal else 160).print(table)


def effective_settings(settings: Settings) -> dict[str, Any]:
    """Give every variable with its value now, secrets masked."""
    return {f"{PREFIX}{name.upper()}": _shown(getattr(settings, name)) for name in Settings.model_fields}


def changed_settings(settings: Settings) -> dict[str, Any]:
    """Give those that are not at their defaults, secrets masked."""
    rows = [_row(settings, name) for name in Settings.model_fields]
    changed = {f"{PREFIX}{name.upper()}" for name in settings.model_fields_set}
    return {row["variable"]: row["value"] for row in rows if row["variable"] in changed}


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
