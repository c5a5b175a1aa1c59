"""The user task as listeners see it: its key, its states and its attributes, in Camunda's words."""

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError, PydanticKnownError

KEY_PATTERN: Final = "^-?[0-9]{1,25}$"
POSITIVE_KEY_PATTERN: Final = "^0*[1-9][0-9]{0,24}$"
MAX_KEY_CHARS: Final = 25
INT64_MAX: Final = 2**63 - 1
SAFE_INTEGER_MAX: Final = 2**53 - 1
"""The largest integer that every JSON implementation keeps exactly (RFC 8259, section 6)."""

_BEYOND: Final = "Input should be {} than or equal to {} where it is a number; send it as a string"
_KEY = re.compile(r"-?[0-9]{1,25}")
INSTANT_PATTERN: Final = (
    "^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]+)?)?"
    r"([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?)(\[[A-Za-z0-9._+:/~-]{1,64}\])?$"
)
WRITTEN_INSTANT_PATTERN: Final = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{3}Z$"
_INSTANT = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt](\d{2}:\d{2})(?::(\d{2})(?:\.(\d+))?)?"
    r"(Z|z|[+-](?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d)?)(?:\[[A-Za-z0-9._+:/~-]{1,64}\])?",
    re.ASCII,
)
"""RFC 3339, and what java.time writes besides: no seconds where they are zero, and the zone behind the offset."""


class PublishedModel(BaseModel):
    """A frozen, strict model whose members are written in camelCase; an unknown member is an error."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        alias_generator=to_camel,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,  # what the generated schemas say of a member
    )


class UserTaskState(StrEnum):
    """Where a user task stands. COMPLETED and CANCELED are final."""

    CREATED = "CREATED"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"


def read_user_task_key(text: str) -> int | None:
    """Give the number that `text` writes as a user task key, or None if it writes none (contract, Commands)."""
    if not _KEY.fullmatch(text):
        return None
    key = int(text)
    return key if -INT64_MAX - 1 <= key <= INT64_MAX else None


def _key_from_json(value: Any) -> int:
    if isinstance(value, str):
        key = read_user_task_key(value)
        if key is not None:
            return key
        if _KEY.fullmatch(value):
            raise PydanticKnownError("int_parsing_size")
        raise PydanticKnownError("string_pattern_mismatch", {"pattern": KEY_PATTERN})
    if not isinstance(value, int) or isinstance(value, bool):
        raise PydanticKnownError("string_type")
    if value > SAFE_INTEGER_MAX:
        raise PydanticCustomError("less_than_equal", _BEYOND.format("less", SAFE_INTEGER_MAX))
    if value < -SAFE_INTEGER_MAX:
        raise PydanticCustomError("greater_than_equal", _BEYOND.format("greater", -SAFE_INTEGER_MAX))
    return value


def user_task_key_of(value: Any) -> int | None:
    """Give the user task key that a JSON value is, or None if it is none."""
    try:
        return _key_from_json(value)
    except (PydanticKnownError, PydanticCustomError):
        return None


def _instant_from_text(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str):
        raise PydanticKnownError("datetime_type")
    match = _INSTANT.fullmatch(value)
    if match is None:
        raise PydanticKnownError("datetime_parsing", {"error": "not an RFC 3339 time with an offset"})
    date, minutes, seconds, fraction, offset = match.groups()
    leap = seconds == "60"  # RFC 3339 allows a leap second, datetime does not: it is the next minute's first
    micros = (fraction or "")[:6].ljust(6, "0")
    text = f"{date}T{minutes}:{'59' if leap else seconds or '00'}.{micros}{offset.upper().replace('Z', '+00:00')}"
    try:
        return datetime.fromisoformat(text).astimezone(UTC) + timedelta(seconds=leap)
    except (ValueError, OverflowError):
        raise PydanticKnownError("datetime_parsing", {"error": "no such time"}) from None


def write_instant(instant: datetime) -> str:
    """Write a time in RFC 3339, in UTC, with milliseconds."""
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@lru_cache(maxsize=1024)
def write_instant_ms(instant_ms: int) -> str:
    """Write milliseconds since 1970 in RFC 3339, in UTC, with milliseconds."""
    seconds, millis = divmod(instant_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{millis:03d}Z"


def _all_different(tags: list[str]) -> list[str]:
    if len(set(tags)) != len(tags):
        raise PydanticKnownError("value_error", {"error": "the tags are not unique"})
    return tags


UserTaskKey = Annotated[
    int,
    BeforeValidator(_key_from_json),
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": KEY_PATTERN},
                {"type": "integer", "minimum": -SAFE_INTEGER_MAX, "maximum": SAFE_INTEGER_MAX},
            ]
        },
        mode="validation",
    ),
    WithJsonSchema({"type": "string", "pattern": KEY_PATTERN}, mode="serialization"),
]
"""An int64 that travels as a string, since JavaScript has no int64; integers are read as well where JSON keeps them."""

PositiveKey = Annotated[
    UserTaskKey,
    Field(gt=0),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": POSITIVE_KEY_PATTERN, "maxLength": MAX_KEY_CHARS},
                {"type": "integer", "minimum": 1, "maximum": SAFE_INTEGER_MAX},
            ]
        },
        mode="validation",
    ),
    WithJsonSchema(
        {"type": "string", "pattern": POSITIVE_KEY_PATTERN, "maxLength": MAX_KEY_CHARS}, mode="serialization"
    ),
]

Instant = Annotated[
    datetime,
    BeforeValidator(_instant_from_text),
    PlainSerializer(write_instant, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": INSTANT_PATTERN}, mode="validation"),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": WRITTEN_INSTANT_PATTERN}, mode="serialization"),
]
"""A moment; RFC 3339 with any offset when read, or as java.time writes it; UTC with milliseconds when written."""

Text = Annotated[str, StringConstraints(max_length=255)]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=100)]

DEFAULT_PRIORITY: Final = 50
DEFAULT_TENANT_ID: Final = "<default>"


class UserTaskAttributes(PublishedModel):
    """What a create command says of a user task, and every event repeats. Null means absent."""

    name: Text | None = None
    """What the task is called in the process, at most 255 characters."""
    assignee: Text | None = None
    """Who the task is assigned to, at most 255 characters."""
    external_form_reference: Text | None = None
    """The reference of a form that is kept elsewhere, at most 255 characters."""
    element_id: Text | None = None
    """The BPMN element of which the task is an instance, at most 255 characters."""
    process_definition_id: Text | None = None
    """The BPMN process id of the process definition, at most 255 characters."""
    tenant_id: Text | None = None
    """The tenant to which the task belongs, at most 255 characters; `<default>` if not given."""
    candidate_groups: Annotated[list[Text], Field(max_length=1000)] | None = None
    """The groups whose members may take the task: at most 1,000, each of at most 255 characters."""
    candidate_users: Annotated[list[Text], Field(max_length=1000)] | None = None
    """The users who may take the task: at most 1,000, each of at most 255 characters."""
    tags: (
        Annotated[
            list[Tag],
            Field(max_length=10),
            AfterValidator(_all_different),
            Field(json_schema_extra={"uniqueItems": True}),
        ]
        | None
    ) = None
    """At most 10 different tags, each of 1 to 100 characters."""
    due_date: Instant | None = None
    """When the task is due: RFC 3339 with an offset, seconds optional; written in UTC with milliseconds."""
    follow_up_date: Instant | None = None
    """When somebody should look after the task: RFC 3339 with an offset, seconds optional; written in UTC with
    milliseconds.
    """
    priority: Annotated[int, Field(ge=0, le=100)] | None = None
    """From 0 to 100, the higher the more important; 50 if not given. Camunda's default and limits."""
    form_key: PositiveKey | None = None
    """The key of the form to show, a positive int64."""
    element_instance_key: PositiveKey | None = None
    """The key of the element instance, a positive int64."""
    process_instance_key: PositiveKey | None = None
    """The key of the process instance to which the task belongs, a positive int64."""
    process_definition_key: PositiveKey | None = None
    """The key of the process definition, a positive int64."""
    process_definition_version: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """The version of the process definition, from 1 to 2^31-1."""
    custom_headers: Annotated[dict[Text, Text], Field(max_length=100)] | None = None
    """Texts by name from the process model: at most 100, names and texts of at most 255 characters each."""
