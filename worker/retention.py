"""Retention: outcomes are forgotten in small steps, long after they were decided, never before they are visible."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from worker.clocks import Clocks
from worker.stores.port import Store, StoreError
from worker.telemetry.defects import in_words, where
from worker.telemetry.metrics import Metrics
from worker.telemetry.sampling import Rarely

log = structlog.stdlib.get_logger(__name__)

STEP_OUTCOMES: Final = 500
"""Forgotten in one transaction: small, so that no batch has to wait for long."""
_DAY_MS: Final = 86_400_000
_DAY_S: Final = 86_400
_INTERVAL_S: Final = 60
_LOOK_AGAIN_S: Final = 1
_STEP_PAUSE_S: Final = 0.05
_TOLD_S: Final = 3600


class Retention:
    """Forgets what is older than the retention, and shows how old the oldest outcome is.

    Args:
        store: the store, open.
        retention_days: how long an outcome is kept.
        metrics: where it is counted.
        clocks: which time it is. Nothing is forgotten before it is old by both of them.

    """

    def __init__(self, store: Store, retention_days: float, metrics: Metrics, clocks: Clocks) -> None:
        self._store = store
        self._clocks = clocks
        self._retention_ms = int(retention_days * _DAY_MS)
        self._metrics = metrics
        self._told = Rarely(_TOLD_S)
        metrics.retention_seconds.set(retention_days * _DAY_S)

    async def run(self, *, interval_s: float = _INTERVAL_S) -> None:
        """Prune from time to time, until cancelled. Nothing that goes wrong ends it: the next round tries again."""
        looked = False
        while True:
            looked = looked or await self._try(self.look)  # until then nobody knows that this machine's clock is wrong
            # several workers share a store: they take turns better when they do not march in step
            await asyncio.sleep(interval_s * random.uniform(0.5, 1.5) if looked else _LOOK_AGAIN_S)  # noqa: S311
            if looked:
                await self._try(self.prune)

    async def look(self) -> int | None:
        """Compare the clocks, and show the age of the oldest outcome. Return what has come by both clocks, in ms."""
        self._clocks.store_said(await self._store.clock_ms())
        times = self._clocks.times()
        if times is not None:
            self._metrics.clock_ahead_seconds.set(times.ahead_ms / 1000 if times.differ else 0)
            if times.differ and self._told.is_due(times.other_is):
                log.warning("clocks_differ", reason=str(times), ahead_s=times.ahead_ms // 1000)
        now_ms = None if times is None else times.earlier_ms
        oldest_ms = await self._store.oldest_ms()
        # a store that forgets nothing before the first command has nothing to be alarmed at
        age_ms = 0 if oldest_ms is None or now_ms is None else max(0, now_ms - oldest_ms)
        self._metrics.oldest_outcome_age_seconds.set(age_ms / 1000)
        return now_ms

    async def prune(self) -> int:
        """Forget, step by step, every outcome that is older than the retention. Return how many."""
        now_ms = await self.look()
        pruned = 0
        while now_ms is not None and (step := await self._store.prune(now_ms - self._retention_ms, STEP_OUTCOMES)):
            self._metrics.outcomes_pruned_total.inc(step)
            pruned += step
            await asyncio.sleep(_STEP_PAUSE_S)
        if pruned:
            await self.look()
            log.debug("outcomes_pruned", outcomes=pruned)
        return pruned

    async def _try(self, work: Callable[[], Awaitable[int | None]]) -> bool:
        """Return whether the store answered. Each cause of a failure is logged, the same one again after a while."""
        try:
            await work()
        except StoreError as error:
            reason = in_words(error)
            if self._told.is_due(reason):
                log.warning("pruning_postponed", reason=reason)
            return False
        except Exception as error:  # noqa: BLE001 - a defect here must not stop the worker
            log.error("pruning_failed", error=type(error).__name__, where=where(error))
        return True
