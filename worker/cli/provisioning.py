"""Makes the four topics so that the worker takes them (contract, Topics). Never changes the order of commands."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import typer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from worker.brokers import check_cluster, deadline_of
from worker.cli.clients import administering, reach
from worker.cli.endings import perform
from worker.exit_codes import ExitCode
from worker.kafka import (
    DEAD_LETTER_HEADROOM_BYTES,
    RECORD_OVERHEAD_BYTES,
    TopicShape,
    TopicsNotReadyError,
    rejection_bytes_max,
    topic_names,
)
from worker.settings import Settings

_MAX_BYTES: Final = "max.message.bytes"
_DEFAULT_MAX_BYTES: Final = 1_048_588
_DEAD_LETTER_RETENTION_MS: Final = 30 * 24 * 3600 * 1000
_POLL_INTERVAL_S: Final = 0.1

Shapes = Mapping[str, TopicShape]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the topics that are made shall be like."""

    partitions: int = 12
    replication_factor: int = 1
    config: Mapping[str, str] = field(default_factory=dict)


def provision(plan: Plan, *, as_json: bool) -> ExitCode:
    """Make what is missing and print a line a topic.

    Raise SettingsError, BrokerUnreachableError, or TopicsNotReadyError if a topic is refused or does not fit.
    """
    return perform(lambda settings: _provision(settings, plan, as_json=as_json))


async def _provision(settings: Settings, plan: Plan, *, as_json: bool) -> ExitCode:
    before = await reach(settings)
    after = await make_topics(settings, plan, before)
    _print(settings, before, after, as_json=as_json)
    _tell_of_other_partitions(settings, plan, before, after)
    await check_cluster(settings, deadline_of(settings))
    return ExitCode.DONE


async def make_topics(settings: Settings, plan: Plan, existing: Shapes) -> Shapes:
    """Make the topics that are missing, the dead letter topic last, since it follows the commands topic's shape."""
    async with administering(settings) as admin:
        *others, dead_letters = topic_names(settings)
        new = [_new_topic(settings, plan, name) for name in others if name not in existing]
        await _create(admin, new)
        shapes = await _seen(settings, *others)
        commands = shapes[settings.commands_topic]
        if dead_letters not in shapes:
            await _create(admin, [_new_dead_letter_topic(dead_letters, plan, commands)])
        elif shapes[dead_letters].partitions < commands.partitions:
            await _raise_partitions(admin, dead_letters, commands.partitions)
        return await _seen(settings, *topic_names(settings), dead_letter_partitions=commands.partitions)


def _new_topic(settings: Settings, plan: Plan, name: str) -> NewTopic:
    config = {"cleanup.policy": "delete"}
    needed = _needed_bytes(settings, name)
    if needed > _DEFAULT_MAX_BYTES:
        config[_MAX_BYTES] = str(needed)
    return NewTopic(name, plan.partitions, plan.replication_factor, topic_configs={**config, **plan.config})


def _needed_bytes(settings: Settings, name: str) -> int:
    if name == settings.events_topic:
        return settings.max_record_bytes + RECORD_OVERHEAD_BYTES
    if name == settings.rejections_topic:
        return rejection_bytes_max(settings) + RECORD_OVERHEAD_BYTES
    return 0


def _new_dead_letter_topic(name: str, plan: Plan, commands: TopicShape) -> NewTopic:
    config = {
        **plan.config,
        "cleanup.policy": "delete",
        "retention.ms": str(_DEAD_LETTER_RETENTION_MS),
        _MAX_BYTES: str(commands.max_message_bytes + DEAD_LETTER_HEADROOM_BYTES),
    }
    return NewTopic(name, max(plan.partitions, commands.partitions), plan.replication_factor, topic_configs=config)


async def _create(admin: AIOKafkaAdminClient, new: list[NewTopic]) -> None:
    if not new:
        return
    try:
        response = await admin.create_topics(new)
    except (KafkaError, OSError) as error:
        raise TopicsNotReadyError(f"topics could not be created: {type(error).__name__}: {error}") from error
    for answer in response.to_object()["topic_errors"]:
        code = answer["error_code"]
        if code not in {0, TopicAlreadyExistsError.errno}:  # somebody else may have been quicker
            reason = answer["error_message"] or for_code(code).__name__
            raise TopicsNotReadyError(f"{answer['topic']} could not be created: {reason}")


async def _raise_partitions(admin: AIOKafkaAdminClient, name: str, count: int) -> None:
    try:
        await admin.create_partitions({name: NewPartitions(count)})
    except (KafkaError, OSError) as error:
        raise TopicsNotReadyError(f"{name} could not be given {count} partitions: {error}") from error


async def _seen(settings: Settings, *names: str, dead_letter_partitions: int = 0) -> Shapes:
    """Wait until the brokers, too, know what the controller has made."""
    deadline = asyncio.get_running_loop().time() + settings.start_timeout_s
    while True:
        shapes = await reach(settings)
        dead_letters = shapes.get(settings.dead_letters_topic, TopicShape(partitions=0, max_message_bytes=0))
        if all(name in shapes for name in names) and dead_letters.partitions >= dead_letter_partitions:
            return shapes
        if asyncio.get_running_loop().time() > deadline:
            raise TopicsNotReadyError("the topics were created, but the brokers do not show them")
        await asyncio.sleep(_POLL_INTERVAL_S)


def _tell_of_other_partitions(settings: Settings, plan: Plan, before: Shapes, after: Shapes) -> None:
    name = settings.commands_topic
    if name in before and after[name].partitions != plan.partitions:
        kept = f"{name} keeps its {after[name].partitions} partitions"
        typer.echo(f"{kept}: with another number, commands of one task would lose their order", err=True)


def _print(settings: Settings, before: Shapes, after: Shapes, *, as_json: bool) -> None:
    rows = [
        {
            "topic": name,
            "result": _result(before.get(name), after[name]),
            "partitions": after[name].partitions,
            "maxMessageBytes": after[name].max_message_bytes,
        }
        for name in topic_names(settings)
        if name in after
    ]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        limit = f"max.message.bytes {row['maxMessageBytes']}"
        typer.echo(f"{row['topic']:<28} {row['result']:<9} {row['partitions']} partitions, {limit}")


def _result(before: TopicShape | None, after: TopicShape) -> str:
    if before is None:
        return "created"
    return "unchanged" if before == after else "raised"
