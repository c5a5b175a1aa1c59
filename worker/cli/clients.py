"""The Kafka clients of the command line: a producer that loses nothing, and a reader that sees what is committed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import typer
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from worker.brokers import first_answer, read_shapes, until_reached
from worker.coordination import Coordination
from worker.kafka import BrokerUnreachableError, TopicShape, TopicsNotReadyError, client_options
from worker.settings import Settings

Producer = AIOKafkaProducer
Reader = AIOKafkaConsumer
Record = ConsumerRecord[Any, Any]


async def reach(settings: Settings, *needed: str) -> dict[str, TopicShape]:
    """Wait for a broker, and give the shapes of the worker's topics that exist.

    Raise BrokerUnreachableError after the start timeout, TopicsNotReadyError if one of the needed topics is missing.
    """
    servers, limit_s = settings.kafka_bootstrap_servers, settings.start_timeout_s

    def tell(error: BrokerUnreachableError) -> None:
        typer.echo(f"waiting for at most {limit_s:g} s for {servers}: {error}", err=True)

    try:
        shapes = await until_reached(settings, lambda deadline_s: _described(settings, deadline_s), tell)
    except BrokerUnreachableError as error:
        raise BrokerUnreachableError(f"{servers} did not answer within {limit_s:g} s: {error}") from error
    missing = [name for name in needed if name not in shapes]
    if missing:
        raise TopicsNotReadyError(f"missing topics: {', '.join(missing)}; `user-task-worker topics create` makes them")
    return shapes


async def _described(settings: Settings, deadline_s: float) -> dict[str, TopicShape]:
    return await read_shapes(settings, await first_answer(settings, deadline_s), deadline_s)


@asynccontextmanager
async def producing(settings: Settings, max_record_bytes: int) -> AsyncIterator[Producer]:
    """Give an idempotent producer with Kafka's own default partitioner. Raise BrokerUnreachableError."""
    producer = AIOKafkaProducer(
        **client_options(settings),
        acks="all",
        enable_idempotence=True,
        max_request_size=max_record_bytes,
        max_batch_size=max_record_bytes,
    )
    try:
        await _in_time(producer.start(), settings)
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def reading(
    settings: Settings,
    topics: Mapping[str, TopicShape],
    *,
    from_beginning: bool = False,
) -> AsyncIterator[Reader]:
    """Give a `read_committed` reader of all partitions that joins no group and starts here and now.

    Raise BrokerUnreachableError. Later outages are waited out.
    """
    reader = AIOKafkaConsumer(
        **client_options(settings),
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    partitions = [TopicPartition(name, number) for name, shape in topics.items() for number in range(shape.partitions)]
    try:
        await _in_time(reader.start(), settings)
        reader.assign(partitions)
        await _place(reader, partitions, from_beginning=from_beginning)
        yield reader
    finally:
        await reader.stop()


@asynccontextmanager
async def administering(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """Give an admin client. Raise BrokerUnreachableError."""
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await _in_time(admin.start(), settings)
        yield admin
    finally:
        await admin.close()


@asynccontextmanager
async def coordinating(settings: Settings) -> AsyncIterator[Coordination]:
    """Give what can be asked for the group's committed offsets and the topic's id. Raise BrokerUnreachableError."""
    coordination = Coordination(client_options(settings), settings.group_id)
    try:
        yield coordination
    except (KafkaError, OSError) as error:
        raise BrokerUnreachableError(f"{settings.kafka_bootstrap_servers}: {type(error).__name__}: {error}") from error
    finally:
        await coordination.close()


async def _in_time(starting: Awaitable[None], settings: Settings) -> None:
    try:
        async with asyncio.timeout(settings.start_timeout_s):
            await starting
    except (KafkaError, OSError) as error:
        raise BrokerUnreachableError(f"{settings.kafka_bootstrap_servers}: {type(error).__name__}: {error}") from error


async def _place(reader: Reader, partitions: list[TopicPartition], *, from_beginning: bool) -> None:
    """Fix where to start now: what is written after this returns is seen for certain."""
    ask = reader.beginning_offsets(partitions) if from_beginning else reader.end_offsets(partitions)
    for partition, offset in (await ask).items():
        reader.seek(partition, offset)
