"""How many outcomes go into one Kafka transaction, and which outcome cannot be published. Outlives producers.

A transaction that does not fit its deadline costs it whole, and everything has to be taken over anew. So what has
failed is tried again smaller. What fails alone blocks its partition for a while, and no other.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from worker.blocked import Blocked

OUTCOMES_MAX: Final = 40_000
"""More than are ever decided ahead: no limit."""
QUICK_S: Final = 1
"""Twice as much takes less than SLOW_S, then."""
SLOW_S: Final = 2
"""Beyond this, a request might not be answered in the 3 s that the client waits for."""
UNPUBLISHABLE: Final = "unpublishable"
_FIRST_RETRY_S: Final = 5
_LONGEST_RETRY_S: Final = 60


class Portions:
    """One number: how many outcomes may go into a transaction. It follows what the path to the brokers can carry."""

    def __init__(self) -> None:
        self.most = OUTCOMES_MAX

    def succeeded(self, outcomes: int, seconds: float) -> None:
        """Allow twice as many after a quick success, and half of them after a slow one."""
        if seconds < QUICK_S:
            self.most = min(OUTCOMES_MAX, max(self.most, 2 * outcomes))
        elif outcomes and seconds > SLOW_S:
            self.most = min(self.most, max(1, outcomes // 2))

    def failed(self) -> bool:
        """Begin with one outcome again. Return whether that is fewer than before."""
        was, self.most = self.most, 1
        return was > 1


@dataclass(slots=True, kw_only=True)
class _Suspect:
    """An outcome that has failed alone."""

    offset: int
    reason: str
    times: int = 0
    """How often its partition was blocked for it."""
    due_at_s: float = 0


class Suspects:
    """The outcomes that have failed alone, at most one of each partition, since what is behind it waits.

    Args:
        clock: seconds that never go back.

    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._by_partition: dict[int, _Suspect] = {}

    def failed(self, partition: int, offset: int, reason: str, *, is_certain: bool) -> None:
        """Remember an outcome that has failed alone.

        Its partition is blocked at once if a broker has said no (`is_certain`). Silence counts from the second time
        on: it may be an outage, which the next takeover waits out.

        Args:
            partition: of the commands topic, as everywhere here.
            offset: of the outcome's command.
            reason: in words, with what to do.
            is_certain: whether a broker has said no.

        """
        known = self._by_partition.get(partition)
        if known is None or known.offset != offset:
            self._by_partition[partition] = known = _Suspect(offset=offset, reason=reason)
            if not is_certain:
                return
        known.reason = reason
        known.due_at_s = self._clock() + min(_LONGEST_RETRY_S, _FIRST_RETRY_S * 2 ** min(known.times, 10))
        known.times += 1

    def passed(self, partitions: Collection[int]) -> None:
        """Forget what was suspected in partitions where something was published."""
        for partition in partitions:
            self._by_partition.pop(partition, None)

    def keep(self, partitions: Collection[int]) -> None:
        """Forget partitions that are somebody else's by now."""
        self.passed(self._by_partition.keys() - set(partitions))

    def alone(self, partition: int) -> bool:
        """Return whether the next outcome of the partition has to be tried alone, before those of others."""
        return partition in self._by_partition

    def was_blocked(self, partition: int) -> bool:
        """Return whether this is but another try."""
        known = self._by_partition.get(partition)
        return known is not None and known.times > 0

    def blocked(self, partition: int) -> Blocked | None:
        """Return why the partition is not to be tried now, or None if it is."""
        known = self._by_partition.get(partition)
        if known is None or (left_s := known.due_at_s - self._clock()) <= 0:
            return None
        return Blocked(cause=UNPUBLISHABLE, reason=known.reason, retry_s=left_s, is_refusal=False)
