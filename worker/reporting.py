"""What the worker tells of its work: metrics, and a line for what an operator has to look at."""

import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from schemas.problem import DEAD_LETTERED, PROBLEMS
from schemas.user_task import UserTaskState
from worker.batch import Report
from worker.session import Decided, Held
from worker.telemetry.metrics import Metrics

log = structlog.stdlib.get_logger(__name__)

_PAUSE_REASONS: Final = ("store", "kafka", "refused")
_OUTCOMES: Final = {
    UserTaskState.CREATED: "created",
    UserTaskState.COMPLETED: "completed",
    UserTaskState.CANCELED: "canceled",
}


class Reporter:
    """Counts and measures for one commands topic."""

    def __init__(self, topic: str, metrics: Metrics) -> None:
        self._topic = topic
        self._metrics = metrics

    def saved(self, commands: int, report: Report, seconds: float) -> None:
        """Tell of a batch that the store has."""
        metrics = self._metrics
        metrics.store_transaction_seconds.observe(seconds)
        metrics.batch_records.observe(commands)
        metrics.duplicates_total.inc(report.duplicates)
        for transition in report.transitions:
            metrics.commands_total.labels(_OUTCOMES[transition.task.state], "204").inc()
        for received, refusal in report.refusals:
            problem = refusal.problem.value
            metrics.commands_total.labels("rejected", str(PROBLEMS[refusal.problem].status)).inc()
            metrics.rejections_total.labels(problem).inc()
            about = {"position": received.position, "command_id": received.command_id, "problem": problem}
            if refusal.problem in DEAD_LETTERED:
                metrics.dead_letters_total.labels(problem).inc()
                log.warning("command_dead_lettered", **about, detail=refusal.detail)
            else:
                log.debug("command_rejected", **about)

    def published(self, decided: Decided, seconds: float) -> None:
        """Tell of a batch that listeners can see."""
        now_s = time.time()
        self._metrics.kafka_transaction_seconds.observe(seconds)
        self._metrics.last_published_timestamp_seconds.set(now_s)
        for timestamp_ms in decided.timestamps_ms:
            self._metrics.command_latency_seconds.observe(max(0.0, now_s - timestamp_ms / 1000))

    def stands(self, held: Mapping[int, Held], end_of: Callable[[int], int | None]) -> None:
        """Tell how far the held partitions are; `end_of` gives a partition's end, if it is known."""
        for partition, one in held.items():
            end = end_of(partition)
            if end is not None:
                self._metrics.consumer_lag.labels(self._topic, str(partition)).set(max(0, end - one.published))
            self._metrics.unpublished.labels(self._topic, str(partition)).set(one.applied - one.published)

    def taken_over(self, partitions: int) -> None:
        """Count a takeover."""
        self._metrics.takeovers_total.inc(partitions)
        self._metrics.assigned_partitions.set(partitions)

    def paused(self, reason: str | None) -> None:
        """Tell why nothing is taken from the topic now (`store`, `kafka` or `refused`), or that it is."""
        for known in _PAUSE_REASONS:
            self._metrics.consumer_paused.labels(known).set(known == reason)

    def lost(self, held: Mapping[int, Held], fenced_by: str | None) -> None:
        """Tell that partitions are no longer held; and by what (`store` or `kafka`), if another owner was the cause."""
        for partition in held:
            self._metrics.forget_partition(self._topic, partition)
        self._metrics.assigned_partitions.set(0)
        if fenced_by:
            self._metrics.fenced_total.labels(fenced_by).inc()
