"""Replies as they are asked for, decided, and kept: any headers, each style, duplicates, and what the store holds."""

import dataclasses
import json
import re
import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.replies import ReplyAddress, Unanswerable, reply_addresses
from tests.unit.records import DESTINATIONS, LIMITS, ARecord, a_command, decided
from worker import batch as batches
from worker.batch import Batch, decode_all
from worker.encoder import Encoder, OutgoingRecord, Reply, pack, unpack
from worker.session import TRANSACTION_BYTES_MAX, Decided
from worker.stores.port import First, Snapshot, TooMuchRepeatedError

ONE, OTHER = ("reply_to", b"replies.one"), ("REPLY_TOPIC", b"replies.other")
CREATE = {"userTaskKey": "1"}

names = st.sampled_from(
    ["kafka_replyTopic", "kafka_replyPartition", "REPLY_TOPIC", "REPLY_PARTITION", "reply_to", "correlation_id", "x"]
)
values = st.none() | st.binary(max_size=8) | st.sampled_from([b"replies", b"replies.one", b"events", b"\0\0\0\1"])


def asking(record: ARecord, *headers) -> ARecord:
    return dataclasses.replace(record, headers=[*record.headers, *headers])


def split(outcome):
    """Return the ordinary records and the replies."""
    replies = [one for one in outcome.records if type(one) is Reply]
    return [one for one in outcome.records if type(one) is not Reply], replies


def no_topic(shown: str) -> Unanswerable:
    return Unanswerable(shown, "no topic's name")


def no_partition(topic: str) -> Unanswerable:
    return Unanswerable(topic, "no partition's number")


@pytest.mark.parametrize(
    ("headers", "addresses"),
    [
        ({}, ()),
        ({"kafka_replyPartition": b"\0\0\0\1", "correlation_id": b"1"}, ()),
        ({"kafka_replyTopic": b"a"}, (ReplyAddress("a", None),)),
        ({"kafka_replyTopic": b"a", "kafka_replyPartition": b"\0\0\1\0"}, (ReplyAddress("a", 256),)),
        ({"REPLY_TOPIC": b"a", "kafka_replyPartition": b"\0\0\1\0"}, (ReplyAddress("a", None),)),
        ({"reply_to": b"a", "REPLY_PARTITION": b"\0\0\0\1"}, (ReplyAddress("a", None),)),
        ({"reply_to": b"\xff", "REPLY_TOPIC": b""}, (no_topic(""), no_topic("?"))),
        (
            {"reply_to": b"..", "REPLY_TOPIC": b"a\n", "kafka_replyTopic": b"a" * 250},
            (no_topic("a" * 80), no_topic("a?"), no_topic("..")),
        ),
        ({"REPLY_TOPIC": b"a", "REPLY_PARTITION": b"\0\0\1"}, (no_partition("a"),)),
        ({"REPLY_TOPIC": b"a", "REPLY_PARTITION": b"\xff\xff\xff\xff"}, (no_partition("a"),)),
        ({"REPLY_TOPIC": b"a", "REPLY_PARTITION": b""}, (no_partition("a"),)),
        ({"REPLY_TOPIC": b"a", "REPLY_PARTITION": b"-1"}, (no_partition("a"),)),
        ({"REPLY_TOPIC": b"a", "REPLY_PARTITION": b"2147483648"}, (no_partition("a"),)),
        ({"REPLY_TOPIC": b"a", "REPLY_PARTITION": b"9" * 5000}, (no_partition("a"),)),
        ({"REPLY_TOPIC": b"a", "REPLY_PARTITION": b"0"}, (ReplyAddress("a", 0),)),
        ({"kafka_replyTopic": b"a", "kafka_replyPartition": b"12"}, (ReplyAddress("a", 12),)),
        ({"kafka_replyTopic": b"a", "kafka_replyPartition": b"1234"}, (ReplyAddress("a", 1234),)),
        ({"kafka_replyTopic": b"a", "kafka_replyPartition": b"2147483647"}, (ReplyAddress("a", 2147483647),)),
        ({"kafka_replyTopic": b'"a"', "kafka_replyPartition": b'"12"'}, (ReplyAddress("a", 12),)),
        ({"reply_to": b'"', "REPLY_TOPIC": b'""', "kafka_replyTopic": b'"a'}, tuple(map(no_topic, ("?a", "", "?")))),
    ],
)
def test_an_address_is_what_the_styles_say_or_none(headers, addresses):
    assert reply_addresses(headers) == addresses


@given(st.lists(st.tuples(names, values), max_size=8), st.sampled_from([b"{}", b"no json", b'{"userTaskKey":"7"}']))
def test_any_headers_give_the_outcome_they_gave_and_replies_to_allowed_topics_only(headers, value):
    plain = decided([ARecord(value)]).outcomes[0]

    batch = Batch(decode_all([ARecord(value, headers=headers)]), Encoder(DESTINATIONS), LIMITS)
    (outcome,) = batch.decide(Snapshot(tasks={}, fingerprints={}), 1_700_000_000_000).outcomes

    records, replies = split(outcome)
    assert [(one.topic, one.key, one.value) for one in records] == [
        (one.topic, one.key, one.value) for one in plain.records
    ]
    assert {one.topic for one in replies} <= {"replies", "replies.one"}
    assert all((one.key, one.value, one.headers) == records[0][1:4] for one in replies)
    asked = len(reply_addresses({name: last for name, last in dict(headers).items() if last is not None}))
    assert len({(one.topic, one.partition) for one in replies}) == len(replies) <= asked - batch.report.replies_ignored


def test_no_reply_goes_to_a_topic_of_the_workers_own():
    destinations = dataclasses.replace(DESTINATIONS, reply_topics=re.compile(".*"))
    encoder = Encoder(destinations)
    (received,) = decode_all([ARecord()])

    own = ("commands", "events", "rejections", "dlq")
    obstacles = [encoder.obstacle(received, ReplyAddress(topic, None)) for topic in (*own, "any")]
    assert obstacles == ["forbidden"] * 4 + [None]


def test_a_record_on_which_the_worker_fails_is_answered_with_the_500():
    class Hostile(bytes):
        def decode(self, *_args):
            raise RuntimeError("secret")

    (outcome,) = decided([ARecord(Hostile(b"{}"), headers=[ONE, ("correlation_id", b"7")])]).outcomes

    (rejection, dead_letter), (reply,) = split(outcome)
    assert (json.loads(rejection.value)["status"], dead_letter.topic) == (500, "dlq")
    assert (reply.topic, reply.value, dict(reply.headers)["correlation_id"]) == ("replies.one", rejection.value, b"7")


# Duplicates


def test_a_duplicate_that_asks_is_answered_by_the_first_of_its_batch_in_a_row_without_an_id():
    first, second = (a_command("create", CREATE, "same", offset) for offset in range(2))

    outcomes = decided(
        [asking(first, ("correlation_id", b"1")), asking(second, ONE, OTHER, ("correlation_id", b"2"))]
    ).outcomes

    (event,), replies = split(outcomes[1])[0] or split(outcomes[0])[0], split(outcomes[1])[1]
    assert [(one.topic, one.key, one.value) for one in replies] == [
        ("replies.other", event.key, event.value),
        ("replies.one", event.key, event.value),
    ]
    assert {dict(one.headers)["correlation_id"] for one in replies} == {b"2"}
    assert (outcomes[1].command_key, outcomes[1].status, outcomes[1].command_id) == (None, 204, "same")


def test_a_duplicate_that_asks_for_nothing_or_in_vain_leaves_nothing():
    first, second, third = (a_command("create", CREATE, "same", offset) for offset in range(3))
    batch = Batch(decode_all([first, second, asking(third, ("reply_to", b"events"))]), Encoder(DESTINATIONS), LIMITS)

    changes = batch.decide(Snapshot(tasks={}, fingerprints={}), 1)

    assert [outcome.offset for outcome in changes.outcomes] == [0]
    assert (batch.report.duplicates, batch.report.replies_ignored) == (2, 1)


def test_the_store_is_asked_for_the_outcomes_of_the_ids_that_ask_and_no_others():
    asks, does_not = asking(a_command("create", CREATE, "a"), ONE), a_command("create", CREATE, "b", 1)

    batch = Batch(decode_all([asks, does_not]), Encoder(DESTINATIONS), LIMITS)

    assert batch.asking_keys == {batch.commands[0].command_key}


def test_a_first_outcome_that_was_forgotten_meanwhile_is_an_ignored_reply():
    batch = Batch(decode_all([asking(a_command("create", CREATE, "a"), ONE, OTHER)]), Encoder(DESTINATIONS), LIMITS)
    (command,) = batch.commands

    changes = batch.decide(Snapshot(tasks={}, fingerprints={command.command_key: command.fingerprint}), 1)

    assert (changes.outcomes, batch.report.duplicates, batch.report.replies_ignored) == ([], 1, 2)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=12), st.data())
def test_the_cut_into_batches_changes_no_reply(commands, data):
    records = []
    for offset, (identity, asks) in enumerate(commands):
        record = a_command("complete", CREATE, f"id-{identity}", offset)
        records.append(asking(record, ONE, ("correlation_id", str(offset).encode())) if asks else record)
    whole = decided(records)

    outcomes, seen, first, applied = [], {}, {}, 0
    while applied < len(records):
        end = data.draw(st.integers(applied + 1, len(records)))
        changes = decided(records[applied:end], Snapshot(tasks={}, fingerprints=seen, first=first))
        for outcome in changes.outcomes:
            outcome.records = tuple(unpack(pack(outcome.records)))
            if outcome.command_key is not None:
                seen[outcome.command_key] = outcome.fingerprint
                first[outcome.command_key] = First(outcome.status, outcome.records[0])
        outcomes += changes.outcomes
        applied = end

    assert outcomes == whole.outcomes
    answered = [outcome.offset for outcome in outcomes if split(outcome)[1]]
    assert answered == [offset for offset, (_, asks) in enumerate(commands) if asks]


def test_duplicates_that_ask_for_too_much_at_once_are_to_be_decided_fewer_at_a_time(monkeypatch):
    monkeypatch.setattr(batches, "REPEATED_BYTES_MAX", 1000)
    records = [asking(a_command("create", CREATE, "same", offset), ONE) for offset in range(20)]

    with pytest.raises(TooMuchRepeatedError):
        decided(records)
    (first,) = decided(records[:1]).outcomes
    (alone,) = decode_all(records[:1])
    known = Snapshot(
        tasks={},
        fingerprints={alone.command_key: alone.fingerprint},
        first={alone.command_key: First(204, first.records[0]._replace(value=b"x" * 2000))},
    )
    assert len(decided(records[1:2], known).outcomes) == 1


def test_replies_weigh_what_they_take_on_the_wire():
    record = dataclasses.replace(asking(ARecord(), ONE, OTHER), value=b"no json")
    headers = [("kafka_replyTopic", b"replies"), ("tracestate", b"x" * 60_000)]
    outcomes = decided([asking(dataclasses.replace(record, offset=offset), *headers) for offset in range(200)]).outcomes

    pieces = Decided.split(((0, one.offset + 1, one.records) for one in outcomes), {0: 200})

    on_the_wire = [sum(one.wire_bytes for one in piece.records if type(one) is Reply) for piece in pieces]
    assert len(pieces) == 5
    assert all(
        0 < size <= piece.size_bytes <= TRANSACTION_BYTES_MAX for size, piece in zip(on_the_wire, pieces, strict=True)
    )


# What the store holds


def a_record(topic: str = "events", **changed: object) -> OutgoingRecord:
    return OutgoingRecord(topic, b"1", b"{}", (("ce_id", b"1"), ("n", None)), 5)._replace(**changed)


def a_reply(of: OutgoingRecord, topic: str, partition: int | None) -> Reply:
    return Reply._make((topic, *of[1:5], partition))


@pytest.mark.parametrize("others", [[], [a_record()], [a_record("rejections", key=None), a_record("dlq", partition=2)]])
@pytest.mark.parametrize("places", [[], [("a", None)], [("a", 0), ("b", 7)]])
def test_what_is_packed_is_unpacked_as_it_was(others, places):
    first = others[0] if others else a_record()
    records = [*others, *(a_reply(first, *place) for place in places)]

    unpacked = unpack(pack(tuple(records)))

    assert unpacked == records
    assert list(map(type, unpacked)) == list(map(type, records))
    assert len({id(one.headers) for one in unpacked if type(one) is Reply}) <= 1


def test_an_outcome_without_replies_is_packed_as_it_always_was():
    records = (a_record(), a_record("dlq", value=None, partition=1))

    assert pack(records) == msgpack.packb([list(record) for record in records])
    assert unpack(msgpack.packb([list(record) for record in records])) == list(records)


def test_a_reply_costs_the_store_its_address_only():
    event = a_record(value=b"x" * 5000)

    assert len(pack((event, a_reply(event, "replies", 1)))) - len(pack((event,))) == len("replies") + struct.calcsize(
        "3b"
    )
