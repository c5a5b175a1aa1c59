"""How late the event loop is: what blocks it holds up heartbeats, commands and drains alike."""

import asyncio
from typing import Final

from prometheus_client import Histogram

_INTERVAL_S: Final = 0.25


async def measure_for_ever(lag_seconds: Histogram) -> None:
    """Sleep a little, again and again, and observe by how much each sleep was too long."""
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + _INTERVAL_S
        await asyncio.sleep(_INTERVAL_S)
        lag_seconds.observe(max(0.0, loop.time() - due_s))
