"""The contract's files as this release writes them: JSON Schemas, an AsyncAPI document, examples."""

import json
from typing import Any, Final

import yaml

from schemas.asyncapi import asyncapi
from schemas.examples import examples
from schemas.headers import header_schemas
from schemas.json_schema import value_schemas

SCHEMA_SUFFIX: Final = ".schema.json"
ASYNCAPI: Final = "asyncapi.yaml"
_WIDTH: Final = 120


def named_schemas() -> dict[str, dict[str, Any]]:
    """Give all schemas by name, those of values and those of headers."""
    return value_schemas() | header_schemas()


def generated() -> dict[str, str]:
    """Give the text of each file by its path."""
    schemas = {f"{name}{SCHEMA_SUFFIX}": _as_json(schema) for name, schema in named_schemas().items()}
    shown = {f"examples/{name}.json": _as_json(example) for name, example in examples().items()}
    return schemas | {ASYNCAPI: _as_yaml(asyncapi())} | shown


def _as_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _as_yaml(value: object) -> str:
    plain = json.loads(json.dumps(value))  # YAML would note what is in it twice, and Python's enums
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=_WIDTH)
    return text
