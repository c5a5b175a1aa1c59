"""What the worker tells of its work: metrics, health, spans, and a line for each change of state and each refusal."""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Final

import structlog
from aiokafka import TopicPartition

from schemas.problem import DAMAGED_BATCH, DEAD_LETTERED
from worker.batch import Report
from worker.blocked import Blocked
from worker.clocks import Clocks
from worker.decoder import Received
from worker.encoder import Reply
from worker.lifecycle import Refusal
from worker.open_transactions import OpenTransactions
from worker.reach import Reach
from worker.session import Decided, Held
from worker.stores.port import StoreError, StoreUnavailableError
from worker.telemetry.defects import in_words
from worker.telemetry.health import Health
from worker.telemetry.left_out import LeftOutLines
from worker.telemetry.metrics import PAUSE_REASONS, Metrics, outcome_of, rejection_of
from worker.telemetry.sampling import Allowance
from worker.telemetry.tracing import Tracing

log = structlog.stdlib.get_logger(__name__)

_REFUSED_LINES: Final = 200
_REFUSED_LINES_PER_S: Final = 10
"""Of rejections, and as many of dead letters: first so many, then a disk has to hold what comes in a day."""
_BATCH_LINES_PER_S: Final = 1

_state_of = attrgetter("task.state")


class Reporter:
    """Counts, measures and logs for one commands topic, as one member of a consumer group."""

    def __init__(self, topic: str, group_id: str, metrics: Metrics, health: Health, tracing: Tracing) -> None:
        self.tracing = tracing
        self.clocks = Clocks()
        self._topic = topic
        self._metrics = metrics
        self._health = health
        self._rejections = Allowance(_REFUSED_LINES, _REFUSED_LINES_PER_S)
        self._dead_letters = Allowance(_REFUSED_LINES, _REFUSED_LINES_PER_S)
        self._batches = Allowance(_BATCH_LINES_PER_S)
        self._left_out = LeftOutLines()
        self._open_transactions = OpenTransactions(topic)
        self._in_progress = 0
        self._paused_at_s: float | None = None
        self._pause_reason: str | None = None
        self._fetching = True
        self._held: Collection[int] = []
        self._blocked: Mapping[int, Blocked] = {}
        self._consumed = metrics.messaging_client_consumed_messages_total.labels("kafka", "poll", topic, group_id)
        self._processed = metrics.messaging_process_duration_seconds.labels("kafka", "process", topic, group_id)
        self._committed = metrics.messaging_client_operation_duration_seconds.labels("kafka", "commit", topic, group_id)

    # batches: called for every one, so nothing here is done command by command but what counts or logs it

    def saved(self, commands: int, report: Report, seconds: float) -> None:
        """Tell of a batch that the store has."""
        metrics = self._metrics
        self._health.tick()  # a poll may make many batches
        metrics.store_transaction_seconds.observe(seconds)
        metrics.batch_records.observe(commands)
        self._consumed.inc(commands)
        self._processed.observe(seconds)
        metrics.duplicates_total.inc(report.duplicates)
        if report.left_out:
            metrics.replies_ignored_total.inc(report.replies_ignored)
            self._left_out.tell(report.left_out)
        for state, number in Counter(map(_state_of, report.transitions)).items():
            metrics.commands_total.labels(*outcome_of(state)).inc(number)
        if report.refusals:
            self._refused(report.refusals)
        for received in report.stepped_over:
            metrics.dead_letters_total.labels(DAMAGED_BATCH).inc()
            log.error("damaged_batch_skipped", position=received.position, detail=received.detail)
        self._count_in_progress(self._in_progress + commands)
        if self._batches.take(1):
            refused = len(report.refusals)
            log.debug("batch_saved", commands=commands, refused=refused, duplicates=report.duplicates, seconds=seconds)

    def published(self, decided: Decided, seconds: float) -> None:
        """Tell of a batch that listeners can see."""
        now_s = time.time()
        self._metrics.kafka_transaction_seconds.observe(seconds)
        self._committed.observe(seconds)
        # replies are not counted: their topics are as many as the senders want
        topics = Counter(record.topic for record in decided.records if type(record) is not Reply)
        for topic, number in topics.items():
            self._metrics.messaging_client_sent_messages_total.labels("kafka", "send", topic).inc(number)
        self._metrics.last_published_timestamp_seconds.set(now_s)
        self.clocks.commands_said(decided.timestamps_ms)
        self._metrics.command_latency_seconds.observe(decided.timestamps_ms, now_s * 1000)
        self._count_in_progress(max(0, self._in_progress - len(decided.timestamps_ms)))

    def _count_in_progress(self, commands: int) -> None:
        self._in_progress = commands
        self._metrics.commands_in_progress.set(commands)

    def _refused(self, refusals: Sequence[tuple[Received, Refusal]]) -> None:
        problems = Counter(refusal.problem for _, refusal in refusals)
        dead = 0
        for problem, number in problems.items():
            self._metrics.commands_total.labels(*rejection_of(problem)).inc(number)
            self._metrics.rejections_total.labels(problem.value).inc(number)
            if problem in DEAD_LETTERED:
                self._metrics.dead_letters_total.labels(problem.value).inc(number)
                dead += number
        self._log_rejections(refusals, self._rejections.take(len(refusals) - dead))
        self._log_dead_letters(refusals, self._dead_letters.take(dead))

    def _log_rejections(self, refusals: Iterable[tuple[Received, Refusal]], lines: int) -> None:
        for received, refusal in refusals:
            if lines == 0:
                return
            if refusal.problem not in DEAD_LETTERED:
                log.info("command_rejected", **_about(received, refusal))
                lines -= 1

    def _log_dead_letters(self, refusals: Iterable[tuple[Received, Refusal]], lines: int) -> None:
        for received, refusal in refusals:
            if lines == 0:
                return
            if refusal.problem in DEAD_LETTERED:
                log.warning("command_dead_lettered", **_about(received, refusal), detail=refusal.detail)
                lines -= 1

    # where the partitions stand

    def stands(self, held: Mapping[int, Held], reaches: Mapping[int, Reach]) -> None:
        """Tell how far the held partitions are; of one that is not in `reaches`, its end is not known."""
        for partition, one in held.items():
            if (reach := reaches.get(partition)) is not None:
                labels = self._topic, str(partition)
                self._metrics.consumer_lag.labels(*labels).set(reach.lag(one.published))
                open_s = self._open_transactions.look(partition, reach)
                self._metrics.open_transaction_seconds.labels(*labels).set(open_s)
            self._metrics.unpublished.labels(self._topic, str(partition)).set(one.applied - one.published)
        self.tell_withheld()

    def tell_withheld(self, *, at_once: bool = False) -> None:
        """Tell how many lines were withheld in the second that has passed, or until now."""
        if commands := self._rejections.withheld(at_once=at_once):
            log.info("rejections_not_logged", commands=commands)
        if commands := self._dead_letters.withheld(at_once=at_once):
            log.warning("dead_letters_not_logged", commands=commands)
        self._left_out.tell_withheld()

    # changes of state

    def assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """Tell what the group has given."""
        self._metrics.rebalances_total.inc()
        self._health.set_joined(True)
        log.info("partitions_assigned", topic=self._topic, partitions=sorted(tp.partition for tp in partitions))

    def rebalancing(self) -> None:
        """Tell that the group is giving its partitions out anew."""
        self._health.set_joined(False)
        self._health.set_taken_over(False)

    def taken_over(self, partitions: Iterable[int], publisher: str, blocked: Mapping[int, Blocked]) -> None:
        """Tell of a takeover, and of the partitions that are blocked after it."""
        numbers = sorted(partitions)
        self._metrics.takeovers_total.inc(len(numbers))
        self._metrics.assigned_partitions.set(len(numbers))
        self._held = numbers
        self.blocked(blocked)
        self._show_blocked()
        self._health.set_taken_over(True)
        if numbers:
            log.info("partitions_taken_over", topic=self._topic, partitions=numbers, publisher=publisher)

    def blocked(self, blocked: Mapping[int, Blocked]) -> None:
        """Tell which partitions are blocked, all of them; log what is new."""
        if blocked == self._blocked:
            return
        for partition in self._blocked.keys() - blocked.keys():
            log.info("partition_unblocked", topic=self._topic, partition=partition)
        for partition, one in sorted(blocked.items()):
            known = self._blocked.get(partition)
            if known is not None and known.cause == one.cause and (one.is_refusal or known.reason == one.reason):
                continue
            if one.is_refusal:
                log.error(
                    "partition_refused", topic=self._topic, partition=partition, cause=one.cause, reason=one.reason
                )
            else:
                log.error(
                    "partition_blocked", topic=self._topic, partition=partition, cause=one.cause, reason=one.reason
                )
        self._blocked = dict(blocked)
        self._show_blocked()
        self._health.set_blocked({partition: str(one) for partition, one in blocked.items()})

    def _show_blocked(self) -> None:
        gauge = self._metrics.partition_blocked
        gauge.clear()
        for partition in {*self._held, *self._blocked}:
            one = self._blocked.get(partition)
            gauge.labels(self._topic, str(partition), one.cause if one else "none").set(one is not None)

    def standing_by(self) -> None:
        """Tell that there is nothing to take over."""
        self._held = []
        self.blocked({})
        self.resumed()

    def resumed(self) -> None:
        """Note that the partitions taken over are being worked off, if there are any that are not blocked."""
        refused = "refused" if self._blocked else None
        self._health.set_taken_over(True)
        self._health.set_paused("partitions blocked" if refused else None)
        self._paused(refused)
        if self._paused_at_s is not None and (self._held or not refused):
            log.info("consumer_resumed", paused_s=round(time.monotonic() - self._paused_at_s, 1))
            self._paused_at_s = None

    def failed(self, error: Exception, *, first: bool) -> None:
        """Tell that nothing is taken from the topic, since something failed; log it if it is the first of a row."""
        reason = "store" if isinstance(error, StoreError) else "kafka"
        self._metrics.retries_total.labels(reason).inc()
        self._health.set_taken_over(False)
        if isinstance(error, StoreUnavailableError):
            self._health.set_store_reachable(False)
        self._health.set_paused(in_words(error))
        if first:
            self._paused_at_s = self._paused_at_s or time.monotonic()
            self._paused(reason)
            log.warning("consumer_paused", reason=in_words(error))

    def poll_failed(self, error: Exception, *, first: bool) -> None:
        """Tell that commands cannot be fetched, though partitions may be held; log it if it is news."""
        self._set_fetching(fetching=False)
        if first:
            log.warning("poll_failed", reason=in_words(error))

    def poll_resumed(self) -> None:
        """Tell that commands are fetched again."""
        self._set_fetching(fetching=True)
        log.info("poll_resumed")

    def lost(self, held: Mapping[int, Held], fenced_by: str | None) -> None:
        """Tell that partitions are no longer held; and by what (`store` or `kafka`), if another owner was the cause."""
        self._held = []
        self._show_blocked()
        for partition in held:
            self._metrics.forget_partition(self._topic, partition)
        self._open_transactions.forget()
        self._metrics.assigned_partitions.set(0)
        self._count_in_progress(0)
        if fenced_by:
            self._metrics.fenced_total.labels(fenced_by).inc()

    def _paused(self, reason: str | None) -> None:
        self._pause_reason = reason
        self._show_pauses()

    def _set_fetching(self, *, fetching: bool) -> None:
        self._fetching = fetching
        self._health.set_fetching(fetching)
        self._show_pauses()

    def _show_pauses(self) -> None:
        reasons = {self._pause_reason, None if self._fetching else "kafka"}
        for known in PAUSE_REASONS:
            self._metrics.consumer_paused.labels(known).set(known in reasons)


def _about(received: Received, refusal: Refusal) -> dict[str, str]:
    return {"position": received.position, "command_id": received.command_id, "problem": refusal.problem.value}
