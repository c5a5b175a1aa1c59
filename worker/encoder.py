"""Outcome to outgoing records: events, rejections and dead letters, byte for byte as the contract has them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgpack

from schemas.cloudevents import CONTENT_TYPE, COPIED_HEADERS, JSON_CONTENT_TYPE, SPEC_VERSION, Header
from schemas.events import EventType
from schemas.problem import PROBLEM_CONTENT_TYPE, PROBLEMS, Problem, problem_type
from schemas.replies import ReplyAddress
from schemas.user_task import UserTaskState, write_instant_ms
from worker.decoder import InvalidArgument, Readable, Received
from worker.lifecycle import Refusal, Transition
from worker.strict_json import write

ID_NAMESPACE: Final = UUID("6b1a3f0e-7d0c-5e2b-9a55-3f6f0c1d2e4b")
"""The namespace of outgoing `ce_id`s. Never to be changed: a republished record must carry the same id."""

_ID_NAMESPACE: Final = ID_NAMESPACE.bytes
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}

_OWN_IDENTITY: Final = frozenset({Problem.MALFORMED_COMMAND, Problem.COMMAND_ID_REUSED, Problem.INTERNAL})
"""Rejections that belong to a position rather than to a command id, and so may come several times for one."""

REDRIVE_COUNT: Final = "dlq-redrive-count"
RECORD_TIMESTAMP: Final = "dlq-record-timestamp"
_DEAD_LETTER_HEADERS: Final = frozenset(
    {
        *(f"__dlq.errors.{name}" for name in ("topic", "partition", "offset", "group", "delivery.count", "message")),
        *("dlq-error-type", "dlq-failed-at", RECORD_TIMESTAMP, REDRIVE_COUNT),
    }
)

_ENDED_AT: Final = {UserTaskState.COMPLETED: "completedAt", UserTaskState.CANCELED: "canceledAt"}


_HEADER_OVERHEAD_BYTES: Final = 10
_REPLY_MEMBERS: Final = 2

# headers that are the same for every command, written once
_SPEC_VERSION: Final[Header] = ("ce_specversion", SPEC_VERSION.encode())
_TYPES: Final[Mapping[EventType, Header]] = {kind: ("ce_type", kind.encode()) for kind in EventType}
_CONTENT_TYPES: Final[Mapping[EventType, Header]] = {
    kind: (CONTENT_TYPE, (PROBLEM_CONTENT_TYPE if kind is EventType.REJECTED else JSON_CONTENT_TYPE).encode())
    for kind in EventType
}


class OutgoingRecord(NamedTuple):
    """A record to be published, complete: publishing it twice writes the same key, value and headers twice."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    timestamp_ms: int
    """When it was decided; the topic may not take that any more (`worker.timestamps`)."""
    partition: int | None = None
    """None leaves it to Kafka's default partitioner (murmur2 of the key)."""

    @property
    def size_bytes(self) -> int:
        """Give the bytes of key, value and headers together."""
        headers = sum(len(name.encode()) + len(value or b"") for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers

    @property
    def wire_bytes(self) -> int:
        """Give at least what the record takes in a batch: each header has two lengths besides name and value."""
        return self.size_bytes + _HEADER_OVERHEAD_BYTES * len(self.headers)


class Reply(OutgoingRecord):
    """An outcome once more, for whoever asked for it: the one kind of record that may be left out.

    The replies of one outcome differ in topic and partition only; key, value and headers are the same objects.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Destinations:
    """Where outgoing records go and how they introduce themselves: all of it settings."""

    events_topic: str
    rejections_topic: str
    dead_letters_topic: str
    dead_letters_partitions: int
    event_source: str
    problem_type_base: str
    group_id: str
    reply_topics: re.Pattern[str]
    """Topics to which replies may go; it has to match the whole name."""


def pack(records: Sequence[OutgoingRecord]) -> bytes:
    """Write outgoing records as bytes (MessagePack) for the store.

    A reply is written as its topic and partition alone: it repeats the first record. Where only replies are left, that
    one goes before them, without a topic.
    """
    packed: bytes = msgpack.packb(_abridged(records) if records and type(records[-1]) is Reply else records)
    return packed


def _abridged(records: Sequence[OutgoingRecord]) -> list[tuple[Any, ...]]:
    replies = [(record.topic, record.partition) for record in records if type(record) is Reply]
    others: list[tuple[Any, ...]] = [record for record in records if type(record) is not Reply]
    return [*(others or [(None, *records[0][1:])]), *replies]


def unpack(packed: bytes) -> list[OutgoingRecord]:
    """Read what `pack` wrote."""
    rows = msgpack.unpackb(packed, use_list=False)
    records = [OutgoingRecord(*row) for row in rows if len(row) != _REPLY_MEMBERS and row[0] is not None]
    replies = (row for row in rows if len(row) == _REPLY_MEMBERS)
    return [*records, *(Reply._make((topic, *rows[0][1:5], partition)) for topic, partition in replies)]


def outgoing_id(identity: str, event_type: EventType) -> str:
    """Give the `ce_id` of an outgoing record: a UUIDv5 of the command's id and the record's kind (RFC 9562)."""
    name = _ID_NAMESPACE + f"{identity}\n{event_type}".encode()
    text = sha1(name, usedforsecurity=False).hexdigest()
    # what str(UUID(bytes=..., version=5)) gives, at a fifth of the cost
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:32]}"


class Encoder:
    """Writes outgoing records for the topics of one worker. Pure."""

    def __init__(self, destinations: Destinations) -> None:
        self._to = destinations
        self._source: Header = ("ce_source", destinations.event_source.encode())

    def event(self, received: Readable, transition: Transition, now_ms: int) -> OutgoingRecord:
        """Write the event of an accepted command (contract, Events)."""
        task = transition.task
        key = str(task.user_task_key)
        body: dict[str, Any] = {
            "userTaskKey": key,
            "state": task.state,
            "action": transition.action,
            "variables": transition.variables,
            "version": task.version,
            "commandId": received.command_id,
            "createdAt": write_instant_ms(task.created_at_ms),
        }
        if task.ended_at_ms is not None:
            body[_ENDED_AT[task.state]] = write_instant_ms(task.ended_at_ms)
        headers = self._headers(received, received.identity, transition.event_type, key, now_ms)
        value = _joined(write(body), task.attributes.encode())
        return OutgoingRecord(self._to.events_topic, key.encode(), value, headers, now_ms)

    def rejection(self, received: Received, refusal: Refusal, now_ms: int) -> OutgoingRecord:
        """Write the RFC 9457 problem detail of a refused command (contract, Rejections)."""
        readable = received if isinstance(received, Readable) else None
        key = None if readable is None or readable.user_task_key is None else str(readable.user_task_key)
        status, title = PROBLEMS[refusal.problem]
        body: dict[str, Any] = {
            "type": problem_type(self._to.problem_type_base, refusal.problem),
            "title": title,
            "status": status,
            "detail": refusal.detail,
            "instance": f"/{received.position}",
            "userTaskKey": key,
            "commandId": received.command_id,
            "commandType": readable and readable.command_type,
            "currentState": refusal.current_state,
            **_errors(readable, refusal),
        }
        identity = received.position_identity if refusal.problem in _OWN_IDENTITY else received.identity
        headers = self._headers(received, identity, EventType.REJECTED, key, now_ms)
        record_key = received.record.key if key is None else key.encode()
        value = write({name: member for name, member in body.items() if member is not None})
        return OutgoingRecord(self._to.rejections_topic, record_key, value, headers, now_ms)

    def dead_letter(self, received: Received, error_type: str, detail: str, now_ms: int) -> OutgoingRecord:
        """Copy a command for the operators: same bytes, same partition, and why (KIP-1191's names).

        Its timestamp is the failure's, for that is what the topic's retention counts from.
        """
        record = received.record
        about = {
            "__dlq.errors.topic": record.topic,
            "__dlq.errors.partition": record.partition,
            "__dlq.errors.offset": record.offset,
            "__dlq.errors.group": self._to.group_id,
            "__dlq.errors.delivery.count": 1,
            "__dlq.errors.message": detail,
            "dlq-error-type": error_type,
            "dlq-failed-at": write_instant_ms(now_ms),
            RECORD_TIMESTAMP: record.timestamp,  # as it was: there may be none (-1), or an absurd one
            REDRIVE_COUNT: _redrive_count(record.headers),
        }
        kept = tuple(header for header in record.headers if header[0] not in _DEAD_LETTER_HEADERS)
        headers = kept + tuple((name, str(value).encode()) for name, value in about.items())
        # the commands topic may have been given partitions at run time that this topic lacks: by key then
        partition = record.partition if record.partition < self._to.dead_letters_partitions else None
        return OutgoingRecord(self._to.dead_letters_topic, record.key, record.value, headers, now_ms, partition)

    def obstacle(self, received: Received, address: ReplyAddress) -> str | None:
        """Say why no reply may go there, if so. None may go to a topic of the worker's own, whatever is allowed."""
        own = {self._to.events_topic, self._to.rejections_topic, self._to.dead_letters_topic, received.record.topic}
        if address.topic in own:
            return "forbidden"
        return None if self._to.reply_topics.fullmatch(address.topic) else "not allowed"

    def _headers(
        self, received: Received, identity: str, event_type: EventType, subject: str | None, now_ms: int
    ) -> tuple[Header, ...]:
        return (
            _SPEC_VERSION,
            ("ce_id", outgoing_id(identity, event_type).encode()),
            self._source,
            _TYPES[event_type],
            ("ce_time", write_instant_ms(now_ms).encode()),
            *(() if subject is None else (("ce_subject", subject.encode()),)),
            ("ce_causationid", received.command_id.encode()),
            ("ce_correlationid", received.correlation_id.encode()),
            _CONTENT_TYPES[event_type],
            *received.copied,
        )


def replies(outcome: OutgoingRecord, addresses: Iterable[ReplyAddress]) -> tuple[Reply, ...]:
    """Address an outcome's record to those who asked for it, once for each address."""
    return tuple(Reply._make((topic, *outcome[1:5], partition)) for topic, partition in dict.fromkeys(addresses))


def repeated(first: OutgoingRecord, received: Received, now_ms: int) -> OutgoingRecord:
    """Write a first outcome as the reply to a duplicate: with the duplicate's own trace and correlation headers.

    Its timestamp is the present, for that is what the retention of a topic counts from.
    """
    headers = tuple(header for header in first.headers if header[0] not in COPIED_HEADERS) + received.copied
    return first._replace(headers=headers, timestamp_ms=now_ms)


def _joined(one: bytes, other: bytes) -> bytes:
    """Make one JSON object of two that are not empty and have no member in common."""
    return one[:-1] + b"," + other[1:]


def _errors(readable: Readable | None, refusal: Refusal) -> Mapping[str, Any]:
    if readable is None or refusal.problem is not Problem.INVALID_ARGUMENT:
        return {}
    assert isinstance(readable.command, InvalidArgument)
    errors = [error.model_dump() for error in readable.command.errors]
    count = readable.command.error_count
    return {"errors": errors, "errorCount": count if count > len(errors) else None}


def own_headers(dead_letter: OutgoingRecord) -> tuple[Header, ...]:
    """Give the headers that the worker itself has put on a dead letter."""
    return tuple(header for header in dead_letter.headers if header[0] in _DEAD_LETTER_HEADERS)


def _redrive_count(headers: Sequence[Header]) -> int:
    text = dict(headers).get(REDRIVE_COUNT) or b"0"
    return int(text) if text.isdigit() and len(text) <= 9 else 0  # noqa: PLR2004 - any count a person could reach
