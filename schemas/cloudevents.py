"""The envelope: CloudEvents 1.0 attributes and Kafka headers, binary and structured mode, and plain JSON."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

Header = tuple[str, bytes | None]

SPEC_VERSION: Final = "1.0"
JSON_CONTENT_TYPE: Final = "application/json"
STRUCTURED_CONTENT_TYPE: Final = "application/cloudevents+json"
BATCH_CONTENT_TYPE: Final = "application/cloudevents-batch+json"
CONTENT_TYPE: Final = "content-type"
IDEMPOTENCY_KEY: Final = "idempotency-key"
REDRIVE_KEY_PREFIX: Final = "redrive:"
"""How the idempotency key of a redriven dead letter starts; only such a key may be longer than 255 characters."""

MAX_ID_CHARS: Final = 255
MAX_REDRIVE_KEY_CHARS: Final = 300
MAX_COPIED_BYTES: Final = 64 * 1024

TRACE_HEADERS: Final = ("traceparent", "tracestate")
CORRELATION_HEADERS: Final = ("kafka_correlationId", "REPLY_CORRELATION_ID", "correlation_id")
COPIED_HEADERS: Final = TRACE_HEADERS + CORRELATION_HEADERS
_COPIED_HEADERS: Final = frozenset(COPIED_HEADERS)
BINARY_MODE: Final = ("ce_specversion", "ce_id", "ce_source", "ce_type")
_BINARY_MODE: Final = frozenset(BINARY_MODE)
_SPEC_VERSION: Final = SPEC_VERSION.encode()
_JSON_CONTENT_TYPE: Final = JSON_CONTENT_TYPE.encode()
_STRUCTURED_CONTENT_TYPE: Final = STRUCTURED_CONTENT_TYPE.encode()
_BATCH_CONTENT_TYPE: Final = BATCH_CONTENT_TYPE.encode()


class EnvelopeError(ValueError):
    """The headers or the envelope break the rules. The text says which rule and never repeats a value."""


@dataclass(slots=True, kw_only=True)
class Attributes:
    """The CloudEvents attributes of a command that matter to the worker; None where absent."""

    id: str | None = None
    source: str | None = None
    type: str | None = None
    correlation_id: str | None = None
    idempotency_key: str | None = None


class Respelt(dict[str, bytes]):
    """Headers of which some may be spelt in another way than the contract has them."""

    def __init__(self, values: Mapping[str, bytes]) -> None:
        super().__init__(values)
        self.contradictory: set[str] = set()
        """Known names that are there in several spellings with different values."""
        self.misspelt: set[str] = set()
        """The `ce_` names of attributes that are there under another name, and not with that value under this one."""


def copied_headers(headers: Mapping[str, bytes]) -> tuple[Header, ...]:
    """Pick the headers that outgoing records repeat byte for byte; none if they have more than 64 KiB together."""
    if _COPIED_HEADERS.isdisjoint(headers):
        return ()
    copied = tuple((name, headers[name]) for name in COPIED_HEADERS if name in headers)
    return copied if sum(len(value) for _, value in copied) <= MAX_COPIED_BYTES else ()


def refuse_spellings(headers: Respelt, *, structured: bool) -> None:
    """Raise EnvelopeError for spellings that disagree, and for misspelt attributes where headers are what counts."""
    for name in (CONTENT_TYPE, IDEMPOTENCY_KEY):
        if name in headers.contradictory:
            raise EnvelopeError(f"The header {name} is there in several spellings, with different values.")
    if headers.misspelt and not structured:
        names = ", ".join(sorted(headers.misspelt))
        if headers.keys() >= headers.misspelt:
            raise EnvelopeError(f"Headers spell {names} in another way as well, with another value.")
        raise EnvelopeError(
            f"Headers spell {names} in another way; CloudEvents attributes have to be named exactly so."
        )


def is_structured(headers: Mapping[str, bytes]) -> bool:
    """Tell structured mode by the content type; another type than the two that are known is an EnvelopeError."""
    raw = headers.get(CONTENT_TYPE)
    if raw is None or raw == _JSON_CONTENT_TYPE:
        return False
    media_type = media_type_of(raw)
    if media_type in {_JSON_CONTENT_TYPE, b""}:
        return False
    if media_type == _BATCH_CONTENT_TYPE:
        raise EnvelopeError(f"The content type is {BATCH_CONTENT_TYPE}; send each event as a record of its own.")
    if media_type != _STRUCTURED_CONTENT_TYPE:
        raise EnvelopeError("The content type is neither application/json nor application/cloudevents+json.")
    return True


def media_type_of(content_type: bytes) -> bytes:
    """Return a content type without case, parameters, and the quotes that JSON serialisers put around a header.

    It is empty only where nothing is said at all. Raise EnvelopeError if it is not UTF-8.
    """
    _utf8(CONTENT_TYPE, content_type)
    media_type, semicolon, _ = content_type.partition(b";")
    return media_type.strip().strip(b'"').strip().lower() or semicolon


def attributes_from_headers(headers: Mapping[str, bytes]) -> Attributes:
    """Read binary mode or plain JSON. Raise EnvelopeError if a header is missing or breaks its rule."""
    if _BINARY_MODE.isdisjoint(headers):
        return Attributes(correlation_id=correlation_from_headers(headers), idempotency_key=idempotency_key(headers))
    for name in BINARY_MODE:
        if name not in headers:
            raise EnvelopeError(f"CloudEvents binary mode needs the header {name}.")
    if headers["ce_specversion"] != _SPEC_VERSION:
        raise EnvelopeError("ce_specversion is not 1.0.")
    return Attributes(
        id=_identifier("ce_id", headers),
        source=_identifier("ce_source", headers),
        type=_utf8("ce_type", headers["ce_type"]),
        correlation_id=correlation_from_headers(headers),
        idempotency_key=idempotency_key(headers),
    )


def correlation_from_headers(headers: Mapping[str, bytes]) -> str | None:
    """Read `ce_correlationid`; an empty one is as if absent."""
    return _identifier("ce_correlationid", headers) if headers.get("ce_correlationid") else None


def idempotency_key(headers: Mapping[str, bytes]) -> str | None:
    """Read `idempotency-key`, which may be longer where a redrive wrote it."""
    key = headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return None
    max_chars = MAX_REDRIVE_KEY_CHARS if key.startswith(REDRIVE_KEY_PREFIX.encode()) else MAX_ID_CHARS
    return _checked(IDEMPOTENCY_KEY, _utf8(IDEMPOTENCY_KEY, key), max_chars)


def attributes_from_envelope(envelope: Mapping[str, Any], headers: Mapping[str, bytes]) -> Attributes:
    """Read structured mode, where `ce_*` headers count for nothing. Unknown members are extensions."""
    if envelope.get("specversion") != SPEC_VERSION:
        raise EnvelopeError("The envelope's specversion is not 1.0.")
    correlation = envelope.get("correlationid")
    return Attributes(
        id=_checked("id", envelope.get("id")),
        source=_checked("source", envelope.get("source")),
        type=_text("type", envelope.get("type")),
        correlation_id=None if correlation is None or correlation == "" else _checked("correlationid", correlation),
        idempotency_key=idempotency_key(headers),
    )


def _identifier(name: str, headers: Mapping[str, bytes]) -> str | None:
    raw = headers.get(name)
    return None if raw is None else _checked(name, _utf8(name, raw))


def _utf8(name: str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise EnvelopeError(f"{name} is not UTF-8.") from None


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise EnvelopeError(f"The envelope's {name} is missing or not a string.")
    return value


def _checked(name: str, value: object, max_chars: int = MAX_ID_CHARS) -> str:
    text = _text(name, value)
    if not 1 <= len(text) <= max_chars:
        raise EnvelopeError(f"{name} has not between 1 and {max_chars} characters.")
    if not text.isprintable() and any(unicodedata.category(char) == "Cc" for char in text):
        raise EnvelopeError(f"{name} has a control character.")
    return text
