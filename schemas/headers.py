"""The headers of each kind of record as JSON Schema: values are text, in UTF-8, unless a description says otherwise."""

from collections.abc import Mapping
from typing import Any, Final

from schemas.cloudevents import (
    CONTENT_TYPE,
    CORRELATION_HEADERS,
    IDEMPOTENCY_KEY,
    JSON_CONTENT_TYPE,
    MAX_ID_CHARS,
    MAX_REDRIVE_KEY_CHARS,
    SPEC_VERSION,
    TRACE_HEADERS,
)
from schemas.commands import CommandType
from schemas.events import EventType
from schemas.json_schema import DIALECT, ID_BASE
from schemas.problem import DEAD_LETTERED, PROBLEM_CONTENT_TYPE
from schemas.user_task import WRITTEN_INSTANT_PATTERN

COMMAND: Final = "command.headers"
EVENT: Final = "event.headers"
REJECTION: Final = "rejection.headers"
DEAD_LETTER: Final = "dead-letter.headers"

Schema = dict[str, Any]

_TEXT: Final = {"type": "string"}
_ID: Final = {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS}
_COUNT: Final = {"type": "string", "pattern": "^[0-9]+$"}
_INSTANT: Final = {"type": "string", "pattern": WRITTEN_INSTANT_PATTERN}
_BINARY_MODE: Final = ("ce_specversion", "ce_id", "ce_source", "ce_type")


def header_schemas() -> dict[str, Schema]:
    """Give the schema of the headers of commands, events, rejections and dead letters."""
    schemas = {
        COMMAND: _command(),
        EVENT: _outcome("an event", [EventType.CREATED, EventType.COMPLETED, EventType.CANCELED], JSON_CONTENT_TYPE),
        REJECTION: _outcome("a rejection", [EventType.REJECTED], PROBLEM_CONTENT_TYPE),
        DEAD_LETTER: _dead_letter(),
    }
    schemas[REJECTION]["required"].remove("ce_subject")
    return {name: {"$schema": DIALECT, "$id": ID_BASE + name} | schema for name, schema in schemas.items()}


def _described(schema: Mapping[str, Any], description: str) -> Schema:
    return {**schema, "description": description}


def _command() -> Schema:
    return {
        "description": "Headers of a command in binary mode, or of plain JSON, which has no `ce_*` headers. Of a header"
        " that is there twice the last one counts. Others are allowed, but not CloudEvents attributes under other"
        " names, such as `ce-type`. The names here that are none may differ in case and separators.",
        "type": "object",
        "properties": {
            "ce_specversion": _described({"type": "string", "enum": [SPEC_VERSION]}, "The version of CloudEvents."),
            "ce_id": _described(
                _ID, "With `ce_source` the command id: a command whose id was seen before changes nothing."
            ),
            "ce_source": _described(_ID, "Who sends the command; no control characters."),
            "ce_type": _described(
                {"type": "string", "enum": [kind.value for kind in CommandType]},
                f"What is asked for; `{CommandType.COMPLETE}` in plain JSON.",
            ),
            "ce_correlationid": _described(
                {"type": "string", "maxLength": MAX_ID_CHARS},
                "Repeated by the outcome; absent or empty: the command id.",
            ),
            IDEMPOTENCY_KEY: _described(
                {"type": "string", "minLength": 1, "maxLength": MAX_REDRIVE_KEY_CHARS},
                "The command id where there is no `ce_id`; at most 255 characters unless it starts with `redrive:`.",
            ),
            CONTENT_TYPE: _described(
                {"type": "string"},
                "`application/json`, which is meant if it is absent or empty; parameters are ignored.",
            ),
            **_copied(),
            **_asking_for_a_reply(),
        },
        "if": {"anyOf": [{"required": [name]} for name in _BINARY_MODE]},
        "then": {"required": list(_BINARY_MODE)},
    }


def _copied() -> Schema:
    trace = {
        name: _described(_TEXT, "W3C Trace Context, never judged; the outcome repeats it.") for name in TRACE_HEADERS
    }
    return trace | {name: _described(_TEXT, "Any bytes; the outcome repeats them.") for name in CORRELATION_HEADERS}


def _asking_for_a_reply() -> Schema:
    topic = "The topic to which the outcome is also sent, if the worker's settings allow it."
    partition = "Its partition: digits, or 4 bytes, big-endian. Absent: by key."
    return {
        "kafka_replyTopic": _described(_TEXT, f"Spring's. {topic}"),
        "kafka_replyPartition": _described(_TEXT, f"Spring's. {partition}"),
        "REPLY_TOPIC": _described(_TEXT, f"Quarkus'. {topic}"),
        "REPLY_PARTITION": _described(_TEXT, f"Quarkus'. {partition}"),
        "reply_to": _described(_TEXT, f"FastStream's. {topic}"),
    }


def _outcome(what: str, kinds: list[EventType], content_type: str) -> Schema:
    own = {
        "ce_specversion": _described({"type": "string", "enum": [SPEC_VERSION]}, "The version of CloudEvents."),
        "ce_id": _described(
            {"type": "string", "format": "uuid"},
            "A UUIDv5 of the command's id: a record that is published again has it.",
        ),
        "ce_source": _described(_TEXT, "The worker's setting, `/user-task-worker`."),
        "ce_type": _described({"type": "string", "enum": [kind.value for kind in kinds]}, "What has happened."),
        "ce_time": _described(_INSTANT, "When it was decided: RFC 3339, in UTC with milliseconds."),
        "ce_subject": _described(_TEXT, "The user task key, if one could be read."),
        "ce_causationid": _described(_TEXT, "The command id."),
        "ce_correlationid": _described(_TEXT, "The command's, else the command id."),
        CONTENT_TYPE: {"type": "string", "enum": [content_type]},
    }
    return {
        "description": f"Headers of {what}. Others may come at any time.",
        "type": "object",
        "properties": own | _copied(),
        "required": list(own),
    }


def _dead_letter() -> Schema:
    own = {
        "__dlq.errors.topic": _described(_TEXT, "The topic in which the command stands."),
        "__dlq.errors.partition": _described(_COUNT, "Its partition."),
        "__dlq.errors.offset": _described(_COUNT, "Its offset."),
        "__dlq.errors.group": _described(_TEXT, "The worker's consumer group."),
        "__dlq.errors.delivery.count": _described(_COUNT, "From 1."),
        "__dlq.errors.message": _described(_TEXT, "What was wrong, without a value of the command."),
        "dlq-error-type": _described({"type": "string", "enum": sorted(DEAD_LETTERED)}, "The slug of the problem."),
        "dlq-failed-at": _described(_INSTANT, "When: RFC 3339, in UTC with milliseconds."),
        "dlq-record-timestamp": _described(
            {"type": "string", "pattern": "^-?[0-9]+$"},
            "The timestamp of the command's record, in ms since 1970, as it was; -1: it had none.",
        ),
        "dlq-redrive-count": _described(_COUNT, "How often it was sent back, from 0."),
    }
    return {
        "description": "Headers of a dead letter: the command's own, and these, with the names of KIP-1191.",
        "type": "object",
        "properties": own,
        "required": list(own),
    }
