"""The one place where the parts are wired together, started in order, and stopped in the reverse of it."""

import asyncio
import contextlib
import errno
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError

from worker.batch import Limits
from worker.brokers import check_cluster, until_reached
from worker.careful import careful_reading
from worker.consumer import CommandConsumer, Parts
from worker.encoder import Destinations, Encoder
from worker.exit_codes import ExitCode
from worker.failures import PublishError
from worker.kafka import (
    RECORD_OVERHEAD_BYTES,
    BrokerUnreachableError,
    TopicShape,
    TopicsNotReadyError,
    client_options,
    rejection_bytes_max,
)
from worker.poller import Poller
from worker.prober import Prober
from worker.processor import Processor
from worker.publisher import Publishers
from worker.reply_topics import ReplyTopics
from worker.reporting import Reporter
from worker.retention import Retention
from worker.session import SessionLostError
from worker.settings import Settings, SettingsError
from worker.stopping import stopped_by_signals, unless_stopped
from worker.stores.port import Store, StoreError, StoreNotReadyError, StoreUnavailableError
from worker.stores.sqlite import SqliteStore
from worker.takeover import Takeover
from worker.telemetry.defects import where
from worker.telemetry.health import Health
from worker.telemetry.loop_lag import measure_for_ever
from worker.telemetry.metrics import Metrics
from worker.telemetry.server import HealthServer
from worker.telemetry.tracing import Tracing
from worker.version import worker_version
from worker.watch import Watch

log = structlog.stdlib.get_logger(__name__)

T = TypeVar("T")
_START_RETRY_S: Final = 0.5
_PARTITIONS_MAX: Final = 10_000
_LEAVE_TIMEOUT_S: Final = 5
_REBALANCE_TIMEOUT_S: Final = 8
"""How long the group waits for a member that does not join again; above what a revoked worker takes to finish."""
_REQUEST_TIMEOUT_S: Final = 10
"""A broker that hangs costs a fetch no more than this. Longer than the group may take to answer a member that joins."""
_POLL_INTERVAL_MAX_S: Final = 600
_FETCH_BYTES_MAX: Final = 16 * 1024 * 1024
_PARTITION_FETCH_BYTES_MAX: Final = 128 * 1024
"""Small, so that a batch has records of several partitions: one alone would be published batch by batch."""
_HEARTBEATS_PER_SESSION: Final = 10
_OF_A_PORT: Final = (errno.EADDRINUSE, errno.EACCES)


def make_store(settings: Settings) -> Store:
    """Make the store that the settings name; it is not open yet."""
    path = settings.sqlite_path
    if path is not None:
        return SqliteStore(path)
    try:
        from worker.stores.postgres import PostgresStore  # noqa: PLC0415 - its driver is an extra
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise SettingsError("USERTASK_STORE_URL: PostgreSQL needs the extra: user-task-worker[postgres]") from None
    return PostgresStore(settings.store_url.get_secret_value())


@dataclass(frozen=True, slots=True, kw_only=True)
class Factories:
    """What makes the two parts that hold the promise; tests hand in their own, to make them fail at exact moments."""

    store: Callable[[Settings], Store] = make_store
    publishers: Callable[..., Publishers] = Publishers


async def run(settings: Settings, factories: Factories = Factories()) -> ExitCode:
    """Run one worker until it is told to stop by SIGTERM, SIGINT or SIGHUP; a second one aborts, but for SIGHUP."""
    stop = asyncio.Event()
    work = asyncio.create_task(_run(settings, factories, stop), name="worker")
    with stopped_by_signals(stop, work):
        try:
            return await work
        except asyncio.CancelledError:
            log.warning("worker_aborted")
            return ExitCode.INTERRUPTED


async def _run(settings: Settings, factories: Factories, stop: asyncio.Event) -> ExitCode:
    began_s = time.monotonic()
    log.info("worker_starting", version=worker_version(), group=settings.group_id, topic=settings.commands_topic)
    try:
        async with AsyncExitStack() as stack:
            starting = asyncio.create_task(_start(settings, factories, stack), name="start")
            worker = await unless_stopped(stop, starting, lambda: None)
            if worker is None:
                return ExitCode.DONE
            log.info("worker_started")
            return await _work(worker, settings, stop)
    except SettingsError as error:
        log.error("worker_not_configured", reason=str(error))
        return ExitCode.CONFIGURATION
    except (BrokerUnreachableError, StoreUnavailableError) as error:
        log.error("worker_not_started", reason=str(error), waited_s=round(time.monotonic() - began_s, 1))
        return ExitCode.UNREACHABLE
    except (TopicsNotReadyError, StoreNotReadyError) as error:
        log.error("worker_not_started", reason=str(error))
        return ExitCode.NOT_READY
    except Exception as error:  # noqa: BLE001 - a defect: end visibly, and let whoever watches start anew
        log.error("worker_failed", error=type(error).__name__, where=where(error))
        return ExitCode.FAILED
    finally:
        log.info("worker_stopped")


async def _work(worker: CommandConsumer, settings: Settings, stop: asyncio.Event) -> ExitCode:
    """Work until told to stop, then finish what has begun."""
    loop = asyncio.create_task(worker.run(), name="consume")
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({loop, stopping}, return_when=asyncio.FIRST_COMPLETED)
        worker.stop()
        if loop.done():
            loop.result()  # a defect: it ends by itself for no other reason
        log.info("worker_draining")
        async with asyncio.timeout(settings.drain_timeout_s):
            await loop
            await worker.drain()
    except (TimeoutError, KafkaError, PublishError, SessionLostError, StoreError) as error:
        log.error("drain_failed", reason=f"{type(error).__name__}: {error}")
        return ExitCode.FAILED
    finally:
        stopping.cancel()
        loop.cancel()
        await asyncio.wait({loop})
        await worker.close()
    return ExitCode.DONE


async def _start(settings: Settings, factories: Factories, stack: AsyncExitStack) -> CommandConsumer:
    """Start everything, in an order in which each part finds what it needs."""
    health, metrics = Health(settings.stall_limit_s), Metrics(settings.max_batch_records)
    options, store = client_options(settings), factories.store(settings)
    _serve_http(settings, health, metrics, stack)
    stack.push_async_callback(store.close)
    await _from_store(store.open, settings, health)
    shapes, consumer = await _wait_for_cluster(settings, options, health, stack)
    await _check_partitions(settings, shapes, store, health)
    health.set_store_reachable(True)
    smallest = min(shape.max_message_bytes for shape in shapes.values())
    reply_topics = ReplyTopics(shapes.keys(), metrics.replies_ignored_total.inc)
    publishers = factories.publishers(
        options,
        settings.group_id,
        smallest,
        reply_topics,
        {name: shape.times for name, shape in shapes.items()},
        lambda cause: metrics.failed_transactions_total.labels(cause).inc(),
    )
    stack.push_async_callback(publishers.close)
    worker = CommandConsumer(parts := _parts(settings, shapes, store, consumer, publishers, health, metrics))
    watch = Watch(settings.commands_topic, settings.group_id, consumer, store, health, worker.standing)
    for name, forever in (
        ("prune", Retention(store, settings.retention_days, metrics, parts.reporter.clocks).run()),
        ("loop-lag", measure_for_ever(metrics.loop_lag_seconds)),
        ("watch", watch.run()),
    ):
        stack.callback(asyncio.create_task(forever, name=name).cancel)
    return worker


def _parts(
    settings: Settings,
    shapes: Mapping[str, TopicShape],
    store: Store,
    consumer: AIOKafkaConsumer,
    publishers: Publishers,
    health: Health,
    metrics: Metrics,
) -> Parts:
    topic, dead_letters = settings.commands_topic, shapes[settings.dead_letters_topic]
    destinations = Destinations(
        events_topic=settings.events_topic,
        rejections_topic=settings.rejections_topic,
        dead_letters_topic=settings.dead_letters_topic,
        dead_letters_partitions=dead_letters.partitions,
        event_source=settings.event_source,
        problem_type_base=settings.problem_type_base,
        group_id=settings.group_id,
        reply_topics=re.compile(settings.reply_topics),
    )
    limits = Limits(
        event_bytes=settings.max_record_bytes,
        rejection_bytes=rejection_bytes_max(settings),
        dead_letter_bytes=dead_letters.max_message_bytes - RECORD_OVERHEAD_BYTES,
    )
    tracing = Tracing(topic, settings.group_id)
    reporter = Reporter(topic, settings.group_id, metrics, health, tracing)
    return Parts(
        topic=topic,
        consumer=consumer,
        poller=Poller(consumer, careful_reading(consumer, settings), settings.max_batch_records),
        store=store,
        takeover=Takeover(topic, store, publishers, tracing),
        processor=Processor(topic, store, Encoder(destinations), limits, reporter),
        reporter=reporter,
        prober=Prober(publishers.coordination, store, health),
        health=health,
        heartbeat_interval_s=settings.session_timeout_s / _HEARTBEATS_PER_SESSION,
    )


def _serve_http(settings: Settings, health: Health, metrics: Metrics, stack: AsyncExitStack) -> None:
    if settings.http_port < 0:
        return
    server = HealthServer(settings.http_host, settings.http_port, health, metrics.registry)
    try:
        server.start()
    except OSError as error:
        about = f"PORT {settings.http_port}" if error.errno in _OF_A_PORT else f"HOST {settings.http_host}"
        raise SettingsError(f"USERTASK_HTTP_{about} cannot be used: {error.strerror}") from error
    stack.callback(server.stop)
    log.info("http_started", host=settings.http_host, port=server.port)


async def _from_store(ask: Callable[[], Awaitable[T]], settings: Settings, health: Health) -> T:
    """Ask the store until it answers. Raise StoreUnavailableError if it does not within the start timeout."""
    deadline_s = time.monotonic() + settings.start_timeout_s
    told = False
    while True:
        health.tick()
        try:
            return await ask()
        except StoreUnavailableError as error:
            if time.monotonic() + _START_RETRY_S >= deadline_s:
                raise
            if not told:
                log.warning("store_awaited", reason=str(error), limit_s=settings.start_timeout_s)
                told = True
            await asyncio.sleep(_START_RETRY_S)


async def _wait_for_cluster(
    settings: Settings, options: Mapping[str, Any], health: Health, stack: AsyncExitStack
) -> tuple[Mapping[str, TopicShape], AIOKafkaConsumer]:
    async def attempt(deadline_s: float) -> tuple[Mapping[str, TopicShape], AIOKafkaConsumer]:
        health.tick()
        address, shapes = await check_cluster(settings, deadline_s)
        # from the broker that has answered: the others may hang
        consumer = _consumer(settings, {**options, "bootstrap_servers": address})
        try:
            async with asyncio.timeout_at(deadline_s):
                return shapes, await stack.enter_async_context(consumer)
        except TimeoutError:
            raise BrokerUnreachableError(f"{address}: the group's consumer did not start in time") from None

    def tell(error: BrokerUnreachableError) -> None:
        log.warning("broker_awaited", reason=str(error), limit_s=settings.start_timeout_s)

    return await until_reached(settings, attempt, tell)


async def _check_partitions(settings: Settings, shapes: Mapping[str, TopicShape], store: Store, health: Health) -> None:
    """Refuse a commands topic that has lost partitions: it was recreated, and keys now go elsewhere."""
    topic = settings.commands_topic
    others = range(shapes[topic].partitions, _PARTITIONS_MAX)
    beyond = await _from_store(lambda: store.partitions(topic, others), settings, health)
    if beyond:
        raise TopicsNotReadyError(
            f"{topic} has {shapes[topic].partitions} partitions, fewer partitions than the store has seen"
            f" ({max(beyond) + 1}): it was recreated; use a new store, or recreate the topic as it was"
        )


@asynccontextmanager
async def _consumer(settings: Settings, options: Mapping[str, Any]) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        **options,
        group_id=settings.group_id,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        client_rack=settings.kafka_client_rack,
        partition_assignment_strategy=(StickyPartitionAssignor,),
        session_timeout_ms=int(settings.session_timeout_s * 1000),
        heartbeat_interval_ms=int(settings.session_timeout_s * 1000 / _HEARTBEATS_PER_SESSION),
        rebalance_timeout_ms=_REBALANCE_TIMEOUT_S * 1000,
        request_timeout_ms=_REQUEST_TIMEOUT_S * 1000,
        max_poll_interval_ms=_POLL_INTERVAL_MAX_S * 1000,
        fetch_max_bytes=_FETCH_BYTES_MAX,
        max_partition_fetch_bytes=_PARTITION_FETCH_BYTES_MAX,
    )
    try:
        await consumer.start()
        yield consumer
    except KafkaError as error:
        raise BrokerUnreachableError(f"{settings.kafka_bootstrap_servers}: {type(error).__name__}: {error}") from error
    finally:
        with contextlib.suppress(TimeoutError):  # leaving is a courtesy: the group notices by itself
            async with asyncio.timeout(_LEAVE_TIMEOUT_S):
                await consumer.stop()
