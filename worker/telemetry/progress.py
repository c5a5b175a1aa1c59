"""Whether what has something to do moves. It says nothing of what it could not see: an outage is no standstill."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """How far something was when it was looked at."""

    reached: tuple[int, ...]
    """Figures that grow with progress. Where an earlier one grows, a later one may begin anew."""
    waiting: bool
    """Whether there is something for it to do."""


class Progress:
    """Remembers since when each thing stands still although there is something for it to do.

    Args:
        limit_s: how many seconds of standstill are too many.
        clock: seconds that never go back.

    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._marks: dict[str, tuple[tuple[int, ...], float]] = {}  # how far, and since when

    def look(self, steps: Mapping[str, Step]) -> dict[str, float]:
        """Take down how far things are; give those that stand still for too long, with the seconds.

        What is not among the steps is forgotten: its time starts anew when it comes back.
        """
        now_s = self._clock()
        self._marks = {name: self._mark(name, step, now_s) for name, step in steps.items()}
        ages_s = {name: now_s - since_s for name, (_, since_s) in self._marks.items()}
        return {name: age_s for name, age_s in ages_s.items() if age_s > self._limit_s}

    def forget(self) -> None:
        """Start all times anew, since nothing can be seen now."""
        self._marks.clear()

    def _mark(self, name: str, step: Step, now_s: float) -> tuple[tuple[int, ...], float]:
        earlier = self._marks.get(name)
        if earlier is None or not step.waiting or step.reached > earlier[0]:
            return step.reached, now_s
        return earlier
