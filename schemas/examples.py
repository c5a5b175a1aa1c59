"""A valid example of each message, in the form of AsyncAPI's message examples: headers, and the value as payload.

They tell one story, and a test has the worker tell it: these commands lead to these outcomes.
"""

from typing import Any, Final

from schemas.cloudevents import CONTENT_TYPE, JSON_CONTENT_TYPE, SPEC_VERSION, STRUCTURED_CONTENT_TYPE
from schemas.commands import CommandType
from schemas.events import EventType
from schemas.problem import PROBLEM_CONTENT_TYPE

STRUCTURED_MODE: Final = "structured-mode"
DEAD_LETTER: Final = "dead-letter"

Example = dict[str, Any]

_APPROVED: Final = "2251799813685249"
_WITHDRAWN: Final = "2251799813685250"
_CREATED_AT: Final = "2026-11-20T09:00:00.000Z"
_ENDED_AT: Final = "2026-11-20T09:30:00.123Z"
_COMPLETION: Final = {"userTaskKey": _APPROVED, "variables": {"approved": True}, "action": "approve"}


def examples() -> dict[str, Example]:
    """Give an example of each message, by CloudEvents type, and of structured mode and a dead letter."""
    return {
        CommandType.CREATE: _command(
            CommandType.CREATE,
            "create-1",
            {"userTaskKey": _APPROVED, "name": "Approve the invoice", "assignee": "ann", "priority": 80},
        ),
        CommandType.COMPLETE: _command(CommandType.COMPLETE, "complete-1", _COMPLETION),
        CommandType.CANCEL: _command(CommandType.CANCEL, "cancel-1", {"userTaskKey": _WITHDRAWN}),
        STRUCTURED_MODE: _in_structured_mode(),
        **_outcomes(),
        DEAD_LETTER: _dead_letter(),
    }


def _command(kind: CommandType, command_id: str, body: dict[str, Any]) -> Example:
    headers = {
        "ce_specversion": SPEC_VERSION,
        "ce_id": command_id,
        "ce_source": "/orders",
        "ce_type": kind.value,
        "ce_correlationid": "order-4711",
        CONTENT_TYPE: JSON_CONTENT_TYPE,
    }
    return {"headers": headers, "payload": body}


def _in_structured_mode() -> Example:
    envelope = {
        "specversion": SPEC_VERSION,
        "id": "complete-2",
        "source": "/orders",
        "type": CommandType.COMPLETE.value,
        "correlationid": "order-4711",
        "data": _COMPLETION,
    }
    return {"headers": {CONTENT_TYPE: STRUCTURED_CONTENT_TYPE}, "payload": envelope}


def _outcomes() -> dict[str, Example]:
    created, completed = _of_the_approved_task()
    return {
        EventType.CREATED: _outcome(EventType.CREATED, "2b16dd71-7aa3-565b-9f02-563163b190f6", created),
        EventType.COMPLETED: _outcome(EventType.COMPLETED, "04db7e50-11e2-5483-8697-c1b06eb7dbe7", completed),
        EventType.CANCELED: _outcome(EventType.CANCELED, "9e7e921f-d5f7-546c-94fc-e2f65166896d", _canceled()),
        EventType.REJECTED: _outcome(EventType.REJECTED, "81429c79-f989-5fe0-9966-61cc7926554f", _rejected()),
    }


def _of_the_approved_task() -> tuple[dict[str, Any], dict[str, Any]]:
    created = {
        "userTaskKey": _APPROVED,
        "state": "CREATED",
        "action": "create",
        "variables": {},
        "version": 1,
        "commandId": "create-1",
        "createdAt": _CREATED_AT,
        "tenantId": "<default>",
        "priority": 80,
        "name": "Approve the invoice",
        "assignee": "ann",
    }
    completed = created | {
        "state": "COMPLETED",
        "action": "approve",
        "variables": {"approved": True},
        "version": 2,
        "commandId": "complete-1",
        "completedAt": _ENDED_AT,
    }
    return created, completed


def _canceled() -> dict[str, Any]:
    return {
        "userTaskKey": _WITHDRAWN,
        "state": "CANCELED",
        "action": "cancel",
        "variables": {},
        "version": 2,
        "commandId": "cancel-1",
        "createdAt": _CREATED_AT,
        "canceledAt": _ENDED_AT,
        "tenantId": "<default>",
        "priority": 50,
    }


def _rejected() -> dict[str, Any]:
    return {
        "type": "urn:problem-type:user-task:invalid-state",
        "title": "INVALID_STATE",
        "status": 409,
        "detail": f"User task {_APPROVED} is COMPLETED; only a CREATED user task can be completed.",
        "instance": "/user-task.commands/3/1042",
        "userTaskKey": _APPROVED,
        "commandId": "complete-2",
        "commandType": CommandType.COMPLETE.value,
        "currentState": "COMPLETED",
    }


def _outcome(kind: EventType, event_id: str, body: dict[str, Any]) -> Example:
    headers = {
        "ce_specversion": SPEC_VERSION,
        "ce_id": event_id,
        "ce_source": "/user-task-worker",
        "ce_type": kind.value,
        "ce_time": _CREATED_AT if kind is EventType.CREATED else _ENDED_AT,
        "ce_subject": body["userTaskKey"],
        "ce_causationid": body["commandId"],
        "ce_correlationid": "order-4711",
        CONTENT_TYPE: PROBLEM_CONTENT_TYPE if kind is EventType.REJECTED else JSON_CONTENT_TYPE,
    }
    return {"headers": headers, "payload": body}


def _dead_letter() -> Example:
    headers = {
        "__dlq.errors.topic": "user-task.commands",
        "__dlq.errors.partition": "3",
        "__dlq.errors.offset": "1043",
        "__dlq.errors.group": "user-task-worker",
        "__dlq.errors.delivery.count": "1",
        "__dlq.errors.message": "The value is not JSON.",
        "dlq-error-type": "malformed-command",
        "dlq-failed-at": _ENDED_AT,
        "dlq-record-timestamp": "1795166999877",
        "dlq-redrive-count": "0",
    }
    return {"headers": headers, "payload": "approve it!"}
