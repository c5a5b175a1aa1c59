"""What the worker knows of its own health: whether it is alive, and whether it is ready."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Final

READY_SILENCE_S: Final = 10
"""A worker whose loop has not turned for longer is not ready, long before a restart is the remedy."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question about the worker's health: its name, whether the answer is good, and the answer in words."""

    name: str
    ok: bool
    detail: str


class Health:
    """What the worker knows of itself: written by the consumer loop, read by any thread.

    At first it has joined nothing, taken nothing over, reached no store; the time to its first tick counts from its
    making.

    Args:
        stall_limit_s: how many seconds the consumer loop may be silent, or anything stand still, before a restart is
            the remedy.
        clock: seconds that never go back.

    """

    def __init__(self, stall_limit_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.stall_limit_s = stall_limit_s
        self._clock = clock
        self._lock = Lock()
        self._ticked_at = clock()
        self._joined = False
        self._taken_over = False
        self._store_reachable = False
        self._fetching = True
        self._stopping = False
        self._paused: str | None = None
        self._unsaved: str | None = None
        self._blocked: dict[int, str] = {}
        self._checks: dict[str, Check] = {}

    def tick(self) -> None:
        """Tell that the consumer loop turned; to be called on every turn, also when paused or idle."""
        with self._lock:
            self._ticked_at = self._clock()

    def set_joined(self, joined: bool) -> None:  # noqa: FBT001 (a setter)
        """Tell whether the worker is a member of its consumer group."""
        with self._lock:
            self._joined = joined

    def set_taken_over(self, taken_over: bool) -> None:  # noqa: FBT001 (a setter)
        """Tell whether all assigned partitions are taken over; with none assigned they are."""
        with self._lock:
            self._taken_over = taken_over

    def set_store_reachable(self, reachable: bool) -> None:  # noqa: FBT001 (a setter)
        """Tell whether the store answered when last asked."""
        with self._lock:
            self._store_reachable = reachable

    def set_fetching(self, fetching: bool) -> None:  # noqa: FBT001 (a setter)
        """Tell whether the last attempt to fetch commands went well."""
        with self._lock:
            self._fetching = fetching

    def set_unsaved(self, reason: str | None) -> None:
        """Note why the store did not take the last batch, in words, or with None that it did."""
        with self._lock:
            self._unsaved = reason

    def set_blocked(self, blocked: Mapping[int, str]) -> None:
        """Tell which assigned partitions are not worked off, and why, in words."""
        with self._lock:
            self._blocked = dict(blocked)

    def set_stopping(self) -> None:
        """Tell that the worker drains and ends; there is no way back."""
        with self._lock:
            self._stopping = True

    def set_paused(self, reason: str | None) -> None:
        """Tell why consumption waits, in words for operators, or with None that it goes on; neither is a failure."""
        with self._lock:
            self._paused = reason

    def set_check(self, check: Check) -> None:
        """Tell a further check of whether the worker is alive; it replaces the one of the same name."""
        with self._lock:
            self._checks[check.name] = check

    def live(self) -> tuple[bool, list[Check]]:
        """Tell whether the consumer loop still turns, and whatever else was found out.

        Only what a restart would mend is a failure here: never an outage of the broker or the store.
        """
        with self._lock:
            silence_s, paused = self._clock() - self._ticked_at, self._paused
            others = list(self._checks.values())
        detail = f"the consumer loop last turned {silence_s:.1f} s ago, the limit is {self.stall_limit_s:g} s"
        if paused is not None:
            detail += f"; paused: {paused}"
        return _judge(Check("consumer_loop_turns", silence_s <= self.stall_limit_s, detail), *others)

    def ready(self) -> tuple[bool, list[Check]]:
        """Tell whether commands are being worked off, or would be if there were any."""
        with self._lock:
            silence_s = self._clock() - self._ticked_at
            joined, taken_over = self._joined, self._taken_over
            reachable, fetching, stopping = self._store_reachable, self._fetching, self._stopping
            unsaved = self._unsaved
            away = "the store does not answer, or takes no writes" + (f": {self._paused}" if self._paused else "")
            blocked = "; ".join(f"partition {number}: {why}" for number, why in sorted(self._blocked.items()))
        return _judge(
            _check("loop_turns", silence_s <= READY_SILENCE_S, "the consumer loop turns", f"not for {silence_s:.0f} s"),
            _check("group_joined", joined, "a member of the consumer group", "not a member of the consumer group"),
            _check("partitions_taken_over", taken_over, "all that are assigned", "some are still to be taken over"),
            _check("store_reachable", reachable, "the store answers", away),
            _check("batches_saved", unsaved is None, "the store took the last batch", f"the last was not: {unsaved}"),
            _check("commands_fetched", fetching, "Kafka gives commands", "Kafka gives none: see poll_failed"),
            _check("partitions_unblocked", not blocked, "none is blocked", blocked),
            _check("not_stopping", not stopping, "at work", "draining before the end"),
        )


def _judge(*checks: Check) -> tuple[bool, list[Check]]:
    return all(check.ok for check in checks), list(checks)


def _check(name: str, ok: bool, good: str, bad: str) -> Check:  # noqa: FBT001 (beside its two wordings)
    return Check(name, ok, good if ok else bad)
