"""Why a command was refused: RFC 9457 problem details in the words of Camunda's gateway (contract, Rejections)."""

from enum import StrEnum
from typing import Annotated, Final, NamedTuple

from pydantic import ConfigDict, Field

from schemas.user_task import PublishedModel, UserTaskKey, UserTaskState

PROBLEM_CONTENT_TYPE: Final = "application/problem+json"
DEFAULT_PROBLEM_TYPE_BASE: Final = "urn:problem-type:user-task:"
ABOUT_BLANK: Final = "about:blank"

MAX_ERRORS: Final = 100
MAX_POINTER_CHARS: Final = 255


class Problem(StrEnum):
    """The slugs of the problem types."""

    MALFORMED_COMMAND = "malformed-command"
    INVALID_ARGUMENT = "invalid-argument"
    COMMAND_ID_REUSED = "command-id-reused"
    TOO_LARGE = "too-large"
    NOT_FOUND = "not-found"
    INVALID_STATE = "invalid-state"
    ALREADY_EXISTS = "already-exists"
    INTERNAL = "internal"


class _Meaning(NamedTuple):
    status: int
    title: str


PROBLEMS: Final[dict[Problem, _Meaning]] = {
    Problem.MALFORMED_COMMAND: _Meaning(400, "INVALID_ARGUMENT"),
    Problem.INVALID_ARGUMENT: _Meaning(400, "INVALID_ARGUMENT"),
    Problem.COMMAND_ID_REUSED: _Meaning(400, "INVALID_ARGUMENT"),
    Problem.TOO_LARGE: _Meaning(400, "INVALID_ARGUMENT"),
    Problem.NOT_FOUND: _Meaning(404, "NOT_FOUND"),
    Problem.INVALID_STATE: _Meaning(409, "INVALID_STATE"),
    Problem.ALREADY_EXISTS: _Meaning(409, "ALREADY_EXISTS"),
    Problem.INTERNAL: _Meaning(500, "INTERNAL"),
}

DAMAGED_BATCH: Final = "damaged-batch"
"""What dead letters call commands that the broker's disk has lost. No rejection is of this kind."""

DEAD_LETTERED: Final[frozenset[str]] = frozenset({Problem.MALFORMED_COMMAND, Problem.INTERNAL, DAMAGED_BATCH})
"""What an operator must look at; everything else is between the sender and the answer."""


class FieldError(PublishedModel):
    """One wrong member of a command; never its value."""

    model_config = ConfigDict(extra="ignore")

    pointer: Annotated[str, Field(max_length=MAX_POINTER_CHARS)]
    """An RFC 6901 fragment into the command object, such as `#/variables`, cut at 255 characters."""
    detail: str
    """What is wrong, in words."""
    code: str
    """Pydantic's error type, such as `string_type`."""


class ProblemDetail(PublishedModel):
    """An RFC 9457 problem detail: the body of a rejection, as Camunda answers. Unknown members are ignored."""

    model_config = ConfigDict(extra="ignore")

    type: str
    """Which problem: a slug such as `not-found` behind `urn:problem-type:user-task:`, or `about:blank`; the worker's
    setting.
    """
    title: str
    """The status in Camunda's words: `INVALID_ARGUMENT`, `NOT_FOUND`, `INVALID_STATE`, `ALREADY_EXISTS`, `INTERNAL`."""
    status: int
    """The HTTP status with which Camunda's endpoint would answer: 400, 404, 409 or 500."""
    detail: str
    """What is wrong, in words; of the command's values only its key and the task's state."""
    instance: str
    """`/topic/partition/offset` of the command."""
    user_task_key: UserTaskKey | None = None
    """The command's user task key, an int64 as a string; left out if none could be read."""
    command_id: str
    """The command's id: its `ce_id`, else its `idempotency-key`, else `topic/partition/offset`."""
    command_type: str | None = None
    """The command's type; left out if it could not be read."""
    current_state: Annotated[UserTaskState, Field(strict=False)] | None = None
    """Where the task stands, for a 409."""
    errors: list[FieldError] | None = None
    """All wrong members, at most 100, where members are wrong."""
    error_count: int | None = None
    """How many wrong members there are, when they are more than are listed."""


def problem_type(base: str, problem: Problem) -> str:
    """Give the `type` member: the slug behind the base, or plain `about:blank` as Camunda has it."""
    return base if base == ABOUT_BLANK else f"{base}{problem}"
