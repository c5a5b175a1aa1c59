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
    """Ask that a user task be completed: the endpoint's request body, with the path parameter as a member."""

    user_task_key: UserTaskKey
    variables: dict[str, Any] | None = None
    action: Annotated[str, StringConstraints(max_length=255)] | None = None

    @property
    def effective_action(self) -> str:
        """Give the action that the event will carry: null, absent and empty mean the default."""
        return self.action or DEFAULT_ACTION


class CreateUserTask(UserTaskAttributes):
    """Ask that a user task be created."""

    user_task_key: PositiveKey
    variables: dict[str, Any] | None = None

    def attributes(self) -> dict[str, Any]:
        """Give the task's attributes as JSON members, defaults filled in, absent ones left out."""
        given = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"user_task_key", "variables"})
        return {"tenantId": DEFAULT_TENANT_ID, "priority": DEFAULT_PRIORITY} | given


class CancelUserTask(PublishedModel):
    """Ask that a user task be canceled."""

    user_task_key: UserTaskKey


Command = CompleteUserTask | CreateUserTask | CancelUserTask

COMMAND_MODELS: Final[dict[CommandType, type[Command]]] = {
    CommandType.COMPLETE: CompleteUserTask,
    CommandType.CREATE: CreateUserTask,
    CommandType.CANCEL: CancelUserTask,
}
