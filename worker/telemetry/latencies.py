"""A histogram that takes a whole batch at once; the client library's takes values one by one, at a microsecond each."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Final

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_OLDEST_MS: Final = 30 * 86_400_000
"""Longer than a command waits: a timestamp of 1970 alone would make a sum of fifty years."""
_AHEAD_MAX_MS: Final = 60_000
LEFT_OUT: Final = ("none", "old", "ahead")
"""Why a timestamp says nothing of a latency: there is none, or it is older or further ahead than the bounds above."""


class Latencies(Collector):
    """How long ago the commands of a batch were sent.

    Args:
        name: the metric's, prefix and unit included.
        help_text: what it means, in a sentence.
        buckets_s: upper bounds in seconds, ascending, without infinity.
        registry: where it is exposed.
        left_out: counts the commands that are not measured, by why.

    """

    def __init__(
        self, name: str, help_text: str, buckets_s: Sequence[float], registry: CollectorRegistry, left_out: Counter
    ) -> None:
        self._left_out = left_out
        self._name = name
        self._help_text = help_text
        self._buckets_s = tuple(buckets_s)
        self._lock = Lock()  # a scrape comes from another thread
        self._below = [0] * (len(self._buckets_s) + 1)  # cumulative; the last is the count of all
        self._sum_s = 0.0
        registry.register(self)

    def observe(self, timestamps_ms: Sequence[int], now_ms: float) -> None:
        """Measure from each of these instants until now. One that lies a little ahead, by a sender's clock, is now.

        A negative one stands for a record without timestamp. What cannot be a latency is left out, and counted.
        """
        ascending = self._plausible(sorted(timestamps_ms), now_ms)  # nearly sorted already, and then cheap
        total = len(ascending)
        past = bisect_left(ascending, now_ms)
        with self._lock:
            for index, bound_s in enumerate(self._buckets_s):
                self._below[index] += total - bisect_left(ascending, now_ms - bound_s * 1000)
            self._below[-1] += total
            self._sum_s += (past * now_ms - sum(ascending[:past])) / 1000

    def _plausible(self, ascending: list[int], now_ms: float) -> list[int]:
        none = bisect_left(ascending, 0)
        old = bisect_left(ascending, max(0, now_ms - _OLDEST_MS))
        end = bisect_left(ascending, now_ms + _AHEAD_MAX_MS)
        for reason, number in zip(LEFT_OUT, (none, old - none, len(ascending) - end), strict=True):
            if number:
                self._left_out.labels(reason).inc(number)
        return ascending[old:end]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Give the histogram as it stands."""
        with self._lock:
            below, sum_s = list(self._below), self._sum_s
        bounds = [*map(floatToGoString, self._buckets_s), "+Inf"]
        yield HistogramMetricFamily(
            self._name, self._help_text, buckets=list(zip(bounds, below, strict=True)), sum_value=sum_s
        )
