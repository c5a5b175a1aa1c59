"""What a listener of the events topic may rely on."""

import json
import re
import time
import uuid

import pytest

from tests.integration.harness import (
    CANCELED,
    COMPLETED,
    CORRELATION_HEADERS,
    CREATE,
    CREATED,
    INSTANT,
    PARTITIONS,
    REJECTED,
    Seen,
    Wire,
    bench,
    cloud_event,
    encoded,
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
ATTRIBUTES = {
    "name": "Approve the invoice",
    "assignee": "ada",
    "externalFormReference": "https://forms.example/7",
    "elementId": "Activity_1",
    "processDefinitionId": "invoice",
    "tenantId": "north",
    "candidateGroups": ["clerks", "auditors"],
    "candidateUsers": ["grace", "alan"],
    "tags": ["urgent", "käse"],
    "dueDate": "2030-01-02T03:04:05.006Z",
    "followUpDate": "2030-01-01T00:00:00.000Z",
    "priority": 70,
    "formKey": "2251799813685250",
    "elementInstanceKey": "2251799813685251",
    "processInstanceKey": "2251799813685252",
    "processDefinitionKey": "2251799813685253",
    "processDefinitionVersion": 4,
    "customHeaders": {"colour": "blue"},
}
OPTIONAL = set(ATTRIBUTES) - {"tenantId", "priority"}
CORRELATION = [(name, b"\x00\xff\x10 raw") for name in CORRELATION_HEADERS]


@pytest.fixture(scope="module")
def wire(kafka, tmp_path_factory):
    with bench(kafka.bootstrap_servers, tmp_path_factory.mktemp("worker")) as it:
        yield it.wire


def created(wire: Wire) -> Seen:
    return wire.create()


def completed(wire: Wire) -> Seen:
    return wire.complete(wire.created())


def canceled(wire: Wire) -> Seen:
    return wire.cancel(wire.created())


EACH_KIND = pytest.mark.parametrize(
    ("make", "event_type", "state", "instant"),
    [
        pytest.param(created, CREATED, "CREATED", "createdAt", id="a created event"),
        pytest.param(completed, COMPLETED, "COMPLETED", "completedAt", id="a completed event"),
        pytest.param(canceled, CANCELED, "CANCELED", "canceledAt", id="a canceled event"),
    ],
)


@EACH_KIND
def test_the_headers_are_those_of_the_contract_each_once(wire, make, event_type, state, instant):
    event = make(wire)
    assert sorted(name for name, _ in event.raw_headers) == sorted(HEADERS)


@EACH_KIND
def test_the_headers_say_what_happened(wire, make, event_type, state, instant):
    event = make(wire)
    assert event.text("ce_specversion") == "1.0"
    assert event.text("ce_source") == "/user-task-worker"
    assert event.text("ce_type") == event_type
    assert event.text("content-type") == "application/json"
    assert event.text("ce_subject") == event.body["userTaskKey"]
    assert event.text("ce_causationid") == event.body["commandId"]


@EACH_KIND
def test_the_id_is_a_uuid_of_version_5(wire, make, event_type, state, instant):
    name = make(wire).text("ce_id")
    assert uuid.UUID(name).version == 5
    assert str(uuid.UUID(name)) == name


@EACH_KIND
def test_the_time_is_that_of_the_transition(wire, make, event_type, state, instant):
    event = make(wire)
    assert re.fullmatch(INSTANT, event.text("ce_time"))
    assert event.text("ce_time") == event.body[instant]
    assert event.body["state"] == state


@EACH_KIND
def test_the_time_is_that_of_the_decision(wire, make, event_type, state, instant):
    before = int(time.time() * 1000)
    event = make(wire)
    assert before <= milliseconds(event.text("ce_time")) <= time.time() * 1000


@EACH_KIND
def test_only_the_times_of_the_transitions_so_far_are_there(wire, make, event_type, state, instant):
    times = {"createdAt", "completedAt", "canceledAt"} & set(make(wire).body)
    assert times == {"createdAt", instant}


@EACH_KIND
def test_the_record_key_is_the_user_task_key(wire, make, event_type, state, instant):
    event = make(wire)
    assert event.key == event.body["userTaskKey"].encode()


@EACH_KIND
def test_absent_attributes_are_left_out(wire, make, event_type, state, instant):
    body = make(wire).body
    assert not OPTIONAL & set(body)
    assert None not in body.values()


@EACH_KIND
def test_defaults_are_attributes(wire, make, event_type, state, instant):
    body = make(wire).body
    assert (body["tenantId"], body["priority"]) == ("<default>", 50)


@EACH_KIND
def test_the_value_is_one_json_object_in_utf_8(wire, make, event_type, state, instant):
    members = json.loads(make(wire).value.decode(), object_pairs_hook=list)
    names = [name for name, _ in members]
    assert len(names) == len(set(names))


def test_every_event_has_every_attribute(wire):
    first, second = fresh_key(), fresh_key()
    events = [wire.create(first, **ATTRIBUTES), wire.create(second, **ATTRIBUTES)]
    events += [wire.complete(first), wire.cancel(second)]
    for event in events:
        body = event.body | {"tags": sorted(event.body["tags"])}
        assert {name: body.get(name) for name in ATTRIBUTES} == ATTRIBUTES | {"tags": sorted(ATTRIBUTES["tags"])}


def test_ids_of_events_differ(wire):
    key = fresh_key()
    assert wire.create(key).headers["ce_id"] != wire.complete(key).headers["ce_id"]


def test_created_at_stays_what_it_was(wire):
    event = wire.create()
    later = wire.complete(event.body["userTaskKey"])
    assert later.body["createdAt"] == event.body["createdAt"]
    assert later.body["completedAt"] >= later.body["createdAt"]


def test_the_version_counts_the_transitions(wire):
    key = fresh_key()
    assert [wire.create(key).body["version"], wire.complete(key).body["version"]] == [1, 2]


def test_a_completed_event_has_the_action_and_the_variables_of_the_command(wire):
    key = wire.created(variables={"before": 1})
    body = wire.complete(key, action="approve", variables={"approved": True}).body
    assert (body["action"], body["variables"]) == ("approve", {"approved": True})


def test_a_created_event_has_the_action_create_and_the_variables_of_the_command(wire):
    body = wire.create(variables={"before": 1}).body
    assert (body["action"], body["variables"]) == ("create", {"before": 1})


def test_a_canceled_event_has_the_action_cancel_and_no_variables(wire):
    body = wire.cancel(wire.created(variables={"before": 1})).body
    assert (body["action"], body["variables"]) == ("cancel", {})


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({}, id="an absent action"),
        pytest.param({"action": None}, id="a null action"),
        pytest.param({"action": ""}, id="an empty action"),
    ],
)
def test_the_default_action_is_complete(wire, members):
    assert wire.complete(wire.created(), **members).body["action"] == "complete"


def test_variables_come_back_as_they_were(wire):
    variables = {"null": None, "": "", "ü": '😀\u2028"\\', "deep": [{"a": [1.5, -0.25, True]}, []], "big": 2**70}
    event = wire.complete(wire.created(), variables=variables)
    assert event.body["variables"] == variables


def test_the_key_of_the_record_the_subject_and_the_body_are_canonical(wire):
    key = fresh_key()
    event = wire.accepted(encoded({"userTaskKey": f"000{key}"}), headers=cloud_event(CREATE))
    assert (event.key, event.text("ce_subject"), event.body["userTaskKey"]) == (key.encode(), key, key)


@pytest.mark.parametrize("name", ["formKey", "elementInstanceKey", "processInstanceKey", "processDefinitionKey"])
@pytest.mark.parametrize(
    "given", [pytest.param(12, id="an integer"), pytest.param("12", id="a string"), pytest.param("0012", id="zeroes")]
)
def test_keys_are_always_strings(wire, name, given):
    assert wire.create(**{name: given}).body[name] == "12"


def test_a_user_task_key_given_as_an_integer_is_a_string(wire):
    key = fresh_key()
    event = wire.accepted(encoded({"userTaskKey": int(key)}), headers=cloud_event(CREATE))
    assert event.body["userTaskKey"] == key


def test_events_are_partitioned_like_commands_with_the_same_key(wire):
    keys = [fresh_key() for _ in range(40)]
    positions = [
        wire.send(encoded({"userTaskKey": key}), key=key.encode(), headers=cloud_event(CREATE, f"partition-{key}"))
        for key in keys
    ]
    events = [wire.event(f"partition-{key}") for key in keys]
    assert [event.partition for event in events] == [position.partition for position in positions]
    assert {event.partition for event in events} == set(range(PARTITIONS))


def test_the_partition_follows_the_task_and_not_the_commands_partition(wire):
    key = fresh_key()
    home = wire.create(key).partition
    away = (home + 1) % PARTITIONS
    position = wire.send(encoded({"userTaskKey": key}), key=key.encode(), partition=away)
    assert wire.event(position.path).partition == home


def test_the_events_of_a_task_stand_in_the_order_of_the_decisions(wire):
    key = fresh_key()
    names = [fresh_id(), fresh_id()]
    wire.send(encoded({"userTaskKey": key}), key=key.encode(), headers=cloud_event(CREATE, names[0]))
    wire.send(encoded({"userTaskKey": key}), key=key.encode(), headers=cloud_event(command_id=names[1]))
    first, second = wire.event(names[0]), wire.event(names[1])
    assert first.partition == second.partition
    assert first.offset < second.offset


def test_the_events_topic_has_only_events_and_the_rejections_topic_only_rejections(wire):
    refused = wire.rejected(encoded({"userTaskKey": fresh_key()}))
    assert refused.topic == wire.topics.rejections
    assert {event.text("ce_type") for event in wire.events()} <= {CREATED, COMPLETED, CANCELED}
    assert {refusal.text("ce_type") for refusal in wire.rejections()} == {REJECTED}


# What is copied from the command


@pytest.mark.parametrize("name", ["traceparent", "tracestate", *CORRELATION_HEADERS])
def test_a_header_of_the_command_that_is_copied_is_there_once(wire, name):
    event = wire.complete(wire.created(), headers=[(name, b"first"), (name, b"\xffsecond")])
    assert [value for header, value in event.raw_headers if header == name] == [b"\xffsecond"]


@pytest.mark.parametrize("name", ["traceparent", "tracestate", *CORRELATION_HEADERS])
def test_a_null_header_of_the_command_is_not_copied(wire, name):
    event = wire.complete(wire.created(), headers=[(name, b"first"), (name, None)])
    assert name not in event.headers


def test_the_correlation_headers_of_replies_are_copied_byte_for_byte(wire):
    event = wire.complete(wire.created(), headers=CORRELATION)
    assert [(name, event.headers.get(name)) for name in CORRELATION_HEADERS] == CORRELATION


def test_other_headers_of_the_command_are_not_copied(wire):
    event = wire.complete(wire.created(), headers=[("x-custom", b"1"), ("ce_comexampleextension", b"1")])
    assert {name for name, _ in event.raw_headers} == HEADERS
