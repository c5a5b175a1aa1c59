"""The loop: poll, process, and take over anew when the assignment changes or anything fails. Outages are waited out."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    ConsumerStoppedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from worker.backoff import Backoff
from worker.batch import Decoded
from worker.blocked import BlockedPartitions
from worker.failures import PublishError
from worker.noted_damage import NotedDamage
from worker.poller import Poller, UnreadableError
from worker.prober import Prober
from worker.processor import Processor
from worker.reporting import Reporter
from worker.saving import Saving
from worker.session import RetakeError, Session, SessionLostError
from worker.stopping import unless_stopped
from worker.stores.port import Store, StoreError, StoreFencedError
from worker.takeover import Taken, Takeover
from worker.telemetry.defects import in_words
from worker.telemetry.health import Health
from worker.watch import Standing

log = structlog.stdlib.get_logger(__name__)

_TAKEOVER_DEADLINE_S: Final = 120
_REVOKE_BUDGET_S: Final = 5
"""How long a rebalance may wait for what has begun; the successor can do without it."""
_TICK_S: Final = 1
_SAVE_AGAIN_S: Final = 2
"""At least so long after a second batch in a row that the store did not take: each try costs a takeover."""

_EXPECTED: Final = (KafkaError, OSError, TimeoutError, StoreError, PublishError, SessionLostError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the loop is made of."""

    topic: str
    consumer: AIOKafkaConsumer
    poller: Poller
    store: Store
    takeover: Takeover
    processor: Processor
    reporter: Reporter
    prober: Prober
    health: Health
    heartbeat_interval_s: float


class CommandConsumer(ConsumerRebalanceListener):
    """One member of the consumer group."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._topic = parts.topic
        self._consumer = parts.consumer
        self._health = parts.health
        self._stop = asyncio.Event()
        self._assigned: frozenset[TopicPartition] | None = None
        self._assignment = 0
        """Counts the rebalances: what was begun under another count is void."""
        self._session: Session | None = None
        self._processing = asyncio.Lock()
        self._backoff = Backoff()
        self._poll_failure: str | None = None
        self._saving = Saving(parts.processor, parts.health)
        self._attempt: asyncio.Task[Taken] | None = None
        self._blocked = BlockedPartitions(parts.takeover.has_changed)
        self._noted = NotedDamage(parts.topic, parts.store)

    def stop(self) -> None:
        """Ask the loop to end after what has begun."""
        self._stop.set()
        self._health.set_stopping()

    def standing(self) -> Standing:
        """Tell where the worker stands. A failure that it knows of and waits out is no standstill."""
        session, failing = self._session, self._poll_failure is not None or self._saving.fails
        held = {} if session is None or failing else session.held
        return Standing(
            joined=self._assigned is not None or self._poll_failure is not None,
            rebalances=self._assignment,
            held={partition: one for partition, one in held.items() if partition not in self._parts.poller.blocked},
            handed_out=self._parts.poller.handed_out,
            may_take_over=bool(self._assigned and session is None and self._attempt is None and self._backoff.is_due),
            stopping=self._stop.is_set(),
        )

    async def run(self) -> None:
        """Work until `stop` is called. Raises only on a defect."""
        self._consumer.subscribe([self._topic], listener=self)
        while not self._stop.is_set():
            self._health.tick()
            if self._session is None and self._assigned is not None and self._backoff.is_due:
                await self._take_over()
            await self._turn()
        await self._parts.poller.settle()

    async def close(self) -> None:
        """End the session if it has not ended yet, so that nothing of it lives on."""
        session, self._session = self._session, None
        self._blocked.close()
        self._parts.reporter.tell_withheld(at_once=True)
        if session is not None:
            await session.close()

    async def drain(self) -> None:
        """Finish what has begun, and end the session. Raise SessionLostError or StoreError if that fails."""
        session, self._session = self._session, None
        if session is None:
            return
        try:
            async with self._processing:
                await session.drain()
                await session.note_published(self._parts.store)
        except SessionLostError:
            if self._assigned is None:
                return  # a rebalance is under way: it is for the next owner
            # what is decided must not wait for the next owner, who may be long in coming: a takeover publishes it
            taken = await self._parts.takeover.run(session.held)
            await taken.publisher.discard()
        finally:
            await session.close()

    # what the group coordinator calls

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Finish what has begun, within a budget, or abandon it: takeover makes both safe."""
        self._assignment += 1
        self._assigned = None
        self._parts.reporter.rebalancing()
        if self._attempt is not None:
            self._attempt.cancel()  # it must not win a row from the partition's next owner
            await asyncio.wait({self._attempt}, timeout=_REVOKE_BUDGET_S)
        session = self._session
        if session is None:
            return
        try:
            async with asyncio.timeout(_REVOKE_BUDGET_S), self._processing:
                await session.drain()
                await session.note_published(self._parts.store)
        except _EXPECTED as error:
            log.warning("batch_abandoned", reason=in_words(error))
        finally:
            self._session = None
            await session.close()
            self._parts.reporter.lost(session.held, None)
            log.info("partitions_revoked", topic=self._topic, partitions=sorted(tp.partition for tp in revoked))

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Pause at once, before anything is awaited: aiokafka hands out records while this still runs."""
        self._assigned = frozenset(assigned)
        self._assignment += 1
        self._pause()
        for tp in self._assigned:
            # a position, so that aiokafka looks for none; the takeover finds the right one
            self._consumer.seek(tp, 0)
        self._backoff.succeeded()
        self._saving.forget()
        self._parts.reporter.assigned(self._assigned)

    # one turn of the loop

    async def _turn(self) -> None:
        session = self._session
        try:
            commands = await self._parts.poller.poll(self._assigned or ())
        except (NoOffsetForPartitionError, OffsetOutOfRangeError) as error:
            await self._lose_session(session, error)
        except ConsumerStoppedError:
            self._stop.set()
        except UnreadableError:
            await self._rewind(session)
        except KafkaError as error:
            await self._rewind(session)
            self._parts.reporter.poll_failed(error, first=self._poll_failure != type(error).__name__)
            self._poll_failure = type(error).__name__
            await asyncio.sleep(_TICK_S)  # getmany raises at once, again and again
        else:
            if self._poll_failure is not None:
                self._poll_failure = None
                self._parts.reporter.poll_resumed()
            await self._process(session, commands)

    async def _rewind(self, session: Session | None) -> None:
        """Set the positions anew: a poll that raises has dropped the records of other partitions, read before."""
        async with self._processing:
            if session is not None and session is self._session:
                for partition, held in session.held.items():
                    self._consumer.seek(TopicPartition(self._topic, partition), held.applied)

    async def _process(self, session: Session | None, commands: list[Decoded]) -> None:
        async with self._processing:
            if session is None or session is not self._session:
                return  # the position was or will be set anew
            try:
                await self._process_held(session, commands)
            except _EXPECTED as error:
                await self._lose_session(session, error)

    async def _process_held(self, session: Session, commands: list[Decoded]) -> None:
        session.raise_if_lost()
        if commands:
            is_outage_over = await self._saving.save(session, commands)
            self._parts.prober.seen()
            if is_outage_over:
                self._resume()
        elif session.idle and self._parts.prober.is_due:
            await session.note_published(self._parts.store)
            await self._parts.prober.probe()
        if self._blocked.need_takeover():
            raise RetakeError("a partition may be found otherwise than before")
        await self._noted.note(session.held, self._parts.poller.blocked)
        reaches = await self._parts.poller.reaches(self._topic, session.held)
        if session is self._session:  # or it was lost meanwhile, and its series are gone
            self._parts.reporter.blocked({**self._blocked.all, **self._parts.poller.blocked})
            self._parts.reporter.stands(session.held, reaches)

    # taking over

    async def _take_over(self) -> None:
        if not self._assigned:
            await self._stand_by()
            return
        if not await self._parts.poller.settle() or not self._assigned:
            return
        assignment, assigned = self._assignment, self._assigned
        self._attempt = asyncio.create_task(self._try_to_take_over(assigned), name="takeover")
        try:
            taken = await unless_stopped(self._stop, self._attempt, self._health.tick)
        except _EXPECTED as error:
            self._wait_before_retry(error, fenced=isinstance(error, StoreFencedError))
            return
        finally:
            self._attempt = None
        if taken is not None and assignment == self._assignment:
            self._install(taken)
        elif taken is not None:
            await taken.publisher.discard()

    async def _stand_by(self) -> None:
        """Hold nothing, being one worker more than there are partitions, but be ready."""
        if self._parts.prober.is_due:
            try:
                await self._parts.prober.probe()
            except _EXPECTED as error:
                self._wait_before_retry(error)
                return
        self._backoff.succeeded()
        self._parts.reporter.standing_by()

    async def _try_to_take_over(self, assigned: frozenset[TopicPartition]) -> Taken:
        async with asyncio.timeout(_TAKEOVER_DEADLINE_S):
            # the cheaper probe first: no producer is started for a store that is down
            await self._parts.prober.probe_store()
            return await self._parts.takeover.run({tp.partition for tp in assigned})

    def _install(self, taken: Taken) -> None:
        """Start a session. Nothing is awaited here, so that no rebalance comes in between."""
        for partition, position in taken.positions.items():
            self._consumer.seek(TopicPartition(self._topic, partition), position)
        reporter = self._parts.reporter
        self._session = Session(
            taken.publisher, self._topic, taken.held, taken.noted, reporter.tracing, reporter.published
        )
        self._blocked.set(taken.blocked)
        self._consumer.resume(*(TopicPartition(self._topic, partition) for partition in taken.held))
        reporter.taken_over(taken.held, taken.publisher.transactional_id, taken.blocked)
        if self._saving.is_over(taken.held):
            self._resume()

    def _resume(self) -> None:
        self._backoff.succeeded()
        self._parts.reporter.resumed()

    async def _lose_session(self, session: Session | None, error: Exception) -> None:
        if session is None or session is not self._session:
            return
        self._session = None
        self._pause()
        is_wanted = isinstance(error, RetakeError) or (session.spent and isinstance(error, SessionLostError))
        fenced_by = "store" if isinstance(error, StoreFencedError) else "kafka" if session.fenced else None
        await session.close()
        self._parts.reporter.lost(session.held, fenced_by)
        if is_wanted:  # nothing is wrong, so there is nothing to wait for
            log.info("producer_replaced", reason=in_words(error))
        else:
            self._wait_before_retry(error, fenced=fenced_by is not None)

    def _wait_before_retry(self, error: Exception, *, fenced: bool = False) -> None:
        """Back off; after a fence, for long enough that the group can tell a zombie that it is one."""
        unsaved_again = self._saving.fails and self._backoff.has_failed
        at_least_s = self._parts.heartbeat_interval_s if fenced else _SAVE_AGAIN_S if unsaved_again else 0
        first = self._backoff.failed(at_least_s)
        self._parts.reporter.failed(error, first=first)

    def _pause(self) -> None:
        try:
            self._consumer.pause(*(self._assigned or ()))
        except IllegalStateError:
            log.debug("pause_overtaken_by_rebalance")  # then there is nothing of ours to pause
