"""`complete`, `create` and `cancel`: send one command, and wait for its outcome if asked to."""

import json
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from worker.cli.options import Json


def register(root: typer.Typer) -> None:
    """Hang the commands in."""
    root.command("complete")(complete)
    root.command("create")(create)
    root.command("cancel")(cancel)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _json_text(given: str) -> str:
    """Read JSON or @FILE and give it as it is written: the worker is the one to judge it."""
    try:
        text = Path(given[1:]).read_text(encoding="utf-8") if given.startswith("@") else given
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse)
    except OSError as error:
        raise typer.BadParameter(f"{given[1:]} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"not JSON: {error}") from None
    return text


def _custom_headers(given: list[str] | None) -> dict[str, str] | None:
    if not given:
        return None
    pairs = [one.partition("=") for one in given]
    if not all(equals for _, equals, _ in pairs):
        raise typer.BadParameter("not NAME=VALUE", param_hint="--custom-header")
    return {name: value for name, _, value in pairs}


Key = Annotated[str, typer.Argument(metavar="KEY", help="The user task key; also the record key.")]
Variables = Annotated[
    str | None, typer.Option(parser=_json_text, metavar="JSON|@FILE", help="The variables, a JSON object.")
]
Id = Annotated[str | None, typer.Option("--id", help="The command id, so that sending again changes nothing.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the event or rejection, and print it.")]
Timeout = Annotated[float, typer.Option("--timeout", metavar="S", min=0, help="How many seconds to wait.")]


_ATTRIBUTES: Final = (
    *("name", "assignee", "candidate_groups", "candidate_users", "tags", "due_date", "follow_up_date", "form_key"),
    *("external_form_reference", "element_id", "element_instance_key", "process_instance_key"),
    *("process_definition_key", "process_definition_id", "process_definition_version", "tenant_id"),
)
"""Options of `create` that are members of the command by the same name, in camelCase."""


def complete(
    key: Key,
    action: Annotated[str | None, typer.Option(help="What the user chose; `complete` if not given.")] = None,
    variables: Variables = None,
    command_id: Id = None,
    wait: Wait = False,
    timeout_s: Timeout = 30,
    as_json: Json = False,
) -> None:
    """Ask that a user task be completed."""
    from worker.cli.sending import Manner, send  # noqa: PLC0415 - kept out of --help

    manner = Manner(command_id=command_id, wait=wait, timeout_s=timeout_s, as_json=as_json)
    raise typer.Exit(send("complete", {"userTaskKey": key, "action": action}, variables, manner))


def create(  # noqa: PLR0913 - the attributes of a user task are many
    key: Key,
    *,
    name: str | None = None,
    assignee: str | None = None,
    candidate_groups: Annotated[list[str] | None, typer.Option("--candidate-group", help="Repeatable.")] = None,
    candidate_users: Annotated[list[str] | None, typer.Option("--candidate-user", help="Repeatable.")] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="Repeatable.")] = None,
    priority: Annotated[int | None, typer.Option(help="From 0 to 100; 50 if not given.")] = None,
    due_date: Annotated[str | None, typer.Option(metavar="RFC3339")] = None,
    follow_up_date: Annotated[str | None, typer.Option(metavar="RFC3339")] = None,
    form_key: str | None = None,
    external_form_reference: str | None = None,
    element_id: str | None = None,
    element_instance_key: str | None = None,
    process_instance_key: str | None = None,
    process_definition_key: str | None = None,
    process_definition_id: str | None = None,
    process_definition_version: int | None = None,
    tenant_id: str | None = None,
    custom_headers: Annotated[
        list[str] | None, typer.Option("--custom-header", metavar="NAME=VALUE", help="Repeatable.")
    ] = None,
    variables: Variables = None,
    command_id: Id = None,
    wait: Wait = False,
    timeout_s: Timeout = 30,
    as_json: Json = False,
) -> None:
    """Ask that a user task be created."""
    given = locals()
    from pydantic.alias_generators import to_camel  # noqa: PLC0415 - kept out of --help

    from worker.cli.sending import Manner, send  # noqa: PLC0415 - the same

    members = {to_camel(name): None if given[name] == [] else given[name] for name in _ATTRIBUTES} | {
        "userTaskKey": key,
        "priority": priority,
        "customHeaders": _custom_headers(custom_headers),
    }
    manner = Manner(command_id=command_id, wait=wait, timeout_s=timeout_s, as_json=as_json)
    raise typer.Exit(send("create", members, variables, manner))


def cancel(key: Key, command_id: Id = None, wait: Wait = False, timeout_s: Timeout = 30, as_json: Json = False) -> None:
    """Ask that a user task be canceled."""
    from worker.cli.sending import Manner, send  # noqa: PLC0415 - kept out of --help

    manner = Manner(command_id=command_id, wait=wait, timeout_s=timeout_s, as_json=as_json)
    raise typer.Exit(send("cancel", {"userTaskKey": key}, None, manner))
