"""Spans: of each batch, of each Kafka transaction, and one in its sender's trace for each command that has one.

OpenTelemetry's API only, and the names of its conventions for messaging. Without an SDK a batch costs one question and
a command nothing. The trace headers are copied to outgoing records by the core, whatever is done here.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from schemas.cloudevents import Header
from schemas.problem import PROBLEMS, Problem
from worker.batch import Broken, Decoded
from worker.decoder import Record
from worker.encoder import OutgoingRecord
from worker.stores.port import Outcome
from worker.telemetry.sampling import Allowance

LINKS_MAX: Final = 128
"""Of one span: the SDK keeps no more."""
TRACED_COMMANDS_PER_S: Final = 200
"""Linked and given spans of their own: each costs nearly three times what deciding it does."""

_TRACEPARENT: Final = "traceparent"
_TRACEPARENT_BYTES: Final = 55
_SAMPLED_DIGITS: Final = b"13579bdf"
"""What the flags may end with where their lowest bit is set."""
_FAILED_STATUS: Final = PROBLEMS[Problem.INTERNAL].status
_propagator: Final = TraceContextTextMapPropagator()


@dataclass(slots=True)
class Processing:
    """A batch in the store, as far as it is traced."""

    origins: tuple[SpanContext, ...]
    """The batch's span, which its publishing belongs to; none without an SDK."""
    outcomes: Sequence[Outcome] = ()
    """To be told once the batch is saved."""


class Tracing:
    """Makes the spans of a member of one consumer group.

    Args:
        topic: the commands topic.
        group_id: the consumer group.
        tracer: what makes spans; the process's own if not given.

    """

    def __init__(self, topic: str, group_id: str, tracer: Tracer | None = None) -> None:
        self._tracer = tracer or trace.get_tracer("user-task-worker")
        self._process_name = f"process {topic}"
        self._process = {
            **_operation("process"),
            "messaging.destination.name": topic,
            "messaging.consumer.group.name": group_id,
        }
        self._commands = Allowance(TRACED_COMMANDS_PER_S)

    @contextmanager
    def processing(self, commands: Sequence[Decoded]) -> Iterator[Processing]:
        """Trace a batch from here until it is saved, and the commands in it whose senders do."""
        started_ns = time.time_ns()
        about = self._process | {"messaging.batch.message_count": len(commands)}
        with self._span(self._process_name, SpanKind.CONSUMER, about) as span:
            context = span.get_span_context()
            if not context.is_valid:  # there is no SDK
                yield Processing(())
                return
            senders = self._senders(commands)
            _link(span, (sender for _, sender in senders))
            processing = Processing((context,))
            yield processing
            statuses = {(one.partition, one.offset): one.status for one in processing.outcomes} if senders else {}
            for record, sender in senders:
                self._tell_sender(span, started_ns, record, sender, statuses.get((record.partition, record.offset)))

    @contextmanager
    def publishing(self, records: Sequence[OutgoingRecord], origins: Sequence[SpanContext]) -> Iterator[None]:
        """Trace a Kafka transaction, as part of the first batch in it and linked with the others."""
        batches = _distinct(origins)
        with self._sending(records, batches[0] if batches else None) as span:
            _link(span, batches[1:])
            yield

    @contextmanager
    def republishing(self, records: Sequence[OutgoingRecord]) -> Iterator[None]:
        """Trace a Kafka transaction that a predecessor owed, linked with the senders whose headers it carries."""
        with self._sending(records, None) as span:
            if span.is_recording():
                found = (_sampled(record.headers) for record in records)
                _link(span, islice((sender for header in found if header and (sender := _context(header))), LINKS_MAX))
            yield

    @contextmanager
    def _sending(self, records: Sequence[OutgoingRecord], parent: SpanContext | None) -> Iterator[Span]:
        about = {**_operation("send"), "messaging.batch.message_count": len(records)}
        with self._span("send", SpanKind.CLIENT, about, parent) as span:
            if span.is_recording() and len(topics := {record.topic for record in records}) == 1:
                span.set_attribute("messaging.destination.name", topics.pop())
            yield span

    @contextmanager
    def _span(
        self, name: str, kind: SpanKind, about: Mapping[str, str | int], parent: SpanContext | None = None
    ) -> Iterator[Span]:
        span = self._tracer.start_span(name, _within(parent), kind, about)
        try:
            yield span
        except BaseException as error:
            _fail(span, type(error).__name__)  # without its text, which may repeat a command's values
            raise
        finally:
            span.end()

    def _senders(self, commands: Iterable[Decoded]) -> list[tuple[Record, SpanContext]]:
        """Find the commands to be traced, and the spans that sent them. Within the limits first, read afterwards."""
        received = (command.received if isinstance(command, Broken) else command for command in commands)
        found = ((one.record, header) for one in received if one.copied and (header := _sampled(one.copied)))
        some = list(islice(found, LINKS_MAX))
        granted = some[: self._commands.take(len(some))]
        return [(record, sender) for record, header in granted if (sender := _context(header))]

    def _tell_sender(
        self, batch: Span, started_ns: int, record: Record, sender: SpanContext, status: int | None
    ) -> None:
        """Make a command's own span: in its sender's trace, where people look for it, and linked with the batch."""
        about = self._process | {
            "messaging.destination.partition.id": str(record.partition),
            "messaging.kafka.offset": record.offset,
        }
        if status is not None:  # or it was a duplicate
            about["usertask.status"] = status
        links = [Link(batch.get_span_context())] if batch.is_recording() else []
        span = self._tracer.start_span(self._process_name, _within(sender), SpanKind.CONSUMER, about, links, started_ns)
        if status == _FAILED_STATUS:
            _fail(span, Problem.INTERNAL.value)
        span.end()


def _operation(name: str) -> dict[str, str | int]:
    return {"messaging.system": "kafka", "messaging.operation.name": name, "messaging.operation.type": name}


def _within(parent: SpanContext | None) -> Context:
    return Context() if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), Context())


def _distinct(spans: Iterable[SpanContext]) -> list[SpanContext]:
    """Leave repetitions out: a sender may send many commands in one span, and a large batch comes in several pieces."""
    return list({(one.trace_id, one.span_id): one for one in spans}.values())


def _link(span: Span, others: Iterable[SpanContext]) -> None:
    for other in _distinct(others):
        span.add_link(other)


def _fail(span: Span, error_type: str) -> None:
    span.set_attribute("error.type", error_type)
    span.set_status(StatusCode.ERROR)


def _sampled(headers: Iterable[Header]) -> bytes | None:
    """Give the `traceparent` if it looks like one whose sender records; few look so by accident."""
    for name, value in headers:
        if name == _TRACEPARENT:
            likely = value is not None and len(value) == _TRACEPARENT_BYTES and value[-1] in _SAMPLED_DIGITS
            return value if likely else None
    return None


def _context(traceparent: bytes) -> SpanContext | None:
    """Read a header (W3C Trace Context, version 00); None if it is not valid.

    `tracestate` is left alone: no span here needs it, and the library logs what it cannot read of it.
    """
    carrier = {_TRACEPARENT: traceparent.decode("latin-1")}
    context = trace.get_current_span(_propagator.extract(carrier, Context())).get_span_context()
    return context if context.is_valid else None
