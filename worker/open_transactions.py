"""Transactions that senders leave open: nobody can read what stands behind the first record of one."""

import time
from collections.abc import Callable
from typing import Final

import structlog

from worker.reach import Reach
from worker.sightings import Sightings

log = structlog.stdlib.get_logger(__name__)

_TOLD_AFTER_S: Final = 10
"""Every sender with transactions has one open for moments."""
_LINES_APART_S: Final = 60
"""So long no second line is written of a partition."""


class OpenTransactions:
    """Remembers since when each partition is held by the same transaction, and logs those that stay.

    Args:
        topic: the commands topic.
        clock: seconds that never go back.

    """

    def __init__(self, topic: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._topic = topic
        self._clock = clock
        self._sightings = Sightings(clock)
        self._offsets: dict[int, int] = {}
        """Where each partition was held when it was seen last."""
        self._told: dict[int, int] = {}
        """Of which transaction a line says that it stays open, by its first offset."""
        self._told_at_s: dict[int, float] = {}

    def look(self, partition: int, reach: Reach) -> float:
        """Take down how far a partition is, and return for how many seconds one transaction has held it.

        Without an answer of a broker nothing is known, and the time starts anew.
        """
        offset = reach.stable_end
        if not reach.is_held or offset != self._offsets.get(partition):
            self._sightings.seen(partition, is_so=False)
        self._offsets[partition] = offset
        open_s = self._sightings.seen(partition, is_so=reach.is_held and reach.is_recent)
        if self._told.get(partition, offset) != offset or not reach.is_held:
            self._tell_end(partition)
        if open_s >= _TOLD_AFTER_S and partition not in self._told:
            self._tell(partition, reach, open_s)
        return open_s

    def forget(self) -> None:
        """Forget all partitions: they are lost."""
        self._sightings.keep(())
        self._offsets.clear()
        self._told.clear()

    def _tell(self, partition: int, reach: Reach, open_s: float) -> None:
        now_s = self._clock()
        if now_s - self._told_at_s.get(partition, float("-inf")) < _LINES_APART_S:
            return
        self._told_at_s[partition] = now_s
        self._told[partition] = reach.stable_end
        log.warning(
            "transaction_stays_open",
            topic=self._topic,
            partition=partition,
            offset=reach.stable_end,
            waiting=reach.end - reach.stable_end,
            open_s=round(open_s, 1),
        )

    def _tell_end(self, partition: int) -> None:
        offset = self._told.pop(partition, None)
        if offset is not None:
            log.info("transaction_ended", topic=self._topic, partition=partition, offset=offset)
