"""Answers from the store: a user task as it stands, and what became of a command, whatever the outcome was."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import typer

from schemas.events import EventType
from schemas.user_task import read_user_task_key, write_instant_ms
from worker.cli.endings import perform
from worker.cli.looking import looking
from worker.cli.sending import SOURCE
from worker.cli.show import read_position
from worker.cli.tables import for_people, print_table
from worker.decoder import cloud_event_identity, command_key_of, idempotency_key_identity
from worker.encoder import OutgoingRecord, own_headers
from worker.exit_codes import ExitCode
from worker.lifecycle import StoredTask
from worker.settings import Settings
from worker.stores.lookup import Lookup, Recorded

DEAD_LETTER: Final = "dead-letter"
_FOUND_MAX: Final = 100

Position = tuple[str, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Which command is meant: by its id, with its source or not, or by its position."""

    command_id: str | None = None
    source: str | None = None
    position: Position | None = None
    search_s: float | None = None
    """For how long to look through all outcomes; None looks where an index leads."""


def show_task(key: str, *, with_values: bool, as_json: bool) -> ExitCode:
    """Print one user task. Raise SettingsError, StoreUnavailableError or StoreNotReadyError."""
    number = read_user_task_key(key)
    if number is None:
        raise typer.BadParameter("a user task key is a number of 64 bits", param_hint="KEY")
    return perform(lambda settings: _show_task(settings, number, with_values=with_values, as_json=as_json))


def show_command(question: Question, *, as_json: bool) -> ExitCode:
    """Print what became of a command, a JSON line an outcome. Raise as `show_task` does."""
    if not _is_text(question.command_id) or not _is_text(question.source):
        raise typer.BadParameter("no command has an id or source that is not UTF-8")
    return perform(lambda settings: _show_command(settings, question, as_json=as_json))


def _is_text(given: str | None) -> bool:
    return given is None or given.isascii() or not any("\ud800" <= char <= "\udfff" for char in given)


async def _show_task(settings: Settings, key: int, *, with_values: bool, as_json: bool) -> ExitCode:
    async with looking(settings) as lookup:
        task = await lookup.task(key)
    if task is None:
        typer.echo(f"there is no user task {key} in the store", err=True)
        return ExitCode.FAILED
    _print(_told_of_task(task, with_values=with_values), as_json=as_json)
    return ExitCode.DONE


def _told_of_task(task: StoredTask, *, with_values: bool) -> dict[str, Any]:
    ended_at = None if task.ended_at_ms is None else write_instant_ms(task.ended_at_ms)
    return {
        "userTaskKey": str(task.user_task_key),
        "state": task.state.value,
        "version": task.version,
        "createdAt": write_instant_ms(task.created_at_ms),
        "endedAt": ended_at,
        "attributes": json.loads(task.attributes),
        "variables": dict(task.variables) if with_values else sorted(task.variables),
    }


async def _show_command(settings: Settings, question: Question, *, as_json: bool) -> ExitCode:
    async with looking(settings) as lookup:
        found = await _find(lookup, question)
        published = {one.position: await _is_published(lookup, one) for one in found}
        position = question.position or _position_in(question)
        unknown = "" if found else await _why_unknown(lookup, settings, position)
    for one in found:
        _print(told_of(one, published=published[one.position]), as_json=as_json)
    if not found:
        typer.echo(f"unknown: {unknown}{_advice(question)}", err=True)
    return ExitCode.DONE if found else ExitCode.FAILED


async def _find(lookup: Lookup, question: Question) -> list[Recorded]:
    if question.position is not None:
        at = await lookup.outcome_at(*question.position)
        return [] if at is None else [at]
    command_id = question.command_id or ""
    if question.search_s is not None:
        return await lookup.search(command_id, _FOUND_MAX, question.search_s)
    found = [await lookup.outcome_of(command_key_of(identity)) for identity in _identities(question)]
    if question.source is None and (position := _position_in(question)) is not None:
        found.append(await lookup.outcome_at(*position))
    return [one for one in found if one is not None]


def _identities(question: Question) -> list[str]:
    """Give the identities that the id may stand for; without a source those are few."""
    command_id = question.command_id or ""
    if question.source is not None:
        return [cloud_event_identity(question.source, command_id)]
    return [idempotency_key_identity(command_id), cloud_event_identity(SOURCE, command_id)]


def _position_in(question: Question) -> Position | None:
    """Read an id that is a position, as that of a command without id."""
    try:
        return read_position(question.command_id or "")
    except typer.BadParameter:
        return None


async def _is_published(lookup: Lookup, recorded: Recorded) -> bool:
    row = (await lookup.partitions(recorded.topic)).get(recorded.outcome.partition)
    return row is not None and row.published is not None and recorded.outcome.offset < row.published


async def _why_unknown(lookup: Lookup, settings: Settings, position: Position | None) -> str:
    pruned = f"pruned after {settings.retention_days:g} days"
    if position is None:
        return f"never seen, {pruned}, or not yet applied"
    topic, partition, offset = position
    row = (await lookup.partitions(topic)).get(partition)
    if row is None or row.applied is None:
        return f"no worker has taken {topic}/{partition} over yet"
    if offset >= row.applied:
        return f"not yet applied; of {topic}/{partition}, all before offset {row.applied} is"
    return f"applied without an outcome of its own: a duplicate of an earlier command, {pruned}, or no command at all"


def _advice(question: Question) -> str:
    if question.command_id is None or question.source is not None or question.search_s is not None:
        return ""
    return ". Without --source, no ce_id is found but those of this command line; --search looks through all"


def told_of(recorded: Recorded, *, published: bool) -> dict[str, Any]:
    """Tell an outcome, without any value of the command but its key and ids."""
    outcome = recorded.outcome
    problem = _problem(outcome.records)
    key = outcome.user_task_key
    return {
        "commandId": outcome.command_id,
        "position": recorded.position,
        "status": outcome.status,
        "problem": problem.get("type"),
        "title": problem.get("title"),
        "detail": problem.get("detail"),
        "userTaskKey": None if key is None else str(key),
        "decidedAt": write_instant_ms(outcome.decided_at_ms),
        "occupiesId": outcome.command_key is not None,
        "published": published,
        "records": [{"topic": one.topic, "type": _type_of(one), "id": _text(one, "ce_id")} for one in outcome.records],
    }


def _problem(records: tuple[OutgoingRecord, ...]) -> Mapping[str, Any]:
    for record in records:
        if _type_of(record) == EventType.REJECTED:
            body: dict[str, Any] = json.loads(record.value or b"{}")
            return body
    return {}


def _type_of(record: OutgoingRecord) -> str | None:
    """Give a record's kind; a dead letter has the headers of its command, and so perhaps the command's type."""
    return DEAD_LETTER if own_headers(record) else _text(record, "ce_type")


def _text(record: OutgoingRecord, name: str) -> str | None:
    value = dict(record.headers).get(name)
    return None if value is None else value.decode(errors="replace")


def _print(told: Mapping[str, Any], *, as_json: bool) -> None:
    if not for_people(as_json=as_json):
        typer.echo(json.dumps(told))
        return
    rows = [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in told.items()
    ]
    print_table(("", ""), [row for row in rows if row[1] != "null"])
