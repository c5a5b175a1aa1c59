"""A look from outside at whether the worker moves. What only a restart would mend turns /livez red, and nothing else.

Standstill is judged only while store and broker answer. When they do not, all may stand still; the times start anew.
"""

import asyncio
from asyncio import Task
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.errors import KafkaError

from worker.session import Held
from worker.stores.port import Store, StoreError
from worker.telemetry.defects import where
from worker.telemetry.health import Check, Health
from worker.telemetry.progress import Progress, Step

log = structlog.stdlib.get_logger(__name__)

_LOOKS_PER_LIMIT: Final = 12
_LONGEST_INTERVAL_S: Final = 2
_LONGEST_PATIENCE_S: Final = 3
_JOIN: Final = "the group is not joined"
_TAKEOVER: Final = "no takeover of the assigned partitions begins"
_NO_ANSWER: Final = (KafkaError, StoreError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where the worker stands."""

    joined: bool
    rebalances: int
    """How many there have been."""
    held: Mapping[int, Held]
    """The partitions that ought to move."""
    handed_out: Mapping[int, int]
    """The offset behind the last record that was read, by partition."""
    may_take_over: bool
    """Partitions are assigned, and nothing is known that keeps the worker from taking them over."""
    stopping: bool


class Watch:
    """Watches one worker.

    Args:
        topic: the commands topic.
        group_id: the consumer group.
        consumer: the Kafka client's, started.
        store: the store, open.
        health: told what stands still for longer than its limit.
        standing: tells where the worker stands.

    """

    def __init__(
        self,
        topic: str,
        group_id: str,
        consumer: AIOKafkaConsumer,
        store: Store,
        health: Health,
        standing: Callable[[], Standing],
    ) -> None:
        self._topic = topic
        self._group_id = group_id
        self._consumer = consumer
        self._store = store
        self._health = health
        self._standing = standing
        self._progress = Progress(health.stall_limit_s)
        self._interval_s = min(_LONGEST_INTERVAL_S, health.stall_limit_s / _LOOKS_PER_LIMIT)
        self._patience_s = min(_LONGEST_PATIENCE_S, health.stall_limit_s / 3)
        self._ping: Task[None] | None = None
        self._told: set[str] = set()

    async def run(self) -> None:
        """Look from time to time, until cancelled. Nothing that goes wrong here ends it."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001 - a defect here must not stop the worker
                self._progress.forget()
                log.error("watch_failed", error=type(error).__name__, where=where(error))

    async def _look(self) -> None:
        standing = self._standing()
        stuck: dict[str, float] = {}
        if standing.stopping:
            self._health.tick()  # the loop has ended; a drain has a limit of its own
        else:
            try:
                async with asyncio.timeout(self._patience_s):
                    stuck = self._progress.look(await self._steps(standing))
            except _NO_ANSWER:
                self._progress.forget()
                self._health.tick()  # the loop may wait for what does not answer; were it blocked, this would be, too
        findings = [f"{name} for {age_s:.0f} s, though Kafka and the store answer" for name, age_s in stuck.items()]
        dead = [f"its task {task} has ended" for task in self._dead_tasks()]
        self._tell("moves", findings, "what has something to do moves, as far as can be seen")
        self._tell("kafka_client_runs", dead, "the tasks of the Kafka client run")

    def _tell(self, name: str, failures: list[str], good: str) -> None:
        """Tell health; and the log, if it is news."""
        self._health.set_check(Check(name, not failures, "; ".join(failures) or good))
        if failures and name not in self._told:
            log.error("liveness_lost", check=name, reason="; ".join(failures))
        (self._told.add if failures else self._told.discard)(name)

    async def _steps(self, standing: Standing) -> dict[str, Step]:
        """Ask store and broker, and tell how far everything is. Raise one of _NO_ANSWER."""
        await self._ask_store()
        if not standing.joined:
            # the client's own, since there is no other way to ask: joining needs the coordinator, not only a broker
            await self._consumer._client.coordinator_lookup(CoordinationType.GROUP, self._group_id)  # noqa: SLF001
        held = {TopicPartition(self._topic, partition): one for partition, one in standing.held.items()}
        ends = await self._consumer.end_offsets(list(held) or [TopicPartition(self._topic, 0)])
        steps = {
            _JOIN: Step((standing.rebalances,), not standing.joined),
            _TAKEOVER: Step((standing.rebalances,), standing.may_take_over),
        }
        for tp, one in held.items():
            position = await self._consumer.position(tp)
            unpublished = one.published < standing.handed_out.get(tp.partition, 0)
            steps[f"partition {tp.partition} is not read"] = Step((one.applied, position), position < ends[tp])
            steps[f"partition {tp.partition} is not worked off"] = Step((one.applied + one.published,), unpublished)
        return steps

    async def _ask_store(self) -> None:
        """Ping, and wait no longer than the caller does. A ping that takes longer goes on: the next look meets it.

        Readiness hears of it at once: a store that hangs would be noticed only when its statements time out.
        """
        if self._ping is None or self._ping.done():
            self._ping = asyncio.create_task(self._store.ping(), name="watch-ping")
            self._ping.add_done_callback(_retrieve)
        answered = False
        try:
            await asyncio.shield(self._ping)
            answered = True
        finally:
            self._health.set_store_reachable(answered)

    def _dead_tasks(self) -> Iterator[str]:
        """Give the tasks without which the Kafka client looks well and gets nothing; it does not say when one ends."""
        fetcher: Any = self._consumer._fetcher  # noqa: SLF001
        coordinator: Any = self._consumer._coordinator  # noqa: SLF001
        if fetcher._fetch_task.done():  # noqa: SLF001
            yield "fetch"
        if coordinator._coordination_task.done():  # noqa: SLF001
            yield "coordination"
        beat = coordinator._heartbeat_task  # noqa: SLF001 - comes and goes with the membership
        if beat is not None and beat.done() and not beat.cancelled() and _is_defect(beat.exception()):
            yield "heartbeat"


def _is_defect(error: BaseException | None) -> bool:
    return error is not None and not isinstance(error, KafkaError)


def _retrieve(task: Task[Any]) -> None:
    """Look at how a task ended, so that nobody warns of it."""
    if not task.cancelled():
        task.exception()
