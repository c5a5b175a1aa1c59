"""Where a command wants its outcome sent as well: the reply headers of three frameworks (contract, Replies)."""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

_STYLES: Final = (
    ("kafka_replyTopic", "kafka_replyPartition"),  # Spring
    ("REPLY_TOPIC", "REPLY_PARTITION"),  # Quarkus
    ("reply_to", None),  # FastStream
)
REPLY_HEADERS: Final = tuple(name for style in _STYLES for name in style if name)
_TOPIC_HEADERS: Final = frozenset(topic for topic, _ in _STYLES)
_PARTITION_BYTES: Final = 4
_MAX_PARTITION: Final = 2**31 - 1
_MAX_PARTITION_DIGITS: Final = 10
_TOPIC: Final = re.compile(rb"[a-zA-Z0-9._-]{1,249}")
_NO_TOPICS: Final = frozenset({b".", b".."})
_NOT_IN_TOPICS: Final = re.compile(rb"[^a-zA-Z0-9._-]")
_SHOWN_BYTES: Final = 80


class ReplyAddress(NamedTuple):
    """A topic, and the partition if one is asked for; None leaves it to Kafka's default partitioner."""

    topic: str
    partition: int | None


class Unanswerable(NamedTuple):
    """An address at which no record can ever arrive."""

    topic: str
    """As much of it as may be shown."""
    reason: str


def reply_addresses(headers: Mapping[str, bytes]) -> tuple[ReplyAddress | Unanswerable, ...]:
    """Read where replies are asked for, one for each style."""
    if _TOPIC_HEADERS.isdisjoint(headers):
        return ()
    return tuple(
        _address(_unquoted(headers[topic]), headers.get(partition) if partition else None)
        for topic, partition in _STYLES
        if topic in headers
    )


def _address(topic: bytes, partition: bytes | None) -> ReplyAddress | Unanswerable:
    if not _TOPIC.fullmatch(topic) or topic in _NO_TOPICS:
        shown = _NOT_IN_TOPICS.sub(b"?", topic[:_SHOWN_BYTES]).decode("ascii")
        return Unanswerable(shown, "no topic's name")
    name = topic.decode("ascii")
    if partition is None:
        return ReplyAddress(name, None)
    number = _partition(_unquoted(partition))
    return Unanswerable(name, "no partition's number") if number is None else ReplyAddress(name, number)


def _partition(raw: bytes) -> int | None:
    """Read digits, or 4 bytes, big-endian. Four digits are digits: as bytes they are 808,464,432 at least."""
    if raw.isdigit():
        number = int(raw) if len(raw) <= _MAX_PARTITION_DIGITS else -1
    else:
        number = int.from_bytes(raw, "big", signed=True) if len(raw) == _PARTITION_BYTES else -1
    return number if 0 <= number <= _MAX_PARTITION else None


def _unquoted(text: bytes) -> bytes:
    """Take off the quotes that JSON serialisers put around a header."""
    return text[1:-1] if len(text) > 1 and text[:1] == text[-1:] == b'"' else text
