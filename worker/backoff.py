"""When to try again: exponential back-off with full jitter, so that workers do not march in step after an outage."""

import random
import time
from typing import Final

_FIRST_S: Final = 0.1
_LONGEST_S: Final = 2.0


class Backoff:
    """Counts failures in a row, and says when the next attempt is due."""

    def __init__(self) -> None:
        self._failures = 0
        self._due_at_s = 0.0

    @property
    def is_due(self) -> bool:
        """Tell whether it is time for the next attempt."""
        return time.monotonic() >= self._due_at_s

    @property
    def has_failed(self) -> bool:
        """Return whether the last attempt failed."""
        return self._failures > 0

    def succeeded(self) -> None:
        """Forget the failures."""
        self._failures, self._due_at_s = 0, 0.0

    def failed(self, at_least_s: float = 0.0) -> bool:
        """Put the next attempt off. Tell whether this is the first failure in a row."""
        longest_s = min(_LONGEST_S, _FIRST_S * 2 ** min(self._failures, 10))
        self._due_at_s = time.monotonic() + at_least_s + random.uniform(0, longest_s)  # noqa: S311
        self._failures += 1
        return self._failures == 1
