"""Compares an older export of the contract with this release, and says whom each change breaks."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import typer
import yaml

from schemas.commands import CommandType
from schemas.headers import COMMAND
from schemas.json_schema import ID_BASE
from worker.cli.evolution import Effect, changes
from worker.cli.exporting import SCHEMA_SUFFIX, named_schemas
from worker.cli.tables import for_people, print_table
from worker.exit_codes import ExitCode

_COLUMNS: Final = ("schema", "where", "change", "breaks")
_READ_BY_THE_WORKER: Final = frozenset({*CommandType, COMMAND})

Schemas = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One change, and who cannot go on as before: who sends commands, or who listens; nobody if None."""

    schema: str
    where: str
    change: str
    breaks: Literal["senders", "listeners"] | None


def compare(older: Path, *, as_json: bool) -> ExitCode:
    """Print what has changed since an older export. Raise typer.BadParameter if it is none."""
    before = _read(older)
    now = named_schemas()
    if older.is_file() and len(before) == 1:
        now = {name: schema for name, schema in now.items() if name in before}
    found = differences(before, now)
    _print(found, as_json=as_json)
    return ExitCode.FAILED if any(one.breaks for one in found) else ExitCode.DONE


def differences(before: Schemas, now: Schemas) -> list[Difference]:
    """Compare schemas by name.

    A command's schema may accept more than it did, and an outcome's may say more: whoever sends or listens goes on.
    """
    found = []
    for name in [*before, *(name for name in now if name not in before)]:
        if name not in now:
            found.append(_difference(name, "#", "gone", is_breaking=True))
        elif name not in before:
            found.append(_difference(name, "#", "new", is_breaking=False))
        else:
            harmless = Effect.MORE if name in _READ_BY_THE_WORKER else Effect.LESS
            found += [
                _difference(name, one.pointer, one.text, is_breaking=one.effect is not harmless)
                for one in changes(before[name], now[name])
            ]
    return found


def _difference(name: str, where: str, change: str, *, is_breaking: bool) -> Difference:
    harmed: Literal["senders", "listeners"] = "senders" if name in _READ_BY_THE_WORKER else "listeners"
    return Difference(schema=name, where=where, change=change, breaks=harmed if is_breaking else None)


def _read(older: Path) -> Schemas:
    if older.is_dir():
        schemas = {_name(path): _parsed(path) for path in sorted(older.glob(f"*{SCHEMA_SUFFIX}"))}
        if not schemas:
            raise typer.BadParameter(f"{older} has no *{SCHEMA_SUFFIX}", param_hint="DIR|FILE")
        return schemas
    whole = _parsed(older)
    if "asyncapi" in whole:
        named: Schemas = whole.get("components", {}).get("schemas", {})
        return named
    return {str(whole.get("$id", _name(older))).removeprefix(ID_BASE): whole}


def _name(path: Path) -> str:
    return path.name.removesuffix(SCHEMA_SUFFIX)


def _parsed(path: Path) -> dict[str, Any]:
    parse = json.loads if path.suffix == ".json" else yaml.safe_load
    try:
        value = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        value = None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{path} is neither JSON nor YAML with an object", param_hint="DIR|FILE")
    return value


def _print(found: list[Difference], *, as_json: bool) -> None:
    if not for_people(as_json=as_json):
        typer.echo(
            json.dumps({"breaking": any(one.breaks for one in found), "changes": [asdict(one) for one in found]})
        )
    elif found:
        print_table(_COLUMNS, [[getattr(one, name) for name in _COLUMNS] for one in found])
    else:
        typer.echo("No changes.")
