"""What `check` finds out by trying: every right that a worker needs, with nothing left behind but what Kafka forgets.

Each right to write is tried in a transaction that is aborted. What remains of it are records that nobody who reads
committed ones will see, and the transactional id, which the broker forgets by itself (a week, by default).
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from worker.cli.topic_checks import Finding, bad, good, skipped
from worker.coordination import TRANSACTION_TIMEOUT_S
from worker.encoder import OutgoingRecord
from worker.failures import Culprit, PublishError
from worker.kafka import client_options, topic_names
from worker.settings import Settings

SEEING: Final = "right to see the group"
WRITING: Final = "right to write "
"""What the lines of the topics begin with."""
_TRY_TIMEOUT_S: Final = 10
_STOP_TIMEOUT_S: Final = 2
_FETCH_MS: Final = 1000
"""Longer than a fetch waits for records; a refusal comes at once."""
_REQUEST_BYTES_MAX: Final = 2**31 - 1
"""The broker is to say what is too large, not the client."""
_ABORTED: Final = (("user-task-worker-check", b"aborted"),)

Attempt = Callable[[], Awaitable[str]]
Work = Callable[[AIOKafkaProducer], Awaitable[object]]


async def try_rights(settings: Settings, usable: Collection[str], *, may_transact: bool) -> list[Finding]:
    """Try every right: those on a topic only if it is usable, transactions only if their timeout is allowed."""
    asyncio.get_running_loop().set_exception_handler(_ignore_refusals)
    commands = TopicPartition(settings.commands_topic, 0)
    transact = partial(_transact, settings, f"{settings.group_id}-check-{uuid4()}")
    can_read = await _tried("right to read commands", partial(_read, settings, commands), commands.topic in usable)
    can_see = await _tried(SEEING, partial(_see_group, settings, commands), commands.topic in usable)
    has_id = await _tried("right to transactional ids", partial(transact, _nothing), may_transact)
    findings = [can_read, can_see, has_id]
    for topic in topic_names(settings)[1:]:
        attempt = partial(transact, partial(_write, topic))
        findings.append(await _tried(f"{WRITING}{topic}", attempt, has_id.result == "ok" and topic in usable))
    commit = partial(transact, partial(_commit, settings.group_id, commands))
    can_go_on = all(one.result == "ok" for one in (can_read, can_see, has_id))
    findings.append(await _tried("right to commit for the group", commit, can_go_on))
    if has_id.result == "ok":
        with suppress(KafkaError, OSError):  # what was left open by what failed is aborted by this
            await transact(_nothing)
    return findings


async def try_outcomes(settings: Settings, waiting: Sequence[OutgoingRecord] | None, *, may_write: bool) -> Finding:
    """Try to publish what is decided and not published yet: a topic may have become smaller, or stricter, since."""
    name = "waiting outcomes"
    if not waiting:
        return skipped(name) if waiting is None else good(name, "none is known")
    transact = partial(_transact, settings, f"{settings.group_id}-check-{uuid4()}")
    try:
        finding = await _tried(name, partial(transact, partial(_publish, waiting)), may_write)
    except PublishError as error:
        finding = bad(name, str(error))
    if finding.result != "ok":
        with suppress(KafkaError, OSError):  # what was left open would hold up listeners; it is aborted by this
            await transact(_nothing)
    return finding


def _ignore_refusals(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Leave out what the Kafka client tells a second time, in a future of its own that nobody waits for."""
    if not isinstance(context.get("exception"), KafkaError):
        loop.default_exception_handler(context)


async def _tried(name: str, attempt: Attempt, can_be_tried: bool = True) -> Finding:
    if not can_be_tried:
        return skipped(name)
    try:
        async with asyncio.timeout(_TRY_TIMEOUT_S):
            return good(name, await attempt())
    except TimeoutError:
        return bad(name, f"no answer within {_TRY_TIMEOUT_S} s")
    except (KafkaError, OSError) as error:
        cause = error.__cause__ or error
        return bad(name, type(cause).__name__ if not str(cause) else f"{type(cause).__name__}: {cause}")


async def _read(settings: Settings, partition: TopicPartition) -> str:
    consumer = AIOKafkaConsumer(**client_options(settings), isolation_level="read_committed", enable_auto_commit=False)
    try:
        await consumer.start()
        consumer.assign([partition])
        consumer.seek(partition, (await consumer.end_offsets([partition]))[partition])
        with suppress(UnicodeDecodeError):  # it may be read, if not by this client
            await consumer.getmany(partition, timeout_ms=_FETCH_MS)
    finally:
        await consumer.stop()
    return f"{partition.topic} may be read"


async def _see_group(settings: Settings, partition: TopicPartition) -> str:
    consumer = AIOKafkaConsumer(**client_options(settings), group_id=settings.group_id, enable_auto_commit=False)
    try:
        await consumer.start()
        consumer.assign([partition])
        await consumer.committed(partition)
    finally:
        await consumer.stop()
    return f"what {settings.group_id} has committed may be read"


async def _transact(settings: Settings, name: str, work: Work) -> str:
    """Do something in a transaction, and abort it. What fails is left as it is: the next InitProducerId aborts it."""
    producer = AIOKafkaProducer(
        **client_options(settings),
        transactional_id=name,
        transaction_timeout_ms=TRANSACTION_TIMEOUT_S * 1000,
        max_request_size=_REQUEST_BYTES_MAX,
    )
    try:
        await producer.start()
        await producer.begin_transaction()
        await work(producer)
        await producer.abort_transaction()
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await producer.stop()
    return f"tried as {name}, aborted"


async def _nothing(_producer: AIOKafkaProducer) -> None:
    """Try only the transactional id."""


async def _write(topic: str, producer: AIOKafkaProducer) -> None:
    await producer.send_and_wait(topic, b"", partition=0, headers=list(_ABORTED))


async def _publish(waiting: Sequence[OutgoingRecord], producer: AIOKafkaProducer) -> None:
    """Send records one by one, so that the first that is refused is known. Raise PublishError."""
    for record in waiting:
        headers = [*record.headers, *_ABORTED]
        try:
            await producer.send_and_wait(
                record.topic, record.value or b"", record.key, record.partition, headers=headers
            )
        except KafkaError as error:
            culprit = Culprit(topic=record.topic, partition=record.partition, error=type(error))
            raise PublishError(f"{culprit}: {culprit.advice}") from error


async def _commit(group_id: str, partition: TopicPartition, producer: AIOKafkaProducer) -> None:
    """Commit an offset that the abort takes back: the group's own stays what it is."""
    await producer.send_offsets_to_transaction({partition: 0}, group_id)
