"""What upstream may send: topics, headers, modes and values of commands, each accepted or refused as promised."""

import base64
import json

import pytest
from confluent_kafka import Producer

from tests.integration.harness import (
    CANCEL,
    COMPLETE,
    COMPLETED,
    CORRELATION_HEADERS,
    CREATE,
    STRUCTURED,
    Wire,
    bench,
    cloud_event,
    encoded,
    envelope,
    fresh_id,
    fresh_key,
    nested,
    replaced,
    without,
)

REQUIRED = ["ce_specversion", "ce_id", "ce_source", "ce_type"]
NAMES = ["ce_id", "ce_source", "idempotency-key", "ce_correlationid"]
TRACE = ("traceparent", "tracestate")
TEXTS = ["name", "assignee", "externalFormReference", "elementId", "processDefinitionId", "tenantId"]
LISTS = ["candidateGroups", "candidateUsers"]
KEYS = ["formKey", "elementInstanceKey", "processInstanceKey", "processDefinitionKey"]
DATES = ["dueDate", "followUpDate"]
OPTIONAL = [
    *TEXTS,
    *LISTS,
    "tags",
    *DATES,
    "priority",
    *KEYS,
    "processDefinitionVersion",
    "customHeaders",
    "variables",
]


@pytest.fixture(scope="module")
def it(kafka, tmp_path_factory):
    with bench(kafka.bootstrap_servers, tmp_path_factory.mktemp("worker")) as it:
        yield it


@pytest.fixture(scope="module")
def wire(it):
    return it.wire


def assert_readable(wire: Wire, headers=(), **how) -> None:
    """A command with these headers is decided: the task does not exist."""
    refusal = wire.rejected(encoded({"userTaskKey": fresh_key()}), headers=list(headers), **how)
    assert refusal.slug == "not-found", refusal.value


def structured(wire: Wire, data: object, kind: str = COMPLETE, **attributes: object) -> dict:
    """Send in structured mode, and return the event's headers and body."""
    name = fresh_id()
    value = encoded(envelope(data, kind, id=name) | attributes)
    event = wire.accepted(value, command_id=name, headers=STRUCTURED)
    return {"headers": event.headers, "body": event.body}


def invalid_create(wire: Wire, **members: object) -> dict[str, str]:
    key = fresh_key()
    refusal = wire.invalid(encoded({"userTaskKey": key} | members), key=key.encode(), headers=cloud_event(CREATE))
    return refusal.errors


def invalid_complete(wire: Wire, **members: object) -> dict[str, str]:
    key = fresh_key()
    return wire.invalid(encoded({"userTaskKey": key} | members), key=key.encode()).errors


# Topics


def test_a_command_that_was_written_in_an_aborted_transaction_is_not_read(kafka, wire):
    position = aborted(kafka.bootstrap_servers, wire, encoded({"userTaskKey": fresh_key()}))
    assert wire.outcomes(position) == []
    assert wire.dead_letters_of(position) == []


def aborted(bootstrap_servers: str, wire: Wire, value: bytes):
    """Send in a transaction that is aborted, and return the position of the command."""
    before = wire.send(encoded({"userTaskKey": fresh_key()}), partition=0)
    producer = Producer({"bootstrap.servers": bootstrap_servers, "transactional.id": fresh_id()})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(wire.topics.commands, value=value, partition=0)
    producer.flush(30)
    producer.abort_transaction(30)
    return before._replace(offset=before.offset + 1)


def test_a_command_of_a_committed_transaction_is_read(kafka, wire):
    name = fresh_id()
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": fresh_id()})
    producer.init_transactions(30)
    producer.begin_transaction()
    value = encoded({"userTaskKey": fresh_key()})
    producer.produce(wire.topics.commands, value=value, headers=cloud_event(CREATE, name))
    producer.commit_transaction(30)
    assert wire.event(name).body["state"] == "CREATED"


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_a_command_is_read_whatever_its_codec(kafka, wire, codec):
    name = fresh_id()
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "compression.type": codec})
    value = encoded({"userTaskKey": fresh_key(), "variables": {"text": "x" * 10_000}})
    producer.produce(wire.topics.commands, value=value, headers=cloud_event(CREATE, name))
    producer.flush(30)
    assert wire.event(name).body["state"] == "CREATED"


# ce_type


def test_without_ce_headers_a_command_completes(wire):
    key = wire.created()
    assert wire.complete(key).text("ce_type") == COMPLETED


@pytest.mark.parametrize(
    ("kind", "state"),
    [(CREATE, "CREATED"), (COMPLETE, "COMPLETED"), (CANCEL, "CANCELED")],
    ids=["create", "complete", "cancel"],
)
def test_the_type_says_what_the_command_is(wire, kind, state):
    key = fresh_key() if kind == CREATE else wire.created()
    event = wire.accepted(encoded({"userTaskKey": key}), headers=cloud_event(kind))
    assert event.body["state"] == state


UNKNOWN_TYPES = [
    pytest.param("user-task.complete.v2", id="another version"),
    pytest.param("USER-TASK.COMPLETE.V1", id="other case"),
    pytest.param(" user-task.complete.v1", id="a space before"),
    pytest.param("user-task.complete.v1\n", id="a line feed after"),
    pytest.param("user-task.completed.v1", id="an event's type"),
    pytest.param("user-task.assign.v1", id="another verb"),
    pytest.param("", id="empty"),
]


@pytest.mark.parametrize("kind", UNKNOWN_TYPES)
def test_an_unknown_type_is_malformed(wire, kind):
    wire.malformed(encoded({"userTaskKey": wire.created()}), headers=cloud_event(kind))


# Binary mode


@pytest.mark.parametrize("missing", REQUIRED)
def test_binary_mode_needs_all_four_headers(wire, missing):
    wire.malformed(b"{}", headers=without(cloud_event(), missing))


@pytest.mark.parametrize("only", REQUIRED)
def test_one_of_the_four_headers_makes_binary_mode(wire, only):
    wire.malformed(b"{}", headers=[header for header in cloud_event() if header[0] == only])


@pytest.mark.parametrize("null", REQUIRED)
def test_a_required_header_that_is_null_is_missing(wire, null):
    wire.malformed(b"{}", headers=replaced(cloud_event(), null, None))


@pytest.mark.parametrize("null", REQUIRED)
def test_a_required_header_whose_last_value_is_null_is_missing(wire, null):
    wire.malformed(b"{}", headers=[*cloud_event(), (null, None)])


def test_required_headers_that_are_all_null_make_plain_json(wire):
    key = wire.created()
    event = wire.complete(key, headers=[(name, None) for name in REQUIRED])
    assert event.body["commandId"] == event.text("ce_causationid")
    assert event.body["commandId"].startswith(f"{wire.topics.commands}/")


@pytest.mark.parametrize("version", [b"0.3", b"1", b"1.1", b"1.0.2", b"2.0", b" 1.0", b"", b"\xff"])
def test_another_version_of_cloudevents_is_malformed(wire, version):
    wire.malformed(b"{}", headers=replaced(cloud_event(), "ce_specversion", version))


# The command id


def test_the_command_id_is_the_ce_id(wire):
    name = fresh_id()
    event = wire.create(headers=replaced([], "ce_id", name.encode()))
    assert (event.body["commandId"], event.text("ce_causationid")) == (name, name)


def test_the_command_id_is_the_idempotency_key_in_plain_json(wire):
    name = fresh_id()
    event = wire.complete(wire.created(), headers=[("idempotency-key", name.encode())])
    assert (event.body["commandId"], event.text("ce_causationid")) == (name, name)


def test_the_ce_id_comes_before_the_idempotency_key(wire):
    event = wire.create(headers=[("ce_id", b"the-ce-id-first"), ("idempotency-key", fresh_id().encode())])
    assert event.body["commandId"] == "the-ce-id-first"


def test_the_command_id_is_the_position_where_no_header_says_it(wire):
    key = wire.created()
    position = wire.send(encoded({"userTaskKey": key}), key=key.encode())
    event = wire.event(position.path)
    assert event.body["commandId"] == position.path


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param([("idempotency-key", b"twice-1"), ("idempotency-key", b"twice-2")], "twice-2", id="the last"),
        pytest.param([("idempotency-key", None), ("idempotency-key", b"twice-3")], "twice-3", id="after a null"),
        pytest.param(
            [("idempotency-key", b"\xff"), ("idempotency-key", b"twice-4")], "twice-4", id="after a wrong one"
        ),
    ],
)
def test_of_a_header_twice_the_last_counts(wire, headers, expected):
    assert wire.complete(wire.created(), headers=headers).body["commandId"] == expected


def test_a_header_whose_last_value_is_null_is_absent(wire):
    key = wire.created()
    headers = [("idempotency-key", b"null-comes-last"), ("idempotency-key", None)]
    position = wire.send(encoded({"userTaskKey": key}), key=key.encode(), headers=headers)
    assert wire.event(position.path).body["commandId"] == position.path


def test_of_each_required_header_twice_the_last_counts(wire):
    name = fresh_id()
    wrong = [("ce_specversion", b"7"), ("ce_id", b"\xff"), ("ce_source", b""), ("ce_type", b"no-type")]
    event = wire.accepted(encoded({"userTaskKey": fresh_key()}), headers=[*wrong, *cloud_event(CREATE, name)])
    assert event.body["commandId"] == name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "text",
    [
        pytest.param("i", id="one character"),
        pytest.param("a" * 255, id="255 characters"),
        pytest.param("😀" * 255, id="255 code points of four bytes"),
        pytest.param(" a ü/?#%~ ", id="any characters but control characters"),
    ],
)
def test_names_of_1_to_255_characters_are_fine(wire, name, text):
    assert_readable(wire, replaced(cloud_event(source=f"/tests/{fresh_id()}"), name, text.encode()))


@pytest.mark.parametrize("text", ["a" * 254, "😀" * 254], ids=["255 ASCII characters", "255 code points"])
def test_a_long_idempotency_key_is_fine_in_plain_json(wire, text):
    assert_readable(wire, [("idempotency-key", f"{text}x".encode())])


def test_the_idempotency_key_of_a_redrive_may_be_longer(wire):
    assert_readable(wire, [("idempotency-key", f"redrive:{'t' * 249}/12/1234567".encode())])


WRONG_NAMES = [
    pytest.param(b"a" * 256, id="256 characters"),
    pytest.param("😀".encode() * 256, id="256 code points"),
    pytest.param(b"a\x00", id="U+0000"),
    pytest.param(b"a\tb", id="a tab"),
    pytest.param(b"a\n", id="a line feed at the end"),
    pytest.param(b"\x1fa", id="U+001F"),
    pytest.param(b"a\x7fb", id="U+007F"),
    pytest.param("a\x85b".encode(), id="U+0085"),
    pytest.param(b"\xff", id="not UTF-8"),
    pytest.param(b"\xed\xa0\x80", id="an encoded surrogate"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", WRONG_NAMES)
def test_wrong_names_are_malformed(wire, name, value):
    wire.malformed(b"{}", headers=replaced(cloud_event(), name, value))


@pytest.mark.parametrize("name", ["idempotency-key", "ce_correlationid"])
@pytest.mark.parametrize("value", WRONG_NAMES)
def test_wrong_names_are_malformed_in_plain_json(wire, name, value):
    wire.malformed(b"{}", headers=[(name, value)])


@pytest.mark.parametrize("value", [*WRONG_NAMES, pytest.param(b"", id="empty")])
def test_a_wrong_idempotency_key_is_malformed_in_structured_mode(wire, value):
    value_sent = encoded(envelope({"userTaskKey": fresh_key()}))
    wire.malformed(value_sent, headers=[*STRUCTURED, ("idempotency-key", value)])


@pytest.mark.parametrize("name", ["ce_id", "ce_source", "idempotency-key"])
def test_empty_names_are_malformed(wire, name):
    wire.malformed(b"{}", headers=replaced(cloud_event(), name, b""))


def test_an_empty_idempotency_key_is_malformed_in_plain_json(wire):
    wire.malformed(b"{}", headers=[("idempotency-key", b"")])


@pytest.mark.parametrize("name", ["ce_type", "content-type"])
def test_types_that_are_not_utf_8_are_malformed(wire, name):
    wire.malformed(b"{}", headers=replaced(cloud_event(), name, b"application/json\xff"))


# Names in other spellings


@pytest.mark.parametrize("spelling", ["ce-{}", "CE_{}", "Ce-{}", "cloudEvents:{}", "cloudEvents_{}", "{}"])
def test_attributes_under_other_names_are_malformed_and_the_right_ones_told(wire, spelling):
    key = wire.created()
    headers = [(spelling.format(name.removeprefix("ce_")), value) for name, value in cloud_event(CANCEL)]
    refusal = wire.malformed(encoded({"userTaskKey": key}), headers=headers)
    assert all(name in refusal.body["detail"] for name in REQUIRED)
    wire.complete(key)


def test_attributes_under_both_names_are_fine_where_they_agree(wire):
    headers = cloud_event(CREATE)
    event = wire.accepted(encoded({"userTaskKey": fresh_key()}), headers=[*headers, *dashed(headers)])
    assert event.body["state"] == "CREATED"
    wire.malformed(b"{}", headers=[*headers, *dashed(cloud_event(CANCEL))])


def dashed(headers):
    return [(name.replace("_", "-"), value) for name, value in headers]


def test_in_structured_mode_they_are_ignored_under_any_name(wire):
    name, wrong = fresh_id(), [("ce-type", b"x"), ("CE_ID", b"\xff"), ("cloudEvents:specversion", b"9")]
    value = encoded(envelope({"userTaskKey": fresh_key()}, CREATE, id=name))
    assert wire.accepted(value, command_id=name, headers=[*wrong, *STRUCTURED]).body["commandId"] == name


@pytest.mark.parametrize("header", ["Idempotency-Key", "idempotency_key", "IdempotencyKey"])
def test_the_idempotency_key_is_known_in_other_spellings(wire, header):
    name = fresh_id()
    value = encoded({"userTaskKey": wire.created()})
    event = wire.accepted(value, command_id=name, headers=[(header, name.encode())])
    assert event.body["commandId"] == name
    wire.malformed(b"{}", headers=[(header, b"1"), ("idempotency-key", b"2")])


@pytest.mark.parametrize("header", ["Content-Type", "contentType", "content_type"])
def test_the_content_type_is_known_in_other_spellings(wire, header):
    name = fresh_id()
    value = encoded(envelope({"userTaskKey": fresh_key()}, CREATE, id=name))
    wire.accepted(value, command_id=name, headers=[(header, STRUCTURED[0][1])])
    wire.malformed(b"{}", headers=[(header, b"text/plain")])
    wire.malformed(value, headers=[*STRUCTURED, (header, b"application/json")])


def test_copied_headers_are_known_in_other_spellings_and_copied_under_the_right_names(wire):
    event = wire.complete(wire.created(), headers=[("Traceparent", b"00-1"), ("Correlation-Id", b"\xff")])
    assert (event.headers["traceparent"], event.headers["correlation_id"]) == (b"00-1", b"\xff")
    assert not {"Traceparent", "Correlation-Id"} & event.headers.keys()


# Correlation


@pytest.mark.parametrize("binary", [True, False], ids=["binary mode", "plain JSON"])
def test_the_correlation_id_is_copied_to_the_event(wire, binary):
    key = wire.created()
    headers = [*(cloud_event() if binary else []), ("ce_correlationid", "größe-1".encode())]
    event = wire.accepted(encoded({"userTaskKey": key}), headers=headers)
    assert event.text("ce_correlationid") == "größe-1"


@pytest.mark.parametrize("binary", [True, False], ids=["binary mode", "plain JSON"])
def test_the_correlation_id_is_copied_to_the_rejection(wire, binary):
    headers = [*(cloud_event() if binary else []), ("ce_correlationid", b"c-2")]
    refusal = wire.rejected(encoded({"userTaskKey": fresh_key()}), headers=headers)
    assert refusal.text("ce_correlationid") == "c-2"


def test_the_correlation_id_is_copied_to_the_rejection_of_a_value_that_cannot_be_read(wire):
    refusal = wire.malformed(b"no json", headers=[("ce_correlationid", b"c-3")])
    assert refusal.text("ce_correlationid") == "c-3"


def test_the_correlation_id_is_copied_to_the_rejection_of_a_content_type(wire):
    refusal = wire.malformed(b"{}", headers=[("content-type", b"text/plain"), ("ce_correlationid", b"c-4")])
    assert refusal.text("ce_correlationid") == "c-4"


@pytest.mark.parametrize(
    "correlation",
    [
        pytest.param([], id="absent"),
        pytest.param([("ce_correlationid", b"")], id="empty"),
        pytest.param([("ce_correlationid", None)], id="null"),
        pytest.param([("ce_correlationid", b"c"), ("ce_correlationid", b"")], id="empty at last"),
    ],
)
@pytest.mark.parametrize("identity", ["ce_id", "idempotency-key", "position"])
def test_the_correlation_id_is_the_command_id_by_default(wire, identity, correlation):
    headers = {"ce_id": cloud_event(), "idempotency-key": [("idempotency-key", fresh_id().encode())], "position": []}
    refusal = wire.rejected(encoded({"userTaskKey": fresh_key()}), headers=[*headers[identity], *correlation])
    assert refusal.text("ce_correlationid") == refusal.text("ce_causationid") == refusal.body["commandId"]


# Headers that are never a reason to refuse


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(("ce_time", b"yesterday"), id="a time that is none"),
        pytest.param(("ce_time", b"\xff"), id="a time that is no text"),
        pytest.param(("ce_time", None), id="a null time"),
        pytest.param(("ce_subject", b"not the key"), id="another subject"),
        pytest.param(("ce_subject", b"\xff\x00"), id="a subject that is no text"),
        pytest.param(("ce_dataschema", b"::"), id="a data schema that is no URI"),
        pytest.param(("ce_Not-A-Name", b"\xff"), id="an attribute's wrong name"),
        pytest.param(("ce_", b""), id="no attribute's name"),
        pytest.param(("ce_data", b"x"), id="an attribute called data"),
        pytest.param(("x-any", b"\xff\xfe\x00"), id="a header that is no text"),
        pytest.param(("x-any", None), id="a null header"),
        pytest.param(("", b""), id="a header without a name"),
        pytest.param(("größe", b"1"), id="a header's name outside ASCII"),
        pytest.param(("CE_TIME", b"x"), id="a name in other case that is never read"),
        pytest.param(("id", b"x"), id="an attribute without prefix"),
        pytest.param(("Reply-To", b"not\xffallowed"), id="a reply topic in another spelling"),
        pytest.param(("traceparent", b"nonsense"), id="a wrong traceparent"),
        pytest.param(("kafka_replyTopic", b"not\xffallowed"), id="a reply topic that is no text"),
        pytest.param(("kafka_replyPartition", b"x"), id="a reply partition that is none"),
        pytest.param(("dlq-redrive-count", b"many"), id="a redrive count that is none"),
    ],
)
@pytest.mark.parametrize("binary", [True, False], ids=["binary mode", "plain JSON"])
def test_other_headers_are_never_a_reason_to_refuse(wire, header, binary):
    assert_readable(wire, [*(cloud_event() if binary else []), header])


# Trace context


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", id="a right one"),
        pytest.param(b"nonsense", id="nonsense"),
        pytest.param(b"\xff\x00\xfe\n", id="bytes"),
        pytest.param(b"", id="nothing"),
        pytest.param(b" 00-UPPER ", id="spaces"),
    ],
)
@pytest.mark.parametrize("name", TRACE)
def test_the_trace_context_is_copied_byte_for_byte(wire, name, value):
    event = wire.complete(wire.created(), headers=[(name, value)])
    refusal = wire.rejected(encoded({"userTaskKey": fresh_key()}), headers=[(name, value)])
    unreadable = wire.malformed(b"no json", headers=[(name, value)])
    assert [seen.headers.get(name) for seen in (event, refusal, unreadable)] == [value] * 3


def test_both_headers_of_the_trace_context_are_copied(wire):
    context = {"traceparent": b"00-a-b-01", "tracestate": b"vendor=1,other=2"}
    event = wire.complete(wire.created(), headers=list(context.items()))
    assert {name: event.headers[name] for name in TRACE} == context


def test_without_a_trace_context_there_is_none(wire):
    assert not set(wire.complete(wire.created()).headers) & {*TRACE, *CORRELATION_HEADERS}


COPIED = [*TRACE, *CORRELATION_HEADERS]


def spread(total: int) -> list[tuple[str, bytes]]:
    """Return the five headers that are copied, with so many bytes together."""
    return [(name, b"x" * 1000) for name in COPIED[1:]] + [(COPIED[0], b"x" * (total - 4000))]


def test_64_kib_of_copied_headers_are_copied(wire):
    event = wire.complete(wire.created(), headers=spread(64 * 1024))
    assert sum(len(event.headers[name]) for name in COPIED) == 64 * 1024


def test_more_than_64_kib_of_copied_headers_are_all_left_out(wire):
    headers = spread(64 * 1024 + 1)
    event = wire.complete(wire.created(), headers=headers)
    refusal = wire.rejected(encoded({"userTaskKey": fresh_key()}), headers=headers)
    unreadable = wire.malformed(b"no json", headers=headers)
    for outcome in (event, refusal, unreadable):
        assert not set(outcome.headers) & set(COPIED)


@pytest.mark.parametrize("name", COPIED)
def test_one_header_of_more_than_64_kib_leaves_all_out(wire, name):
    headers = [(name, b"x" * (64 * 1024 + 1)), *((other, b"1") for other in COPIED if other != name)]
    event = wire.complete(wire.created(), headers=headers)
    assert not set(event.headers) & set(COPIED)


def test_64_kib_of_other_headers_leave_nothing_out(wire):
    event = wire.complete(wire.created(), headers=[("x-large", b"x" * 70_000), ("traceparent", b"1")])
    assert event.headers["traceparent"] == b"1"


# Content type


@pytest.mark.parametrize(
    "value",
    [
        b"application/json",
        b"APPLICATION/JSON",
        b"Application/Json; charset=utf-8",
        b"application/json;charset=latin-1",
        b"application/json ; a=b ; c=d",
        b"application/json;",
        b'"application/json"',
        b"",
        None,
    ],
)
def test_the_content_type_is_compared_without_case_and_parameters(wire, value):
    assert_readable(wire, [("content-type", value)])


@pytest.mark.parametrize(
    "value",
    [
        b"text/plain",
        b"text/json",
        b"application/jsonl",
        b"application/problem+json",
        b"application/cloudevents",
        b"application/cloudevents-batch+json",
        b"application/cloudevents+avro",
        b"; charset=utf-8",
        b"json",
        b"\xff",
    ],
)
@pytest.mark.parametrize("binary", [True, False], ids=["binary mode", "plain JSON"])
def test_another_content_type_is_malformed(wire, value, binary):
    wire.malformed(b"{}", headers=[*(cloud_event() if binary else []), ("content-type", value)])


def test_of_two_content_types_the_last_counts(wire):
    assert_readable(wire, [("content-type", b"text/plain"), ("content-type", b"application/json")])
    wire.malformed(b"{}", headers=[("content-type", b"application/json"), ("content-type", b"text/plain")])


# Structured mode


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/cloudevents+json",
        b"APPLICATION/CloudEvents+JSON",
        b"application/cloudevents+json; charset=UTF-8",
    ],
)
def test_the_content_type_makes_structured_mode(wire, content_type):
    name = fresh_id()
    value = encoded(envelope({"userTaskKey": fresh_key()}, CREATE, id=name))
    event = wire.accepted(value, command_id=name, headers=[("content-type", content_type)])
    assert event.body["commandId"] == name


def test_structured_mode_takes_the_record_key_for_a_missing_user_task_key(wire):
    key, name = wire.created(), fresh_id()
    event = wire.accepted(encoded(envelope({}, id=name)), command_id=name, key=key.encode(), headers=STRUCTURED)
    assert event.body["userTaskKey"] == key


def test_in_structured_mode_ce_headers_are_ignored(wire):
    name, key = fresh_id(), wire.created()
    wrong = [("ce_specversion", b"9"), ("ce_id", b"\xff"), ("ce_type", CREATE.encode()), ("ce_correlationid", b"\n")]
    value = encoded(envelope({"userTaskKey": key}, id=name))
    event = wire.accepted(value, command_id=name, headers=[*wrong, *STRUCTURED])
    assert (event.body["state"], event.text("ce_correlationid")) == ("COMPLETED", name)


def test_in_structured_mode_the_envelopes_id_comes_before_the_idempotency_key(wire):
    name = fresh_id()
    value = encoded(envelope({"userTaskKey": fresh_key()}, CREATE, id=name))
    event = wire.accepted(value, command_id=name, headers=[*STRUCTURED, ("idempotency-key", b"not-this-one")])
    assert event.body["commandId"] == name


def test_in_structured_mode_the_correlation_id_is_in_the_envelope(wire):
    outcome = structured(wire, {"userTaskKey": fresh_key()}, CREATE, correlationid="c-ü-4")
    assert outcome["headers"]["ce_correlationid"] == "c-ü-4".encode()


def test_in_structured_mode_an_empty_correlation_id_is_the_command_id(wire):
    outcome = structured(wire, {"userTaskKey": fresh_key()}, CREATE, correlationid="")
    assert outcome["headers"]["ce_correlationid"].decode() == outcome["body"]["commandId"]


def test_in_structured_mode_other_headers_are_copied_too(wire):
    name = fresh_id()
    value = encoded(envelope({"userTaskKey": fresh_key()}, CREATE, id=name))
    event = wire.accepted(value, command_id=name, headers=[*STRUCTURED, ("traceparent", b"\xff")])
    assert event.headers["traceparent"] == b"\xff"


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param({"comexampleextension": "x"}, id="an extension that is text"),
        pytest.param({"comexampleextension": 5, "other": True}, id="extensions of other types"),
        pytest.param({"comexampleextension": {"deep": [1]}}, id="an extension that is an object"),
        pytest.param({"Not A Name": None}, id="a name that is none"),
        pytest.param({"time": "yesterday"}, id="a time that is none"),
        pytest.param({"subject": "not the key"}, id="another subject"),
        pytest.param({"datacontenttype": "application/json"}, id="the data's content type"),
    ],
)
def test_other_members_of_the_envelope_are_never_a_reason_to_refuse(wire, attributes):
    assert structured(wire, {"userTaskKey": fresh_key()}, CREATE, **attributes)["body"]["state"] == "CREATED"


@pytest.mark.parametrize(
    "attributes",
    [
        *(pytest.param({name: ...}, id=f"no {name}") for name in ("specversion", "id", "source", "type")),
        *(pytest.param({name: None}, id=f"a null {name}") for name in ("specversion", "id", "source", "type")),
        *(pytest.param({name: ""}, id=f"an empty {name}") for name in ("specversion", "id", "source", "type")),
        *(pytest.param({name: 1}, id=f"a number as {name}") for name in ("specversion", "id", "source", "type")),
        pytest.param({"specversion": 1.0}, id="a number 1.0 as specversion"),
        pytest.param({"specversion": "0.3"}, id="another specversion"),
        pytest.param({"type": "user-task.complete.v2"}, id="an unknown type"),
        *(
            pytest.param({name: "a" * 256}, id=f"256 characters as {name}")
            for name in ("id", "source", "correlationid")
        ),
        *(pytest.param({name: "a\n"}, id=f"a line feed in {name}") for name in ("id", "source", "correlationid")),
    ],
)
def test_a_wrong_envelope_is_malformed(wire, attributes):
    value = encoded(envelope({"userTaskKey": wire.created()}, **attributes))
    wire.malformed(value, headers=STRUCTURED)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(..., id="missing"),
        pytest.param(None, id="null"),
        pytest.param([], id="a list"),
        pytest.param("{}", id="a string of JSON"),
        pytest.param(1, id="a number"),
        pytest.param(True, id="a boolean"),
    ],
)
def test_data_must_be_an_object(wire, data):
    wire.malformed(encoded(envelope(data)), headers=STRUCTURED)


def test_data_in_base64_is_decoded(wire):
    key, name = wire.created(), fresh_id()
    data = base64.b64encode(encoded({"userTaskKey": key, "action": "größe"})).decode()
    event = wire.accepted(encoded(envelope(..., id=name, data_base64=data)), command_id=name, headers=STRUCTURED)
    assert (event.body["userTaskKey"], event.body["action"]) == (key, "größe")


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param({"data_base64": "e30"}, id="no padding"),
        pytest.param({"data_base64": "bm8ganNvbg=="}, id="no JSON"),
        pytest.param({"data_base64": "e30=", "data": {}}, id="data as well"),
    ],
)
def test_data_in_base64_that_is_no_command_is_malformed_and_named(wire, attributes):
    refusal = wire.malformed(encoded(envelope(...) | attributes), headers=STRUCTURED)
    assert "data_base64" in refusal.body["detail"]


@pytest.mark.parametrize("content_type", [[], [("content-type", b"application/json")]], ids=["none", "JSON"])
def test_an_envelope_without_its_content_type_is_malformed_and_told_what_it_lacks(wire, content_type):
    refusal = wire.malformed(encoded(envelope({"userTaskKey": wire.created()})), headers=content_type)
    assert "content-type must be application/cloudevents+json" in refusal.body["detail"]


def test_a_batch_of_cloudevents_is_named(wire):
    headers = [("content-type", b"application/cloudevents-batch+json")]
    refusal = wire.malformed(encoded([envelope({"userTaskKey": wire.created()})]), headers=headers)
    assert "application/cloudevents-batch+json" in refusal.body["detail"]


@pytest.mark.parametrize("value", [b"", None, b"[]", b"{}", b"null", b"\xef\xbb\xbf{}"])
def test_an_envelope_must_be_there(wire, value):
    wire.malformed(value, headers=STRUCTURED)


@pytest.mark.parametrize(
    "tail",
    [
        pytest.param(b'"data": {}, "data": {}}', id="data twice"),
        pytest.param(b'"data": {}, "extension": NaN}', id="NaN in an extension"),
        pytest.param(b'"data": {}, "extension": "\\u0000"}', id="U+0000 in an extension"),
        pytest.param(b'"data": {}, "extension": "\\ud800"}', id="a lone surrogate in an extension"),
        pytest.param(b'"data": {}, "extension": {"a": 1, "a": 2}}', id="a member twice in an extension"),
        pytest.param(b'"data": {"variables": {"a": 1, "a": 2}}}', id="a member twice in data"),
        pytest.param(b'"data": {"variables": {"a": Infinity}}}', id="Infinity in data"),
        pytest.param(b'"data": {}, "extension": 1e400}', id="a number beyond a double in an extension"),
    ],
)
def test_an_envelope_must_be_readable_through_and_through(wire, tail):
    head = encoded(envelope(...))[:-1]
    wire.malformed(head + b", " + tail, headers=STRUCTURED)


def test_in_structured_mode_data_is_the_first_level(wire):
    data = deep(64, fresh_key())
    assert structured(wire, data, CREATE)["body"]["variables"] == data["variables"]
    wire.malformed(encoded(envelope(deep(65, fresh_key()), CREATE)), headers=STRUCTURED)


def deep(levels: int, key: str) -> dict:
    """Return a command nested so deep: itself, its variables, and arrays."""
    return {"userTaskKey": key, "variables": {"a": json.loads(nested(levels - 2))}}


def test_in_structured_mode_pointers_point_into_data(wire):
    refusal = wire.invalid(encoded(envelope({"userTaskKey": fresh_key(), "action": 5})), headers=STRUCTURED)
    assert refusal.errors == {"#/action": "string_type"}


# userTaskKey


@pytest.mark.parametrize(
    ("form", "how"),
    [
        pytest.param('"{}"', "string", id="a string"),
        pytest.param("{}", "integer", id="an integer"),
        pytest.param('"00{}"', "zeroes", id="leading zeroes"),
    ],
)
def test_the_user_task_key_is_a_number(wire, form, how):
    key = wire.created()
    event = wire.accepted(b'{"userTaskKey": %s}' % form.format(key).encode())
    assert event.body["userTaskKey"] == key


def test_007_is_task_7(wire):
    event = wire.accepted(b'{"userTaskKey": "007"}', headers=cloud_event(CREATE))
    assert (event.key, event.body["userTaskKey"], event.text("ce_subject")) == (b"7", "7", "7")


@pytest.mark.parametrize(
    ("value", "key"),
    [
        pytest.param('"0"', "0", id="the string 0"),
        pytest.param("0", "0", id="the integer 0"),
        pytest.param('"000"', "0", id="zeroes"),
        pytest.param('"-1"', "-1", id="the string -1"),
        pytest.param("-1", "-1", id="the integer -1"),
        pytest.param('"9223372036854775807"', "9223372036854775807", id="the largest of int64"),
        pytest.param('"-9223372036854775808"', "-9223372036854775808", id="the smallest of int64"),
        pytest.param("9007199254740991", "9007199254740991", id="the largest safe integer"),
        pytest.param("-9007199254740991", "-9007199254740991", id="the smallest safe integer"),
        pytest.param('"9007199254740993"', "9007199254740993", id="a string beyond the safe integers"),
        pytest.param(f'"{"0" * 22}913"', "913", id="25 digits"),
        pytest.param(f'"-{"0" * 22}913"', "-913", id="a minus and 25 digits"),
    ],
)
@pytest.mark.parametrize("kind", [COMPLETE, CANCEL])
def test_an_unknown_zero_or_negative_key_is_not_found(wire, kind, value, key):
    refusal = wire.rejected(b'{"userTaskKey": %s}' % value.encode(), headers=cloud_event(kind))
    assert (refusal.body["status"], refusal.body["userTaskKey"], refusal.key) == (404, key, key.encode())


WRONG_KEYS = [
    pytest.param('""', id="an empty string"),
    pytest.param('"abc"', id="letters"),
    pytest.param('" 7"', id="a space before"),
    pytest.param('"7 "', id="a space after"),
    pytest.param('"7\\n"', id="a line feed after"),
    pytest.param('"+7"', id="a plus"),
    pytest.param('"--7"', id="two minuses"),
    pytest.param('"-"', id="a minus alone"),
    pytest.param('"7.0"', id="a fraction in a string"),
    pytest.param('"0x7"', id="hexadecimal"),
    pytest.param('"1_000"', id="an underscore"),
    pytest.param('"\N{ARABIC-INDIC DIGIT SEVEN}"', id="an Arabic digit"),
    pytest.param('"\N{FULLWIDTH DIGIT SEVEN}"', id="a full-width digit"),
    pytest.param(f'"{"0" * 25}7"', id="26 digits"),
    pytest.param('"9223372036854775808"', id="a string beyond int64"),
    pytest.param('"-9223372036854775809"', id="a string below int64"),
    pytest.param("9007199254740992", id="an integer beyond the safe ones"),
    pytest.param("-9007199254740992", id="an integer below the safe ones"),
    pytest.param("9223372036854775807", id="the integer at the end of int64"),
    pytest.param("1" * 100, id="an integer of a hundred digits"),
    pytest.param("7.0", id="a fraction"),
    pytest.param("7e0", id="an exponent"),
    pytest.param("7E2", id="a capital exponent"),
    pytest.param("true", id="a boolean"),
    pytest.param('["7"]', id="a list"),
    pytest.param('{"key": "7"}', id="an object"),
]


@pytest.mark.parametrize("value", WRONG_KEYS)
@pytest.mark.parametrize("kind", [COMPLETE, CREATE, CANCEL])
def test_a_wrong_user_task_key_is_invalid(wire, kind, value):
    refusal = wire.invalid(b'{"userTaskKey": %s}' % value.encode(), key=b"7", headers=cloud_event(kind))
    assert list(refusal.errors) == ["#/userTaskKey"]


@pytest.mark.parametrize("body", [b"{}", b'{"userTaskKey": null}'], ids=["missing", "null"])
@pytest.mark.parametrize("prefix", ["", "00"], ids=["as it is", "with zeroes"])
@pytest.mark.parametrize("kind", [COMPLETE, CANCEL])
def test_the_record_key_is_the_user_task_key_where_the_body_has_none(wire, kind, body, prefix):
    key = wire.created()
    event = wire.accepted(body, key=f"{prefix}{key}".encode(), headers=cloud_event(kind))
    assert (event.body["userTaskKey"], event.key) == (key, key.encode())


def test_a_create_takes_the_record_key_too(wire):
    key = fresh_key()
    assert wire.accepted(b"{}", key=key.encode(), headers=cloud_event(CREATE)).body["userTaskKey"] == key


@pytest.mark.parametrize("key", [b"0", b"-1"])
def test_a_record_key_that_is_no_positive_key_is_not_found(wire, key):
    refusal = wire.rejected(b"{}", key=key)
    assert (refusal.body["status"], refusal.body["userTaskKey"]) == (404, key.decode())


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(None, id="no record key"),
        pytest.param(b"", id="an empty one"),
        pytest.param(b"abc", id="letters"),
        pytest.param(b"\xff", id="no text"),
        pytest.param(b"7\n", id="a line feed after"),
        pytest.param(b" 7", id="a space before"),
        pytest.param("\N{ARABIC-INDIC DIGIT SEVEN}".encode(), id="an Arabic digit"),
        pytest.param(b"\x00\x00\x00\x07", id="a binary number"),
        pytest.param(b"9223372036854775808", id="beyond int64"),
        pytest.param(b'"7"', id="a JSON string"),
        pytest.param(b"0" * 25 + b"7", id="26 digits"),
    ],
)
@pytest.mark.parametrize("body", [b"{}", b'{"userTaskKey": null}'], ids=["missing", "null"])
def test_without_any_user_task_key_a_command_is_invalid(wire, key, body):
    refusal = wire.invalid(body, key=key)
    assert list(refusal.errors) == ["#/userTaskKey"]
    assert refusal.key == key


def test_a_user_task_key_that_is_nowhere_is_missing(wire):
    assert wire.invalid(b"{}", key=None).errors == {"#/userTaskKey": "missing"}


@pytest.mark.parametrize("record_key", [None, b"", b"\xff", b"12345"])
def test_the_record_key_is_not_compared_with_the_bodys(wire, record_key):
    key = wire.created()
    event = wire.accepted(encoded({"userTaskKey": key}), key=record_key)
    assert (event.body["userTaskKey"], event.key) == (key, key.encode())


@pytest.mark.parametrize("value", ["0", '"0"', "-5", '"-5"'])
def test_the_key_of_a_create_must_be_positive(wire, value):
    refusal = wire.invalid(b'{"userTaskKey": %s}' % value.encode(), headers=cloud_event(CREATE))
    assert list(refusal.errors) == ["#/userTaskKey"]


@pytest.mark.parametrize("key", [b"0", b"-5"])
def test_the_record_key_of_a_create_must_be_positive(wire, key):
    assert list(wire.invalid(b"{}", key=key, headers=cloud_event(CREATE)).errors) == ["#/userTaskKey"]


# variables


@pytest.mark.parametrize("members", [{}, {"variables": None}, {"variables": {}}], ids=["absent", "null", "empty"])
@pytest.mark.parametrize("kind", [COMPLETE, CREATE])
def test_no_variables_are_an_empty_object(wire, kind, members):
    key = fresh_key() if kind == CREATE else wire.created()
    event = wire.accepted(encoded({"userTaskKey": key} | members), headers=cloud_event(kind))
    assert event.body["variables"] == {}


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param('{"a": null}', id="a null value"),
        pytest.param('{"": 1, "a.b": 2, "a/b": 3}', id="any names"),
        pytest.param('{"a": {"b": [null, {"c": null}]}}', id="nulls in the depth"),
        pytest.param('{"a": [], "b": {}, "c": "", "d": 0, "e": false}', id="empty values"),
        pytest.param('{"a": "\\ud83d\\ude00\\u00fc\\t\\/"}', id="escapes, a pair of surrogates among them"),
        pytest.param('{"a": "\\ufeff\\ufffe\\uffff\\u0001"}', id="odd characters"),
        pytest.param('{"userTaskKey": "1", "state": "x", "version": 0}', id="names of an event's members"),
        pytest.param('{"__proto__": 1, "constructor": 2}', id="names that are special elsewhere"),
        pytest.param('{"a": 1.7976931348623157e308, "b": 5e-324, "c": -0.1}', id="the ends of the doubles"),
        pytest.param('{"a": 9007199254740993, "b": -9223372036854775809}', id="integers beyond doubles and int64"),
        pytest.param('{"a": %s}' % ("7" * 4000), id="an integer of 4,000 digits"),
        pytest.param('{"a": -%s}' % ("7" * 4000), id="a negative integer of 4,000 digits"),
    ],
)
@pytest.mark.parametrize("kind", [COMPLETE, CREATE])
def test_variables_are_any_json(wire, kind, variables):
    key = fresh_key() if kind == CREATE else wire.created()
    value = f'{{"userTaskKey": "{key}", "variables": {variables}}}'
    event = wire.accepted(value.encode(), headers=cloud_event(kind))
    assert json.dumps(event.body["variables"], sort_keys=True) == json.dumps(json.loads(variables), sort_keys=True)


@pytest.mark.parametrize("variables", [[], [["a", 1]], "", "{}", 0, 1, True, False])
@pytest.mark.parametrize("kind", [COMPLETE, CREATE])
def test_variables_of_another_type_are_invalid(wire, kind, variables):
    value = encoded({"userTaskKey": fresh_key(), "variables": variables})
    assert wire.invalid(value, headers=cloud_event(kind)).errors == {"#/variables": "dict_type"}


# action


@pytest.mark.parametrize(
    "action",
    [
        pytest.param("approve", id="a word"),
        pytest.param(" Approve ", id="spaces and capitals, kept"),
        pytest.param("a" * 255, id="255 characters"),
        pytest.param("😀" * 255, id="255 code points"),
        pytest.param("\n\t", id="control characters"),
        pytest.param("complete", id="the default itself"),
    ],
)
def test_the_action_is_any_text(wire, action):
    assert wire.complete(wire.created(), action=action).body["action"] == action


@pytest.mark.parametrize("action", [0, 1, 1.5, True, False, [], ["approve"], {}])
def test_an_action_of_another_type_is_invalid(wire, action):
    assert invalid_complete(wire, action=action) == {"#/action": "string_type"}


@pytest.mark.parametrize("action", ["a" * 256, "😀" * 256], ids=["256 characters", "256 code points"])
def test_an_action_too_long_is_invalid(wire, action):
    assert invalid_complete(wire, action=action) == {"#/action": "string_too_long"}


# Unknown members


@pytest.mark.parametrize("member", ["varaibles", "Variables", "user_task_key", "state", "commandId", " action", ""])
def test_an_unknown_member_is_invalid(wire, member):
    key = wire.created()
    pointer = f"#/{member.replace(' ', '%20')}"
    refusal = wire.invalid(encoded({"userTaskKey": key, member: None}))
    assert refusal.errors == {pointer: "extra_forbidden"}
    assert wire.complete(key).body["version"] == 2


@pytest.mark.parametrize("member", ["variables", "action", "name"])
def test_a_cancel_has_only_a_user_task_key(wire, member):
    refusal = wire.invalid(encoded({"userTaskKey": fresh_key(), member: None}), headers=cloud_event(CANCEL))
    assert refusal.errors == {f"#/{member}": "extra_forbidden"}


@pytest.mark.parametrize("member", ["action", "state", "createdAt", "user_task_key"])
def test_a_create_has_no_other_members(wire, member):
    assert invalid_create(wire, **{member: "x"}) == {f"#/{member}": "extra_forbidden"}


def test_a_complete_has_no_members_of_a_create(wire):
    assert invalid_complete(wire, name="x", priority=1) == {
        "#/name": "extra_forbidden",
        "#/priority": "extra_forbidden",
    }


# Not a readable command

UNREADABLE = [
    pytest.param(None, id="a tombstone"),
    pytest.param(b"", id="nothing"),
    pytest.param(b" \n", id="white space"),
    pytest.param(b'{"action": "\xff"}', id="not UTF-8"),
    pytest.param(b'{"action": "\xc0\xaf"}', id="overlong UTF-8"),
    pytest.param(b'{"action": "\xed\xa0\x80"}', id="a surrogate in UTF-8"),
    pytest.param(b'{"action": "\xf4\x90\x80\x80"}', id="beyond Unicode"),
    pytest.param(b'{"action": "\xc3', id="UTF-8 cut short"),
    pytest.param("{}".encode("utf-16"), id="UTF-16"),
    pytest.param("{}".encode("utf-16-le"), id="UTF-16 without a BOM"),
    pytest.param("{}".encode("utf-32"), id="UTF-32"),
    pytest.param(b"\xef\xbb\xbf{}", id="a BOM"),
    pytest.param(b"no json", id="words"),
    pytest.param(b"{", id="half an object"),
    pytest.param(b'{"action": "a', id="half a string"),
    pytest.param(b"{}{}", id="two objects"),
    pytest.param(b"{} x", id="something after the object"),
    pytest.param(b"{}\x00", id="U+0000 after the object"),
    pytest.param(b"\x0b{}", id="white space that JSON does not know"),
    pytest.param("\u00a0{}".encode(), id="a no-break space"),
    pytest.param(b"{'action': 'a'}", id="single quotes"),
    pytest.param(b'{"action": "a",}', id="a comma too many"),
    pytest.param(b'{"action" "a"}', id="no colon"),
    pytest.param(b"{action: 1}", id="a name without quotes"),
    pytest.param(b"{1: 1}", id="a number for a name"),
    pytest.param(b'{"action": "a\nb"}', id="a line feed in a string"),
    pytest.param(b'{"action": "a\x00b"}', id="a raw U+0000 in a string"),
    pytest.param(b'{"action": "\\x41"}', id="an unknown escape"),
    pytest.param(b'{"action": "\\u12"}', id="half an escape"),
    pytest.param(b'{"variables": {"a": 01}}', id="a leading zero"),
    pytest.param(b'{"variables": {"a": +1}}', id="a plus before a number"),
    pytest.param(b'{"variables": {"a": .5}}', id="a fraction without a whole"),
    pytest.param(b'{"variables": {"a": 5.}}', id="a point without a fraction"),
    pytest.param(b'{"variables": {"a": 0x7}}', id="hexadecimal"),
    pytest.param(b'{"variables": {"a": 1_000}}', id="an underscore in a number"),
    pytest.param(b'{"variables": {"a": True}}', id="a capital boolean"),
    pytest.param(b"{/* comment */}", id="a comment"),
    pytest.param(b"[]", id="a list"),
    pytest.param(b'[{"action": "a"}]', id="a list of an object"),
    pytest.param(b'"{}"', id="a string"),
    pytest.param(b"7", id="a number"),
    pytest.param(b"true", id="a boolean"),
    pytest.param(b"null", id="null"),
    pytest.param(b'{"variables": {"a": NaN}}', id="NaN"),
    pytest.param(b'{"variables": {"a": [Infinity]}}', id="Infinity"),
    pytest.param(b'{"variables": {"a": -Infinity}}', id="minus Infinity"),
    pytest.param(b'{"unknown": NaN}', id="NaN in an unknown member"),
    pytest.param(b'{"variables": {"a": 1e309}}', id="a number beyond the doubles"),
    pytest.param(b'{"variables": {"a": {"b": [-1e400]}}}', id="a number below the doubles"),
    pytest.param(b'{"variables": {"a": 1.8e308}}', id="a fraction beyond the doubles"),
    pytest.param(b'{"variables": {"a": %s}}' % (b"7" * 4001), id="an integer of 4,001 digits"),
    pytest.param(b'{"variables": {"a": %s}}' % (b"7" * 5000), id="an integer of 5,000 digits"),
    pytest.param(b'{"userTaskKey": 1e400}', id="a key beyond the doubles"),
    pytest.param(b'{"action": "a", "action": "a"}', id="a member twice"),
    pytest.param(b'{"action": "a", "\\u0061ction": "b"}', id="a member twice, once escaped"),
    pytest.param(b'{"unknown": 1, "unknown": 1}', id="an unknown member twice"),
    pytest.param(b'{"variables": {"a": 1, "a": 1}}', id="a variable twice"),
    pytest.param(b'{"variables": {"a": [[{"b": 1, "c": 2, "b": 3}]]}}', id="a member twice in the depth"),
    pytest.param(b'{"variables": {"": 1, "": 1}}', id="an empty name twice"),
    pytest.param(b'{"action": "\\u0000"}', id="U+0000 in the action"),
    pytest.param(b'{"variables": {"a": "x\\u0000y"}}', id="U+0000 in a variable"),
    pytest.param(b'{"variables": {"a\\u0000": 1}}', id="U+0000 in a name"),
    pytest.param(b'{"unknown\\u0000": 1}', id="U+0000 in an unknown member's name"),
    pytest.param(b'{"action": "\\ud800"}', id="a lone high surrogate"),
    pytest.param(b'{"variables": {"a": ["\\udc00"]}}', id="a lone low surrogate"),
    pytest.param(b'{"variables": {"\\ud83d": 1}}', id="a lone surrogate in a name"),
    pytest.param(b'{"action": "\\ude00\\ud83d"}', id="surrogates in the wrong order"),
    pytest.param(b'{"action": "\\ud83dx"}', id="a high surrogate before a letter"),
    pytest.param(b'{"variables": {"a": %s}}' % nested(63), id="65 levels of arrays"),
    pytest.param(b'{"variables": %s}' % (b'{"a":' * 64 + b"1" + b"}" * 64), id="65 levels of objects"),
    pytest.param(b'{"unknown": %s}' % nested(64), id="65 levels in an unknown member"),
    pytest.param(b'{"variables": {"a": %s}}' % nested(50_000), id="50,000 levels"),
]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        pytest.param(b"\0\0\0\0\7{}", "schema registry's frame", id="a frame before JSON"),
        pytest.param(b"\0\0\0\0\7\2\6", "schema registry's frame", id="a frame before Avro"),
        pytest.param(b"\xef\xbb\xbf{}", "byte order mark", id="a BOM"),
        pytest.param("{}".encode("utf-16"), "UTF-16", id="UTF-16"),
        pytest.param("{}".encode("utf-32-le"), "UTF-32", id="UTF-32"),
        pytest.param(b'"{}"', "JSON twice", id="JSON in JSON"),
    ],
)
def test_what_it_looks_like_is_told(wire, value, words):
    assert words in wire.malformed(value).body["detail"]


@pytest.mark.parametrize("value", UNREADABLE)
def test_what_is_not_a_readable_command_is_malformed(wire, value):
    wire.malformed(value, key=b"1")


@pytest.mark.parametrize("value", UNREADABLE)
def test_what_is_not_a_readable_command_is_malformed_in_binary_mode(wire, value):
    wire.malformed(value, key=b"1", headers=cloud_event(CREATE))


def test_64_levels_are_fine(wire):
    variables = {"a": json.loads(nested(62))}
    assert wire.complete(wire.created(), variables=variables).body["variables"] == variables


def test_64_levels_of_objects_are_fine(wire):
    variables = json.loads(b'{"a":' * 63 + b"1" + b"}" * 63)
    assert wire.complete(wire.created(), variables=variables).body["variables"] == variables


def test_brackets_in_a_string_are_no_levels(wire):
    assert wire.complete(wire.created(), action="[{" * 100).body["action"] == "[{" * 100


def test_white_space_around_the_object_is_fine(wire):
    key = wire.created()
    assert wire.accepted(b"\r\n\t {} \r\n\t ", key=key.encode()).body["userTaskKey"] == key


def test_an_empty_object_completes_with_the_defaults(wire):
    body = wire.accepted(b"{}", key=wire.created().encode()).body
    assert (body["state"], body["action"], body["variables"]) == ("COMPLETED", "complete", {})


# Right members of a create


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("text", ["a", "ü " * 127, "😀" * 255], ids=["short", "254 characters", "255 code points"])
def test_texts_of_a_create_are_attributes(wire, name, text):
    assert wire.create(**{name: text}).body[name] == text


@pytest.mark.parametrize("name", OPTIONAL)
def test_null_means_absent(wire, name):
    event, bare = wire.create(**{name: None}), wire.create()
    assert set(event.body) == set(bare.body)
    assert event.body.get(name) == bare.body.get(name)


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    "items",
    [
        pytest.param(["b", "a"], id="in their order"),
        pytest.param(["😀" * 255], id="255 code points"),
        pytest.param([f"group-{number}" for number in range(1000)], id="1,000 items"),
    ],
)
def test_candidates_are_attributes(wire, name, items):
    assert wire.create(**{name: items}).body[name] == items


@pytest.mark.parametrize(
    "tags",
    [
        pytest.param([f"tag-{number}" for number in range(10)], id="10 tags"),
        pytest.param(["😀" * 100, "a"], id="1 to 100 code points"),
        pytest.param(["a", "A"], id="case counts"),
    ],
)
def test_tags_are_attributes(wire, tags):
    assert sorted(wire.create(tags=tags).body["tags"]) == sorted(tags)


@pytest.mark.parametrize("name", DATES)
@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("2030-01-02T03:04:05Z", "2030-01-02T03:04:05.000Z"),
        ("2030-01-02T03:04:05.678Z", "2030-01-02T03:04:05.678Z"),
        ("2030-01-02T03:04:05.1230Z", "2030-01-02T03:04:05.123Z"),
        ("2030-01-01T00:30:00+02:00", "2029-12-31T22:30:00.000Z"),
        ("2030-12-31T23:30:00.5-05:30", "2031-01-01T05:00:00.500Z"),
        ("2030-01-02T03:04:05-00:00", "2030-01-02T03:04:05.000Z"),
        ("2028-02-29T00:00:00+00:00", "2028-02-29T00:00:00.000Z"),
        ("1969-12-31T23:59:59.999Z", "1969-12-31T23:59:59.999Z"),
        ("2030-01-02T03:04Z", "2030-01-02T03:04:00.000Z"),
        ("2030-01-02T03:04+02:00", "2030-01-02T01:04:00.000Z"),
        ("2030-01-02T03:04:05.123456789+01:00[Europe/Paris]", "2030-01-02T02:04:05.123Z"),
        ("2030-01-02T03:04Z[UTC]", "2030-01-02T03:04:00.000Z"),
    ],
)
def test_dates_are_written_in_utc_with_milliseconds(wire, name, given, written):
    assert wire.create(**{name: given}).body[name] == written


@pytest.mark.parametrize("priority", [0, 1, 100])
def test_the_priority_is_an_attribute(wire, priority):
    body = wire.create(priority=priority).body
    assert repr(body["priority"]) == repr(priority)


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize(
    ("given", "written"),
    [(1, "1"), ("0012", "12"), (9007199254740991, "9007199254740991"), ("9223372036854775807", "9223372036854775807")],
)
def test_keys_of_a_create_are_attributes(wire, name, given, written):
    assert wire.create(**{name: given}).body[name] == written


@pytest.mark.parametrize("version", [1, 2**31 - 1])
def test_the_version_of_the_process_definition_is_an_attribute(wire, version):
    assert wire.create(processDefinitionVersion=version).body["processDefinitionVersion"] == version


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"a": "b", "ü": "😀" * 255}, id="texts"),
        pytest.param({"a": ""}, id="an empty value"),
        pytest.param({f"header-{number}": "x" for number in range(100)}, id="100 of them"),
    ],
)
def test_custom_headers_are_an_attribute(wire, headers):
    assert wire.create(customHeaders=headers).body["customHeaders"] == headers


def test_the_defaults_of_a_create(wire):
    body = wire.create().body
    assert (body["tenantId"], body["priority"]) == ("<default>", 50)


# Wrong members of a create


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("value", [5, True, [], {}])
def test_texts_of_another_type_are_invalid(wire, name, value):
    assert invalid_create(wire, **{name: value}) == {f"#/{name}": "string_type"}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("value", ["a" * 256, "😀" * 256], ids=["256 characters", "256 code points"])
def test_texts_too_long_are_invalid(wire, name, value):
    assert invalid_create(wire, **{name: value}) == {f"#/{name}": "string_too_long"}


@pytest.mark.parametrize("name", [*LISTS, "tags"])
@pytest.mark.parametrize("value", ["a", 5, True, {}, {"0": "a"}])
def test_lists_of_another_type_are_invalid(wire, name, value):
    assert invalid_create(wire, **{name: value}) == {f"#/{name}": "list_type"}


@pytest.mark.parametrize("name", [*LISTS, "tags"])
@pytest.mark.parametrize("value", [5, None, True, ["a"]])
def test_items_of_another_type_are_invalid(wire, name, value):
    assert invalid_create(wire, **{name: ["a", value, "b"]}) == {f"#/{name}/1": "string_type"}


@pytest.mark.parametrize(("name", "length"), [*((name, 256) for name in LISTS), ("tags", 101)])
def test_items_too_long_are_invalid(wire, name, length):
    assert invalid_create(wire, **{name: ["a" * length, "b", "😀" * length]}) == {
        f"#/{name}/0": "string_too_long",
        f"#/{name}/2": "string_too_long",
    }


@pytest.mark.parametrize(("name", "count"), [*((name, 1001) for name in LISTS), ("tags", 11)])
def test_lists_too_long_are_invalid(wire, name, count):
    items = [f"item-{number}" for number in range(count)]
    assert invalid_create(wire, **{name: items}) == {f"#/{name}": "too_long"}


def test_an_empty_tag_is_invalid(wire):
    assert list(invalid_create(wire, tags=["a", ""])) == ["#/tags/1"]


def test_tags_must_be_unique(wire):
    (pointer,) = invalid_create(wire, tags=["a", "b", "a"])
    assert pointer in {"#/tags", "#/tags/2"}


@pytest.mark.parametrize("name", DATES)
@pytest.mark.parametrize(
    "value",
    [
        pytest.param("2030-01-02T03:04:05", id="no offset"),
        pytest.param("2030-01-02", id="a date alone"),
        pytest.param("03:04:05Z", id="a time alone"),
        pytest.param("2030-02-30T03:04:05Z", id="no such day"),
        pytest.param("2030-01-02T25:04:05Z", id="no such hour"),
        pytest.param("2030-01-02T03:04:05[Europe/Paris]", id="a zone and no offset"),
        pytest.param("2030-01-02T03:04", id="neither seconds nor an offset"),
        pytest.param("2030-01-02T03:04:05+0200", id="an offset without a colon"),
        pytest.param("2030-01-02T03:04:05+02", id="an offset of hours alone"),
        pytest.param("20300102T030405Z", id="the basic form of ISO 8601"),
        pytest.param("2030-W01-3T03:04:05Z", id="a week date"),
        pytest.param("1893553445", id="a string of seconds"),
        pytest.param(1893553445, id="a number of seconds"),
        pytest.param("tomorrow", id="a word"),
        pytest.param("", id="nothing"),
        pytest.param(" 2030-01-02T03:04:05Z", id="a space before"),
        pytest.param("2030-01-02T03:04:05Z\n", id="a line feed after"),
        pytest.param("9999-12-31T23:59:59-01:00", id="the year 10000 in UTC"),
        pytest.param("0001-01-01T00:00:00+01:00", id="the year 0 in UTC"),
        pytest.param(True, id="a boolean"),
    ],
)
def test_dates_that_are_not_rfc_3339_are_invalid(wire, name, value):
    assert list(invalid_create(wire, **{name: value})) == [f"#/{name}"]


@pytest.mark.parametrize("value", [-1, 101, 2**31, 2**70, 50.5])
def test_a_priority_out_of_range_is_invalid(wire, value):
    assert list(invalid_create(wire, priority=value)) == ["#/priority"]


@pytest.mark.parametrize("name", ["priority", "processDefinitionVersion"])
@pytest.mark.parametrize("value", ["50", True, [], {}])
def test_numbers_of_another_type_are_invalid(wire, name, value):
    assert invalid_create(wire, **{name: value}) == {f"#/{name}": "int_type"}


@pytest.mark.parametrize("value", [0, -1, 2**31, 2**63])
def test_a_version_of_the_process_definition_out_of_range_is_invalid(wire, value):
    assert list(invalid_create(wire, processDefinitionVersion=value)) == ["#/processDefinitionVersion"]


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("value", [0, "0", -1, "-1", True, 1.0, "", "abc", "1\n", 2**53, str(2**63), []], ids=repr)
def test_wrong_keys_of_a_create_are_invalid(wire, name, value):
    assert list(invalid_create(wire, **{name: value})) == [f"#/{name}"]


@pytest.mark.parametrize("value", [[], "a", 5, True])
def test_custom_headers_of_another_type_are_invalid(wire, value):
    assert invalid_create(wire, customHeaders=value) == {"#/customHeaders": "dict_type"}


@pytest.mark.parametrize("value", [5, None, True, {}, []])
def test_values_of_custom_headers_of_another_type_are_invalid(wire, value):
    assert invalid_create(wire, customHeaders={"a": "b", "c/d": value}) == {"#/customHeaders/c~1d": "string_type"}


def test_a_custom_header_with_an_odd_name_is_pointed_at(wire):
    assert invalid_create(wire, customHeaders={"[key]": 5}) == {"#/customHeaders/%5Bkey%5D": "string_type"}


def test_values_of_custom_headers_too_long_are_invalid(wire):
    assert invalid_create(wire, customHeaders={"a": "b" * 256}) == {"#/customHeaders/a": "string_too_long"}


def test_more_than_100_custom_headers_are_invalid(wire):
    headers = {f"header-{number}": "x" for number in range(101)}
    assert list(invalid_create(wire, customHeaders=headers)) == ["#/customHeaders"]


# The list of errors


def test_all_errors_of_a_complete_are_listed(wire):
    value = encoded({"action": 5, "variables": [], "varaibles": {}, "name": "x"})
    assert wire.invalid(value, key=None).errors == {
        "#/userTaskKey": "missing",
        "#/action": "string_type",
        "#/variables": "dict_type",
        "#/varaibles": "extra_forbidden",
        "#/name": "extra_forbidden",
    }


def test_all_errors_of_a_create_are_listed(wire):
    errors = invalid_create(
        wire, name=5, tags=["a", 5], candidateUsers="ada", priority="50", dueDate="x", formKey=0, customHeaders={"a": 5}
    )
    pointers = {"name", "tags/1", "candidateUsers", "priority", "dueDate", "formKey", "customHeaders/a"}
    assert set(errors) == {f"#/{pointer}" for pointer in pointers}


def test_every_error_has_a_pointer_a_detail_and_a_code(wire):
    refusal = wire.invalid(encoded({"userTaskKey": "abc", "action": 5, "x": 1}))
    for error in refusal.body["errors"]:
        assert set(error) == {"pointer", "detail", "code"}
        assert all(isinstance(text, str) and text for text in error.values())
    assert len(refusal.body["errors"]) == 3
    assert "errorCount" not in refusal.body


@pytest.mark.parametrize("count", [101, 1000])
def test_of_more_than_100_errors_100_are_listed_and_all_are_counted(wire, count):
    members = {f"unknown-{number}": 1 for number in range(count)}
    refusal = wire.invalid(encoded({"userTaskKey": fresh_key()} | members))
    assert len({error["pointer"] for error in refusal.body["errors"]}) == 100
    assert refusal.body["errorCount"] == count


def test_100_errors_are_all_listed(wire):
    members = {f"unknown-{number}": 1 for number in range(100)}
    refusal = wire.invalid(encoded({"userTaskKey": fresh_key()} | members))
    assert {error["pointer"] for error in refusal.body["errors"]} == {f"#/{name}" for name in members}


@pytest.mark.parametrize(
    ("member", "pointer"),
    [
        ("a/b", "#/a~1b"),
        ("m~n", "#/m~0n"),
        ("~1", "#/~01"),
        ("/~", "#/~1~0"),
        ("c%d", "#/c%25d"),
        ("e^f", "#/e%5Ef"),
        ("g|h", "#/g%7Ch"),
        ("i\\j", "#/i%5Cj"),
        ('k"l', "#/k%22l"),
        (" ", "#/%20"),
        ("ü", "#/%C3%BC"),
        ("😀", "#/%F0%9F%98%80"),
        ("a#b", "#/a%23b"),
        ("<a>", "#/%3Ca%3E"),
        ("\n", "#/%0A"),
        ("a-b.c_d", "#/a-b.c_d"),
        ("[key]", "#/%5Bkey%5D"),
        ("0", "#/0"),
    ],
    ids=ascii,
)
def test_pointers_are_fragments_of_rfc_6901(wire, member, pointer):
    assert list(invalid_complete(wire, **{member: 1})) == [pointer]


def test_pointers_are_cut_at_255_characters(wire):
    (pointer,) = invalid_complete(wire, **{"m" * 300: 1})
    assert pointer == f"#/{'m' * 253}"


@pytest.mark.parametrize("character", ["ü", "/", "~", "😀", " "], ids=ascii)
def test_pointers_with_escapes_are_cut_at_255_characters_too(wire, character):
    (pointer,) = invalid_complete(wire, **{character * 300: 1})
    assert len(pointer) <= 255
    assert pointer.startswith("#/")


SECRET = "s3cr3t-of-a-customer"


@pytest.mark.parametrize(
    ("kind", "members"),
    [
        pytest.param(COMPLETE, {"action": [SECRET]}, id="in a wrong action"),
        pytest.param(COMPLETE, {"action": SECRET * 20}, id="in a long action"),
        pytest.param(COMPLETE, {"variables": SECRET}, id="in wrong variables"),
        pytest.param(COMPLETE, {"variables": {"a": SECRET}, "action": 5}, id="in right variables"),
        pytest.param(COMPLETE, {"unknown": SECRET}, id="in an unknown member"),
        pytest.param(COMPLETE, {"userTaskKey": SECRET}, id="in a wrong key"),
        pytest.param(CREATE, {"dueDate": SECRET}, id="in a wrong date"),
        pytest.param(CREATE, {"formKey": SECRET}, id="in a wrong form key"),
        pytest.param(CREATE, {"tags": [SECRET, SECRET]}, id="in tags that are not unique"),
        pytest.param(CREATE, {"customHeaders": {"a": [SECRET]}}, id="in a custom header"),
        pytest.param(CREATE, {"priority": SECRET}, id="in a wrong priority"),
    ],
)
def test_the_offending_value_stands_neither_in_the_rejection_nor_in_the_log(it, kind, members):
    body = {"userTaskKey": fresh_key()} | members
    refusal = it.wire.invalid(encoded(body), headers=cloud_event(kind))
    assert SECRET.encode() not in refusal.value
    assert all(SECRET.encode() not in (value or b"") for _, value in refusal.raw_headers)
    assert SECRET not in it.worker.stderr()
