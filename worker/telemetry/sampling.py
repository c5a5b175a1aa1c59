"""Lines that may come by the thousand a second: some are written, the others counted."""

import time
from collections.abc import Callable
from typing import Final

_WINDOW_S: Final = 1.0


class Allowance:
    """So many lines in a second, and no more.

    Args:
        lines: how many in a second.
        lasting: how many in each second that follows without a pause; as many if not given.
        clock: seconds that never go back.

    """

    def __init__(self, lines: int, lasting: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines = lines
        self._lasting = lines if lasting is None else lasting
        self._clock = clock
        self._ends_at = float("-inf")
        self._left = lines
        self._withheld = 0

    def take(self, wanted: int) -> int:
        """Ask for room for so many lines; give how many may be written. The others count as withheld."""
        now = self._clock()
        if now >= self._ends_at:
            seconds = 1 + int(min(now - self._ends_at, self._lines) / _WINDOW_S)
            self._ends_at, self._left = now + _WINDOW_S, min(self._lines, self._left + seconds * self._lasting)
        granted = min(wanted, self._left)
        self._left -= granted
        self._withheld += wanted - granted
        return granted

    def withheld(self, *, at_once: bool = False) -> int:
        """Give how many lines were withheld, once: at the end of their second, unless it has to be told at once."""
        if not self._withheld or not (at_once or self._clock() >= self._ends_at):
            return 0
        withheld, self._withheld = self._withheld, 0
        return withheld


class Rarely:
    """The same line once in a while.

    Args:
        interval_s: for how many seconds a line is not repeated.
        clock: seconds that never go back.

    """

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._until: dict[str, float] = {}

    def is_due(self, line: str) -> bool:
        """Return whether the line is to be written now; if so, it is not for the interval."""
        now = self._clock()
        if now < self._until.get(line, 0):
            return False
        self._until = {known: until for known, until in self._until.items() if until > now}
        self._until[line] = now + self._interval_s
        return True
