"""Stopping: by a first signal in good order, by a second one at once."""

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import structlog

log = structlog.stdlib.get_logger(__name__)

T = TypeVar("T")


async def unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Await some work; None if the stop came first, and then the work is cancelled."""
    task = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        stopping.cancel()
        task.cancel()  # does nothing to one that is done
        await asyncio.wait({task})


@contextlib.contextmanager
def stopped_by_signals(stop: asyncio.Event, work: asyncio.Task[Any]) -> Iterator[None]:
    """Set `stop` at the first SIGTERM or SIGINT, and cancel `work` at the second."""

    def on_signal(number: signal.Signals) -> None:
        log.info("signal_received", signal=number.name)
        if stop.is_set():
            work.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
