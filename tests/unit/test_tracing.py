"""Spans of batches and of Kafka transactions, and who is linked with whom; and that without an SDK there are none."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, DEFAULT_ON, ParentBased, Sampler
from opentelemetry.trace import INVALID_SPAN, NoOpTracer, SpanKind, StatusCode

from tests.unit.records import ARecord, a_command, decided
from worker.batch import broken, decode_all
from worker.stores.port import StoreRefusedError
from worker.telemetry.tracing import LINKS_MAX, TRACED_COMMANDS_PER_S, Tracing

SECRET = "4711-secret"
PROCESS = "process commands"


def traceparent(trace_id: int = 1, span_id: int = 1, flags: str = "01") -> bytes:
    return f"00-{trace_id:032x}-{span_id:016x}-{flags}".encode()


def commands_of(*traceparents: bytes | None) -> list[ARecord]:
    """Give commands to complete a task that does not exist."""
    return [
        ARecord(offset=offset, headers=[] if value is None else [("traceparent", value)])
        for offset, value in enumerate(traceparents)
    ]


class Bench:
    """Spans as an exporter gets them."""

    def __init__(self, sampler: Sampler = DEFAULT_ON) -> None:
        provider = TracerProvider(sampler, Resource.get_empty(), shutdown_on_exit=False)
        self._exporter = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = Tracing("commands", "group", provider.get_tracer("tests"))

    def process(self, records: Sequence[ARecord]) -> tuple:
        with self.tracing.processing(decode_all(records)) as processing:
            processing.outcomes = decided(records).outcomes
        return processing.origins

    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def batches(self) -> list[ReadableSpan]:
        return [span for span in self.spans() if "messaging.batch.message_count" in span.attributes]

    def commands(self) -> list[ReadableSpan]:
        return [span for span in self.spans() if "messaging.kafka.offset" in span.attributes]

    def links(self) -> list[tuple[int, int]]:
        [batch] = self.batches()
        return [(link.context.trace_id, link.context.span_id) for link in batch.links]


@pytest.fixture
def it() -> Bench:
    return Bench()


# batches


def test_a_batch_is_a_span_under_the_conventions_names(it):
    it.process(commands_of(None, None))

    [span] = it.spans()
    assert (span.name, span.kind, span.parent, list(span.links)) == (PROCESS, SpanKind.CONSUMER, None, [])
    assert span.attributes == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "commands",
        "messaging.consumer.group.name": "group",
        "messaging.batch.message_count": 2,
    }
    assert span.status.status_code is StatusCode.UNSET


def test_a_batch_is_linked_with_the_spans_that_sent_its_commands_each_once(it):
    it.process(commands_of(traceparent(7, 8), None, traceparent(9, 10), traceparent(7, 8)))

    assert it.links() == [(7, 8), (9, 10)]


def test_a_record_on_which_the_worker_failed_is_linked_too_if_its_headers_are_known(it):
    command = dataclasses.replace(broken(ARecord()).received, copied=(("traceparent", traceparent(7, 8)),))
    with it.tracing.processing([dataclasses.replace(broken(ARecord()), received=command)]):
        pass

    assert it.links() == [(7, 8)]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"1", id="short"),
        pytest.param(b"x" * 54 + b"1", id="no hexadecimal"),
        pytest.param(b"\xff" * 54 + b"1", id="not UTF-8"),
        pytest.param(traceparent().upper().replace(b"0", b"A"), id="capitals"),
        pytest.param(traceparent(trace_id=0), id="no trace id"),
        pytest.param(traceparent(span_id=0), id="no span id"),
        pytest.param(b"ff" + traceparent()[2:], id="the version that is forbidden"),
        pytest.param(traceparent() + b"-1", id="longer than its version allows"),
        pytest.param(traceparent(flags="00"), id="not sampled"),
        pytest.param(traceparent(flags="02"), id="not sampled, other flags"),
    ],
)
def test_what_is_not_valid_or_not_sampled_is_not_linked(value, it):
    it.process(commands_of(value))

    assert (it.links(), it.commands()) == ([], [])


@given(st.binary(max_size=60) | st.binary(min_size=55, max_size=55) | st.just(traceparent()), st.binary(max_size=20))
def test_no_header_is_too_odd(value, state):
    it = Bench()

    it.process([ARecord(headers=[("traceparent", value), ("tracestate", state)])])

    assert it.links() == ([(1, 1)] if value == traceparent() else [])


def test_other_flags_beside_the_sampled_one_do_no_harm(it):
    it.process(commands_of(traceparent(7, 8, flags="03")))

    assert it.links() == [(7, 8)]


def test_a_batch_has_at_most_so_many_links(it):
    it.process(commands_of(*(traceparent(number + 1) for number in range(LINKS_MAX + 10))))

    assert it.links() == [(number + 1, 1) for number in range(LINKS_MAX)]
    assert it.batches()[0].dropped_links == 0
    assert len(it.commands()) == LINKS_MAX


def test_in_a_second_at_most_so_many_commands_are_traced(it):
    for _ in range(3):
        it.process(commands_of(*(traceparent(number + 1) for number in range(LINKS_MAX))))

    assert len(it.commands()) == TRACED_COMMANDS_PER_S
    assert sum(len(batch.links) for batch in it.batches()) == TRACED_COMMANDS_PER_S


def test_a_batch_that_the_store_refuses_is_an_error_without_its_text(it):
    with pytest.raises(StoreRefusedError), it.tracing.processing(decode_all(commands_of(traceparent(7, 8)))):
        raise StoreRefusedError(SECRET)

    [span] = it.spans()
    assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, "StoreRefusedError")
    assert it.links() == [(7, 8)]
    assert SECRET not in span.to_json()


# commands


def test_a_command_has_a_span_of_its_own_in_its_senders_trace_that_leads_to_the_batch(it):
    it.process([ARecord(partition=3, offset=42, headers=[("traceparent", traceparent(7, 8))])])

    [command], [batch] = it.commands(), it.batches()
    assert (command.name, command.kind) == (PROCESS, SpanKind.CONSUMER)
    assert (command.context.trace_id, command.parent.span_id) == (7, 8)
    assert [link.context for link in command.links] == [batch.context]
    assert command.attributes == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "commands",
        "messaging.destination.partition.id": "3",
        "messaging.consumer.group.name": "group",
        "messaging.kafka.offset": 42,
        "usertask.status": 404,
    }
    assert command.status.status_code is StatusCode.UNSET
    assert command.start_time <= batch.start_time < command.end_time <= batch.end_time


def test_a_command_that_failed_is_an_error_and_one_that_was_refused_is_none(it):
    records = commands_of(traceparent(1), traceparent(2), traceparent(3))
    with it.tracing.processing(decode_all(records)) as processing:
        statuses = (204, 409, 500)
        processing.outcomes = [
            dataclasses.replace(outcome, status=status)
            for outcome, status in zip(decided(records).outcomes, statuses, strict=True)
        ]

    spans = it.commands()
    assert [span.attributes["usertask.status"] for span in spans] == list(statuses)
    assert [span.status.status_code is StatusCode.ERROR for span in spans] == [False, False, True]
    assert [span.attributes.get("error.type") for span in spans] == [None, None, "internal"]


def test_a_duplicate_has_a_span_without_status(it):
    first = a_command("create", {"userTaskKey": "1"}, "same", offset=0)
    again = dataclasses.replace(first, headers=[*first.headers, ("traceparent", traceparent())], offset=1)

    it.process([first, again])

    [span] = it.commands()
    assert (span.attributes["messaging.kafka.offset"], "usertask.status" in span.attributes) == (1, False)


def test_no_span_has_a_value_of_a_command(it):
    command = a_command("create", {"userTaskKey": "1", "assignee": SECRET}, SECRET)

    it.process([dataclasses.replace(command, headers=[*command.headers, ("traceparent", traceparent())])])

    assert len(it.spans()) == 2
    assert not [span for span in it.spans() if SECRET in span.to_json()]


# Kafka transactions


def published(*topics: str) -> list:
    return [SimpleNamespace(topic=topic) for topic in topics]


def test_a_kafka_transaction_is_part_of_its_first_batch_and_linked_with_the_others(it):
    first, second = (it.process(commands_of(None)) for _ in range(2))
    with it.tracing.publishing(published("events", "events"), [*first, *second, *first]):
        pass

    span = it.spans()[-1]
    assert (span.name, span.kind) == ("send", SpanKind.CLIENT)
    assert span.parent == first[0]
    assert [link.context for link in span.links] == list(second)
    assert span.attributes == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "events",
        "messaging.batch.message_count": 2,
    }


def test_a_kafka_transaction_to_several_topics_names_none(it):
    with it.tracing.publishing(published("events", "rejections"), []):
        pass

    assert "messaging.destination.name" not in it.spans()[0].attributes


def test_a_kafka_transaction_that_fails_is_an_error(it):
    with pytest.raises(TimeoutError), it.tracing.publishing(published("events"), []):
        raise TimeoutError(SECRET)

    [span] = it.spans()
    assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, "TimeoutError")
    assert SECRET not in span.to_json()


def records_owed(traceparents: Iterable[bytes]) -> list:
    outcomes = decided(commands_of(*traceparents)).outcomes
    return [record for outcome in outcomes for record in outcome.records]


def test_what_is_published_for_a_predecessor_is_linked_with_the_senders(it):
    numbers = itertools.chain([7, 7], range(10, 10 + LINKS_MAX))
    with it.tracing.republishing(records_owed(traceparent(number) for number in numbers)):
        pass

    assert it.links()[:2] == [(7, 1), (10, 1)]
    assert len(it.links()) <= LINKS_MAX


# who records


def test_without_an_sdk_no_span_is_made(monkeypatch):
    made = []
    tracer = NoOpTracer()
    start_span = tracer.start_span
    monkeypatch.setattr(tracer, "start_span", lambda *how: made.append(start_span(*how)) or made[-1])
    tracing = Tracing("commands", "group", tracer)

    with tracing.processing(decode_all(commands_of(traceparent()))) as processing:
        processing.outcomes = [object()]  # nobody looks at it
    with tracing.publishing(published("events"), processing.origins):
        pass

    assert processing.origins == ()
    assert [span is INVALID_SPAN for span in made] == [True, True]


def test_a_command_is_traced_in_its_senders_trace_though_batches_are_not_sampled():
    it = Bench(ParentBased(root=ALWAYS_OFF))

    origins = it.process(commands_of(traceparent(7, 8), None))
    with it.tracing.publishing(published("events"), origins):
        pass

    [span] = it.spans()
    assert (span.context.trace_id, list(span.links)) == (7, [])


def test_a_sampler_that_takes_nothing_has_the_last_word():
    it = Bench(ALWAYS_OFF)

    it.process(commands_of(traceparent(7, 8)))

    assert it.spans() == []
