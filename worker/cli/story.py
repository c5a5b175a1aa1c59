"""The demo's story: nine commands, and what must come of each."""

from dataclasses import dataclass
from typing import Final, NamedTuple

from schemas.commands import CommandType
from worker.cli.sending import Outgoing, outgoing

FIRST: Final = "2251799813685249"
SECOND: Final = "2251799813685250"
UNKNOWN: Final = "404404"


class Expected(NamedTuple):
    """One record that a listener must see: its kind, its outcome, and what its details must tell."""

    kind: str
    outcome: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A command, in words, and what must come of it; nothing at all if it was seen before."""

    what: str
    command: Outgoing
    expected: tuple[Expected, ...]


def tell() -> list[Step]:
    """Give the story. What must be silent is followed by a command of the same task: that one's answer proves it."""
    approval = _complete(FIRST, {"action": "approve"}, variables='{"approved": true}')
    wrong = _complete(SECOND, {"action": 7, "varaibles": {"approved": True}})
    not_json = Outgoing(command_id=wrong.command_id, key=SECOND.encode(), value=b"approve it!", headers=())
    return [
        Step(what="create a task", command=_create(FIRST), expected=(_event("CREATED"),)),
        Step(what="complete it with an action", command=approval, expected=(_event("COMPLETED", '"approve"'),)),
        Step(what="the same command again, same id", command=approval, expected=()),
        Step(
            what="complete it again, new id",
            command=_complete(FIRST, {"action": "reject"}),
            expected=(_rejection("409 INVALID_STATE", "COMPLETED"),),
        ),
        Step(what="create another task", command=_create(SECOND), expected=(_event("CREATED"),)),
        Step(
            what="complete it without an action",
            command=_complete(SECOND, {}),
            expected=(_event("COMPLETED", '"complete"'),),
        ),
        Step(
            what="complete an unknown task",
            command=_complete(UNKNOWN, {}),
            expected=(_rejection("404 NOT_FOUND"),),
        ),
        Step(
            what="a misspelt member, a wrong type",
            command=wrong,
            expected=(_rejection("400 INVALID_ARGUMENT", "#/varaibles", "#/action"),),
        ),
        Step(
            what="what is not JSON",
            command=not_json,
            expected=(_rejection("400 INVALID_ARGUMENT"), Expected("dead letter", "malformed-command")),
        ),
    ]


def _create(key: str) -> Outgoing:
    return outgoing(CommandType.CREATE, {"userTaskKey": key, "name": "Approve the invoice", "assignee": "demo"})


def _complete(key: str, members: dict[str, object], variables: str | None = None) -> Outgoing:
    return outgoing(CommandType.COMPLETE, {"userTaskKey": key} | members, variables)


def _event(state: str, *details: str) -> Expected:
    return Expected("event", state, details)


def _rejection(outcome: str, *details: str) -> Expected:
    return Expected("rejection", outcome, details)
