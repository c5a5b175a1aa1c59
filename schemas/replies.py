"""Where a command wants its outcome sent as well: the reply headers of three frameworks (contract, Replies)."""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

_STYLES: Final = (
    ("kafka_replyTopic", "kafka_replyPartition"),  # Spring
    ("REPLY_TOPIC", "REPLY_PARTITION"),  # Quarkus
    ("reply_to", None),  # FastStream
)
_TOPIC_HEADERS: Final = frozenset(topic for topic, _ in _STYLES)
_PARTITION_BYTES: Final = 4
_TOPIC: Final = re.compile(rb"[a-zA-Z0-9._-]{1,249}")
_NO_TOPICS: Final = frozenset({b".", b".."})


class ReplyAddress(NamedTuple):
    """A topic, and the partition if one is asked for; None leaves it to Kafka's default partitioner."""

    topic: str
    partition: int | None


def reply_addresses(headers: Mapping[str, bytes]) -> tuple[ReplyAddress | None, ...]:
    """Read where replies are asked for, one for each style; None is one at which no record can ever arrive."""
    if _TOPIC_HEADERS.isdisjoint(headers):
        return ()
    return tuple(
        _address(headers[topic], headers.get(partition) if partition else None)
        for topic, partition in _STYLES
        if topic in headers
    )


def _address(topic: bytes, partition: bytes | None) -> ReplyAddress | None:
    if not _TOPIC.fullmatch(topic) or topic in _NO_TOPICS:
        return None
    if partition is None:
        return ReplyAddress(topic.decode("ascii"), None)
    number = int.from_bytes(partition, "big", signed=True) if len(partition) == _PARTITION_BYTES else -1
    return ReplyAddress(topic.decode("ascii"), number) if number >= 0 else None
