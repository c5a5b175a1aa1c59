"""User tasks as table rows, the same for every SQL store."""

import json
from collections.abc import Sequence
from typing import Any

from schemas.user_task import UserTaskState
from worker.lifecycle import StoredTask
from worker.strict_json import write


def task_to_row(task: StoredTask) -> tuple[Any, ...]:
    """Give key, state, version, attributes and variables (JSON text), created_at_ms, ended_at_ms."""
    return (
        task.user_task_key,
        task.state.value,
        task.version,
        write(task.attributes).decode(),
        write(task.variables).decode(),
        task.created_at_ms,
        task.ended_at_ms,
    )


def task_from_row(row: Sequence[Any]) -> StoredTask:
    """Read what `task_to_row` gave."""
    key, state, version, attributes, variables, created_at_ms, ended_at_ms = row
    return StoredTask(
        user_task_key=key,
        state=UserTaskState(state),
        version=version,
        attributes=json.loads(attributes),
        variables=json.loads(variables),
        created_at_ms=created_at_ms,
        ended_at_ms=ended_at_ms,
    )
