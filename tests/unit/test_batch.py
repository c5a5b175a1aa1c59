"""Deciding batches: totality, and that it does not matter how the commands are cut into batches."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.problem import ProblemDetail
from tests.unit.records import LIMITS, ARecord, a_command, decided
from worker.batch import Limits
from worker.decoder import UndecodableRecord
from worker.stores.port import Snapshot

header_names = st.sampled_from(
    ["ce_id", "ce_source", "ce_type", "ce_specversion", "content-type", "idempotency-key", "ce_correlationid", "x"]
)
header_values = (
    st.none()
    | st.binary(max_size=20)
    | st.sampled_from(
        [b"1.0", b"user-task.complete.v1", b"user-task.create.v1", b"application/cloudevents+json", b"application/json"]
    )
)
any_record = st.builds(
    ARecord,
    value=st.none() | st.binary(max_size=100) | st.sampled_from([b"{}", b'{"userTaskKey":"1"}', b'{"data":{}}']),
    key=st.none() | st.binary(max_size=30) | st.just(b"1"),
    headers=st.lists(st.tuples(header_names, header_values), max_size=8),
    offset=st.integers(0, 2**63 - 1),
    timestamp=st.integers(-1, 2**62),
)


@given(any_record)
def test_any_bytes_and_headers_give_one_event_or_one_rejection(record):
    changes = decided([record])

    (outcome,) = changes.outcomes
    primary = [outgoing for outgoing in outcome.records if outgoing.topic in {"events", "rejections"}]
    assert len(primary) == 1
    assert outcome.status in {204, 400, 404, 409}
    assert (len(outcome.records) == 2) == (b"malformed-command" in (primary[0].value or b""))
    for outgoing in outcome.records:
        assert all(isinstance(name, str) and isinstance(value, bytes | None) for name, value in outgoing.headers)


command = st.builds(
    lambda kind, key, identity, action: (kind, {"userTaskKey": str(key)} | action, f"id-{identity}"),
    st.sampled_from(["create", "complete", "cancel"]),
    st.integers(0, 3),
    st.integers(0, 12),
    st.sampled_from([{}, {"variables": {"a": 1}}, {"wrong": 1}]),
)


@given(st.lists(command, max_size=25), st.data())
def test_the_cut_into_batches_and_a_redelivery_from_any_point_change_nothing(commands, data):
    records = [a_command(kind, members, identity, offset) for offset, (kind, members, identity) in enumerate(commands)]
    whole = decided(records)

    tasks, outcomes, seen, applied = {}, [], {}, 0
    while applied < len(records):
        first = data.draw(st.integers(0, applied))  # redelivered: the worker drops what is below `applied`
        end = data.draw(st.integers(applied + 1, len(records)))
        due = [record for record in records[first:end] if record.offset >= applied]
        changes = decided(due, Snapshot(tasks=tasks, fingerprints=seen))
        tasks = tasks | changes.tasks
        outcomes += changes.outcomes
        for outcome in changes.outcomes:
            if outcome.command_key is not None:
                seen[outcome.command_key] = outcome.fingerprint
        applied = end

    assert outcomes == whole.outcomes
    assert tasks == whole.tasks


def test_a_command_that_breaks_the_worker_is_answered_with_500_and_stops_nobody(caplog):
    class Hostile(bytes):
        def decode(self, *_args):
            raise RuntimeError("secret variables")

    records = [
        a_command("create", {"userTaskKey": "1"}, offset=0),
        ARecord(Hostile(b'{"variables":{"secret":1}}'), offset=1),
        a_command("complete", {"userTaskKey": "1"}, offset=2),
    ]

    outcomes = decided(records).outcomes

    assert [outcome.status for outcome in outcomes] == [204, 500, 204]
    rejection, dead_letter = outcomes[1].records
    assert json.loads(rejection.value)["type"].endswith(":internal")
    assert (dead_letter.topic, dead_letter.value) == ("dlq", records[1].value)
    assert outcomes[1].command_key is None
    assert "secret" not in caplog.text


def test_a_problem_detail_is_what_the_published_model_says():
    (outcome,) = decided([a_command("complete", {"userTaskKey": "1", "wrong": 1, "action": 1})]).outcomes

    problem = ProblemDetail.model_validate_json(outcome.records[0].value)

    assert [error.pointer for error in problem.errors] == ["#/action", "#/wrong"]


@pytest.mark.parametrize(("event_bytes", "status"), [(100, 400), (1_000_000, 204)])
def test_an_event_beyond_the_limit_is_refused_and_nothing_applied(event_bytes, status):
    limits = Limits(event_bytes=event_bytes, rejection_bytes=10**6, dead_letter_bytes=10**6)

    changes = decided([a_command("create", {"userTaskKey": "1"})], limits=limits)

    assert changes.outcomes[0].status == status
    assert bool(changes.tasks) == (status == 204)


def test_a_rejection_that_its_key_makes_too_large_goes_without_key():
    record = ARecord(b"no", key=b"k" * 2000)

    (outcome,) = decided(
        [record], limits=Limits(event_bytes=1000, rejection_bytes=1500, dead_letter_bytes=10**6)
    ).outcomes

    assert outcome.records[0].key is None
    assert outcome.records[1].key == record.key


@pytest.mark.parametrize(
    ("record", "kept"),
    [
        (ARecord(b"x" * 2000), (False, True, True)),
        (ARecord(b"x" * 2000, key=b"k" * 2000), (False, False, True)),
        (ARecord(b"x" * 2000, key=b"k" * 2000, headers=[("h", b"v" * 2000)]), (False, False, False)),
    ],
)
def test_a_dead_letter_beyond_the_limit_loses_what_makes_it_large(record, kept):
    limits = Limits(event_bytes=10**6, rejection_bytes=10**6, dead_letter_bytes=1500)

    (outcome,) = decided([record], limits=limits).outcomes

    letter = outcome.records[1]
    has_own = not record.headers or record.headers[0] in letter.headers
    assert (letter.value is not None, letter.key is not None, has_own) == kept
    assert dict(letter.headers)["__dlq.errors.offset"] == b"0"
    assert letter.size_bytes <= LIMITS.dead_letter_bytes


@pytest.mark.parametrize(
    ("kind", "members"),
    [
        ("create", {"user_task_key": "9"}),
        ("complete", {"user_task_key": "9"}),
        ("create", {"userTaskKey": "9", "candidate_groups": ["a"]}),
    ],
)
def test_a_member_in_snake_case_is_an_unknown_one(kind, members):
    record = dataclasses.replace(a_command(kind, members), key=b"x")

    (outcome,) = decided([record]).outcomes

    errors = {error["code"] for error in json.loads(outcome.records[0].value)["errors"]}
    assert outcome.status == 400
    assert "extra_forbidden" in errors


def test_a_dead_letter_with_very_many_headers_fits_its_topic():
    record = ARecord(b"no", headers=[("a", None)] * 500_000)
    limits = Limits(event_bytes=10**6, rejection_bytes=10**6, dead_letter_bytes=1_113_000)

    (outcome,) = decided([record], limits=limits).outcomes

    assert outcome.records[1].wire_bytes <= limits.dead_letter_bytes
    assert dict(outcome.records[1].headers)["__dlq.errors.offset"] == b"0"


def test_a_damaged_batch_is_one_dead_letter_at_its_last_offset_and_no_rejection():
    damaged = UndecodableRecord("commands", 0, 9, first=4, detail="A damaged batch, offsets 4 to 9: it is lost.")

    changes = decided([a_command("create", {"userTaskKey": "1"}, offset=3), damaged])

    _, outcome = changes.outcomes
    [letter] = outcome.records
    assert (outcome.offset, outcome.command_key, outcome.command_id) == (9, None, "commands/0/9")
    assert (letter.topic, letter.partition, letter.key, letter.value) == ("dlq", 0, None, None)
    headers = dict(letter.headers)
    assert headers["dlq-error-type"] == b"damaged-batch"
    assert headers["__dlq.errors.offset"] == b"9"
    assert headers["__dlq.errors.message"] == b"A damaged batch, offsets 4 to 9: it is lost."
