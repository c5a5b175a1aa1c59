"""The worker's metrics; names, labels and units are an interface of operators' dashboards and alerts."""

import platform
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from schemas.problem import DEAD_LETTERED, PROBLEMS, Problem
from schemas.user_task import UserTaskState
from worker.telemetry.latencies import LEFT_OUT, Latencies
from worker.telemetry.logs import lines_dropped
from worker.version import worker_version

_LATENCY_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_TRANSACTION_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LAG_BUCKETS_S: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_MESSAGING_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_BATCH_BUCKETS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)

PAUSE_REASONS: Final = ("store", "kafka", "refused")
"""Why nothing is taken from the topic."""
_OUTAGES: Final = ("store", "kafka")
_FENCED_BY: Final = ("store", "kafka")
_USUAL_FAILURES: Final = ("NoAnswer", "ProducerFenced", "TimeoutError")


def outcome_of(state: UserTaskState) -> tuple[str, str]:
    """Give the labels `outcome` and `status` of a command that was accepted, by the state that it led to."""
    return state.value.lower(), "204"


def rejection_of(problem: Problem) -> tuple[str, str]:
    """Give the labels `outcome` and `status` of a command that was refused."""
    return "rejected", str(PROBLEMS[problem].status)


class Metrics:
    """Every metric of one worker, in a registry of its own, so that a process may have several.

    Each attribute is a metric whose exposed name is the attribute's with the prefix `usertask_`; only those that begin
    with `messaging_` have OpenTelemetry's names and labels. Label values that are known beforehand exist from the start
    with 0: a rate over a series that appears with its first failure misses exactly that failure. No label is unbounded;
    there is none of a task or a command.

    Args:
        max_batch_records: the largest batch there may be.

    """

    def __init__(self, max_batch_records: int = 1000) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_DroppedLines())
        self._count_commands()
        self._count_misfortunes()
        self._gauge_progress()
        self._show_retention()
        self._measure_batches(max_batch_records)
        self._measure_as_opentelemetry_does()
        self._tell_build()
        self._start_at_zero()

    def forget_partition(self, topic: str, partition: int) -> None:
        """Remove the series of a partition that this worker has lost; one without series is no error."""
        for gauge in (self.consumer_lag, self.unpublished, self.open_transaction_seconds):
            with suppress(KeyError):  # older clients raise it, newer ones do not
                gauge.remove(topic, str(partition))

    def _count_commands(self) -> None:
        self.commands_total = self._counter(
            "commands_total", "Commands decided, by outcome and by HTTP status", "outcome", "status"
        )
        self.rejections_total = self._counter(
            "rejections_total", "Rejections decided, by the last part of their problem type", "error_type"
        )
        self.duplicates_total = self._counter(
            "duplicates_total", "Commands whose id was seen before with the same content"
        )
        self.replies_ignored_total = self._counter("replies_ignored_total", "Replies asked for that could not be sent")

    def _count_misfortunes(self) -> None:
        self.dead_letters_total = self._counter(
            "dead_letters_total", "Commands written to the dead letter topic", "error_type"
        )
        self.rebalances_total = self._counter("rebalances_total", "Assignments that the group has given to this worker")
        self.takeovers_total = self._counter("takeovers_total", "Partitions taken over")
        self.retries_total = self._counter(
            "retries_total", "Takeovers put off and sessions given up since something failed, by what failed", "reason"
        )
        self.failed_transactions_total = self._counter(
            "failed_transactions_total", "Kafka transactions that failed, by the error", "cause"
        )
        self.fenced_total = self._counter(
            "fenced_total", "Writes refused since another worker has taken over, by who refused", "by"
        )

    def _gauge_progress(self) -> None:
        self.commands_in_progress = self._gauge("commands_in_progress", "Commands decided and not yet published")
        self.assigned_partitions = self._gauge("assigned_partitions", "Partitions assigned to this worker")
        self.consumer_paused = self._gauge("consumer_paused", "1 while consumption waits for a reason", "reason")
        self.partition_blocked = self._gauge(
            "partition_blocked",
            "1 while an assigned partition is not worked off, by why",
            "topic",
            "partition",
            "cause",
        )
        self.consumer_lag = self._gauge(
            "consumer_lag", "Offsets of a partition that can be read and are not answered", "topic", "partition"
        )
        self.open_transaction_seconds = self._gauge(
            "open_transaction_seconds",
            "For how long one sender's open transaction holds a partition, or 0",
            "topic",
            "partition",
        )
        self.unpublished = self._gauge(
            "unpublished", "Commands of a partition applied to the store and not yet published", "topic", "partition"
        )
        self.last_published_timestamp_seconds = self._gauge(
            "last_published_timestamp_seconds", "Unix time of the last batch published, 0 before the first"
        )

    def _show_retention(self) -> None:
        self.outcomes_pruned_total = self._counter("outcomes_pruned_total", "Outcomes forgotten by this worker")
        self.oldest_outcome_age_seconds = self._gauge(
            "oldest_outcome_age_seconds", "Age of the oldest outcome in the store, 0 if there is none"
        )
        self.clock_ahead_seconds = self._gauge(
            "clock_ahead_seconds", "By how much this machine's clock is ahead of the store's, 0 if no more than usual"
        )
        self.retention_seconds = self._gauge("retention_seconds", "How long an outcome is kept, as it is set")

    def _measure_batches(self, max_batch_records: int) -> None:
        self.latency_unmeasured_total = self._counter(
            "latency_unmeasured_total",
            "Commands left out of the latency, by what is wrong with their timestamp",
            "reason",
        )
        self.command_latency_seconds = Latencies(
            "usertask_command_latency_seconds",
            "From a command's record timestamp to its outcome committed",
            _LATENCY_BUCKETS_S,
            self.registry,
            self.latency_unmeasured_total,
        )
        self.batch_records = self._histogram("batch_records", "Records in a batch", _batch_buckets(max_batch_records))
        self.loop_lag_seconds = self._histogram(
            "loop_lag_seconds", "How late the event loop turns, sampled four times a second", _LAG_BUCKETS_S
        )
        self.store_transaction_seconds = self._histogram(
            "store_transaction_seconds", "Duration of a batch's transaction in the store", _TRANSACTION_BUCKETS_S
        )
        self.kafka_transaction_seconds = self._histogram(
            "kafka_transaction_seconds", "Duration of a batch's transaction in Kafka", _TRANSACTION_BUCKETS_S
        )

    def _measure_as_opentelemetry_does(self) -> None:
        operation = ("messaging_system", "messaging_operation_name", "messaging_destination_name")
        of_group = (*operation, "messaging_consumer_group_name")
        self.messaging_client_consumed_messages_total = Counter(
            "messaging_client_consumed_messages_total", "Commands taken", of_group, registry=self.registry
        )
        self.messaging_client_sent_messages_total = Counter(
            "messaging_client_sent_messages_total", "Records published", operation, registry=self.registry
        )
        self.messaging_process_duration_seconds = Histogram(
            "messaging_process_duration_seconds",
            "Duration of deciding and saving a batch",
            of_group,
            buckets=_MESSAGING_BUCKETS_S,
            registry=self.registry,
        )
        self.messaging_client_operation_duration_seconds = Histogram(
            "messaging_client_operation_duration_seconds",
            "Duration of a transaction that publishes outcomes and commits offsets",
            of_group,
            buckets=_MESSAGING_BUCKETS_S,
            registry=self.registry,
        )

    def _tell_build(self) -> None:
        self.build_info = Info("usertask_build", "The worker and its Python", registry=self.registry)
        self.build_info.info({"version": worker_version(), "python": platform.python_version()})

    def _start_at_zero(self) -> None:
        for labels in {*map(outcome_of, UserTaskState), *map(rejection_of, Problem)}:
            self.commands_total.labels(*labels)
        for metric, values in (
            (self.rejections_total, Problem),
            (self.dead_letters_total, DEAD_LETTERED),
            (self.fenced_total, _FENCED_BY),
            (self.retries_total, _OUTAGES),
            (self.failed_transactions_total, _USUAL_FAILURES),
            (self.consumer_paused, PAUSE_REASONS),
            (self.latency_unmeasured_total, LEFT_OUT),
        ):
            for value in values:
                metric.labels(str(value))

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"usertask_{name}", help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"usertask_{name}", help_text, labels, registry=self.registry)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"usertask_{name}", help_text, buckets=buckets, registry=self.registry)


class _DroppedLines(Collector):
    """Counts what the log, which is older than any metric, has dropped."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the one family."""
        help_text = "Log lines dropped, since whoever reads standard error does not keep up"
        yield CounterMetricFamily("usertask_log_lines_dropped", help_text, value=lines_dropped())


def _batch_buckets(largest: int) -> tuple[int, ...]:
    """Give steps up to the largest batch and one just below it, so that full batches can be told from nearly full."""
    below = max(1, largest - 1)
    return (*(step for step in _BATCH_BUCKETS if step < below), *sorted({below, largest}))
