"""The generated schemas: current, valid, and of one mind with the worker about what a command is."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from schemas.asyncapi import asyncapi
from schemas.cloudevents import CORRELATION_HEADERS
from schemas.commands import COMMAND_MODELS, CommandType
from schemas.events import EventType, UserTaskEvent
from schemas.examples import DEAD_LETTER, STRUCTURED_MODE, examples
from schemas.headers import COMMAND, EVENT, REJECTION
from schemas.headers import DEAD_LETTER as DEAD_LETTER_HEADERS
from schemas.problem import ProblemDetail
from schemas.user_task import UserTaskState
from tests.unit.records import DESTINATIONS, LIMITS, ARecord, a_command, decided
from worker.batch import Batch, decode_all
from worker.cli.exporting import ASYNCAPI, SCHEMA_SUFFIX, generated, named_schemas
from worker.decoder import InvalidArgument, Readable, decode
from worker.encoder import Encoder, OutgoingRecord
from worker.kafka import topic_names
from worker.settings import Settings
from worker.stores.port import Changes, Snapshot

FOLDER = Path(__file__).resolve().parents[2] / "schemas/json"
SCHEMAS = named_schemas()
DOCUMENT = json.loads(json.dumps(asyncapi()))
EVENTS = [EventType.CREATED, EventType.COMPLETED, EventType.CANCELED]
INT64_MAX = 2**63 - 1


def pattern(_: Any, wanted: str, value: Any, __: Any) -> Iterator[ValidationError]:
    """Read `$` as ECMA 262 does: Python's lets a line break follow."""
    if isinstance(value, str) and not re.search(wanted.replace("$", r"\Z"), value):
        yield ValidationError(f"not {wanted}")


Validator = extend(Draft202012Validator, {"pattern": pattern})
VALIDATORS = {name: Validator(schema) for name, schema in SCHEMAS.items()}


# The files


def test_the_generated_files_are_those_of_the_models():
    found = {str(path.relative_to(FOLDER)): path for path in FOLDER.rglob("*") if path.is_file()}

    stale = [name for name, text in generated().items() if found[name].read_text(encoding="utf-8") != text]
    assert set(found) == set(generated()), "`user-task-worker schemas export` writes them"
    assert not stale, "`user-task-worker schemas export` writes them anew"


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_schema_is_one(name):
    Draft202012Validator.check_schema(SCHEMAS[name])
    assert SCHEMAS[name]["$id"] == f"urn:json-schema:{name}"
    assert json.loads((FOLDER / f"{name}{SCHEMA_SUFFIX}").read_text(encoding="utf-8")) == SCHEMAS[name]


def members(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Give every member that a schema describes, at any depth."""
    if isinstance(schema, dict):
        for name, member in schema.get("properties", {}).items():
            yield f"{path}/{name}", member
        for part in schema.values():
            yield from members(part, path)
    elif isinstance(schema, list):
        for part in schema:
            yield from members(part, path)


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_member_is_explained_on_one_line(name):
    unexplained = [where for where, member in members(SCHEMAS[name]) if not member.get("description", "")]

    assert [where for where in unexplained if where != "/content-type"] == []
    assert all("\n" not in member.get("description", "") for _, member in members(SCHEMAS[name]))


def test_commands_refuse_members_that_nobody_knows_and_outcomes_allow_them():
    for kind in CommandType:
        assert SCHEMAS[kind]["additionalProperties"] is False
    for kind in EventType:
        objects = [SCHEMAS[kind], *[member.get("items", {}) for _, member in members(SCHEMAS[kind])]]
        assert all(one.get("additionalProperties", True) is True for one in objects)


# The AsyncAPI document; its form was checked by AsyncAPI's own schema and parser when it was made


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for name, part in node.items():
            yield from [part] if name == "$ref" else references(part)
    elif isinstance(node, list):
        for part in node:
            yield from references(part)


def resolved(reference: str) -> Any:
    node = DOCUMENT
    for name in reference.removeprefix("#/").split("/"):
        node = node[name]
    return node


def test_the_document_in_the_file_is_the_one_that_is_built():
    assert yaml.safe_load((FOLDER / ASYNCAPI).read_text(encoding="utf-8")) == DOCUMENT


def test_every_reference_of_the_document_leads_somewhere_inside_of_it():
    found = list(references(DOCUMENT))

    assert len(found) > 30
    assert all(reference.startswith("#/") and resolved(reference) for reference in found)


def test_the_topics_are_the_settings_defaults():
    channels = DOCUMENT["channels"]

    addresses = [channels[name]["address"] for name in ("commands", "events", "rejections", "deadLetters")]
    assert addresses == list(topic_names(Settings()))
    assert channels["replies"]["address"] is None


def test_the_worker_receives_commands_and_sends_the_rest():
    operations = DOCUMENT["operations"]
    sent = {name: operation["action"] for name, operation in operations.items()}

    assert sent == {
        "receiveCommands": "receive",
        "sendEvents": "send",
        "sendRejections": "send",
        "sendDeadLetters": "send",
    }
    for operation in operations.values():
        assert {resolved(one["$ref"])["$ref"] for one in operation["messages"]} == {
            one["$ref"] for one in resolved(operation["channel"]["$ref"])["messages"].values()
        }
    assert len(operations["receiveCommands"]["reply"]["messages"]) == len(EventType)


def test_each_message_has_headers_a_key_a_correlation_id_and_the_example():
    assert set(DOCUMENT["components"]["messages"]) == {*CommandType, STRUCTURED_MODE, *EventType, DEAD_LETTER}
    for name, message in DOCUMENT["components"]["messages"].items():
        assert message["examples"] == [json.loads((FOLDER / f"examples/{name}.json").read_text(encoding="utf-8"))]
        assert message["bindings"]["kafka"]["key"]["description"]
        assert {"name", "summary", "contentType", "headers", "payload", "correlationId"} <= message.keys()


# The examples


def within_document(schema: dict[str, Any]) -> Any:
    """Validate by a schema of the document, whose references lead into it."""
    return Validator(DOCUMENT | schema)


@pytest.mark.parametrize("name", examples())
def test_each_example_is_valid(name):
    message, example = DOCUMENT["components"]["messages"][name], examples()[name]

    within_document(message["headers"]).validate(example["headers"])
    within_document(message["payload"]).validate(example["payload"])
    if name in SCHEMAS:
        VALIDATORS[name].validate(example["payload"])


def test_structured_mode_takes_the_members_of_its_type_only():
    envelope = examples()[STRUCTURED_MODE]["payload"]
    validator = within_document(DOCUMENT["components"]["messages"][STRUCTURED_MODE]["payload"])

    assert validator.is_valid(envelope | {"unknown": 1})
    assert not validator.is_valid(envelope | {"type": CommandType.CANCEL})
    assert not validator.is_valid(envelope | {"data": {"unknown": 1}})
    assert not validator.is_valid({name: value for name, value in envelope.items() if name != "id"})


def as_record(name: str, offset: int) -> ARecord:
    example = examples()[name]
    headers = tuple((header, value.encode()) for header, value in example["headers"].items())
    topic = Settings().commands_topic
    return ARecord(json.dumps(example["payload"]).encode(), headers=headers, offset=offset, topic=topic, partition=3)


@pytest.mark.parametrize("name", [*CommandType, STRUCTURED_MODE])
def test_each_example_of_a_command_is_one_for_the_worker(name):
    received = decode(as_record(name, 0))

    assert isinstance(received, Readable)
    assert not isinstance(received.command, InvalidArgument)


def told(records: list[ARecord], before: Changes | None, instant_ms: int) -> Changes:
    encoder = Encoder(dataclasses.replace(DESTINATIONS, group_id="user-task-worker"))
    snapshot = Snapshot(tasks=before.tasks if before else {}, fingerprints={})
    return Batch(decode_all(records), encoder, LIMITS).decide(snapshot, instant_ms)


def as_example(record: OutgoingRecord) -> dict[str, Any]:
    headers = {name: (value or b"").decode() for name, value in record.headers}
    return {"headers": headers, "payload": json.loads(record.value or b"")}


def test_the_worker_answers_the_examples_of_commands_with_the_examples_of_outcomes():
    other = a_command("create", {"userTaskKey": "2251799813685250"})
    first = told([as_record(CommandType.CREATE, 1), other], None, 1_795_165_200_000)
    commands = [(CommandType.COMPLETE, 1041), (STRUCTURED_MODE, 1042), (CommandType.CANCEL, 1043)]
    second = told([as_record(name, offset) for name, offset in commands], first, 1_795_167_000_123)

    outcomes = [as_example(record) for changes in (first, second) for one in changes.outcomes for record in one.records]
    assert outcomes[:1] + outcomes[2:] == [
        examples()[name] for name in (EventType.CREATED, EventType.COMPLETED, EventType.REJECTED, EventType.CANCELED)
    ]


def test_the_worker_makes_the_example_of_a_dead_letter():
    example = examples()[DEAD_LETTER]
    place = {"topic": Settings().commands_topic, "partition": 3, "offset": 1043}
    command = ARecord(example["payload"].encode(), timestamp=1_795_166_999_877, **place)

    [outcome] = told([command], None, 1_795_167_000_123).outcomes
    [letter] = [record for record in outcome.records if record.topic == DESTINATIONS.dead_letters_topic]
    assert {name: (value or b"").decode() for name, value in letter.headers} == example["headers"]
    assert (letter.value or b"").decode() == example["payload"]


# What the worker accepts, and what the schemas accept


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
long_text = st.sampled_from([character * length for character in "a😀" for length in (100, 101, 255, 256)])
number = (
    st.integers(-(2**70), 2**70)
    | st.sampled_from([0, 1, 50, 100, 101, -1, 2**31 - 1, 2**31, 2**53 - 1, 2**53, -(2**53), -(2**53) + 1])
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer())
)
key = (
    st.integers(-INT64_MAX - 1, INT64_MAX).map(str)
    | st.integers(0, 2**70).map(lambda number: str(number).zfill(26))
    | st.sampled_from(["0", "-0", "007", "-1", "+1", "1 ", "1\n", "\n1", "", "1e3", "0x1", "٣", str(INT64_MAX)])
    | st.integers(1, INT64_MAX).map(lambda number: str(number).zfill(25))
)
moments = [
    *("2026-11-20T09:00:00+01:00", "2026-11-20t09:00:00.123456789z", "2026-12-31T23:59:60Z", "2026-11-20T09:00:00"),
    *("2026-11-20 09:00:00Z", "2026-11-20", "2026-11-20T09:00Z", "2026-11-20T09:00:00Z\n", "2026-11-20T09:00:00+24:00"),
    *("2026-11-20T09:00+01:00", "2026-11-20T09:00:00+01:00[Europe/Paris]", "2026-11-20T09:00:00Z[]"),
    *("2026-11-20T09:00-00:09:21[GMT-1]", "2026-11-20T09:00Z[a][b]", "2026-11-20T09:00.5Z", "2026-11-20T09:00Z[ü]"),
    *("2026-11-20T09:00:00+0100", "2026-11-20T09:00:00Z[a\n]", "2026-11-20T09:00:00Z[Etc/GMT+1]\n"),
    *("2026-11-20T09:00:00,5Z", "٢026-11-20T09:00:00Z", "20261120T090000Z", "2026-11-20T09:00:00.Z"),
]
moment = st.datetimes().map(lambda instant: instant.isoformat() + "Z") | st.sampled_from(moments)
scalar = st.none() | st.booleans() | number | text | long_text | key | moment
anything = scalar | st.lists(scalar, max_size=12) | st.dictionaries(text | long_text, scalar, max_size=3)
texts = st.lists(text | long_text, max_size=12) | st.lists(st.just("a"), max_size=3)
crowd = st.integers(999, 1001).map(lambda count: ["a"] * count)
headers = st.dictionaries(text | long_text, text | long_text, max_size=3) | st.integers(99, 101).map(
    lambda count: {str(number): "" for number in range(count)}
)
likely = {
    **dict.fromkeys(
        ["userTaskKey", "formKey", "elementInstanceKey", "processInstanceKey", "processDefinitionKey"], key
    ),
    **dict.fromkeys(["dueDate", "followUpDate"], moment),
    **dict.fromkeys(["candidateGroups", "candidateUsers"], texts | crowd),
    **dict.fromkeys(["priority", "processDefinitionVersion"], number),
    "tags": texts,
    "customHeaders": headers,
    "variables": st.dictionaries(text, anything, max_size=3),
}


def bodies(kind: CommandType) -> st.SearchStrategy[dict[str, Any]]:
    """Give objects that are nearly commands: one or a few members, each as it may be or as anything else."""
    names = list(SCHEMAS[kind]["properties"])
    known = st.fixed_dictionaries({}, optional={name: likely.get(name, text | long_text) | anything for name in names})
    few = st.sampled_from(names).flatmap(
        lambda name: st.fixed_dictionaries({name: likely.get(name, text | long_text) | anything})
    )
    unknown = st.just({}) | st.just({}) | st.dictionaries(text, anything, max_size=1)
    return st.builds(lambda body, more: body | more, few | known, unknown)


def is_a_command(kind: CommandType, body: dict[str, Any]) -> bool:
    value, headers = json.dumps(body).encode(), a_command(kind.value.split(".")[1], {}).headers
    received = decode(ARecord(value, key=b"1", headers=headers))
    assert isinstance(received, Readable)
    return not isinstance(received.command, InvalidArgument)


commands = st.sampled_from(list(CommandType)).flatmap(lambda kind: st.tuples(st.just(kind), bodies(kind)))


@settings(max_examples=1000)
@given(commands)
def test_schema_and_worker_agree_on_what_a_command_is(command):
    kind, body = command

    assert VALIDATORS[kind].is_valid(body) == is_a_command(kind, body)


@pytest.mark.parametrize("body", [{}, {"userTaskKey": None}, {"userTaskKey": "1"}, {"userTaskKey": 1}])
@pytest.mark.parametrize("kind", CommandType)
def test_the_key_may_be_left_to_the_record(kind, body):
    assert VALIDATORS[kind].is_valid(body)
    assert is_a_command(kind, body)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"userTaskKey": 7.0}, id="an integer with a fraction"),
        pytest.param({"userTaskKey": str(INT64_MAX + 1)}, id="a key of more than 64 bits"),
        pytest.param({"dueDate": "2026-02-30T00:00:00Z"}, id="a day that does not exist"),
        pytest.param({"dueDate": "2026-01-01T25:00:00Z"}, id="an hour that does not exist"),
    ],
)
def test_what_a_schema_cannot_say_the_worker_still_refuses(body):
    assert VALIDATORS[CommandType.CREATE].is_valid(body)
    assert not is_a_command(CommandType.CREATE, body)


@given(st.lists(commands, max_size=6))
def test_what_the_worker_writes_is_what_the_schemas_promise(sent):
    records = [
        a_command(kind.value.split(".")[1], {"userTaskKey": "1"} | body, offset=offset)
        for offset, (kind, body) in enumerate(sent)
    ]

    written = [record for outcome in decided(records).outcomes for record in outcome.records]
    assert len(written) == len(sent)
    for record in written:
        outcome = as_example(record)
        VALIDATORS[outcome["headers"]["ce_type"]].validate(outcome["payload"])
        VALIDATORS[EVENT if record.topic == DESTINATIONS.events_topic else REJECTION].validate(outcome["headers"])


@pytest.mark.parametrize(
    ("kind", "model"), [*((kind, UserTaskEvent) for kind in EVENTS), (EventType.REJECTED, ProblemDetail)]
)
def test_a_listener_reads_what_the_schema_allows_and_ignores_the_rest(kind, model):
    payload = examples()[kind]["payload"] | {
        "unknown": {"a": 1},
        "errors": [{"pointer": "#", "detail": "", "code": "", "x": 1}],
    }

    VALIDATORS[kind].validate(payload)
    assert json.loads(model.model_validate_json(json.dumps(payload)).model_dump_json(by_alias=True, exclude_none=True))


def test_an_event_has_the_state_and_the_time_of_its_type():
    completed = examples()[EventType.COMPLETED]["payload"]

    assert not VALIDATORS[EventType.CANCELED].is_valid(completed)
    assert not VALIDATORS[EventType.COMPLETED].is_valid(completed | {"state": UserTaskState.CANCELED})
    assert not VALIDATORS[EventType.COMPLETED].is_valid(
        {name: value for name, value in completed.items() if name != "completedAt"}
    )


# Headers


def test_the_headers_of_binary_mode_come_together():
    all_four = examples()[CommandType.COMPLETE]["headers"]

    assert VALIDATORS[COMMAND].is_valid({"content-type": "application/json", "anything": "else"})
    assert VALIDATORS[COMMAND].is_valid(all_four)
    for name in ("ce_specversion", "ce_id", "ce_source", "ce_type"):
        assert not VALIDATORS[COMMAND].is_valid({header: value for header, value in all_four.items() if header != name})


def test_every_header_that_the_worker_writes_is_described():
    copied = [(name, b"x") for name in ("traceparent", "tracestate", *CORRELATION_HEADERS)]
    commands = [ARecord(b"no json", headers=copied), ARecord(b"{}", key=b"1", headers=copied)]

    for outcome in decided(commands).outcomes:
        for record in outcome.records:
            is_letter = record.topic == DESTINATIONS.dead_letters_topic
            described = SCHEMAS[DEAD_LETTER_HEADERS if is_letter else REJECTION]["properties"]
            assert {name for name, _ in record.headers} - set(described) == (
                {name for name, _ in copied} if is_letter else set()
            )


def test_the_models_are_those_of_the_commands():
    for kind, model in COMMAND_MODELS.items():
        assert set(SCHEMAS[kind]["properties"]) == {field.alias for field in model.model_fields.values()}
