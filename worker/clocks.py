"""The clock of this machine beside another one: it may be wrong by days, and all command ids would be forgotten.

The other clock is the store's. A store without one is a file on this machine: then it is what stands on the newest
command that was worked off, by its sender's or broker's clock, and the time that has passed since.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from schemas.user_task import write_instant_ms

_STORE_TOLERANCE_MS: Final = 60_000
_COMMANDS_TOLERANCE_MS: Final = 86_400_000
"""Commands may have waited before they were read."""
_PLAUSIBLE_MAX_MS: Final = 2**47
"""In the year 6429; a sender may write any number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """What both clocks say, in ms since 1970."""

    here_ms: int
    other_ms: int
    other_is: str
    """Whose the other clock is, in words."""
    tolerance_ms: int

    @property
    def earlier_ms(self) -> int:
        """Return what has come by both clocks."""
        return min(self.here_ms, self.other_ms)

    @property
    def ahead_ms(self) -> int:
        """Return by how much this machine's clock is ahead of the other one; negative if it is behind."""
        return self.here_ms - self.other_ms

    @property
    def differ(self) -> bool:
        """Return whether one of the clocks is wrong."""
        return abs(self.ahead_ms) > self.tolerance_ms

    def __str__(self) -> str:
        here, other = write_instant_ms(self.here_ms), write_instant_ms(self.other_ms)
        return f"this machine's clock says {here}, and {self.other_is} says {other}"


class Clocks:
    """Compares this machine's clock with another one.

    Args:
        wall_ms: this machine's clock, in ms since 1970.
        monotonic_s: seconds that never go back.

    """

    def __init__(
        self,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wall_ms = wall_ms
        self._monotonic_s = monotonic_s
        self._store_lead_ms: int | None = None
        """By how much the store's clock is ahead of the monotonic one; likewise the commands'."""
        self._commands_lead_ms: int | None = None

    def store_said(self, store_ms: int | None) -> None:
        """Note what the store's clock says now; None if it has none."""
        self._store_lead_ms = None if store_ms is None else store_ms - self._passed_ms()

    def commands_said(self, timestamps_ms: Sequence[int]) -> None:
        """Note what stands on commands that were just worked off; a negative one is none."""
        newest_ms = max(timestamps_ms, default=-1)
        if 0 <= newest_ms < _PLAUSIBLE_MAX_MS:
            lead_ms = newest_ms - self._passed_ms()
            self._commands_lead_ms = max(lead_ms, self._commands_lead_ms or lead_ms)

    def times(self) -> Times | None:
        """Return what both clocks say now; None as long as there is no other."""
        if self._store_lead_ms is not None:
            return self._times(self._store_lead_ms, "the store's", _STORE_TOLERANCE_MS)
        if self._commands_lead_ms is not None:
            return self._times(self._commands_lead_ms, "the newest command's", _COMMANDS_TOLERANCE_MS)
        return None

    def behind_store_ms(self) -> int:
        """Return by how much this machine's clock is behind the store's; 0 if they do not differ so."""
        times = self.times() if self._store_lead_ms is not None else None
        return -times.ahead_ms if times is not None and times.differ and times.ahead_ms < 0 else 0

    def _times(self, lead_ms: int, other_is: str, tolerance_ms: int) -> Times:
        other_ms = lead_ms + self._passed_ms()
        return Times(here_ms=self.wall_ms(), other_ms=other_ms, other_is=other_is, tolerance_ms=tolerance_ms)

    def _passed_ms(self) -> int:
        return int(self._monotonic_s() * 1000)
