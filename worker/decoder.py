"""Record to command: total, so that any bytes and headers give a command or a reason why there is none."""

from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Protocol
from urllib.parse import quote

from pydantic import ValidationError

from schemas.cloudevents import (
    CONTENT_TYPE,
    STRUCTURED_CONTENT_TYPE,
    Attributes,
    EnvelopeError,
    Header,
    Respelt,
    attributes_from_envelope,
    attributes_from_headers,
    copied_headers,
    correlation_from_headers,
    is_structured,
    refuse_spellings,
)
from schemas.commands import COMMAND_MODELS, Command, CommandType
from schemas.problem import MAX_ERRORS, MAX_POINTER_CHARS, FieldError
from schemas.replies import ReplyAddress, Unanswerable, reply_addresses
from schemas.spellings import last_values
from schemas.user_task import read_user_task_key, user_task_key_of
from worker.strict_json import MAX_DEPTH, NotStrictJsonError, read_object

_COMMAND_TYPES: Final = {kind.value: kind for kind in CommandType}
_MAP_KEY_PARTS: Final = 3
_ENVELOPE_ONLY: Final = "specversion"  # no command has a member of this name
_ENVELOPE_SIGNS: Final = frozenset({"id", "source", "type"})
_ENVELOPE_WITHOUT_TYPE: Final = (
    f"This looks like a CloudEvents envelope; {CONTENT_TYPE} must be {STRUCTURED_CONTENT_TYPE}."
)
_FRAGMENT_SAFE: Final = "!$&'()*+,;=:@?"  # RFC 3986: what a fragment may hold besides letters, digits, "-._~" and "/"


class Record(Protocol):
    """A record as a Kafka consumer hands it out; aiokafka's ConsumerRecord is one. The timestamp is in ms."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[Header]: ...


@dataclass(slots=True, kw_only=True)
class Received:
    """What is known of any record, readable or not."""

    record: Record
    command_id: str
    """As outgoing records show it."""
    identity: str
    """The command's id in its own space; the ids of outgoing records are functions of it."""
    correlation_id: str
    copied: tuple[Header, ...]
    """Trace and correlation headers, to be repeated byte for byte."""
    reply_to: tuple[ReplyAddress | Unanswerable, ...] = ()
    """Where replies are asked for."""

    @property
    def position(self) -> str:
        """Give `topic/partition/offset`."""
        return position_of(self.record)

    @property
    def position_identity(self) -> str:
        """Give the identity of the position itself."""
        return position_identity(self.record)


@dataclass(slots=True, kw_only=True)
class Unreadable(Received):
    """A record that is no readable command. It occupies no command id."""

    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidArgument:
    """A command object was read, and members are wrong."""

    errors: tuple[FieldError, ...]
    """At most 100 of them."""
    error_count: int


@dataclass(slots=True, kw_only=True)
class Readable(Received):
    """A readable command: it occupies its command id, whatever becomes of it."""

    command_key: bytes
    """16 bytes that stand for the command id; unique in the store."""
    fingerprint: bytes
    """16 bytes that stand for type, user task key and value bytes."""
    command_type: CommandType
    user_task_key: int | None
    """None if none could be read."""
    command: Command | InvalidArgument


def position_of(record: Record) -> str:
    """Give `topic/partition/offset`."""
    return f"{record.topic}/{record.partition}/{record.offset}"


def position_identity(record: Record) -> str:
    """Give the identity that a position is: a space of its own, which no header reaches. Never to be changed."""
    return f"position\n{position_of(record)}"


def cloud_event_identity(source: str | None, event_id: str) -> str:
    """Give the identity that `ce_source` and `ce_id` are together. Never to be changed."""
    return f"cloudevent\n{source}\n{event_id}"


def idempotency_key_identity(key: str) -> str:
    """Give the identity that an `idempotency-key` is. Never to be changed."""
    return f"idempotency-key\n{key}"


def command_key_of(identity: str) -> bytes:
    """Give the 16 bytes that stand for a command's identity in the store. Never to be changed."""
    return _digest(identity.encode())


@dataclass(frozen=True, slots=True)
class UndecodableRecord:
    """A record that the Kafka client itself cannot read, such as one with a header name that is not UTF-8.

    Or what stands for all the records of a damaged batch that are stepped over; its offset is their last one.
    """

    topic: str
    partition: int
    offset: int
    detail: str = "The Kafka client cannot read the record; a header's name may not be UTF-8."
    first: int | None = None
    """The first offset that is stepped over; None if it is a single record."""
    timestamp: int = -1
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[Header] = ()


def is_stepped_over(record: Record) -> bool:
    """Return whether it stands for all the records of a damaged batch."""
    return isinstance(record, UndecodableRecord) and record.first is not None


def decode(record: Record) -> Readable | Unreadable:
    """Read one record of the commands topic (contract, Commands)."""
    headers = last_values(record.headers)
    if isinstance(record, UndecodableRecord):
        return _unreadable(record, headers, record.detail)
    try:
        attributes, members = _read(record, headers)
        command_type = _command_type(attributes)
    except (EnvelopeError, NotStrictJsonError) as error:
        return _unreadable(record, headers, str(error))
    command_id, identity = _identify(attributes, record)
    user_task_key = _user_task_key(members, record.key)
    return Readable(
        record=record,
        command_id=command_id,
        identity=identity,
        correlation_id=attributes.correlation_id or command_id,
        copied=copied_headers(headers),
        reply_to=reply_addresses(headers),
        command_key=command_key_of(identity),
        fingerprint=_digest(f"{command_type}\n{user_task_key}\n".encode() + (record.value or b"")),
        command_type=command_type,
        user_task_key=user_task_key,
        command=_validate(command_type, members),
    )


def _unreadable(record: Record, headers: Mapping[str, bytes], detail: str) -> Unreadable:
    position = position_of(record)
    return Unreadable(
        record=record,
        command_id=position,
        identity=position_identity(record),
        correlation_id=_readable_correlation(record, headers) or position,
        copied=copied_headers(headers),
        reply_to=reply_addresses(headers),
        detail=detail,
    )


def _read(record: Record, headers: Mapping[str, bytes]) -> tuple[Attributes, dict[str, Any]]:
    structured = is_structured(headers)
    if isinstance(headers, Respelt):
        refuse_spellings(headers, structured=structured)
    attributes = None if structured else attributes_from_headers(headers)
    if not record.value:
        raise NotStrictJsonError("The value is empty.")
    if attributes:
        members = read_object(record.value)
        if _ENVELOPE_ONLY in members and not _ENVELOPE_SIGNS.isdisjoint(members):
            raise EnvelopeError(_ENVELOPE_WITHOUT_TYPE)
        return attributes, members
    envelope = read_object(record.value, max_depth=MAX_DEPTH + 1)
    return attributes_from_envelope(envelope, headers), _data(envelope)


def _data(envelope: Mapping[str, Any]) -> dict[str, Any]:
    data, encoded = envelope.get("data"), envelope.get("data_base64")
    if encoded is None:
        if not isinstance(data, dict):
            raise EnvelopeError("The envelope's data is not an object.")
        return data
    if data is not None:
        raise EnvelopeError("The envelope has both data and data_base64.")
    try:
        return read_object(b64decode(encoded, validate=True))
    except (TypeError, ValueError) as error:
        reason = str(error) if isinstance(error, NotStrictJsonError) else "It is not Base64."
        raise EnvelopeError(f"The envelope's data_base64 is not a command: {reason}") from None


def _command_type(attributes: Attributes) -> CommandType:
    command_type = CommandType.COMPLETE if attributes.type is None else _COMMAND_TYPES.get(attributes.type)
    if command_type is None:
        raise EnvelopeError("The type is none of the commands' types.")
    return command_type


def _identify(attributes: Attributes, record: Record) -> tuple[str, str]:
    if attributes.id is not None:
        return attributes.id, cloud_event_identity(attributes.source, attributes.id)
    if attributes.idempotency_key is not None:
        return attributes.idempotency_key, idempotency_key_identity(attributes.idempotency_key)
    return position_of(record), position_identity(record)


def _readable_correlation(record: Record, headers: Mapping[str, bytes]) -> str | None:
    """Find the correlation id of a record that is otherwise unreadable."""
    try:
        if not _is_surely_structured(headers):
            return correlation_from_headers(headers)
        correlation = read_object(record.value or b"", max_depth=MAX_DEPTH + 1).get("correlationid")
        return correlation_from_headers(
            {"ce_correlationid": correlation.encode()} if isinstance(correlation, str) else {}
        )
    except (EnvelopeError, NotStrictJsonError):
        return None


def _is_surely_structured(headers: Mapping[str, bytes]) -> bool:
    try:
        return is_structured(headers)
    except EnvelopeError:
        return False  # it may be that very header for which the record is refused


def _user_task_key(members: dict[str, Any], record_key: bytes | None) -> int | None:
    """Give the command's user task key. Without the member, the record key stands in for it, in `members` too."""
    if members.get("userTaskKey") is not None:
        return user_task_key_of(members["userTaskKey"])
    members.pop("userTaskKey", None)
    try:
        text = (record_key or b"").decode("utf-8")
    except UnicodeDecodeError:
        return None
    key = read_user_task_key(text)
    if key is not None:
        members["userTaskKey"] = text
    return key


def _validate(command_type: CommandType, members: dict[str, Any]) -> Command | InvalidArgument:
    try:
        return COMMAND_MODELS[command_type].model_validate(members)
    except ValidationError as invalid:
        wrong = invalid.errors(include_url=False, include_context=False, include_input=False)[:MAX_ERRORS]
        errors = tuple(
            FieldError(pointer=_pointer(error["loc"]), detail=error["msg"], code=error["type"]) for error in wrong
        )
        return InvalidArgument(errors=errors, error_count=invalid.error_count())


def _pointer(location: tuple[int | str, ...]) -> str:
    """Write pydantic's location as an RFC 6901 URI fragment."""
    # (map, key, "[key]"): a map's key itself is wrong, not a member of that name
    parts = location[:-1] if len(location) == _MAP_KEY_PARTS and location[-1] == "[key]" else location
    tokens = (str(part).replace("~", "~0").replace("/", "~1") for part in parts)
    return ("#" + "".join("/" + quote(token, safe=_FRAGMENT_SAFE) for token in tokens))[:MAX_POINTER_CHARS]


def _digest(text: bytes) -> bytes:
    return blake2b(text, digest_size=16).digest()
