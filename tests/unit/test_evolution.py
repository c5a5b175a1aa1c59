"""What counts as a breaking change: for senders a schema that accepts less, for listeners one that says more."""

import copy
from typing import Any

import pytest

from schemas.commands import CommandType
from schemas.events import EventType
from worker.cli.comparing import differences
from worker.cli.evolution import Effect, changes
from worker.cli.exporting import named_schemas

TEXT = {"type": "string"}
NUMBER = {"type": "integer"}
NULL = {"type": "null"}
CLOSED = {"type": "object", "properties": {"a": TEXT}, "additionalProperties": False}
OPEN = {"type": "object", "properties": {"a": TEXT}}


def either(*schemas: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": list(schemas)}


@pytest.mark.parametrize(
    ("more", "less"),
    [
        pytest.param(either(TEXT, NULL), TEXT, id="a type"),
        pytest.param({}, TEXT, id="any type"),
        pytest.param({"type": ["string", "null"]}, TEXT, id="a list of types"),
        pytest.param(TEXT, TEXT | {"maxLength": 5}, id="an upper limit"),
        pytest.param(TEXT | {"maxLength": 6}, TEXT | {"maxLength": 5}, id="a lower upper limit"),
        pytest.param(NUMBER | {"minimum": 0}, NUMBER | {"minimum": 1}, id="a higher lower limit"),
        pytest.param(NUMBER | {"minimum": -1}, NUMBER | {"minimum": 0}, id="a lower limit of nought"),
        pytest.param(TEXT, TEXT | {"pattern": "^a$"}, id="a pattern"),
        pytest.param(TEXT | {"enum": ["a", "b"]}, TEXT | {"enum": ["a"]}, id="fewer values"),
        pytest.param(TEXT, TEXT | {"enum": ["a"]}, id="only some values"),
        pytest.param({"type": "array"}, {"type": "array", "uniqueItems": True}, id="all different"),
        pytest.param({"type": "array"}, {"type": "array", "items": TEXT}, id="what items are"),
        pytest.param(
            {"type": "array", "items": TEXT}, {"type": "array", "items": TEXT | {"maxLength": 1}}, id="a limit of items"
        ),
        pytest.param(OPEN, OPEN | {"required": ["a"]}, id="a member that has to be there"),
        pytest.param(OPEN, CLOSED, id="no others"),
        pytest.param(OPEN, OPEN | {"additionalProperties": TEXT}, id="what others are"),
        pytest.param(CLOSED, CLOSED | {"properties": {}}, id="a member gone, no others"),
        pytest.param(OPEN | {"properties": {}}, OPEN, id="a member described, others allowed"),
        pytest.param(OPEN, OPEN | {"properties": {"a": TEXT | {"maxLength": 1}}}, id="a limit of a member"),
        pytest.param(OPEN, OPEN | {"propertyNames": {"maxLength": 1}}, id="a limit of names"),
        pytest.param(OPEN, OPEN | {"dependentRequired": {"a": ["b"]}}, id="a keyword that it does not know"),
    ],
)
def test_one_way_less_is_accepted_and_the_other_way_more(more, less):
    assert [change.effect for change in changes(more, less)] == [Effect.LESS]
    assert [change.effect for change in changes(less, more)] == [Effect.MORE]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(TEXT | {"pattern": "a"}, TEXT | {"pattern": "b"}, id="patterns"),
        pytest.param(OPEN | {"if": {}}, OPEN | {"if": TEXT}, id="a keyword that it does not know"),
        pytest.param(either(TEXT, TEXT | {"enum": ["a"]}), either(TEXT, TEXT), id="alternatives of one type"),
    ],
)
def test_what_cannot_be_compared_is_unclear(one, other):
    assert [change.effect for change in changes(one, other)] == [Effect.UNCLEAR]


@pytest.mark.parametrize("one", [TEXT, OPEN, CLOSED, either(TEXT, NULL)])
def test_words_are_no_change(one):
    assert list(changes(one, one | {"title": "T", "description": "d", "examples": [1]})) == []


def test_another_type_is_both_less_and_more():
    assert {change.effect for change in changes(TEXT, NUMBER)} == {Effect.LESS, Effect.MORE}


def test_a_change_says_where_it_is():
    deep = {"type": "object", "properties": {"list": {"type": "array", "items": OPEN}}}
    deeper = copy.deepcopy(deep)
    deeper["properties"]["list"]["items"]["properties"]["a"] = TEXT | {"maxLength": 1}

    [change] = changes(deep, deeper)
    assert (change.pointer, change.text) == ("#/list/*/a", "maxLength 1, was without")


# Of the contract


def changed(name: str, path: str, value: Any) -> dict[str, dict[str, Any]]:
    """Give the schemas of today with one part of one changed, or left out if it is `...`."""
    schemas = copy.deepcopy(named_schemas())
    *parents, last = path.split("/")
    part: Any = schemas[name]
    for parent in parents:
        part = part[int(parent)] if parent.isdigit() else part[parent]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return schemas


ASSIGNEE = "properties/assignee"


@pytest.mark.parametrize(
    ("name", "path", "value", "breaks"),
    [
        (CommandType.CREATE, ASSIGNEE, ..., "senders"),
        (CommandType.CREATE, "properties/new", TEXT, None),
        (CommandType.CREATE, f"{ASSIGNEE}/anyOf/0/maxLength", 256, None),
        (CommandType.CREATE, f"{ASSIGNEE}/anyOf/0/maxLength", 254, "senders"),
        (CommandType.CREATE, f"{ASSIGNEE}/anyOf/0/pattern", "^a", "senders"),
        (CommandType.CREATE, "required", ["assignee"], "senders"),
        (CommandType.CREATE, "description", "other words", ...),
        ("command.headers", "properties/ce_id/maxLength", 300, None),
        ("command.headers", "properties/ce_id/maxLength", 200, "senders"),
        (EventType.CREATED, ASSIGNEE, ..., "listeners"),
        (EventType.CREATED, "properties/new", TEXT, None),
        (EventType.CREATED, f"{ASSIGNEE}/maxLength", 256, "listeners"),
        (EventType.CREATED, f"{ASSIGNEE}/maxLength", 254, None),
        (EventType.CREATED, f"{ASSIGNEE}/type", ["string", "null"], "listeners"),
        (EventType.CREATED, "required", ["userTaskKey"], "listeners"),
        (EventType.REJECTED, "properties/currentState/enum", ["CREATED", "COMPLETED", "CANCELED", "NEW"], "listeners"),
        ("event.headers", "properties/ce_time", ..., "listeners"),
        ("dead-letter.headers", "properties/dlq-error-type/enum", ["internal"], None),
    ],
)
def test_a_change_of_the_contract_breaks(name, path, value, breaks):
    found = differences(named_schemas(), changed(name, path, value))

    assert {one.breaks for one in found} == ({breaks} if breaks is not ... else set())
    assert {one.schema for one in found} == ({name} if breaks is not ... else set())


def test_a_type_that_is_gone_breaks_and_a_new_one_does_not():
    now = named_schemas()
    without = {name: schema for name, schema in now.items() if name not in {CommandType.CANCEL, EventType.CANCELED}}

    gone = differences(now, without)
    assert [(one.schema, one.breaks) for one in gone] == [
        (CommandType.CANCEL, "senders"),
        (EventType.CANCELED, "listeners"),
    ]
    assert {one.breaks for one in differences(without, now)} == {None}
