"""The stores' schemas: numbered SQL files, applied once each and in order."""

from dataclasses import dataclass
from importlib.resources import files
from typing import Literal


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of a schema."""

    version: int
    sql: str


def migrations(dialect: Literal["sqlite", "postgres"]) -> list[Migration]:
    """Give a dialect's migrations in order; the last one's version is the schema this release needs."""
    scripts = [script for script in (files(__name__) / dialect).iterdir() if script.name.endswith(".sql")]
    found = [Migration(int(script.name.split("_", 1)[0]), script.read_text(encoding="utf-8")) for script in scripts]
    return sorted(found, key=lambda migration: migration.version)
