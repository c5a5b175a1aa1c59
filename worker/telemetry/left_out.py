"""Lines on replies that were not sent, by topic and reason, however many are asked for in a second."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog

from worker.telemetry.sampling import Allowance

log = structlog.stdlib.get_logger(__name__)

_LINES_PER_S: Final = 10
_TOPICS_MAX: Final = 20
"""In one line."""


class LeftOutLines:
    """At most so many lines in a second. What has no room is told in the next one.

    Args:
        clock: seconds that never go back.

    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._allowance = Allowance(_LINES_PER_S, clock=clock)
        self._untold: Counter[tuple[str, str]] = Counter()

    def tell(self, replies: Counter[tuple[str, str]]) -> None:
        """Log how many replies were left out, by topic and reason, and those that were withheld before."""
        self._untold.update(replies)
        self.tell_withheld()

    def tell_withheld(self) -> None:
        """Log those that were withheld, if there is room again."""
        if self._untold and self._allowance.take(1):
            some = {f"{topic}: {reason}": n for (topic, reason), n in self._untold.most_common(_TOPICS_MAX)}
            log.warning("replies_left_out", replies=self._untold.total(), by=some)
            self._untold.clear()
