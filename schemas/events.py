"""What downstream listeners are told: that a user task was created, completed or canceled (contract, Events)."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from schemas.user_task import Instant, PositiveKey, UserTaskAttributes, UserTaskState


class EventType(StrEnum):
    """The CloudEvents types of what the worker publishes."""

    CREATED = "user-task.created.v1"
    COMPLETED = "user-task.completed.v1"
    CANCELED = "user-task.canceled.v1"
    REJECTED = "user-task.rejected.v1"


class UserTaskEvent(UserTaskAttributes):
    """A transition that has happened, with the whole task. Members that a listener does not know are ignored."""

    model_config = ConfigDict(extra="ignore")

    user_task_key: PositiveKey
    """Which task: a positive int64, always as a string. Also the record key and `ce_subject`."""
    state: Annotated[UserTaskState, Field(strict=False)]
    """Where the task stands after the transition."""
    action: str
    """The command's action; `create` and `cancel` for the other two."""
    variables: dict[str, Any]
    """Those of the command, not all of the task's; empty for cancel."""
    version: Annotated[int, Field(ge=1)]
    """The number of the task's transitions, this one included."""
    command_id: str
    """The id of the command that caused it: its `ce_id`, else its `idempotency-key`, else `topic/partition/offset`."""
    created_at: Instant
    """When the task was created: RFC 3339, in UTC with milliseconds."""
    completed_at: Instant | None = None
    """When the task was completed: RFC 3339, in UTC with milliseconds. Left out unless it was."""
    canceled_at: Instant | None = None
    """When the task was canceled: RFC 3339, in UTC with milliseconds. Left out unless it was."""
