"""Records as senders' frameworks write them: each is taken for what it means, or refused in words that help."""

import base64
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.cloudevents import Header
from schemas.commands import CommandType
from schemas.replies import ReplyAddress
from tests.unit.records import ARecord
from worker.decoder import InvalidArgument, Readable, Unreadable, decode

ATTRIBUTES = {"specversion": b"1.0", "id": b"id-1", "source": b"/s", "type": b"user-task.cancel.v1"}
PROPER = [(f"ce_{name}", value) for name, value in ATTRIBUTES.items()]
COMMAND = {"userTaskKey": "7"}
ENVELOPE = {"specversion": "1.0", "id": "id-1", "source": "/s", "type": "user-task.cancel.v1"}
STRUCTURED = ("content-type", b"application/cloudevents+json")
SPELLINGS = [
    *("ce-{}", "CE_{}", "Ce-{}", "ce.{}", "ce:{}", "ce {}", "ce__{}", "ce{}", "CE{}", "_ce_{}", "ce_{} "),
    *("cloudEvents:{}", "cloudEvents_{}", "cloud-events-{}", "cloudevents.{}", "CloudEvent-{}", "cloud_event_{}"),
]


def read(value: object, *headers: Header) -> Readable:
    received = decode(ARecord(encoded(value), headers=headers))
    assert isinstance(received, Readable), received
    assert not isinstance(received.command, InvalidArgument), received.command
    return received


def refused(value: object, *headers: Header) -> str:
    received = decode(ARecord(encoded(value), headers=headers))
    assert isinstance(received, Unreadable), received
    return received.detail


def encoded(value: object) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


# CloudEvents attributes under other names


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("change", [str, str.upper, str.capitalize])
def test_attributes_under_other_names_are_refused_and_the_right_names_told(spelling, change):
    headers = [(spelling.format(change(name)), value) for name, value in ATTRIBUTES.items()]

    detail = refused(COMMAND, *headers)

    assert all(name in detail for name, _ in PROPER)
    assert not any(value.decode() in detail for value in list(ATTRIBUTES.values())[1:])


@pytest.mark.parametrize("name", [*ATTRIBUTES, "correlationid"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_one_of_them_is_enough(name, spelling):
    assert f"ce_{name}" in refused(COMMAND, (spelling.format(name), b"x"))


def test_a_missing_one_of_binary_mode_is_told_by_its_right_name():
    assert "ce_type" in refused(COMMAND, *PROPER[:3], ("ce-type", ATTRIBUTES["type"]))


def test_a_second_spelling_with_the_same_value_changes_nothing():
    both = [*PROPER, *((f"ce-{name}", value) for name, value in ATTRIBUTES.items())]

    received = read(COMMAND, *both)

    assert (received.command_id, received.command_type) == ("id-1", CommandType.CANCEL)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_second_spelling_with_another_value_is_refused(name):
    detail = refused(COMMAND, *PROPER, (f"ce-{name}", b"secret"))

    assert (f"ce_{name}" in detail, "another value" in detail, "secret" in detail) == (True, True, False)


@pytest.mark.parametrize(
    "names",
    [
        *(("specversion", name) for name in ("id", "source", "type")),
        ("specversion", "id", "source", "type"),
        ("specVersion", "Type"),
    ],
)
def test_attributes_without_a_prefix_are_refused_where_their_version_is_there(names):
    assert "ce_specversion" in refused(COMMAND, *((name, b"x") for name in names))


@pytest.mark.parametrize(
    "header",
    [
        *(
            "specversion",
            "id",
            "type",
            "source",
            "correlationid2",
            "ce_",
            "ce",
            "ce-time",
            "CE_SUBJECT",
            "ce-dataschema",
        ),
        *("cease", "ce_identity", "price_id", "cloudEvents", "x-type", "service-type", "ce_" + "-" * 100 + "type", ""),
    ],
)
def test_other_names_are_none(header):
    assert read(COMMAND, (header, b"x")).command_type == CommandType.COMPLETE


def test_a_null_one_is_absent():
    assert read(COMMAND, ("ce-type", None)).command_type == CommandType.COMPLETE
    assert "ce_type" in refused(COMMAND, ("ce_type", None), ("ce-type", b"x"))


@pytest.mark.parametrize("spelling", ["ce-{}", "CE_{}", "cloudEvents:{}", "{}"])
def test_structured_mode_ignores_them_as_it_does_those_with_the_right_names(spelling):
    headers = [(spelling.format(name), b"x") for name in ATTRIBUTES]

    assert read(ENVELOPE | {"data": COMMAND}, STRUCTURED, *headers).command_type == CommandType.CANCEL


def test_the_refusal_goes_where_a_reply_is_asked_for():
    received = decode(ARecord(b"{}", headers=[("ce-type", b"x"), ("Reply-To", b"a"), ("correlationId", b"c")]))

    assert received.reply_to == (ReplyAddress("a", None),)
    assert received.copied == (("correlation_id", b"c"),)


names = st.sampled_from(
    [
        *(
            "ce_type",
            "ce-type",
            "CE_ID",
            "cloudEvents:source",
            "specversion",
            "type",
            "id",
            "content-type",
            "contentType",
        ),
        *("Idempotency-Key", "idempotency-key", "Reply-To", "reply_to", "x", "TraceParent", "correlationid"),
    ]
) | st.text(max_size=70)
values = st.none() | st.binary(max_size=8) | st.sampled_from([b"1.0", b"application/json", STRUCTURED[1], b'""'])


@given(st.lists(st.tuples(names, values), max_size=8))
def test_any_names_are_read_or_refused(headers):
    assert isinstance(decode(ARecord(b'{"userTaskKey":"7"}', headers=headers)), Readable | Unreadable)


# Other names in other spellings


@pytest.mark.parametrize(
    "name",
    ["Idempotency-Key", "IDEMPOTENCY-KEY", "idempotency_key", "IdempotencyKey", "idempotencyKey", "idempotencykey"],
)
def test_the_idempotency_key_is_known_in_any_spelling(name):
    received = read(COMMAND, (name, b"once"))

    assert (received.command_id, received.identity) == ("once", read(COMMAND, ("idempotency-key", b"once")).identity)


def test_of_two_spellings_of_the_idempotency_key_the_values_must_agree():
    assert read(COMMAND, ("Idempotency-Key", b"1"), ("idempotency-key", b"1")).command_id == "1"
    for other in ("idempotency-key", "idempotency_key"):
        assert "idempotency-key" in refused(COMMAND, ("Idempotency-Key", b"1"), (other, b"2"))
    with_envelope = [STRUCTURED, ("Idempotency-Key", b"1"), ("idempotency-key", b"2")]
    assert "idempotency-key" in refused(ENVELOPE | {"data": COMMAND}, *with_envelope)


CONTENT_TYPES = ["Content-Type", "CONTENT-TYPE", "contentType", "content_type", "ContentType", "contenttype"]


@pytest.mark.parametrize("name", CONTENT_TYPES)
def test_the_content_type_is_known_in_any_spelling(name):
    assert read(ENVELOPE | {"data": COMMAND}, (name, STRUCTURED[1])).command_type == CommandType.CANCEL
    assert read(COMMAND, (name, b"application/json")).command_type == CommandType.COMPLETE
    assert "content type" in refused(COMMAND, (name, b"text/plain"))


@pytest.mark.parametrize("name", CONTENT_TYPES)
def test_of_two_spellings_of_the_content_type_the_meanings_must_agree(name):
    json_too = (name, b'"Application/JSON";charset=utf-8')
    assert read(COMMAND, ("content-type", b"application/json"), json_too).command_type == CommandType.COMPLETE
    assert "content-type" in refused(ENVELOPE | {"data": COMMAND}, STRUCTURED, (name, b"application/json"))
    assert read(ENVELOPE | {"data": COMMAND}, STRUCTURED, (name, b"")).command_id == "id-1"
    assert read(ENVELOPE | {"data": COMMAND}, ("content-type", b""), (name, STRUCTURED[1])).command_id == "id-1"


@pytest.mark.parametrize("value", [b"", b" ", b'""'])
def test_an_empty_content_type_is_as_if_absent(value):
    assert read(COMMAND, ("content-type", value)).command_type == CommandType.COMPLETE
    assert read(COMMAND, *PROPER, ("content-type", value)).command_type == CommandType.CANCEL


@pytest.mark.parametrize("value", [b'"application/json"', b'"application/json;charset=utf-8"'])
def test_a_content_type_in_the_quotes_of_json_is_taken_without_them(value):
    assert read(COMMAND, ("contentType", value)).command_type == CommandType.COMPLETE


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Traceparent", "traceparent"),
        ("TRACE-PARENT", "traceparent"),
        ("TraceState", "tracestate"),
        ("Correlation-Id", "correlation_id"),
        ("correlationId", "correlation_id"),
        ("KAFKA_CORRELATIONID", "kafka_correlationId"),
        ("kafka-correlation-id", "kafka_correlationId"),
        ("reply_correlation_id", "REPLY_CORRELATION_ID"),
    ],
)
def test_copied_headers_are_known_in_any_spelling_and_copied_under_the_right_name(name, meant):
    assert read(COMMAND, (name, b"\xff")).copied == ((meant, b"\xff"),)
    assert read(COMMAND, (name, b"1"), (meant, b"2")).copied == ((meant, b"2"),)


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ([("Kafka_ReplyTopic", b"a"), ("kafka_replypartition", b"3")], ReplyAddress("a", 3)),
        ([("kafka-reply-topic", b'"a"')], ReplyAddress("a", None)),
        ([("replyTopic", b"a"), ("Reply-Partition", b"\0\0\0\3")], ReplyAddress("a", 3)),
        ([("Reply-To", b"a")], ReplyAddress("a", None)),
        ([("replyTo", b"a"), ("reply_to", b"b")], ReplyAddress("b", None)),
    ],
)
def test_reply_headers_are_known_in_any_spelling(headers, address):
    assert read(COMMAND, *headers).reply_to == (address,)


# Envelopes


@pytest.mark.parametrize("headers", [[], [("content-type", b"application/json")], [("content-type", b"")], PROPER])
@pytest.mark.parametrize("name", ["id", "source", "type"])
def test_an_envelope_without_its_content_type_is_told(headers, name):
    expected = "This looks like a CloudEvents envelope; content-type must be application/cloudevents+json."

    assert refused(ENVELOPE | {"data": COMMAND}, *headers) == expected
    assert refused({"specversion": "1.0", name: "x", "userTaskKey": "7"}, *headers) == expected


@pytest.mark.parametrize("members", [{"specversion": "1.0"}, {"id": "1", "source": "/", "type": "x"}])
def test_members_that_are_unknown_are_no_envelope_yet(members):
    received = decode(ARecord(encoded(COMMAND | members)))

    assert isinstance(received, Readable)
    assert isinstance(received.command, InvalidArgument)


def test_variables_may_look_like_an_envelope():
    assert read(COMMAND | {"variables": ENVELOPE}).command.variables == ENVELOPE


def test_a_batch_is_named():
    assert "application/cloudevents-batch+json" in refused(
        [ENVELOPE], ("content-type", b"application/cloudevents-batch+json; charset=utf-8")
    )


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("more", [{}, {"data": None}, {"datacontenttype": "application/octet-stream"}])
def test_data_in_base64_is_the_command(more):
    received = read(ENVELOPE | {"data_base64": in_base64(encoded({"userTaskKey": "9"}))} | more, STRUCTURED)

    assert (received.user_task_key, received.command_type) == (9, CommandType.CANCEL)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"data_base64": in_base64(b"{}"), "data": {}}, "both data and data_base64"),
        ({"data_base64": in_base64(b"{}")[:-1]}, "not Base64"),
        ({"data_base64": "e3 0="}, "not Base64"),
        ({"data_base64": "ü"}, "not Base64"),
        ({"data_base64": 1}, "not Base64"),
        ({"data_base64": {}}, "not Base64"),
        ({"data_base64": ""}, "not JSON"),
        ({"data_base64": in_base64(b"[]")}, "not a JSON object"),
        ({"data_base64": in_base64(b"\0\0\0\0\7{}")}, "schema registry"),
        ({"data_base64": in_base64(b'{"a":' * 64 + b"{}" + b"}" * 64)}, "deeper than 64"),
        ({"data_base64": None}, "data is not an object"),
        ({"data": "{}"}, "data is not an object"),
    ],
)
def test_data_that_is_no_command_is_told(members, words):
    assert words in refused(ENVELOPE | members, STRUCTURED)


# What bytes look like

PLAIN = b'{"userTaskKey":"7"}'


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"\0\0\0\0\7" + PLAIN, "schema registry's frame"),
        (b"\0\0\1\x86\xa0\x06abc", "schema registry's frame"),
        (b"\0\0\0\0\x7b\0\x02\x0e", "schema registry's frame"),
        (b"\0\0\0\0\7", "schema registry's frame"),
        (b"\3\0" + bytes(range(16)) + PLAIN, "AWS Glue"),
        (b"\3\5" + bytes(range(16)) + b"x\x9c", "AWS Glue"),
        (b"\xef\xbb\xbf" + PLAIN, "byte order mark"),
        (PLAIN.decode().encode("utf-16"), "UTF-16"),
        (PLAIN.decode().encode("utf-16-le"), "UTF-16"),
        (PLAIN.decode().encode("utf-16-be"), "UTF-16"),
        (b"\xfe\xff" + PLAIN.decode().encode("utf-16-be"), "UTF-16"),
        (PLAIN.decode().encode("utf-32"), "UTF-32"),
        (PLAIN.decode().encode("utf-32-le"), "UTF-32"),
        (PLAIN.decode().encode("utf-32-be"), "UTF-32"),
        (b"\0\0\xfe\xff" + PLAIN.decode().encode("utf-32-be"), "UTF-32"),
        (gzip.compress(PLAIN, mtime=0), "gzip"),
        (b"\x28\xb5\x2f\xfd\x04", "zstd"),
        (b"\xac\xed\0\5t\0\2{}", "Java object"),
        (json.dumps(PLAIN.decode()).encode(), "written as JSON twice"),
        (b"\0", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"7", "not a JSON object."),
    ],
)
@pytest.mark.parametrize("headers", [[], PROPER, [STRUCTURED]])
def test_bytes_that_are_no_json_are_told_by_what_they_look_like(value, words, headers):
    assert words in refused(value, *headers)


@pytest.mark.parametrize("value", [b"\0\0\0\0\7secret", b"\xef\xbb\xbfsecret", b'"secret"', b"\3\0" + b"secret" * 9])
def test_what_is_told_has_nothing_of_the_value(value):
    assert "secret" not in refused(value)


# Keys and times

JAVA = [
    pytest.param("2026-03-02T15:35+02:00", "2026-03-02T13:35:00.000Z", id="java.time without seconds"),
    pytest.param("2026-03-02T15:35Z", "2026-03-02T15:35:00.000Z", id="java.time without seconds in UTC"),
    pytest.param("2026-03-02T15:35:00+01:00[Europe/Paris]", "2026-03-02T14:35:00.000Z", id="ZonedDateTime"),
    pytest.param("2026-03-02T15:35+01:00[Europe/Paris]", "2026-03-02T14:35:00.000Z", id="ZonedDateTime at :00"),
    pytest.param("2026-03-02T15:35:07.5Z[UTC]", "2026-03-02T15:35:07.500Z", id="ZonedDateTime in UTC"),
    pytest.param("2026-03-02T15:35+02:00[GMT+02:00]", "2026-03-02T13:35:00.000Z", id="ZonedDateTime of an offset"),
    pytest.param("1890-01-01T00:00+00:09:21[Europe/Paris]", "1889-12-31T23:50:39.000Z", id="an offset with seconds"),
    pytest.param("2026-03-02T15:35:00.123456789Z", "2026-03-02T15:35:00.123Z", id="Instant"),
    pytest.param("2026-03-02T15:35:00.1234567+02:00", "2026-03-02T13:35:00.123Z", id=".NET's O"),
    pytest.param("2026-03-02T15:35:00.123Z", "2026-03-02T15:35:00.123Z", id="JavaScript's toISOString"),
    pytest.param("2026-03-02T15:35:00.123456+00:00", "2026-03-02T15:35:00.123Z", id="Python's isoformat"),
    pytest.param("2026-03-02T15:35:00.12-07:00", "2026-03-02T22:35:00.120Z", id="Go's RFC3339Nano"),
]


@pytest.mark.parametrize(("given", "written"), JAVA)
def test_times_are_taken_as_libraries_write_them(given, written):
    received = read(COMMAND | {"dueDate": given}, *PROPER[:3], ("ce_type", CommandType.CREATE.encode()))

    assert received.command.attributes()["dueDate"] == written


@pytest.mark.parametrize(
    "given",
    [
        *("2026-03-02T15:35", "2026-03-02T15:35:00", "2026-03-02T15:35:00[Europe/Paris]", "2026-03-02T15:35.5Z"),
        *("2026-03-02T15Z", "2026-03-02T15:35:00Z[]", "2026-03-02T15:35:00Z[a][b]", "2026-03-02T15:35:00Z[ü]"),
        *("2026-03-02T15:35:00Z[a", "2026-03-02T15:35:00+01:00:99", "2026-03-02T15:99Z", "2026-03-02T15:35:00+0200"),
    ],
)
def test_other_times_are_not(given):
    headers = [*PROPER[:3], ("ce_type", CommandType.CREATE.encode())]
    received = decode(ARecord(encoded(COMMAND | {"dueDate": given}), headers=headers))

    assert isinstance(received, Readable)
    assert isinstance(received.command, InvalidArgument)


@pytest.mark.parametrize("number", [2**53, 2251799813685249 * 4, 2**63 - 1, -(2**53), 10**30])
@pytest.mark.parametrize("member", ["userTaskKey", "processInstanceKey"])
def test_a_key_that_is_too_large_a_number_is_to_be_sent_as_a_string(number, member):
    headers = [*PROPER[:3], ("ce_type", CommandType.CREATE.encode())]
    received = decode(ARecord(encoded(COMMAND | {member: number}), headers=headers))

    assert isinstance(received, Readable)
    assert isinstance(received.command, InvalidArgument)
    [error] = received.command.errors
    assert error.pointer == f"#/{member}"
    assert error.detail.endswith("send it as a string")
    assert error.code == ("less_than_equal" if number > 0 else "greater_than_equal")
