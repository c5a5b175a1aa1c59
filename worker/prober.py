"""Asking store and broker whether they are there: a worker with nothing to do would not notice otherwise."""

import asyncio
import time
from typing import Final

from worker.coordination import Coordination
from worker.stores.port import Store
from worker.telemetry.health import Health

_IDLE_S: Final = 1
"""After this time without a sign of life they are asked."""
_PATIENCE_S: Final = 3


class Prober:
    """Knows when store and broker last answered."""

    def __init__(self, coordination: Coordination, store: Store, health: Health) -> None:
        self._coordination = coordination
        self._store = store
        self._health = health
        self._seen_s = 0.0

    @property
    def is_due(self) -> bool:
        """Tell whether it is time to ask."""
        return time.monotonic() - self._seen_s > _IDLE_S

    def seen(self) -> None:
        """Note that they have just worked."""
        self._seen_s = time.monotonic()

    async def probe(self) -> None:
        """Ask both. Raise StoreUnavailableError, KafkaError or TimeoutError."""
        await self.probe_store()
        async with asyncio.timeout(_PATIENCE_S):
            await self._coordination.ping()
        self.seen()

    async def probe_store(self) -> None:
        """Ask the store. Raise StoreUnavailableError."""
        await self._store.ping()
        self._health.set_store_reachable(True)
