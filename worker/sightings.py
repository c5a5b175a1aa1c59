"""For how long something has been seen, again and again, of some partitions."""

import time
from collections.abc import Callable, Collection
from typing import Final

_GAP_MAX_S: Final = 10
"""Sightings further apart than this are not of the same thing."""


class Sightings:
    """Remembers the first and the last of a row of sightings, by partition.

    Args:
        clock: seconds that never go back.

    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rows: dict[int, tuple[float, float]] = {}

    def seen(self, partition: int, *, is_so: bool) -> float:
        """Take a sighting down, and return for how many seconds there was no other and no gap."""
        first_s, last_s = self._rows.pop(partition, (0.0, float("-inf")))
        if not is_so:
            return 0
        now_s = self._clock()
        if now_s - last_s > _GAP_MAX_S:
            first_s = now_s
        self._rows[partition] = first_s, now_s
        return now_s - first_s

    def keep(self, partitions: Collection[int]) -> None:
        """Forget all partitions but these."""
        self._rows = {partition: row for partition, row in self._rows.items() if partition in partitions}
