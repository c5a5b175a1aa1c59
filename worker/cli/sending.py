"""Publishes one command in CloudEvents binary mode, and recognises its outcome (contract, Commands, Events)."""

import asyncio
import json
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final, Literal
from uuid import uuid4

import typer

from schemas.cloudevents import CONTENT_TYPE, JSON_CONTENT_TYPE, SPEC_VERSION
from schemas.commands import CommandType
from schemas.user_task import read_user_task_key
from worker.cli.clients import Producer, Reader, Record, producing, reach, reading
from worker.cli.endings import perform
from worker.exit_codes import ExitCode
from worker.kafka import TopicShape
from worker.settings import Settings

SOURCE: Final = "/user-task-worker/cli"

Verb = Literal["complete", "create", "cancel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How to send a command: under which id, waiting or not, and how to print what came of it."""

    command_id: str | None = None
    wait: bool = False
    timeout_s: float = 30
    as_json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A command on its way to the broker."""

    command_id: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """Where a command stands."""

    command_id: str
    topic: str
    partition: int
    offset: int

    @property
    def position(self) -> str:
        """Give the position as the contract writes it."""
        return f"{self.topic}/{self.partition}/{self.offset}"


def send(verb: Verb, members: Mapping[str, object], variables: str | None, manner: Manner) -> ExitCode:
    """Send one command and print its id and position, or, waiting, its outcome.

    Raise SettingsError, BrokerUnreachableError, TopicsNotReadyError, or KafkaError if the broker does not take it.
    """
    command = outgoing(CommandType[verb.upper()], members, variables, manner.command_id)
    return perform(lambda settings: _send(settings, command, manner))


def outgoing(
    kind: CommandType, members: Mapping[str, object], variables: str | None = None, command_id: str | None = None
) -> Outgoing:
    """Write a command. Members that are None are left out; variables are JSON text and stay as they are written."""
    body = json.dumps({name: value for name, value in members.items() if value is not None})
    if variables is not None:
        body = f'{body[:-1]}, "variables": {variables}}}'
    command_id = str(uuid4()) if command_id is None else command_id
    given = str(members["userTaskKey"])
    number = read_user_task_key(given)
    headers = {
        "ce_specversion": SPEC_VERSION,
        "ce_id": command_id,
        "ce_source": SOURCE,
        "ce_type": kind,
        CONTENT_TYPE: JSON_CONTENT_TYPE,
    }
    return Outgoing(
        command_id=command_id,
        key=_bytes(given if number is None else str(number)),  # as the worker writes it: 007 is task 7
        value=_bytes(body),
        headers=tuple((name, _bytes(value)) for name, value in headers.items()),
    )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # what was no UTF-8 on the command line is sent as it was


async def publish(producer: Producer, topic: str, command: Outgoing) -> Sent:
    """Publish a command, and wait until the broker has it. Raise KafkaError."""
    at = await producer.send_and_wait(topic, command.value, key=command.key, headers=list(command.headers))
    return Sent(command_id=command.command_id, topic=topic, partition=at.partition, offset=at.offset)


async def _send(settings: Settings, command: Outgoing, manner: Manner) -> ExitCode:
    answers = (settings.events_topic, settings.rejections_topic) if manner.wait else ()
    shapes = await reach(settings, settings.commands_topic, *answers)
    async with AsyncExitStack() as stack:
        answer_shapes = {name: shapes[name] for name in answers}
        reader = await stack.enter_async_context(reading(settings, answer_shapes)) if manner.wait else None
        sent = await _publish_alone(settings, shapes[settings.commands_topic], command)
        if reader is None:
            _print_sent(sent, as_json=manner.as_json)
            return ExitCode.DONE
        typer.echo(f"sent command {sent.command_id} to {sent.position}, waiting for its outcome", err=True)
        return _print_outcome(settings, await _outcome(settings, reader, sent, manner.timeout_s), manner)


async def _publish_alone(settings: Settings, shape: TopicShape, command: Outgoing) -> Sent:
    async with producing(settings, shape.max_message_bytes) as producer:
        return await publish(producer, settings.commands_topic, command)


async def _outcome(settings: Settings, reader: Reader, sent: Sent, timeout_s: float) -> Record | None:
    try:
        async with asyncio.timeout(timeout_s):
            while not _answers(settings, record := await reader.getone(), sent):
                pass
    except TimeoutError:
        return None
    return record


def _answers(settings: Settings, record: Record, sent: Sent) -> bool:
    """Tell whether a record is the outcome: a malformed command's rejection only knows the command's position."""
    causes = {sent.command_id} if record.topic == settings.events_topic else {sent.command_id, sent.position}
    cause = dict(record.headers).get("ce_causationid")
    return cause is not None and cause.decode(errors="replace") in causes


def _print_sent(sent: Sent, *, as_json: bool) -> None:
    if as_json:
        position = {"topic": sent.topic, "partition": sent.partition, "offset": sent.offset}
        typer.echo(json.dumps({"commandId": sent.command_id} | position))
    else:
        typer.echo(f"{sent.command_id} {sent.position}")


def _print_outcome(settings: Settings, outcome: Record | None, manner: Manner) -> ExitCode:
    if outcome is None:
        seen_before = " (a command whose id was seen before gets no second one)" if manner.command_id else ""
        typer.echo(f"no outcome within {manner.timeout_s:g} s{seen_before}", err=True)
        return ExitCode.TIMED_OUT
    text = (outcome.value or b"").decode()
    for_people = sys.stdout.isatty() and not manner.as_json
    typer.echo(json.dumps(json.loads(text), indent=2, ensure_ascii=False) if for_people else text)
    return ExitCode.DONE if outcome.topic == settings.events_topic else ExitCode.REJECTED
