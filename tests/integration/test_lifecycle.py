"""Every cell of the life cycle table, and the order of the checks, through real records."""

import pytest

from tests.integration.harness import (
    CANCEL,
    CANCELED,
    COMPLETE,
    COMPLETED,
    CREATE,
    CREATED,
    STRUCTURED,
    Wire,
    bench,
    cloud_event,
    encoded,
    envelope,
    fresh_id,
    fresh_key,
)


@pytest.fixture(scope="module")
def wire(kafka, tmp_path_factory):
    with bench(kafka.bootstrap_servers, tmp_path_factory.mktemp("worker")) as it:
        yield it.wire


def task_in(wire: Wire, state: str | None) -> str:
    """Return the key of a task in a state; `None` for a task that was never created."""
    key = fresh_key()
    if state is not None:
        wire.create(key)
    if state == "COMPLETED":
        wire.complete(key)
    if state == "CANCELED":
        wire.cancel(key)
    return key


def how(kind: str, key: str) -> dict:
    return {"key": key.encode(), "headers": cloud_event(kind)}


def assert_goes_on(wire: Wire, key: str) -> None:
    """Another task, with the same record key, is created."""
    other = fresh_key()
    event = wire.accepted(encoded({"userTaskKey": other}), **how(CREATE, key))
    assert event.body["userTaskKey"] == other


@pytest.mark.parametrize(
    ("kind", "before", "event_type", "state", "version", "instant"),
    [
        pytest.param(CREATE, None, CREATED, "CREATED", 1, "createdAt", id="create makes a task CREATED"),
        pytest.param(COMPLETE, "CREATED", COMPLETED, "COMPLETED", 2, "completedAt", id="complete makes it COMPLETED"),
        pytest.param(CANCEL, "CREATED", CANCELED, "CANCELED", 2, "canceledAt", id="cancel makes it CANCELED"),
    ],
)
def test_a_transition_of_the_table_is_an_event(wire, kind, before, event_type, state, version, instant):
    key = task_in(wire, before)
    event = wire.accepted(encoded({"userTaskKey": key}), **how(kind, key))
    assert event.text("ce_type") == event_type
    assert (event.body["state"], event.body["version"]) == (state, version)
    assert instant in event.body
    assert_goes_on(wire, key)


@pytest.mark.parametrize(
    ("kind", "before", "status", "title", "slug"),
    [
        pytest.param(COMPLETE, None, 404, "NOT_FOUND", "not-found", id="complete of no task"),
        pytest.param(CANCEL, None, 404, "NOT_FOUND", "not-found", id="cancel of no task"),
        pytest.param(COMPLETE, "COMPLETED", 409, "INVALID_STATE", "invalid-state", id="complete of a COMPLETED task"),
        pytest.param(COMPLETE, "CANCELED", 409, "INVALID_STATE", "invalid-state", id="complete of a CANCELED task"),
        pytest.param(CANCEL, "COMPLETED", 409, "INVALID_STATE", "invalid-state", id="cancel of a COMPLETED task"),
        pytest.param(CANCEL, "CANCELED", 409, "INVALID_STATE", "invalid-state", id="cancel of a CANCELED task"),
        pytest.param(CREATE, "CREATED", 409, "ALREADY_EXISTS", "already-exists", id="create of a CREATED task"),
        pytest.param(CREATE, "COMPLETED", 409, "ALREADY_EXISTS", "already-exists", id="create of a COMPLETED task"),
        pytest.param(CREATE, "CANCELED", 409, "ALREADY_EXISTS", "already-exists", id="create of a CANCELED task"),
    ],
)
def test_what_the_table_lacks_is_refused(wire, kind, before, status, title, slug):
    key = task_in(wire, before)
    refusal = wire.rejected(encoded({"userTaskKey": key}), **how(kind, key))
    assert (refusal.body["status"], refusal.body["title"], refusal.slug) == (status, title, slug)
    assert refusal.body.get("currentState") == before
    assert_goes_on(wire, key)


@pytest.mark.parametrize("kind", [CREATE, COMPLETE, CANCEL])
def test_a_refused_command_changes_nothing(wire, kind):
    key = task_in(wire, "COMPLETED")
    wire.rejected(encoded({"userTaskKey": key}), **how(kind, key))
    refusal = wire.rejected(encoded({"userTaskKey": key}), **how(COMPLETE, key))
    assert refusal.body["currentState"] == "COMPLETED"


@pytest.mark.parametrize("kind", [COMPLETE, CANCEL])
def test_a_refused_command_does_not_create_the_task(wire, kind):
    key = fresh_key()
    wire.rejected(encoded({"userTaskKey": key}), **how(kind, key))
    assert wire.create(key).body["version"] == 1


def test_a_whole_life_in_one_go_is_decided_in_the_order_of_the_records(wire):
    key = fresh_key()
    kinds = [COMPLETE, CREATE, CREATE, COMPLETE, CANCEL]
    positions = [wire.send(encoded({"userTaskKey": key}), **how(kind, key)) for kind in kinds]
    wire.settle(positions[-1])
    refusals = [[refusal.body["status"] for refusal in wire.rejections_of(position)] for position in positions]
    assert refusals == [[404], [], [409], [], [409]]
    events = [event for event in wire.events() if event.key == key.encode()]
    assert [(event.body["state"], event.body["version"]) for event in events] == [("CREATED", 1), ("COMPLETED", 2)]


# The order of the checks: readable, command id, shape, existence, state, size


def test_readable_is_checked_before_the_command_id(wire):
    key, name = task_in(wire, None), fresh_id()
    wire.accepted(encoded({"userTaskKey": key}), headers=cloud_event(CREATE, name))
    wire.malformed(b'{"userTaskKey": "', headers=cloud_event(CREATE, name))


def test_the_headers_belong_to_readable(wire):
    wire.malformed(encoded({"action": 5}), headers=[("content-type", b"text/plain")])


def test_the_command_id_is_checked_before_the_shape(wire):
    key, name = fresh_key(), fresh_id()
    wire.accepted(encoded({"userTaskKey": key}), headers=cloud_event(CREATE, name))
    refusal = wire.rejected(encoded({"userTaskKey": key, "name": 5}), headers=cloud_event(CREATE, name))
    assert refusal.slug == "command-id-reused"


def test_the_command_id_is_checked_before_the_existence(wire):
    name = fresh_id()
    wire.accepted(encoded({"userTaskKey": fresh_key()}), headers=cloud_event(CREATE, name))
    refusal = wire.rejected(encoded({"userTaskKey": fresh_key()}), headers=cloud_event(COMPLETE, name))
    assert refusal.slug == "command-id-reused"


@pytest.mark.parametrize("before", [None, "CREATED", "COMPLETED"])
def test_the_shape_is_checked_before_the_existence_and_the_state(wire, before):
    key = task_in(wire, before)
    refusal = wire.invalid(encoded({"userTaskKey": key, "action": 5}), key=key.encode())
    assert refusal.errors == {"#/action": "string_type"}


@pytest.mark.parametrize("before", ["CREATED", "CANCELED"])
def test_the_shape_of_a_create_is_checked_before_the_state(wire, before):
    key = task_in(wire, before)
    wire.invalid(encoded({"userTaskKey": key, "priority": 101}), **how(CREATE, key))


# Smaller than the largest record of the commands topic, larger than that of an event (1,000,000 by default)
TOO_MUCH = {"text": "x" * 1_020_000}


@pytest.mark.parametrize(
    ("before", "slug"),
    [
        pytest.param(None, "not-found", id="existence before size"),
        pytest.param("COMPLETED", "invalid-state", id="state before size"),
        pytest.param("CREATED", "too-large", id="size comes last"),
    ],
)
def test_the_size_is_checked_last(wire, before, slug):
    key = task_in(wire, before)
    refusal = wire.rejected(encoded({"userTaskKey": key, "variables": TOO_MUCH}), key=key.encode())
    assert refusal.slug == slug


def test_the_size_of_a_create_is_checked_after_the_state(wire):
    key = task_in(wire, "CREATED")
    refusal = wire.rejected(encoded({"userTaskKey": key, "variables": TOO_MUCH}), **how(CREATE, key))
    assert refusal.slug == "already-exists"


def test_a_command_too_large_leaves_the_task_as_it_was(wire):
    key = task_in(wire, "CREATED")
    wire.rejected(encoded({"userTaskKey": key, "variables": TOO_MUCH}), key=key.encode())
    assert wire.complete(key).body["version"] == 2


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(None, id="a tombstone"),
        pytest.param(b"\xff\xfe", id="bytes that are no text"),
        pytest.param(b"[" * 100_000, id="a hundred thousand brackets"),
        pytest.param(b"9" * 100_000, id="a number of a hundred thousand digits"),
    ],
)
@pytest.mark.parametrize("headers", [pytest.param([], id="in plain JSON"), pytest.param(STRUCTURED, id="structured")])
def test_after_a_poisonous_command_the_worker_goes_on(wire, value, headers):
    key = fresh_key()
    wire.malformed(value, key=key.encode(), headers=headers)
    assert_goes_on(wire, key)


def test_structured_commands_live_the_same_life(wire):
    key = fresh_key()
    for kind, state in ((CREATE, "CREATED"), (COMPLETE, "COMPLETED")):
        name = fresh_id()
        value = encoded(envelope({"userTaskKey": key}, kind, id=name))
        event = wire.accepted(value, command_id=name, key=key.encode(), headers=STRUCTURED)
        assert event.body["state"] == state
