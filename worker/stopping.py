"""Stopping: by a first signal in good order, by a second one at once."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import structlog

log = structlog.stdlib.get_logger(__name__)

T = TypeVar("T")

_TICK_S: Final = 1
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""SIGHUP is what a terminal or an ssh session sends when it is closed."""


async def unless_stopped(stop: asyncio.Event, task: asyncio.Task[T], tick: Callable[[], None]) -> T | None:
    """Await a task, calling `tick` every second; None if a stop came first, or somebody cancelled the task."""
    stopping = asyncio.create_task(stop.wait())
    try:
        while not task.done() and not stopping.done():
            tick()
            await asyncio.wait({task, stopping}, timeout=_TICK_S, return_when=asyncio.FIRST_COMPLETED)
        return None if task.cancelled() or not task.done() else task.result()
    finally:
        stopping.cancel()
        task.cancel()  # does nothing to one that is done
        await asyncio.wait({task})


@contextlib.contextmanager
def stopped_by_signals(stop: asyncio.Event, work: asyncio.Task[Any]) -> Iterator[None]:
    """Set `stop` at the first SIGTERM, SIGINT or SIGHUP, and cancel `work` at the second SIGTERM or SIGINT.

    A terminal that closes may send SIGHUP twice. Where that is ignored, as under `nohup`, it stays ignored.
    """

    def on_signal(number: signal.Signals) -> None:
        log.info("signal_received", signal=number.name)
        if stop.is_set() and number != signal.SIGHUP:
            work.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    heeded = [one for one in _SIGNALS if one != signal.SIGHUP or signal.getsignal(one) is not signal.SIG_IGN]
    for number in heeded:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in heeded:
            loop.remove_signal_handler(number)
