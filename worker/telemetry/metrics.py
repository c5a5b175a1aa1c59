"""The worker's metrics; names, labels and units are an interface of operators' dashboards and alerts."""

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

_LATENCY_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_TRANSACTION_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BATCH_BUCKETS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)

_OUTCOMES: Final = (
    ("created", 204),
    ("completed", 204),
    ("canceled", 204),
    ("rejected", 400),
    ("rejected", 404),
    ("rejected", 409),
    ("rejected", 500),
)
_REJECTIONS: Final = (
    "malformed-command",
    "invalid-argument",
    "command-id-reused",
    "too-large",
    "not-found",
    "invalid-state",
    "already-exists",
    "internal",
)
_DEAD_LETTERS: Final = ("malformed-command", "internal")
_FENCED_BY: Final = ("store", "kafka")


class Metrics:
    """Every metric of one worker, in a registry of its own, so that a process may have several.

    Each attribute is a metric whose exposed name is the attribute's with the prefix `usertask_`. Label values that are
    known beforehand exist from the start with 0: a rate over a series that appears with its first failure misses
    exactly that failure. No label is unbounded; there is none of a task or a command.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._count_commands()
        self._count_misfortunes()
        self._gauge_progress()
        self._measure_batches()
        self._tell_build()
        self._start_at_zero()

    def forget_partition(self, topic: str, partition: int) -> None:
        """Remove the series of a partition that this worker has lost; one without series is no error."""
        for gauge in (self.consumer_lag, self.unpublished):
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
        self.takeovers_total = self._counter("takeovers_total", "Partitions taken over")
        self.fenced_total = self._counter(
            "fenced_total", "Writes refused since another worker has taken over, by who refused", "by"
        )

    def _gauge_progress(self) -> None:
        self.assigned_partitions = self._gauge("assigned_partitions", "Partitions assigned to this worker")
        self.consumer_paused = self._gauge("consumer_paused", "1 while consumption waits for a reason", "reason")
        self.consumer_lag = self._gauge(
            "consumer_lag", "Records that are in a partition and not yet consumed", "topic", "partition"
        )
        self.unpublished = self._gauge(
            "unpublished", "Commands of a partition applied to the store and not yet published", "topic", "partition"
        )
        self.last_published_timestamp_seconds = self._gauge(
            "last_published_timestamp_seconds", "Unix time of the last batch published, 0 before the first"
        )

    def _measure_batches(self) -> None:
        self.command_latency_seconds = self._histogram(
            "command_latency_seconds", "From a command's record timestamp to its outcome committed", _LATENCY_BUCKETS_S
        )
        self.batch_records = self._histogram("batch_records", "Records in a batch", _BATCH_BUCKETS)
        self.store_transaction_seconds = self._histogram(
            "store_transaction_seconds", "Duration of a batch's transaction in the store", _TRANSACTION_BUCKETS_S
        )
        self.kafka_transaction_seconds = self._histogram(
            "kafka_transaction_seconds", "Duration of a batch's transaction in Kafka", _TRANSACTION_BUCKETS_S
        )

    def _tell_build(self) -> None:
        self.build_info = Info("usertask_build", "The worker and its Python", registry=self.registry)
        self.build_info.info({"version": _worker_version(), "python": platform.python_version()})

    def _start_at_zero(self) -> None:
        for outcome, status in _OUTCOMES:
            self.commands_total.labels(outcome, str(status))
        for slug in _REJECTIONS:
            self.rejections_total.labels(slug)
        for slug in _DEAD_LETTERS:
            self.dead_letters_total.labels(slug)
        for by in _FENCED_BY:
            self.fenced_total.labels(by)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"usertask_{name}", help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"usertask_{name}", help_text, labels, registry=self.registry)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"usertask_{name}", help_text, buckets=buckets, registry=self.registry)


def _worker_version() -> str:
    try:
        return version("user-task-worker")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "unknown"
