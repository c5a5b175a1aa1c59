"""Who a command is, and what comes of it when it comes again."""

import re
import uuid

import pytest

from tests.integration.harness import (
    CANCEL,
    COMPLETE,
    CREATE,
    PARTITIONS,
    STRUCTURED,
    Position,
    Unsent,
    Wire,
    bench,
    cloud_event,
    encoded,
    envelope,
    environment,
    fresh_id,
    fresh_key,
    make_topics,
    replaced,
)
from tests.integration.harness import Worker as WorkerProcess


@pytest.fixture(scope="module")
def it(kafka, tmp_path_factory):
    with bench(kafka.bootstrap_servers, tmp_path_factory.mktemp("worker")) as it:
        yield it


@pytest.fixture(scope="module")
def wire(it):
    return it.wire


def assert_nothing_came_of(wire: Wire, again: Position, command_id: str, events: int = 1) -> None:
    """No more events than there were, and no rejection or dead letter of the second command."""
    wire.settle(again)
    assert len(wire.events_of(command_id)) == events
    assert wire.rejections_of(again) == []
    assert wire.dead_letters_of(again) == []


def assert_reused(wire: Wire, value: bytes | None, **how) -> None:
    refusal = wire.rejected(value, **how)
    assert (refusal.slug, refusal.body["status"]) == ("command-id-reused", 400), refusal.value


# The same command again


@pytest.mark.parametrize("kind", [CREATE, COMPLETE, CANCEL])
def test_the_same_command_again_publishes_nothing(wire, kind):
    key, name = fresh_key() if kind == CREATE else wire.created(), fresh_id()
    how = {"key": key.encode(), "headers": cloud_event(kind, name)}
    wire.accepted(encoded({"userTaskKey": key}), **how)
    again = wire.send(encoded({"userTaskKey": key}), **how)
    assert_nothing_came_of(wire, again, name)


def test_many_copies_at_once_give_one_event(wire):
    key, name = fresh_key(), fresh_id()
    copy = Unsent(encoded({"userTaskKey": key}), key.encode(), cloud_event(CREATE, name))
    positions = wire.send_all([copy] * 50)
    assert_nothing_came_of(wire, positions[-1], name)
    assert [seen for position in positions for seen in wire.rejections_of(position)] == []


def test_the_same_idempotency_key_again_publishes_nothing(wire):
    key, name = wire.created(), fresh_id()
    how = {"key": key.encode(), "headers": [("idempotency-key", name.encode())]}
    wire.accepted(b"{}", **how)
    again = wire.send(b"{}", **how)
    assert_nothing_came_of(wire, again, name)


def test_the_same_envelope_again_publishes_nothing(wire):
    name = fresh_id()
    value = encoded(envelope({"userTaskKey": fresh_key()}, CREATE, id=name))
    wire.accepted(value, command_id=name, headers=STRUCTURED)
    again = wire.send(value, headers=STRUCTURED)
    assert_nothing_came_of(wire, again, name)


@pytest.mark.parametrize("partition", range(PARTITIONS))
def test_an_id_is_unique_across_partitions(wire, partition):
    name, value = fresh_id(), encoded({"userTaskKey": fresh_key()})
    wire.accepted(value, headers=cloud_event(CREATE, name), partition=0)
    again = wire.send(value, headers=cloud_event(CREATE, name), partition=partition)
    assert_nothing_came_of(wire, again, name)


def test_an_id_is_unique_across_partitions_also_for_copies_at_once(wire):
    name, value = fresh_id(), encoded({"userTaskKey": fresh_key()})
    copies = [Unsent(value, headers=cloud_event(CREATE, name), partition=index % PARTITIONS) for index in range(30)]
    for position in wire.send_all(copies)[-PARTITIONS:]:
        assert_nothing_came_of(wire, position, name)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(("traceparent", b"another"), id="another trace"),
        pytest.param(("ce_correlationid", b"another"), id="another correlation id"),
        pytest.param(("ce_time", b"2030-01-01T00:00:00Z"), id="another time"),
        pytest.param(("idempotency-key", b"another"), id="another idempotency key"),
        pytest.param(("content-type", b"application/json; charset=utf-8"), id="another content type"),
        pytest.param(("x-any", b"another"), id="another header"),
    ],
)
def test_other_headers_do_not_make_another_command(wire, header):
    name, value = fresh_id(), encoded({"userTaskKey": fresh_key()})
    wire.accepted(value, headers=cloud_event(CREATE, name))
    again = wire.send(value, headers=[*cloud_event(CREATE, name), header])
    assert_nothing_came_of(wire, again, name)


def test_another_record_key_does_not_make_another_command(wire):
    name, value = fresh_id(), encoded({"userTaskKey": fresh_key()})
    wire.accepted(value, headers=cloud_event(CREATE, name))
    again = wire.send(value, key=b"another", headers=cloud_event(CREATE, name))
    assert_nothing_came_of(wire, again, name)


def test_duplicates_are_counted(it):
    name, value = fresh_id(), encoded({"userTaskKey": fresh_key()})
    it.wire.accepted(value, headers=cloud_event(CREATE, name))
    before = duplicates(it.worker)
    again = it.wire.send(value, headers=cloud_event(CREATE, name))
    assert_nothing_came_of(it.wire, again, name)
    it.wire.wait_until(lambda: duplicates(it.worker) == before + 1)


def duplicates(worker: WorkerProcess) -> float:
    samples = re.findall(r"^usertask_duplicates_total(?:\{[^}]*\})? (\S+)$", worker.get("/metrics")[1], re.MULTILINE)
    return sum(float(sample) for sample in samples)


def test_a_rejected_command_again_publishes_nothing(wire):
    name, value = fresh_id(), encoded({"userTaskKey": fresh_key()})
    wire.rejected(value, headers=cloud_event(COMPLETE, name))
    again = wire.send(value, headers=cloud_event(COMPLETE, name))
    assert_nothing_came_of(wire, again, name, events=0)


def test_a_rejected_command_stays_rejected_when_it_could_succeed_now(wire):
    key, name = fresh_key(), fresh_id()
    value = encoded({"userTaskKey": key})
    wire.rejected(value, headers=cloud_event(COMPLETE, name))
    wire.create(key)
    again = wire.send(value, headers=cloud_event(COMPLETE, name))
    assert_nothing_came_of(wire, again, name, events=0)
    assert wire.complete(key).body["version"] == 2


REFUSABLE = [
    pytest.param({"userTaskKey": "1", "action": 5}, id="of a wrong member"),
    pytest.param({"userTaskKey": "abc"}, id="of a wrong key"),
    pytest.param({"userTaskKey": "0"}, id="of a task that cannot be"),
]


@pytest.mark.parametrize("body", REFUSABLE)
def test_every_readable_command_occupies_its_id(wire, body):
    name, value = fresh_id(), encoded(body)
    wire.rejected(value, headers=cloud_event(COMPLETE, name))
    again = wire.send(value, headers=cloud_event(COMPLETE, name))
    assert_nothing_came_of(wire, again, name, events=0)
    assert_reused(wire, encoded({"userTaskKey": fresh_key()}), headers=cloud_event(CREATE, name))


def test_a_command_refused_by_the_state_occupies_its_id(wire):
    key, name = wire.created(), fresh_id()
    wire.rejected(encoded({"userTaskKey": key}), headers=cloud_event(CREATE, name))
    again = wire.send(encoded({"userTaskKey": key}), headers=cloud_event(CREATE, name))
    assert_nothing_came_of(wire, again, name, events=0)
    assert_reused(wire, encoded({"userTaskKey": key}), headers=cloud_event(COMPLETE, name))


def test_a_command_too_large_occupies_its_id(wire):
    key, name = wire.created(), fresh_id()
    large = encoded({"userTaskKey": key, "variables": {"text": "x" * 1_020_000}})
    assert wire.rejected(large, headers=cloud_event(COMPLETE, name)).slug == "too-large"
    again = wire.send(large, headers=cloud_event(COMPLETE, name))
    assert_nothing_came_of(wire, again, name, events=0)
    assert_reused(wire, encoded({"userTaskKey": key}), headers=cloud_event(COMPLETE, name))


# The same id, another command


def test_another_type_makes_another_command(wire):
    name, value = fresh_id(), encoded({"userTaskKey": wire.created()})
    wire.accepted(value, headers=cloud_event(COMPLETE, name))
    assert_reused(wire, value, headers=cloud_event(CANCEL, name))


def test_another_user_task_key_makes_another_command(wire):
    name = fresh_id()
    wire.accepted(b"{}", key=wire.created().encode(), headers=cloud_event(COMPLETE, name))
    assert_reused(wire, b"{}", key=wire.created().encode(), headers=cloud_event(COMPLETE, name))


@pytest.mark.parametrize(
    "form",
    [
        pytest.param('{{"userTaskKey": "{0}" }}', id="white space"),
        pytest.param('{{"userTaskKey": {0}}}', id="a number for a string"),
        pytest.param('{{"userTaskKey": "0{0}"}}', id="a zero before the key"),
        pytest.param('{{"userTaskKey": "{0}", "variables": null}}', id="a default written out"),
    ],
)
def test_other_bytes_make_another_command_even_if_they_mean_the_same(wire, form):
    key, name = fresh_key(), fresh_id()
    wire.accepted(f'{{"userTaskKey": "{key}"}}'.encode(), headers=cloud_event(CREATE, name))
    assert_reused(wire, form.format(key).encode(), headers=cloud_event(CREATE, name))


@pytest.mark.parametrize("attributes", [{"time": "2030-01-01T00:00:00Z"}, {"comexampleextension": "x"}])
def test_in_structured_mode_the_whole_envelope_counts(wire, attributes):
    name, key = fresh_id(), fresh_key()
    first = envelope({"userTaskKey": key}, CREATE, id=name)
    wire.accepted(encoded(first), command_id=name, headers=STRUCTURED)
    assert_reused(wire, encoded(first | attributes), headers=STRUCTURED)


def test_an_idempotency_key_reused_is_refused(wire):
    key, headers = wire.created(), [("idempotency-key", fresh_id().encode())]
    wire.accepted(b"{}", key=key.encode(), headers=headers)
    assert_reused(wire, b'{"action": "other"}', key=key.encode(), headers=headers)


def test_a_reused_id_is_refused_each_time_with_an_id_of_its_own(wire):
    name = fresh_id()
    wire.accepted(encoded({"userTaskKey": fresh_key()}), headers=cloud_event(CREATE, name))
    other = encoded({"userTaskKey": fresh_key()})
    refusals = [wire.rejected(other, headers=cloud_event(CREATE, name)) for _ in range(3)]
    assert [refusal.slug for refusal in refusals] == ["command-id-reused"] * 3
    assert [refusal.body["commandId"] for refusal in refusals] == [name] * 3
    assert len({refusal.headers["ce_id"] for refusal in refusals}) == 3


def test_copies_of_a_reused_id_at_once_are_each_refused(wire):
    name, other = fresh_id(), encoded({"userTaskKey": fresh_key()})
    first = Unsent(encoded({"userTaskKey": fresh_key()}), headers=cloud_event(CREATE, name))
    positions = wire.send_all([first, *[Unsent(other, headers=cloud_event(CREATE, name))] * 5])
    refusals = [wire.rejection(position) for position in positions[1:]]
    assert {refusal.slug for refusal in refusals} == {"command-id-reused"}
    assert len({refusal.headers["ce_id"] for refusal in refusals}) == 5
    wire.settle(positions[-1])  # the event is on another topic than the refusals, and may be read after them
    assert len(wire.events_of(name)) == 1


def test_a_reused_id_applies_nothing(wire):
    name, key = fresh_id(), fresh_key()
    wire.accepted(encoded({"userTaskKey": fresh_key()}), headers=cloud_event(CREATE, name))
    assert_reused(wire, encoded({"userTaskKey": key}), headers=cloud_event(CREATE, name))
    assert wire.create(key).body["version"] == 1


def test_after_a_reuse_the_first_command_is_still_known(wire):
    name, first = fresh_id(), encoded({"userTaskKey": fresh_key()})
    wire.accepted(first, headers=cloud_event(CREATE, name))
    assert_reused(wire, encoded({"userTaskKey": fresh_key()}), headers=cloud_event(CREATE, name))
    again = wire.send(first, headers=cloud_event(CREATE, name))
    assert_nothing_came_of(wire, again, name)


# Which ids are the same


def test_another_source_is_another_id(wire):
    name = fresh_id()
    for source in ("/tests/a", "/tests/b"):
        wire.send(encoded({"userTaskKey": fresh_key()}), headers=cloud_event(CREATE, name, source))
    events = wire.wait_until(lambda: wire.events_of(name) if len(wire.events_of(name)) == 2 else [])
    assert len({event.headers["ce_id"] for event in events}) == 2


def test_id_and_source_do_not_run_into_each_other(wire):
    base = fresh_id()
    for name, source in ((f"{base}b", "/a"), (base, "b/a"), (base, "/ab"), (f"b{base}", "/a")):
        key = fresh_key()
        position = wire.send(encoded({"userTaskKey": key}), headers=cloud_event(CREATE, name, source))
        outcomes = wire.outcomes(position, name)
        assert key.encode() in [outcome.key for outcome in outcomes]
        assert wire.rejections_of(position) == []


def test_commands_without_an_id_are_each_their_own(wire):
    value = encoded({"userTaskKey": fresh_key()})
    refusals = [wire.rejected(value) for _ in range(2)]
    assert {refusal.slug for refusal in refusals} == {"not-found"}
    assert len({refusal.body["commandId"] for refusal in refusals}) == 2
    assert len({refusal.headers["ce_id"] for refusal in refusals}) == 2


@pytest.mark.parametrize("slash", ["", "/"])
def test_no_header_reaches_the_space_of_positions(wire, slash):
    position = wire.send(encoded({"userTaskKey": fresh_key()}))
    first = wire.rejection(position)
    headers = [("idempotency-key", f"{slash}{position.path}".encode())]
    second = wire.rejected(encoded({"userTaskKey": fresh_key()}), headers=headers)
    assert (first.slug, second.slug) == ("not-found", "not-found")
    assert first.headers["ce_id"] != second.headers["ce_id"]


@pytest.mark.parametrize("source", ["/", "/position", "position"])
def test_no_ce_id_reaches_the_space_of_positions(wire, source):
    position = wire.send(encoded({"userTaskKey": fresh_key()}))
    first = wire.rejection(position)
    headers = cloud_event(COMPLETE, position.path, source)
    second = wire.rejected(encoded({"userTaskKey": fresh_key()}), headers=headers)
    assert (first.slug, second.slug) == ("not-found", "not-found")
    assert first.headers["ce_id"] != second.headers["ce_id"]


def test_a_header_that_foresees_a_position_does_not_take_it(wire):
    before = wire.send(encoded({"userTaskKey": fresh_key()}), partition=1)
    foreseen = before._replace(offset=before.offset + 2)
    headers = [("idempotency-key", foreseen.path.encode())]
    wire.rejected(encoded({"userTaskKey": fresh_key()}), headers=headers, partition=1)
    position = wire.send(encoded({"userTaskKey": fresh_key()}), partition=1)
    assert position == foreseen
    assert wire.rejection(position).slug == "not-found"


# Malformed commands


@pytest.mark.parametrize("value", [b"no json", b"[]", None, b'{"a": 1, "a": 1}'])
def test_a_malformed_command_never_occupies_an_id(wire, value):
    name, key = fresh_id(), fresh_key()
    wire.malformed(value, headers=cloud_event(CREATE, name))
    event = wire.accepted(encoded({"userTaskKey": key}), headers=cloud_event(CREATE, name))
    assert event.body["userTaskKey"] == key


@pytest.mark.parametrize(
    "wrong",
    [("ce_type", b"unknown"), ("content-type", b"text/plain"), ("ce_specversion", b"2.0")],
    ids=lambda header: header[0],
)
def test_a_command_with_wrong_headers_never_occupies_an_id(wire, wrong):
    name, value = fresh_id(), encoded({"userTaskKey": fresh_key()})
    wire.malformed(value, headers=replaced(cloud_event(CREATE, name), *wrong))
    assert wire.accepted(value, headers=cloud_event(CREATE, name)).body["state"] == "CREATED"


def test_a_malformed_command_again_is_refused_again(wire):
    name = fresh_id()
    refusals = [wire.malformed(b"no json", headers=cloud_event(CREATE, name)) for _ in range(2)]
    assert len({refusal.headers["ce_id"] for refusal in refusals}) == 2


# Ids of outgoing records


def test_ids_are_uuids_of_version_5_each_different(wire):
    wire.malformed(b"no json")
    names = [seen.text("ce_id") for seen in wire.events() + wire.rejections()]
    assert {uuid.UUID(name).version for name in names} == {5}
    assert len(names) == len(set(names))


@pytest.fixture(scope="module")
def other(kafka, tmp_path_factory):
    """A worker with another store and other topics."""
    with bench(kafka.bootstrap_servers, tmp_path_factory.mktemp("other")) as it:
        yield it.wire


@pytest.mark.parametrize("kind", [CREATE, COMPLETE, CANCEL])
def test_the_id_of_an_event_is_a_function_of_the_commands_id(wire, other, kind):
    name, keys = fresh_id(), [fresh_key(), fresh_key()]
    events = []
    for there, key in zip((wire, other), keys, strict=True):
        if kind != CREATE:
            there.create(key)
        events.append(there.accepted(encoded({"userTaskKey": key}), headers=cloud_event(kind, name)))
    assert events[0].headers["ce_id"] == events[1].headers["ce_id"]


def test_the_id_of_a_rejection_is_a_function_of_the_commands_id(wire, other):
    name, value = fresh_id(), encoded({"userTaskKey": fresh_key()})
    refusals = [there.rejected(value, headers=cloud_event(COMPLETE, name)) for there in (wire, other)]
    assert refusals[0].headers["ce_id"] == refusals[1].headers["ce_id"]


def test_the_id_by_an_idempotency_key_is_a_function_of_it(wire, other):
    headers, value = [("idempotency-key", fresh_id().encode())], encoded({"userTaskKey": fresh_key()})
    refusals = [there.rejected(value, headers=headers) for there in (wire, other)]
    assert refusals[0].headers["ce_id"] == refusals[1].headers["ce_id"]


def test_the_id_of_a_malformed_commands_rejection_is_a_function_of_its_position(wire, other):
    headers = cloud_event(COMPLETE)
    refusals = [there.malformed(b"no json", headers=headers) for there in (wire, other)]
    assert refusals[0].headers["ce_id"] != refusals[1].headers["ce_id"]


# Restarts


def test_an_id_is_known_after_a_restart(kafka, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    env = environment(kafka.bootstrap_servers, topics, tmp_path / "user-tasks.db")
    name, value = fresh_id(), encoded({"userTaskKey": fresh_key()})
    how = {"headers": cloud_event(CREATE, name)}
    with Wire(kafka.bootstrap_servers, topics) as wire:
        with WorkerProcess(env, tmp_path) as worker:
            wire.accepted(value, **how)
            assert worker.terminate() == 0
        with WorkerProcess(env, tmp_path):
            again = wire.send(value, **how)
            assert_nothing_came_of(wire, again, name)
            assert_reused(wire, encoded({"userTaskKey": fresh_key()}), **how)
