"""`python -m tests.chaos.stuck_worker`: a worker that gets stuck on SIGUSR1, in the way that USERTASK_TEST_STUCK names.

What is added to the worker is here, not in it.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time

from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator

from worker import app
from worker.processor import Processor
from worker.settings import load_settings
from worker.telemetry.logs import configure_logging

FOR_EVER_S = 3600
stuck_how = ""


def get_stuck(*_: object) -> None:
    global stuck_how  # noqa: PLW0603 - a signal reaches nothing else
    stuck_how = os.environ["USERTASK_TEST_STUCK"]


async def for_ever() -> None:
    """Wait, and be cancelled by nobody."""
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(FOR_EVER_S)


def before(owner: type, name: str, how: str, fault) -> None:
    """Let a fault come before a method, once the worker is stuck in that way."""
    original = getattr(owner, name)

    if asyncio.iscoroutinefunction(original):

        async def changed(self, *args, **kwargs):
            if stuck_how == how:
                await fault(self)
            return await original(self, *args, **kwargs)
    else:

        def changed(self, *args, **kwargs):
            if stuck_how == how:
                fault(self)
            return original(self, *args, **kwargs)

    setattr(owner, name, changed)


async def blocks(_: object) -> None:
    time.sleep(FOR_EVER_S)  # noqa: ASYNC251 - this is the fault


async def waits(_: object) -> None:
    await for_ever()


async def loses_its_membership(coordinator: GroupCoordinator) -> None:
    """Notice that the group has to be joined anew, and then never do."""
    coordinator.request_rejoin()


def raises(_: object) -> None:
    raise RuntimeError("a defect")


def drops_records(original):
    async def process(self, session, commands):
        if stuck_how != "dropped-records":
            await original(self, session, commands)

    return process


before(Processor, "process", "blocked-loop", blocks)
before(Processor, "process", "hung-loop", waits)
before(Fetcher, "_proc_fetch_request", "hung-fetch", waits)
before(Fetcher, "_get_actions_per_node", "dead-fetch", raises)
Processor.process = drops_records(Processor.process)
before(GroupCoordinator, "_do_heartbeat", "hung-join", loses_its_membership)
before(GroupCoordinator, "_do_rejoin_group", "hung-join", waits)
before(GroupCoordinator, "_do_heartbeat", "dead-coordination", loses_its_membership)
before(GroupCoordinator, "need_rejoin", "dead-coordination", raises)


def main() -> None:
    settings = load_settings()
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    signal.signal(signal.SIGUSR1, get_stuck)
    sys.exit(asyncio.run(app.run(settings)))


if __name__ == "__main__":
    main()
