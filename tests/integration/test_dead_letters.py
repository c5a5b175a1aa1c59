"""What becomes of commands that nobody can read."""

import re
import time

import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME

from tests.integration.harness import (
    COMPLETE,
    CREATE,
    INSTANT,
    PARTITIONS,
    STRUCTURED,
    Header,
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
    set_config,
)

ERRORS = [f"__dlq.errors.{name}" for name in ("topic", "partition", "offset", "group", "delivery.count", "message")]
OURS = {*ERRORS, "dlq-error-type", "dlq-failed-at", "dlq-record-timestamp", "dlq-redrive-count"}


@pytest.fixture(scope="module")
def it(kafka, tmp_path_factory):
    with bench(kafka.bootstrap_servers, tmp_path_factory.mktemp("worker")) as it:
        set_config(kafka.bootstrap_servers, it.wire.topics.commands, message_timestamp_after_max_ms=str(2**63 - 1))
        yield it


@pytest.fixture(scope="module")
def wire(it):
    return it.wire


def theirs(letter: Seen) -> list[Header]:
    """Return the headers that the command had."""
    return [header for header in letter.raw_headers if header[0] not in OURS]


def died(wire: Wire, value: bytes | None = b"no json", **how) -> tuple[Position, Seen]:
    position = wire.send(value, **how)
    return position, wire.dead_letter(position)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"no json", id="words"),
        pytest.param(b"\xff\x00\xfe", id="bytes"),
        pytest.param(b"", id="nothing"),
        pytest.param(None, id="a tombstone"),
        pytest.param(b'{ "a": 1,  "a": 1 }', id="a member twice"),
        pytest.param(b"\xef\xbb\xbf{}", id="a BOM"),
    ],
)
def test_the_value_is_unchanged(wire, value):
    assert died(wire, value)[1].value == value


def test_the_value_of_a_whole_record_is_unchanged(wire):
    value = b"x" * 1_048_000
    assert died(wire, value)[1].value == value


def test_there_is_room_for_64_kib_of_headers_beside_the_largest_value(wire):
    headers = [("traceparent", b"t" * 60_000)]
    value = b"x" * 988_000
    assert died(wire, value, headers=headers)[1].value == value


@pytest.mark.parametrize("key", [b"12", None, b"", b"\xff\x00", b"007"])
def test_the_key_is_unchanged(wire, key):
    assert died(wire, key=key)[1].key == key


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="none"),
        pytest.param(cloud_event(COMPLETE, "of-a-dead-letter"), id="binary mode"),
        pytest.param([("b", b"1"), ("a", b"2"), ("b", b"3")], id="in their order and twice"),
        pytest.param([("a", None), ("b", b""), ("c", b"\xff\x00")], id="null, empty and bytes"),
        pytest.param([("größe", b"1")], id="a name outside ASCII"),
        pytest.param([("traceparent", b"t"), ("kafka_correlationId", b"\xff")], id="trace and correlation"),
        pytest.param([("x-large", b"x" * 70_000)], id="a large one"),
        pytest.param([("dlq-other", b"1"), ("__dlq.other", b"2")], id="names like ours"),
    ],
)
def test_the_headers_are_unchanged(wire, headers):
    assert theirs(died(wire, headers=headers)[1]) == headers


@pytest.mark.parametrize(
    "timestamp",
    [
        pytest.param(int(time.time() * 1000) - 3_600_000, id="an hour ago"),
        pytest.param(1, id="1970"),
        pytest.param(int(time.time() * 1_000_000), id="in microseconds"),
    ],
)
def test_the_timestamp_is_the_failures_and_the_commands_own_is_a_header(wire, timestamp):
    _, letter = died(wire, timestamp=timestamp)
    assert letter.timestamp == (TIMESTAMP_CREATE_TIME, milliseconds(letter.text("dlq-failed-at")))
    assert letter.text("dlq-record-timestamp") == str(timestamp)


@pytest.mark.parametrize("partition", range(PARTITIONS))
@pytest.mark.parametrize("key", [b"12", None])
def test_the_partition_is_the_commands(wire, partition, key):
    assert died(wire, key=key, partition=partition)[1].partition == partition


def test_the_headers_of_ours_are_those_of_the_contract_each_once(wire):
    names = [name for name, _ in died(wire)[1].raw_headers]
    assert sorted(names) == sorted(OURS)


def test_the_headers_say_where_the_command_stood(it):
    position, letter = died(it.wire)
    assert letter.text("__dlq.errors.topic") == position.topic
    assert letter.text("__dlq.errors.partition") == str(position.partition)
    assert letter.text("__dlq.errors.offset") == str(position.offset)
    assert letter.text("__dlq.errors.group") == it.worker.env["USERTASK_GROUP_ID"]


def test_the_headers_say_what_was_wrong(wire):
    letter = died(wire)[1]
    assert letter.text("dlq-error-type") == "malformed-command"
    assert letter.text("__dlq.errors.message").strip()


def test_the_deliveries_are_counted_from_1(wire):
    assert died(wire)[1].text("__dlq.errors.delivery.count") == "1"


def test_the_redrives_are_counted_from_0(wire):
    assert died(wire)[1].text("dlq-redrive-count") == "0"


def test_the_time_of_the_failure_is_rfc_3339_in_utc_with_milliseconds(wire):
    before = int(time.time() * 1000)
    instant = died(wire)[1].text("dlq-failed-at")
    assert re.fullmatch(INSTANT, instant)
    assert before <= milliseconds(instant) <= time.time() * 1000


SECRET = "s3cr3t-of-a-customer"


def test_the_message_has_no_value_of_the_command(wire):
    letter = died(wire, b'{"action": "%s' % SECRET.encode())[1]
    assert SECRET not in letter.text("__dlq.errors.message")


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        pytest.param(b"[]", [], id="a value"),
        pytest.param(b"{}", [("content-type", b"text/plain")], id="a content type"),
        pytest.param(b"{}", [("ce_id", b"alone")], id="headers of binary mode"),
        pytest.param(b"{}", cloud_event("unknown"), id="a type"),
        pytest.param(b"{}", [("idempotency-key", b"")], id="an idempotency key"),
        pytest.param(b"{}", STRUCTURED, id="an envelope"),
        pytest.param(encoded(envelope([])), STRUCTURED, id="an envelope's data"),
    ],
)
def test_whatever_is_malformed_is_rejected_and_a_dead_letter_once_each(wire, value, headers):
    position = wire.send(value, headers=headers)
    wire.settle(position)
    assert [refusal.slug for refusal in wire.rejections_of(position)] == ["malformed-command"]
    assert [theirs(letter) for letter in wire.dead_letters_of(position)] == [headers]


def test_copies_are_each_a_dead_letter(wire):
    headers = cloud_event()
    positions = [died(wire, headers=headers)[0] for _ in range(3)]
    assert [len(wire.dead_letters_of(position)) for position in positions] == [1, 1, 1]


# What never goes there


def reused(wire: Wire) -> Position:
    headers = cloud_event(CREATE)
    wire.accepted(encoded({"userTaskKey": fresh_key()}), headers=headers)
    return wire.send(encoded({"userTaskKey": fresh_key()}), headers=headers)


def invalid(wire: Wire) -> Position:
    return wire.send(encoded({"userTaskKey": "abc", "action": 5, "unknown": 1}))


def not_found(wire: Wire) -> Position:
    return wire.send(encoded({"userTaskKey": fresh_key()}))


def invalid_state(wire: Wire) -> Position:
    key = wire.created()
    wire.complete(key)
    return wire.send(encoded({"userTaskKey": key}))


def already_exists(wire: Wire) -> Position:
    return wire.send(encoded({"userTaskKey": wire.created()}), headers=cloud_event(CREATE))


def too_large(wire: Wire) -> Position:
    return wire.send(encoded({"userTaskKey": wire.created(), "variables": {"text": "x" * 1_020_000}}))


@pytest.mark.parametrize(
    ("make", "slug"),
    [
        pytest.param(reused, "command-id-reused", id="a reused id"),
        pytest.param(invalid, "invalid-argument", id="an invalid argument"),
        pytest.param(not_found, "not-found", id="an unknown task"),
        pytest.param(invalid_state, "invalid-state", id="a wrong state"),
        pytest.param(already_exists, "already-exists", id="a known key"),
        pytest.param(too_large, "too-large", id="a command too large"),
    ],
)
def test_other_rejections_are_never_dead_letters(wire, make, slug):
    position = make(wire)
    wire.settle(position)
    assert [refusal.slug for refusal in wire.rejections_of(position)] == [slug]
    assert wire.dead_letters_of(position) == []


def test_a_command_that_succeeds_is_never_a_dead_letter(wire):
    position = wire.send(encoded({"userTaskKey": fresh_key()}), headers=cloud_event(CREATE))
    wire.settle(position)
    assert wire.dead_letters_of(position) == []


# Once more

OLD: list[Header] = [
    ("__dlq.errors.topic", b"some.topic"),
    ("__dlq.errors.partition", b"77"),
    ("__dlq.errors.offset", b"4711"),
    ("__dlq.errors.group", b"some-group"),
    ("__dlq.errors.delivery.count", b"9"),
    ("__dlq.errors.message", b"some message"),
    ("dlq-error-type", b"internal"),
    ("dlq-failed-at", b"2020-01-01T00:00:00.000Z"),
    ("dlq-record-timestamp", b"1"),
    ("dlq-redrive-count", b"3"),
]


def test_a_second_failure_replaces_the_headers_and_keeps_the_redrive_count(it):
    position, letter = died(it.wire, headers=[("x", b"1"), *OLD, ("y", b"2")])
    assert sorted(name for name, _ in letter.raw_headers) == sorted([*OURS, "x", "y"])
    assert theirs(letter) == [("x", b"1"), ("y", b"2")]
    assert letter.text("dlq-redrive-count") == "3"
    for name in (
        "__dlq.errors.group",
        "__dlq.errors.message",
        "dlq-error-type",
        "dlq-failed-at",
        "dlq-record-timestamp",
    ):
        assert letter.headers[name] != dict(OLD)[name]
    assert letter.text("__dlq.errors.offset") == str(position.offset)


def test_a_dead_letter_sent_again_as_it_is_dies_again_with_the_same_value(wire):
    _, first = died(wire, b"\xff", headers=[("x", b"\xff"), ("idempotency-key", fresh_id().encode())])
    position, second = died(wire, first.value, key=first.key, headers=first.raw_headers)
    assert (second.value, second.key, theirs(second)) == (first.value, first.key, theirs(first))
    assert second.text("__dlq.errors.offset") == str(position.offset)


def test_a_command_with_the_headers_of_a_dead_letter_is_decided_like_any_other(wire):
    event = wire.accepted(encoded({"userTaskKey": fresh_key()}), headers=[*cloud_event(CREATE), *OLD])
    assert not OURS & set(event.headers)


def test_a_redriven_command_without_an_id_of_its_own_is_applied_once(wire):
    key = wire.created()
    name = f"redrive:{wire.topics.dead_letters}/2/{fresh_key()}"
    how = {"key": key.encode(), "headers": [("idempotency-key", name.encode()), ("dlq-redrive-count", b"1")]}
    wire.accepted(b"{}", **how)
    again = wire.send(b"{}", **how)
    wire.settle(again)
    assert len(wire.events_of(name)) == 1
    assert wire.rejections_of(again) == []


def test_dead_letters_are_counted(it):
    before = counted(it.worker.get("/metrics")[1])
    died(it.wire)
    it.wire.wait_until(lambda: counted(it.worker.get("/metrics")[1]) == before + 1)


def counted(metrics: str) -> float:
    samples = re.findall(r"^usertask_dead_letters_total(?:\{[^}]*\})? (\S+)$", metrics, re.MULTILINE)
    return sum(float(sample) for sample in samples)
