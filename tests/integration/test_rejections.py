"""What a listener of the rejections topic may rely on: RFC 9457, each row of the table."""

import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.integration.harness import (
    CANCEL,
    COMPLETE,
    CORRELATION_HEADERS,
    CREATE,
    INSTANT,
    REJECTED,
    STRUCTURED,
    Position,
    Seen,
    Wire,
    bench,
    cloud_event,
    encoded,
    envelope,
    fresh_id,
    fresh_key,
    milliseconds,
)

HEADERS = {
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_time",
    "ce_subject",
    "ce_causationid",
    "ce_correlationid",
    "content-type",
}
ALWAYS = {"type", "title", "status", "detail", "instance", "commandId"}
TOO_MUCH = {"text": "x" * 1_020_000}
RECORD_KEY = b"the record key"
BASE = "urn:problem-type:user-task:"


@pytest.fixture(scope="module")
def it(kafka, tmp_path_factory):
    with bench(kafka.bootstrap_servers, tmp_path_factory.mktemp("worker")) as it:
        yield it


@pytest.fixture(scope="module")
def wire(it):
    return it.wire


@dataclass(frozen=True)
class Refused:
    """A command that was refused, and its rejection."""

    position: Position
    seen: Seen
    key: str
    command_id: str

    @property
    def body(self) -> Any:
        return self.seen.body


def refuse(wire: Wire, key: str, value: bytes | None, kind: str = COMPLETE, command_id: str | None = None) -> Refused:
    """Send in binary mode, with a record key that is no user task key."""
    command_id = command_id or fresh_id()
    position = wire.send(value, key=RECORD_KEY, headers=cloud_event(kind, command_id))
    return Refused(position, wire.rejection(position), key, command_id)


def malformed(wire: Wire) -> Refused:
    return refuse(wire, "", b'{"userTaskKey": "1", "userTaskKey": "1"}')


def invalid_argument(wire: Wire) -> Refused:
    key = fresh_key()
    return refuse(wire, key, encoded({"userTaskKey": key, "action": 5}))


def invalid_key(wire: Wire) -> Refused:
    return refuse(wire, "", encoded({"userTaskKey": "abc"}))


def command_id_reused(wire: Wire) -> Refused:
    key, command_id = fresh_key(), fresh_id()
    wire.accepted(encoded({"userTaskKey": fresh_key()}), headers=cloud_event(CREATE, command_id))
    return refuse(wire, key, encoded({"userTaskKey": key}), CREATE, command_id)


def too_large(wire: Wire) -> Refused:
    key = wire.created()
    return refuse(wire, key, encoded({"userTaskKey": key, "variables": TOO_MUCH}))


def not_found(wire: Wire) -> Refused:
    key = fresh_key()
    return refuse(wire, key, encoded({"userTaskKey": key}), CANCEL)


def invalid_state(wire: Wire) -> Refused:
    key = wire.created()
    wire.complete(key)
    return refuse(wire, key, encoded({"userTaskKey": key}))


def already_exists(wire: Wire) -> Refused:
    key = wire.created()
    return refuse(wire, key, encoded({"userTaskKey": key}), CREATE)


@dataclass(frozen=True)
class Row:
    """One row of the table, and what its example command was."""

    make: Callable[[Wire], Refused]
    slug: str
    status: int
    title: str
    kind: str | None
    members: frozenset[str] = frozenset({"userTaskKey", "commandType"})


ROWS = [
    Row(malformed, "malformed-command", 400, "INVALID_ARGUMENT", None, frozenset()),
    Row(
        invalid_argument,
        "invalid-argument",
        400,
        "INVALID_ARGUMENT",
        COMPLETE,
        frozenset({"userTaskKey", "commandType", "errors"}),
    ),
    Row(invalid_key, "invalid-argument", 400, "INVALID_ARGUMENT", COMPLETE, frozenset({"commandType", "errors"})),
    Row(command_id_reused, "command-id-reused", 400, "INVALID_ARGUMENT", CREATE),
    Row(too_large, "too-large", 400, "INVALID_ARGUMENT", COMPLETE),
    Row(not_found, "not-found", 404, "NOT_FOUND", CANCEL),
    Row(
        invalid_state,
        "invalid-state",
        409,
        "INVALID_STATE",
        COMPLETE,
        frozenset({"userTaskKey", "commandType", "currentState"}),
    ),
    Row(
        already_exists,
        "already-exists",
        409,
        "ALREADY_EXISTS",
        CREATE,
        frozenset({"userTaskKey", "commandType", "currentState"}),
    ),
]
EACH_ROW = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.make.__name__.replace("_", " "))


@EACH_ROW
def test_type_status_and_title_are_those_of_the_table(wire, row):
    body = row.make(wire).body
    assert (body["type"], body["status"], body["title"]) == (f"{BASE}{row.slug}", row.status, row.title)


@EACH_ROW
def test_the_members_are_those_of_the_contract(wire, row):
    body = row.make(wire).body
    assert set(body) == ALWAYS | row.members
    assert None not in body.values()


@EACH_ROW
def test_the_detail_is_a_sentence(wire, row):
    detail = row.make(wire).body["detail"]
    assert isinstance(detail, str)
    assert detail.strip()


@EACH_ROW
def test_the_instance_is_the_position_of_the_command(wire, row):
    refused = row.make(wire)
    topic, partition, offset = refused.position
    assert refused.body["instance"] == f"/{topic}/{partition}/{offset}"


@EACH_ROW
def test_the_headers_are_those_of_the_contract_each_once(wire, row):
    expected = HEADERS if "userTaskKey" in row.members else HEADERS - {"ce_subject"}
    assert sorted(name for name, _ in row.make(wire).seen.raw_headers) == sorted(expected)


@EACH_ROW
def test_the_headers_say_what_it_is(wire, row):
    seen = row.make(wire).seen
    assert seen.topic == wire.topics.rejections
    assert seen.text("ce_specversion") == "1.0"
    assert seen.text("ce_source") == "/user-task-worker"
    assert seen.text("ce_type") == REJECTED
    assert seen.text("content-type") == "application/problem+json"


@EACH_ROW
def test_the_id_is_a_uuid_of_version_5(wire, row):
    assert uuid.UUID(row.make(wire).seen.text("ce_id")).version == 5


@EACH_ROW
def test_the_time_is_that_of_the_decision(wire, row):
    before = int(time.time() * 1000)
    instant = row.make(wire).seen.text("ce_time")
    assert re.fullmatch(INSTANT, instant)
    assert before <= milliseconds(instant) <= time.time() * 1000


@EACH_ROW
def test_the_command_id_is_the_commands_or_else_its_position(wire, row):
    refused = row.make(wire)
    expected = refused.position.path if row.slug == "malformed-command" else refused.command_id
    assert refused.body["commandId"] == expected
    assert refused.seen.text("ce_causationid") == expected
    assert refused.seen.text("ce_correlationid") == expected


@EACH_ROW
def test_the_command_type_is_the_commands(wire, row):
    assert row.make(wire).body.get("commandType") == row.kind


@EACH_ROW
def test_the_record_key_is_the_user_task_key_or_else_the_commands_record_key(wire, row):
    refused = row.make(wire)
    if "userTaskKey" in row.members:
        assert refused.body["userTaskKey"] == refused.seen.text("ce_subject") == refused.key
    assert refused.seen.key == (refused.key.encode() or RECORD_KEY)


@EACH_ROW
def test_the_value_is_utf_8_without_anything_around_it(wire, row):
    text = row.make(wire).seen.value.decode()
    assert (text[0], text[-1]) == ("{", "}")


# Record keys


@pytest.mark.parametrize("key", [None, b"", b"\xff\x00", b"12", b"007"])
def test_the_rejection_of_a_malformed_command_has_its_record_key_unchanged(wire, key):
    assert wire.malformed(b"no json", key=key).key == key


def test_a_malformed_command_is_not_attributed_to_the_task_of_its_record_key(wire):
    refusal = wire.malformed(b"no json", key=wire.created().encode())
    assert not {"userTaskKey", "commandType"} & set(refusal.body)
    assert "ce_subject" not in refusal.headers


def test_a_readable_record_key_is_written_as_the_number_that_it_is(wire):
    key = fresh_key()
    refusal = wire.rejected(b"{}", key=f"00{key}".encode())
    assert (refusal.key, refusal.text("ce_subject"), refusal.body["userTaskKey"]) == (key.encode(), key, key)


def test_a_key_in_the_body_is_written_as_the_number_that_it_is(wire):
    key = fresh_key()
    refusal = wire.rejected(encoded({"userTaskKey": f"00{key}"}))
    assert (refusal.key, refusal.text("ce_subject"), refusal.body["userTaskKey"]) == (key.encode(), key, key)


def test_a_wrong_key_in_the_body_is_not_replaced_by_the_record_key(wire):
    refusal = wire.invalid(encoded({"userTaskKey": "abc"}), key=b"12")
    assert (refusal.key, "userTaskKey" in refusal.body, "ce_subject" in refusal.headers) == (b"12", False, False)


def test_rejections_are_partitioned_like_commands_with_the_same_key(wire):
    for key in (fresh_key() for _ in range(10)):
        position = wire.send(b"{}", key=key.encode())
        assert wire.rejection(position).partition == position.partition


def test_the_outcomes_of_a_task_stand_in_the_order_of_the_decisions(wire):
    key = fresh_key()
    positions = [wire.send(encoded({"userTaskKey": key}), key=key.encode()) for _ in range(5)]
    offsets = [wire.rejection(position).offset for position in positions]
    assert offsets == sorted(offsets)


# The state


@pytest.mark.parametrize(("end", "state"), [("complete", "COMPLETED"), ("cancel", "CANCELED")])
@pytest.mark.parametrize("kind", [COMPLETE, CANCEL, CREATE])
def test_the_current_state_says_which(wire, kind, end, state):
    key = wire.created()
    getattr(wire, end)(key)
    refusal = wire.rejected(encoded({"userTaskKey": key}), headers=cloud_event(kind))
    assert refusal.body["currentState"] == state


def test_the_detail_names_the_task_and_its_state(wire):
    key = wire.created()
    wire.complete(key)
    detail = wire.rejected(b"{}", key=key.encode()).body["detail"]
    assert key in detail
    assert "COMPLETED" in detail


# Plain JSON and structured mode


def test_in_plain_json_the_command_type_is_complete(wire):
    assert wire.rejected(encoded({"userTaskKey": fresh_key()})).body["commandType"] == COMPLETE


def test_in_plain_json_the_command_id_is_the_position(wire):
    position = wire.send(encoded({"userTaskKey": fresh_key()}))
    assert wire.rejection(position).body["commandId"] == position.path


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([("idempotency-key", b"of-a-malformed-one")], id="an idempotency key"),
        pytest.param(cloud_event(command_id="of-a-malformed-one"), id="a ce_id"),
    ],
)
def test_the_command_id_of_a_malformed_command_is_its_position_whatever_its_headers_say(wire, headers):
    position = wire.send(b"no json", headers=headers)
    refusal = wire.rejection(position)
    assert refusal.body["commandId"] == refusal.text("ce_causationid") == position.path


def test_in_structured_mode_id_and_type_are_the_envelopes(wire):
    name = fresh_id()
    value = encoded(envelope({"userTaskKey": fresh_key()}, CANCEL, id=name))
    body = wire.rejected(value, headers=STRUCTURED).body
    assert (body["commandId"], body["commandType"]) == (name, CANCEL)


# What is copied from the command


@EACH_ROW
def test_without_trace_and_correlation_headers_there_are_none(wire, row):
    assert not set(row.make(wire).seen.headers) & {"traceparent", "tracestate", *CORRELATION_HEADERS}


@pytest.mark.parametrize("value", [b"no json", b"{}", b'{"action": 5}'], ids=["malformed", "not found", "invalid"])
def test_trace_and_correlation_headers_are_copied_byte_for_byte(wire, value):
    copied = [(name, b"\x00\xff raw") for name in ("traceparent", "tracestate", *CORRELATION_HEADERS)]
    refusal = wire.rejected(value, key=fresh_key().encode(), headers=copied)
    assert [(name, refusal.headers.get(name)) for name, _ in copied] == copied


# No values

SECRET = "s3cr3t-of-a-customer"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        pytest.param(COMPLETE, b'{"action": "%s' % SECRET.encode(), id="malformed, cut short"),
        pytest.param(COMPLETE, SECRET.encode(), id="malformed, no JSON"),
        pytest.param(COMPLETE, b'"%s"' % SECRET.encode(), id="malformed, a string"),
        pytest.param(COMPLETE, b'{"action": "%s", "action": 1}' % SECRET.encode(), id="malformed, twice"),
        pytest.param(COMPLETE, b'{"action": "%s\xff"}' % SECRET.encode(), id="malformed, not UTF-8"),
        pytest.param(COMPLETE, encoded({"action": SECRET, "variables": {SECRET: SECRET}}), id="not found"),
        pytest.param(COMPLETE, encoded({"action": [SECRET], "variables": {SECRET: SECRET}}), id="invalid"),
        pytest.param(CREATE, encoded({"name": SECRET, "priority": 101}), id="an invalid create"),
    ],
)
def test_no_value_of_a_command_stands_in_its_rejection_or_in_a_log(it, kind, value):
    refusal = it.wire.rejected(value, key=fresh_key().encode(), headers=cloud_event(kind))
    it.wire.rejected(encoded({"userTaskKey": fresh_key()}))
    assert SECRET.encode() not in refusal.value
    assert SECRET not in it.worker.stderr()


@pytest.mark.parametrize("again", [CREATE, COMPLETE])
def test_no_value_stands_in_a_rejection_by_state_or_in_a_log(it, again):
    key = it.wire.created(name=SECRET, variables={"a": SECRET}, customHeaders={"a": SECRET})
    it.wire.complete(key, action=SECRET, variables={"a": SECRET})
    members = {"name": SECRET} if again == CREATE else {"action": SECRET}
    refusal = it.wire.rejected(encoded({"userTaskKey": key} | members), headers=cloud_event(again))
    assert refusal.body["status"] == 409
    assert SECRET.encode() not in refusal.value
    assert SECRET not in it.worker.stderr()


def test_no_wrong_header_stands_in_the_detail_or_in_a_log(it):
    refusal = it.wire.malformed(b"{}", headers=[("content-type", SECRET.encode())])
    assert SECRET not in refusal.body["detail"]
    assert SECRET not in it.worker.stderr()


# Settings


@pytest.fixture(scope="module")
def blank(kafka, tmp_path_factory):
    settings = {"PROBLEM_TYPE_BASE": "about:blank", "EVENT_SOURCE": "//north/worker-7"}
    with bench(kafka.bootstrap_servers, tmp_path_factory.mktemp("blank"), **settings) as it:
        yield it.wire


@EACH_ROW
def test_about_blank_gives_camundas_form(blank, row):
    body = row.make(blank).body
    assert (body["type"], body["title"], body["status"]) == ("about:blank", row.title, row.status)


def test_the_source_is_a_setting(blank):
    event = blank.create()
    refusal = blank.rejected(encoded({"userTaskKey": fresh_key()}))
    assert (event.text("ce_source"), refusal.text("ce_source")) == ("//north/worker-7", "//north/worker-7")


def test_the_base_of_the_type_is_a_setting(kafka, tmp_path):
    base = "https://errors.example/user-task#"
    with bench(kafka.bootstrap_servers, tmp_path, PROBLEM_TYPE_BASE=base) as it:
        refusal = it.wire.rejected(encoded({"userTaskKey": fresh_key()}))
    assert refusal.body["type"] == f"{base}not-found"
