"""Timestamps of outgoing records: the decision's instant where the topic takes and keeps it, else the present."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

CONFIG: Final = (
    "message.timestamp.type",
    "message.timestamp.before.max.ms",
    "message.timestamp.after.max.ms",
    "retention.ms",
)
"""What has to be read of a topic's configuration, to know which timestamps it takes."""

_MARGIN_MS: Final = 60_000
"""How far this clock may be from the broker's, and how long a record may be on its way."""
_PRESENT_S: Final = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimits:
    """How far from the present a record's timestamp may be, in ms."""

    before_ms: float = inf
    after_ms: float = inf


NO_LIMITS: Final = TimeLimits()
_THE_PRESENT: Final = TimeLimits(before_ms=0, after_ms=0)


def read_limits(config: Mapping[str, str | None]) -> TimeLimits:
    """Return the limits of a topic. What is missing is no limit.

    A record older than half of the topic's retention counts as too old: it would be deleted before anybody reads it.
    """
    if config.get("message.timestamp.type") == "LogAppendTime":
        return NO_LIMITS
    retention_ms = int(config.get("retention.ms") or -1)
    before_ms = float(config.get("message.timestamp.before.max.ms") or inf)
    after_ms = float(config.get("message.timestamp.after.max.ms") or inf)
    return TimeLimits(before_ms=min(before_ms, retention_ms / 2 if retention_ms >= 0 else inf), after_ms=after_ms)


def fitting_ms(timestamp_ms: int, now_ms: int, limits: TimeLimits) -> int:
    """Return the timestamp if it is within the limits by a margin, else the present. Pure."""
    earliest_ms = now_ms - limits.before_ms + min(_MARGIN_MS, limits.before_ms / 2)
    latest_ms = now_ms + limits.after_ms - min(_MARGIN_MS, limits.after_ms / 2)
    return timestamp_ms if earliest_ms <= timestamp_ms <= latest_ms else now_ms


class Timestamps:
    """What the worker knows of the timestamps that topics take. It outlives producers.

    Args:
        limits: those of the worker's own topics, as they were at its start.
        clock: seconds that never go back.

    """

    def __init__(self, limits: Mapping[str, TimeLimits], clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._present_until_s: dict[str, float] = {}

    def limits(self, topic: str, known: TimeLimits | None = None) -> TimeLimits:
        """Return what the topic takes: nothing but the present, if it has refused another timestamp of late."""
        if self._takes_the_present_only(topic):
            return _THE_PRESENT
        return known or self._limits.get(topic, NO_LIMITS)

    def refused(self, topic: str) -> bool:
        """Send the present to a topic that has refused a timestamp. Return whether that is something new to try."""
        is_new = not self._takes_the_present_only(topic)
        self._present_until_s[topic] = self._clock() + _PRESENT_S
        return is_new

    def _takes_the_present_only(self, topic: str) -> bool:
        return self._clock() < self._present_until_s.get(topic, 0)
