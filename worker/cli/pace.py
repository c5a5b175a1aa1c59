"""How fast a command may send."""

import asyncio


class Pace:
    """Lets at most so many through a second; None lets all."""

    def __init__(self, rate: float | None) -> None:
        self._interval_s = 1 / rate if rate else 0.0
        self._next_s = 0.0

    async def wait(self) -> None:
        """Wait for the next turn."""
        if not self._interval_s:
            return
        now_s = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, self._next_s - now_s))
        self._next_s = max(now_s, self._next_s) + self._interval_s
