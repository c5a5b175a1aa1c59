"""The models as JSON Schema 2020-12, by the CloudEvents types whose values they describe.

The schema of a command accepts what the worker accepts, as far as JSON Schema can say it. It cannot say that an integer
is written without fraction (`7.0`), that a key fits into 64 bits, that a date exists, or what is readable at all
(contract, Commands). The schemas of outcomes say what the worker writes; they allow members that they do not know.
"""

from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

from schemas.commands import COMMAND_MODELS
from schemas.events import EventType, UserTaskEvent
from schemas.problem import ProblemDetail
from schemas.user_task import UserTaskState

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
ID_BASE: Final = "urn:json-schema:"

_RESULTS: Final = {
    EventType.CREATED: (UserTaskState.CREATED, None),
    EventType.COMPLETED: (UserTaskState.COMPLETED, "completedAt"),
    EventType.CANCELED: (UserTaskState.CANCELED, "canceledAt"),
}
"""The state that an event tells of, and the member that has the time of it besides `createdAt`."""


def value_schemas() -> dict[str, JsonSchemaValue]:
    """Give the schema of each record's value, by the record's CloudEvents type."""
    schemas = {kind.value: _of_command(model) for kind, model in COMMAND_MODELS.items()}
    schemas |= {kind.value: _of_event(kind) for kind in _RESULTS}
    schemas[EventType.REJECTED] = _generated(ProblemDetail, "serialization")
    return {name: {"$schema": DIALECT, "$id": ID_BASE + name} | schema for name, schema in schemas.items()}


def _of_command(model: type[BaseModel]) -> JsonSchemaValue:
    schema = _generated(model, "validation")
    # the record key stands in for it (contract, Commands)
    schema["properties"]["userTaskKey"]["anyOf"].append({"type": "null"})
    del schema["required"]
    return schema


def _of_event(kind: EventType) -> JsonSchemaValue:
    schema = _generated(UserTaskEvent, "serialization")
    state, ended_at = _RESULTS[kind]
    schema["properties"]["state"]["enum"] = [state.value]
    schema["required"] += [ended_at] if ended_at else []
    schema["title"] = f"UserTask{state.value.capitalize()}"
    return schema


def _generated(model: type[BaseModel], mode: JsonSchemaMode) -> JsonSchemaValue:
    schema = model.model_json_schema(mode=mode, schema_generator=_Generator)
    tidy: JsonSchemaValue = _tidied(schema, schema.pop("$defs", {}))
    return tidy


class _Generator(GenerateJsonSchema):
    """Leaves out what would be noise: titles of members, null as a default, and null where it is never written."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - the parent's signature
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        if self.mode == "serialization":
            return self.generate_inner(schema["schema"])
        return super().nullable_schema(schema)


def _tidied(schema: Any, definitions: JsonSchemaValue) -> Any:
    """Put definitions where they are referred to, and each description on one line."""
    if isinstance(schema, list):
        return [_tidied(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        definition = definitions[schema["$ref"].removeprefix("#/$defs/")]
        return _tidied(definition | {name: item for name, item in schema.items() if name != "$ref"}, definitions)
    return {
        name: " ".join(item.split()) if name == "description" and isinstance(item, str) else _tidied(item, definitions)
        for name, item in schema.items()
    }
