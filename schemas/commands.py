"""What upstream services may ask for: to complete, create or cancel a user task (contract, Commands)."""

from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import StringConstraints

from schemas.user_task import (
    DEFAULT_PRIORITY,
    DEFAULT_TENANT_ID,
    PositiveKey,
    PublishedModel,
    UserTaskAttributes,
    UserTaskKey,
)

DEFAULT_ACTION: Final = "complete"


class CommandType(StrEnum):
    """The CloudEvents types of commands."""

    COMPLETE = "user-task.complete.v1"
    CREATE = "user-task.create.v1"
    CANCEL = "user-task.cancel.v1"


class CompleteUserTask(PublishedModel):
    """Ask that a user task be completed: Camunda's `POST /user-tasks/{userTaskKey}/completion`, body and key."""

    user_task_key: UserTaskKey
    """The task to complete: an int64, as a string or as an integer that every JSON parser keeps. Without it, or with
    null, the record key is the user task key. There is no task with a key below 1: 404.
    """
    variables: dict[str, Any] | None = None
    """Merged shallowly into the task's variables, by name; null values are kept. Absent and null mean none."""
    action: Annotated[str, StringConstraints(max_length=255)] | None = None
    """What the user has chosen, at most 255 characters; absent, null and empty mean `complete`. The event has it."""

    @property
    def effective_action(self) -> str:
        """Give the action that the event will carry: null, absent and empty mean the default."""
        return self.action or DEFAULT_ACTION


class CreateUserTask(UserTaskAttributes):
    """Ask that a user task be created. In Camunda the process does this; here it is a command."""

    user_task_key: PositiveKey
    """The key of the new task: a positive int64, as a string or as an integer that every JSON parser keeps. Without it,
    or with null, the record key is the user task key.
    """
    variables: dict[str, Any] | None = None
    """The task's first variables. Absent and null mean none."""

    def attributes(self) -> dict[str, Any]:
        """Give the task's attributes as JSON members, defaults filled in, absent ones left out."""
        given = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"user_task_key", "variables"})
        return {"tenantId": DEFAULT_TENANT_ID, "priority": DEFAULT_PRIORITY} | given


class CancelUserTask(PublishedModel):
    """Ask that a user task be canceled, as Camunda does when the process leaves it."""

    user_task_key: UserTaskKey
    """The task to cancel: an int64, as a string or as an integer that every JSON parser keeps. Without it, or with
    null, the record key is the user task key. There is no task with a key below 1: 404.
    """


Command = CompleteUserTask | CreateUserTask | CancelUserTask

COMMAND_MODELS: Final[dict[CommandType, type[Command]]] = {
    CommandType.COMPLETE: CompleteUserTask,
    CommandType.CREATE: CreateUserTask,
    CommandType.CANCEL: CancelUserTask,
}
