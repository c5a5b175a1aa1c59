"""The life cycle of a user task: one table, and what a command leads to by it. Read this first.

            create                complete
    (none) --------> CREATED -------------> COMPLETED
                        |        cancel
                        +-----------------> CANCELED

What the table lacks is refused. Nothing here reads a clock, a store or the network: the caller hands in the task as
it stands and the instant of the decision, and gets a value back. An expected no is a `Refusal`, never an exception.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, assert_never

from schemas.commands import CancelUserTask, Command, CompleteUserTask, CreateUserTask
from schemas.events import EventType
from schemas.problem import Problem
from schemas.user_task import UserTaskState
from worker.strict_json import write

CREATED, COMPLETED, CANCELED = UserTaskState.CREATED, UserTaskState.COMPLETED, UserTaskState.CANCELED

LIFE_CYCLE: Final[Mapping[tuple[type[Command], UserTaskState | None], EventType]] = {
    (CreateUserTask, None): EventType.CREATED,
    (CompleteUserTask, CREATED): EventType.COMPLETED,
    (CancelUserTask, CREATED): EventType.CANCELED,
}

STATE_AFTER: Final[Mapping[EventType, UserTaskState]] = {
    EventType.CREATED: CREATED,
    EventType.COMPLETED: COMPLETED,
    EventType.CANCELED: CANCELED,
}


@dataclass(slots=True, kw_only=True)
class StoredTask:
    """A user task as it stands in the store."""

    user_task_key: int
    state: UserTaskState
    version: int
    """The number of its transitions so far."""
    attributes: str
    """A JSON object of what the create command said of the task, defaults included. Never empty."""
    variables: Mapping[str, Any]
    """All variables: those of create, with those of complete merged in by name."""
    created_at_ms: int
    ended_at_ms: int | None = None
    """When it was completed or canceled; milliseconds since 1970."""


@dataclass(slots=True, kw_only=True)
class Transition:
    """A command was accepted: the task afterwards, and what listeners are told."""

    event_type: EventType
    task: StoredTask
    action: str
    variables: Mapping[str, Any]
    """The command's."""


@dataclass(slots=True, kw_only=True)
class Refusal:
    """A command was refused: an expected no."""

    problem: Problem
    detail: str
    current_state: UserTaskState | None = None


def decide(task: StoredTask | None, command: Command, *, now_ms: int) -> Transition | Refusal:
    """Say what `command` leads to for `task`, which is None if the store knows no such task.

    Pure: reads nothing, changes nothing. `now_ms` is the decision's instant, milliseconds since 1970.
    """
    event_type = LIFE_CYCLE.get((type(command), task.state if task else None))
    if event_type is None:
        return _refuse(task, command)
    variables = {} if isinstance(command, CancelUserTask) else command.variables or {}
    after = _evolve(task, command, STATE_AFTER[event_type], now_ms)
    return Transition(event_type=event_type, task=after, action=_action(command), variables=variables)


def _evolve(task: StoredTask | None, command: Command, state: UserTaskState, now_ms: int) -> StoredTask:
    """Give the task after an accepted command. Never refuses: that is for the table."""
    if isinstance(command, CreateUserTask):
        return StoredTask(
            user_task_key=command.user_task_key,
            state=state,
            version=1,
            attributes=write(command.attributes()).decode(),
            variables=command.variables or {},
            created_at_ms=now_ms,
        )
    assert task is not None, "the table lets only create meet no task"
    merged = task.variables
    if isinstance(command, CompleteUserTask) and command.variables:
        merged = {**task.variables, **command.variables}
    return StoredTask(
        user_task_key=task.user_task_key,
        state=state,
        version=task.version + 1,
        attributes=task.attributes,
        variables=merged,
        created_at_ms=task.created_at_ms,
        ended_at_ms=now_ms,
    )


def _action(command: Command) -> str:
    match command:
        case CompleteUserTask():
            return command.effective_action
        case CreateUserTask():
            return "create"
        case CancelUserTask():
            return "cancel"
        case _:
            assert_never(command)


def _refuse(task: StoredTask | None, command: Command) -> Refusal:
    key = command.user_task_key
    if task is None:
        return Refusal(problem=Problem.NOT_FOUND, detail=f"There is no user task {key}.")
    if isinstance(command, CreateUserTask):
        detail = f"User task {key} exists already and is {task.state}."
        return Refusal(problem=Problem.ALREADY_EXISTS, detail=detail, current_state=task.state)
    participle = "completed" if isinstance(command, CompleteUserTask) else "canceled"
    detail = f"User task {key} is {task.state}; only a CREATED user task can be {participle}."
    return Refusal(problem=Problem.INVALID_STATE, detail=detail, current_state=task.state)
