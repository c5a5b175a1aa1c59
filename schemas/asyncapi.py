"""The contract as an AsyncAPI 3.0 document, built from the models: topics, messages, headers, and who sends what.

Operations are the worker's: it receives commands, and sends the rest. Topics have their default names.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from schemas.cloudevents import JSON_CONTENT_TYPE, SPEC_VERSION, STRUCTURED_CONTENT_TYPE
from schemas.commands import CommandType
from schemas.events import EventType
from schemas.examples import DEAD_LETTER, STRUCTURED_MODE, examples
from schemas.headers import COMMAND, EVENT, REJECTION, header_schemas
from schemas.headers import DEAD_LETTER as DEAD_LETTER_HEADERS
from schemas.json_schema import value_schemas
from schemas.problem import PROBLEM_CONTENT_TYPE

CONTRACT_VERSION: Final = "1.0.0"
"""That of the contract, not of a release: its first number rises when a type gets another version."""

COMMANDS_TOPIC: Final = "user-task.commands"
EVENTS_TOPIC: Final = "user-task.events"
REJECTIONS_TOPIC: Final = "user-task.rejections"
DEAD_LETTERS_TOPIC: Final = "user-task.commands.dlq"

_KAFKA_BINDING: Final = "0.5.0"
_DEAD_LETTERS_RETENTION_MS: Final = 30 * 24 * 3600 * 1000
_EVENTS: Final = (EventType.CREATED, EventType.COMPLETED, EventType.CANCELED)

Node = dict[str, Any]


def asyncapi() -> Node:
    """Build the document. It refers to nothing outside of itself."""
    return {
        "asyncapi": "3.0.0",
        "id": "urn:user-task-worker",
        "info": {
            "title": "User tasks over Kafka",
            "version": CONTRACT_VERSION,
            "description": "Commands complete, create or cancel user tasks. Each is answered by one event or by one"
            " rejection. Listeners read with isolation.level=read_committed and ignore what they do not know.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": JSON_CONTENT_TYPE,
        "channels": _channels(),
        "operations": _operations(),
        "components": {
            "messages": _messages(),
            "schemas": _schemas(),
            "correlationIds": {
                "correlationId": {
                    "description": "Copied from the command to its outcome; without it, the command id."
                    " ce_causationid is always the command id.",
                    "location": "$message.header#/ce_correlationid",
                }
            },
        },
    }


def _reference(*path: str) -> Node:
    return {"$ref": "#/" + "/".join(path)}


def _schemas() -> dict[str, Node]:
    # an AsyncAPI document says itself what dialect its schemas are: these use nothing that draft-07 lacks
    named = value_schemas() | header_schemas()
    return {
        name: {key: part for key, part in schema.items() if key not in {"$schema", "$id"}}
        for name, schema in named.items()
    }


# Channels


def _channels() -> dict[str, Node]:
    outcomes = [*_EVENTS, EventType.REJECTED]
    return {
        "commands": _topic(
            COMMANDS_TOPIC,
            "What is asked for. All commands of one task have the same record key and come from producers with the same"
            " partitioner; that alone gives them an order.",
            [*CommandType, STRUCTURED_MODE],
        ),
        "events": _topic(EVENTS_TOPIC, "What has happened, in the order of decision for each task.", _EVENTS),
        "rejections": _topic(REJECTIONS_TOPIC, "What was refused, and why.", [EventType.REJECTED]),
        "deadLetters": _topic(
            DEAD_LETTERS_TOPIC,
            "Commands that could not be read, or on which the worker failed, unchanged; for operators.",
            [DEAD_LETTER],
            {"retention.ms": _DEAD_LETTERS_RETENTION_MS},
        ),
        "replies": {
            "address": None,
            "description": "Topics that commands name in kafka_replyTopic (Spring), REPLY_TOPIC (Quarkus) or reply_to"
            " (FastStream) for their outcome, if they match USERTASK_REPLY_TOPICS. The outcome's key, value and ce_*"
            " headers are those of the events or rejections topic; the correlation headers are the command's.",
            "messages": _message_references(outcomes),
        },
    }


def _topic(name: str, description: str, messages: Iterable[str], config: Mapping[str, Any] | None = None) -> Node:
    kafka = {
        "topic": name,
        "topicConfiguration": {"cleanup.policy": ["delete"], **(config or {})},
        "bindingVersion": _KAFKA_BINDING,
    }
    return {
        "address": name,
        "description": description,
        "messages": _message_references(messages),
        "bindings": {"kafka": kafka},
    }


def _message_references(names: Iterable[str]) -> dict[str, Node]:
    return {str(name): _reference("components", "messages", name) for name in names}


# Operations


def _operations() -> dict[str, Node]:
    received = _operation("receive", "commands", [*CommandType, STRUCTURED_MODE], "Decide commands, each once.")
    received["bindings"] = {
        "kafka": {
            "groupId": {"type": "string", "description": "USERTASK_GROUP_ID, user-task-worker if not set."},
            "bindingVersion": _KAFKA_BINDING,
        }
    }
    outcomes = [*_EVENTS, EventType.REJECTED]
    received["reply"] = {
        "address": {
            "description": "Or REPLY_TOPIC, or reply_to. Without any, the outcome goes to its own topic only.",
            "location": "$message.header#/kafka_replyTopic",
        },
        "channel": _reference("channels", "replies"),
        "messages": [_reference("channels", "replies", "messages", kind) for kind in outcomes],
    }
    return {
        "receiveCommands": received,
        "sendEvents": _operation("send", "events", _EVENTS, "Tell of a transition."),
        "sendRejections": _operation("send", "rejections", [EventType.REJECTED], "Tell why a command was refused."),
        "sendDeadLetters": _operation("send", "deadLetters", [DEAD_LETTER], "Keep a command for an operator."),
    }


def _operation(action: str, channel: str, messages: Iterable[str], summary: str) -> Node:
    return {
        "action": action,
        "channel": _reference("channels", channel),
        "summary": summary,
        "messages": [_reference("channels", channel, "messages", name) for name in messages],
    }


# Messages


def _messages() -> dict[str, Node]:
    messages = {kind.value: _command(kind) for kind in CommandType}
    messages[STRUCTURED_MODE] = _in_structured_mode()
    messages |= {kind.value: _outcome(kind, EVENT, JSON_CONTENT_TYPE) for kind in _EVENTS}
    messages[EventType.REJECTED] = _outcome(EventType.REJECTED, REJECTION, PROBLEM_CONTENT_TYPE)
    messages[DEAD_LETTER] = _dead_letter()
    return {name: message | {"examples": [examples()[name]]} for name, message in messages.items()}


def _message(
    name: str, summary: str, content_type: str, headers: Node, payload: Node, key: str = "The user task key."
) -> Node:
    return {
        "name": name,
        "summary": summary,
        "contentType": content_type,
        "headers": headers,
        "payload": payload,
        "correlationId": _reference("components", "correlationIds", "correlationId"),
        "bindings": {
            "kafka": {"key": {"type": "string", "description": key}, "bindingVersion": _KAFKA_BINDING},
        },
    }


def _command(kind: CommandType) -> Node:
    only: Node = {"properties": {"ce_type": {"const": kind.value}}}
    if kind is not CommandType.COMPLETE:
        only["required"] = ["ce_type"]
    return _message(
        kind.value,
        f"{kind.name.capitalize()} a user task, in CloudEvents binary mode or as plain JSON.",
        JSON_CONTENT_TYPE,
        {"allOf": [_reference("components", "schemas", COMMAND), only]},
        _reference("components", "schemas", kind),
        "The partitioning key, normally the user task key.",
    )


def _in_structured_mode() -> Node:
    text = {"type": "string", "minLength": 1, "maxLength": 255}
    envelope = {
        "type": "object",
        "properties": {
            "specversion": {"const": SPEC_VERSION},
            "id": text,
            "source": text,
            "type": {"enum": [kind.value for kind in CommandType]},
            "correlationid": {"type": ["string", "null"], "maxLength": 255},
            "data": {"type": "object"},
            "data_base64": {"type": "string", "contentEncoding": "base64", "description": "Instead of data: its JSON."},
        },
        "required": ["specversion", "id", "source", "type"],
        "anyOf": [{"required": ["data"]}, {"required": ["data_base64"]}],
        "oneOf": [
            {"properties": {"type": {"const": kind.value}, "data": _reference("components", "schemas", kind)}}
            for kind in CommandType
        ],
    }
    headers = {
        "type": "object",
        "description": "Headers ce_* are ignored; those of replies and traces count as in binary mode.",
        "properties": {"content-type": {"type": "string", "description": STRUCTURED_CONTENT_TYPE}},
        "required": ["content-type"],
    }
    message = _message(
        STRUCTURED_MODE,
        "Any of the commands as `data` of a CloudEvent in structured mode.",
        STRUCTURED_CONTENT_TYPE,
        headers,
        envelope,
        "The partitioning key, normally the user task key.",
    )
    # the header of this name is ignored here
    message["correlationId"] = {"location": "$message.payload#/correlationid"}
    return message


def _outcome(kind: EventType, headers: str, content_type: str) -> Node:
    only = {"properties": {"ce_type": {"const": kind.value}}}
    return _message(
        kind.value,
        "A command was refused." if kind is EventType.REJECTED else f"A user task was {kind.name.lower()}.",
        content_type,
        {"allOf": [_reference("components", "schemas", headers), only]},
        _reference("components", "schemas", kind),
        "The user task key; of a rejection without one, the command's record key."
        if kind is EventType.REJECTED
        else "The user task key.",
    )


def _dead_letter() -> Node:
    return _message(
        DEAD_LETTER,
        "A command as it was sent, and what was wrong with it.",
        "application/octet-stream",
        _reference("components", "schemas", DEAD_LETTER_HEADERS),
        {"description": "The command's bytes, unchanged; they may be anything."},
        "The command's, unchanged.",
    )
