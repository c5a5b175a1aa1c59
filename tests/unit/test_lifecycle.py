"""The life cycle's table, by itself."""

from itertools import product

import pytest

from schemas.commands import CancelUserTask, CompleteUserTask, CreateUserTask
from schemas.events import EventType
from schemas.problem import Problem
from schemas.user_task import UserTaskState
from worker.lifecycle import LIFE_CYCLE, Refusal, StoredTask, Transition, decide

NOW_MS = 1_700_000_000_123
KEY = 2251799813685249


def a_task(state=UserTaskState.CREATED, **changes):
    fields = {"attributes": '{"priority":50}', "variables": {"a": 1, "b": {"c": 2}}, "version": 1, "created_at_ms": 1}
    return StoredTask(user_task_key=KEY, state=state, **(fields | changes))


def a_command(kind):
    return kind(userTaskKey=KEY)


@pytest.mark.parametrize("state", [None, *UserTaskState])
@pytest.mark.parametrize("kind", [CompleteUserTask, CreateUserTask, CancelUserTask])
def test_what_the_table_lacks_is_refused_and_changes_nothing(kind, state):
    decision = decide(a_task(state) if state else None, a_command(kind), now_ms=NOW_MS)

    assert isinstance(decision, Transition if (kind, state) in LIFE_CYCLE else Refusal)


def test_the_table_has_three_transitions_and_none_out_of_a_final_state():
    finals = {UserTaskState.COMPLETED, UserTaskState.CANCELED}

    assert set(LIFE_CYCLE.values()) == {EventType.CREATED, EventType.COMPLETED, EventType.CANCELED}
    assert not finals & {state for _, state in LIFE_CYCLE}


@pytest.mark.parametrize(
    ("kind", "state", "problem"),
    [
        (CompleteUserTask, None, Problem.NOT_FOUND),
        (CancelUserTask, None, Problem.NOT_FOUND),
        *product(
            [CompleteUserTask, CancelUserTask],
            [UserTaskState.COMPLETED, UserTaskState.CANCELED],
            [Problem.INVALID_STATE],
        ),
        *product([CreateUserTask], UserTaskState, [Problem.ALREADY_EXISTS]),
    ],
)
def test_a_refusal_names_the_problem_and_the_state(kind, state, problem):
    refusal = decide(a_task(state) if state else None, a_command(kind), now_ms=NOW_MS)

    assert isinstance(refusal, Refusal)
    assert (refusal.problem, refusal.current_state) == (problem, state)


def test_complete_merges_variables_shallowly_and_tells_only_its_own():
    command = CompleteUserTask(userTaskKey=KEY, variables={"b": None, "d": [1]}, action="approve")

    transition = decide(a_task(), command, now_ms=NOW_MS)

    assert isinstance(transition, Transition)
    assert transition.task.variables == {"a": 1, "b": None, "d": [1]}
    assert transition.variables == {"b": None, "d": [1]}
    assert (transition.task.version, transition.task.ended_at_ms, transition.action) == (2, NOW_MS, "approve")


@pytest.mark.parametrize("action", [None, ""])
def test_no_action_means_complete(action):
    transition = decide(a_task(), CompleteUserTask(userTaskKey=KEY, action=action), now_ms=NOW_MS)

    assert isinstance(transition, Transition)
    assert transition.action == "complete"


def test_cancel_keeps_the_variables_and_tells_none():
    transition = decide(a_task(), CancelUserTask(userTaskKey=KEY), now_ms=NOW_MS)

    assert isinstance(transition, Transition)
    assert (transition.action, transition.variables) == ("cancel", {})
    assert transition.task.variables == a_task().variables
