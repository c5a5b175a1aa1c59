"""Retention: outcomes are forgotten in small steps, long after they were decided, never before they are visible."""

import asyncio
import random
import time
from typing import Final

import structlog

from worker.stores.port import Store, StoreError
from worker.telemetry.defects import where

log = structlog.stdlib.get_logger(__name__)

STEP_OUTCOMES: Final = 500
"""Forgotten in one transaction: small, so that no batch has to wait for long."""
_DAY_MS: Final = 86_400_000
_INTERVAL_S: Final = 60
_STEP_PAUSE_S: Final = 0.05


async def prune_for_ever(store: Store, retention_days: float, *, interval_s: float = _INTERVAL_S) -> None:
    """Prune from time to time. Nothing that goes wrong here ends it: the next round tries again."""
    while True:
        # several workers share a store: they take turns better when they do not march in step
        await asyncio.sleep(interval_s * random.uniform(0.5, 1.5))  # noqa: S311
        try:
            pruned = await prune_once(store, retention_days)
        except StoreError as error:
            log.debug("pruning_postponed", reason=type(error).__name__)
        except Exception as error:  # noqa: BLE001 - a defect here must not stop the worker
            log.error("pruning_failed", error=type(error).__name__, where=where(error))
        else:
            log.debug("outcomes_pruned", outcomes=pruned)


async def prune_once(store: Store, retention_days: float) -> int:
    """Forget, step by step, every outcome that is older than the retention. Return how many."""
    decided_before_ms = time.time_ns() // 1_000_000 - int(retention_days * _DAY_MS)
    pruned = 0
    while step := await store.prune(decided_before_ms, STEP_OUTCOMES):
        pruned += step
        await asyncio.sleep(_STEP_PAUSE_S)
    return pruned
