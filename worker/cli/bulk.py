"""A line of a file to the record of a command: a CloudEvent in JSON, or the command's own members. No I/O."""

from dataclasses import dataclass
from typing import Any, Final

from schemas.cloudevents import CONTENT_TYPE, JSON_CONTENT_TYPE, SPEC_VERSION, STRUCTURED_CONTENT_TYPE, Header
from schemas.commands import CommandType
from worker.cli.bare import BareRecord
from worker.cli.sending import SOURCE
from worker.decoder import InvalidArgument, Unreadable, decode
from worker.strict_json import MAX_DEPTH, NotStrictJsonError, read_object

PARTITION_KEY: Final = "partitionkey"
"""CloudEvents' extension attribute for the record key (its Partitioning extension)."""

_ENVELOPE_ONLY: Final = "specversion"
"""No command has a member of this name, and every envelope has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A record to send."""

    key: bytes
    value: bytes
    headers: tuple[Header, ...]
    wrong: str | None
    """What is wrong with the command's members: it can be sent, and this release would refuse it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsendable:
    """A line that is no command at all. The reason repeats no value."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What a line does not say itself."""

    command_type: CommandType
    """Of lines that are not CloudEvents."""
    run: str
    """What the ids of such lines start with."""
    headers: tuple[Header, ...]
    """Those that every record is given besides its own."""


def read_line(raw: bytes, number: int, form: Form) -> Ready | Unsendable:
    """Make a record of a line. Its value is the line as it is written."""
    value = raw.strip()
    envelope = _envelope(value)
    key = None if envelope is None else envelope.get(PARTITION_KEY)
    if not isinstance(key, str | None):
        return Unsendable(reason=f"The envelope's {PARTITION_KEY} is not a string.")
    own = _binary_mode(number, form) if envelope is None else ((CONTENT_TYPE, STRUCTURED_CONTENT_TYPE.encode()),)
    headers = own + form.headers
    named = None if key is None else key.encode()
    received = decode(BareRecord("", 0, 0, 0, named, value, headers))
    if isinstance(received, Unreadable):
        return Unsendable(reason=received.detail)
    if received.user_task_key is None:
        return Unsendable(reason="userTaskKey is missing, or is no user task key.")
    wrong = _told(received.command) if isinstance(received.command, InvalidArgument) else None
    return Ready(key=named or str(received.user_task_key).encode(), value=value, headers=headers, wrong=wrong)


def _envelope(value: bytes) -> dict[str, Any] | None:
    """Give the CloudEvent that a line is, or None if it is none. The decoder tells what is wrong with it."""
    if f'"{_ENVELOPE_ONLY}"'.encode() not in value:  # spares most lines a second reading
        return None
    try:
        members = read_object(value, max_depth=MAX_DEPTH + 1)
    except NotStrictJsonError:
        return None
    return members if _ENVELOPE_ONLY in members else None


def _binary_mode(number: int, form: Form) -> tuple[Header, ...]:
    return (
        ("ce_specversion", SPEC_VERSION.encode()),
        ("ce_id", f"{form.run}/{number}".encode()),
        ("ce_source", SOURCE.encode()),
        ("ce_type", form.command_type.encode()),
        (CONTENT_TYPE, JSON_CONTENT_TYPE.encode()),
    )


def _told(invalid: InvalidArgument) -> str:
    told = "; ".join(f"{error.pointer} {error.code}" for error in invalid.errors)
    return told if invalid.error_count == len(invalid.errors) else f"{told}; {invalid.error_count} in all"
