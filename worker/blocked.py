"""Blocked partitions: assigned, not run, and looked at again from time to time. The others go on."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """Why a partition does not move."""

    cause: str
    """A slug, for the metric's label."""
    reason: str
    """In words, with what to do about it."""
    retry_s: float
    """After so many seconds it is looked at again."""
    is_refusal: bool = True
    """Whether store and Kafka do not fit, so that a person has to act."""

    def __str__(self) -> str:
        return f"{self.cause}: {self.reason}"


_LOOK_S: Final = 10
"""How often it is asked whether the topic is still the same, also if nothing is blocked."""


class BlockedPartitions:
    """The blocked ones among a worker's partitions, which are looked at again beside the work.

    Args:
        has_changed: looks at some of them, perhaps none; whether a takeover would find anything otherwise.
        clock: seconds that never go back.

    """

    def __init__(
        self,
        has_changed: Callable[[Mapping[int, Blocked]], Coroutine[Any, Any, bool]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._has_changed = has_changed
        self._clock = clock
        self._blocked: dict[int, Blocked] = {}
        self._due_at_s: dict[int, float] = {}
        self._look_due_at_s = 0.0
        self._look: asyncio.Task[bool] | None = None

    @property
    def all(self) -> Mapping[int, Blocked]:
        """Return what a takeover has found to be blocked."""
        return self._blocked

    def set(self, blocked: Mapping[int, Blocked]) -> None:
        """Replace all of them: every partition was looked at just now."""
        self.close()
        self._blocked = dict(blocked)
        self._put_off(blocked)

    def need_takeover(self) -> bool:
        """Return whether a takeover might find something otherwise now; begin the next look if one is due."""
        look, self._look = self._look, None
        due = self._due()
        if look is None and (due or self._look_due_at_s <= self._clock()):
            self._put_off(due)
            self._look = asyncio.create_task(self._has_changed(due), name="look")
        elif look is not None and not look.done():
            self._look = look
        elif look is not None:
            return not look.cancelled() and look.exception() is None and look.result()
        return False

    def close(self) -> None:
        """End the look under way."""
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _due(self) -> Mapping[int, Blocked]:
        now_s = self._clock()
        return {number: one for number, one in self._blocked.items() if self._due_at_s[number] <= now_s}

    def _put_off(self, partitions: Mapping[int, Blocked]) -> None:
        self._look_due_at_s = self._clock() + _LOOK_S
        self._due_at_s |= {partition: self._clock() + one.retry_s for partition, one in partitions.items()}
