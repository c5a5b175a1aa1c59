"""A histogram that takes a whole batch at once; the client library's takes values one by one, at a microsecond each."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from threading import Lock

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Latencies(Collector):
    """How long ago the commands of a batch were sent.

    Args:
        name: the metric's, prefix and unit included.
        help_text: what it means, in a sentence.
        buckets_s: upper bounds in seconds, ascending, without infinity.
        registry: where it is exposed.

    """

    def __init__(self, name: str, help_text: str, buckets_s: Sequence[float], registry: CollectorRegistry) -> None:
        self._name = name
        self._help_text = help_text
        self._buckets_s = tuple(buckets_s)
        self._lock = Lock()  # a scrape comes from another thread
        self._below = [0] * (len(self._buckets_s) + 1)  # cumulative; the last is the count of all
        self._sum_s = 0.0
        registry.register(self)

    def observe(self, timestamps_ms: Sequence[int], now_ms: float) -> None:
        """Measure from each of these instants until now. One that lies ahead, by a sender's clock, counts as now.

        A negative one stands for a record without timestamp, and is left out.
        """
        ascending = sorted(timestamps_ms)  # nearly so already, and then cheap
        del ascending[: bisect_left(ascending, 0)]
        total = len(ascending)
        past = bisect_left(ascending, now_ms)
        with self._lock:
            for index, bound_s in enumerate(self._buckets_s):
                self._below[index] += total - bisect_left(ascending, now_ms - bound_s * 1000)
            self._below[-1] += total
            self._sum_s += (past * now_ms - sum(ascending[:past])) / 1000

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Give the histogram as it stands."""
        with self._lock:
            below, sum_s = list(self._below), self._sum_s
        bounds = [*map(floatToGoString, self._buckets_s), "+Inf"]
        yield HistogramMetricFamily(
            self._name, self._help_text, buckets=list(zip(bounds, below, strict=True)), sum_value=sum_s
        )
