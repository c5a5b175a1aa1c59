"""`python -m tests.chaos.failing_worker`: a worker that kills or stops itself at an exact moment, once.

What is added to the worker is here, not in it. USERTASK_TEST_MOMENT names the moment, USERTASK_TEST_SIGNAL what happens
there (KILL or STOP), USERTASK_TEST_COUNT the how manieth time. USERTASK_TEST_WITHOUT takes guards away, separated by
commas (`fence`, `compare-and-set`, `replacement`, `barrier`, `offset-errors`), for the controls: then the same tests
must fail. USERTASK_TEST_CLOCK_S sets its clock ahead by so many seconds.
"""

import asyncio
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from worker import app
from worker.producers import mortal
from worker.publisher import Publishers
from worker.settings import load_settings
from worker.stores.port import Store
from worker.telemetry.logs import configure_logging

MOMENTS = (
    "before-store-transaction",
    "before-store-commit",
    "after-store-commit",
    "after-first-send",
    "after-offsets",
    "during-commit",
    "after-commit",
)


class FailPoint:
    """Signals this process when the moment has come for the given time."""

    def __init__(self) -> None:
        self._moment = os.environ.get("USERTASK_TEST_MOMENT")
        self._signal = signal.Signals[f"SIG{os.environ.get('USERTASK_TEST_SIGNAL', 'KILL')}"]
        self._left = int(os.environ.get("USERTASK_TEST_COUNT", "1"))

    def __call__(self, moment: str) -> None:
        if moment != self._moment:
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._signal)


reached = FailPoint()
without = frozenset(os.environ.get("USERTASK_TEST_WITHOUT", "").split(","))


class FailingProducer(AIOKafkaProducer):
    """Reaches the moments of a Kafka transaction."""

    async def send_batch(self, *args, **kwargs):
        future = await super().send_batch(*args, **kwargs)
        if os.environ.get("USERTASK_TEST_MOMENT") == "after-first-send":
            await asyncio.shield(future)
            reached("after-first-send")
        return future

    async def send_offsets_to_transaction(self, offsets, group_id):
        await super().send_offsets_to_transaction(offsets, group_id)
        reached("after-offsets")

    async def commit_transaction(self):
        committing = asyncio.ensure_future(super().commit_transaction())
        for _ in range(10):  # turns of the loop: EndTxn is on its way, its answer is not back
            await asyncio.sleep(0)
        reached("during-commit")
        await committing
        reached("after-commit")


class FailingPublishers(Publishers):
    """Makes failing producers; without fencing or without replacing one that may have sent twice, if told so."""

    async def start(self):
        publisher = await super().start()
        if "replacement" in without:
            publisher.raise_if_spent = lambda: None
        return publisher

    def _producer(self, transactional_id):
        return mortal(FailingProducer(transactional_id=transactional_id, **self._options))

    async def final_offsets(self, transactional_id, topic, partitions):
        if "barrier" in without:
            return await self.coordination.committed(topic, partitions)
        if "offset-errors" in without:
            return await self._offsets_as_the_client_reads_them(topic, partitions)
        return await super().final_offsets(transactional_id, topic, partitions)

    async def _offsets_as_the_client_reads_them(self, topic, partitions):
        """It overlooks the errors of a coordinator that is moving, and says that nothing is committed."""
        group, servers = self.coordination._group_id, self._options["bootstrap_servers"]
        async with AIOKafkaConsumer(bootstrap_servers=servers, group_id=group, enable_auto_commit=False) as consumer:
            asked = [TopicPartition(topic, partition) for partition in partitions]
            consumer.assign(asked)
            return {tp.partition: await consumer.committed(tp) for tp in asked}

    async def fence(self, transactional_id):
        if "fence" not in without:
            await super().fence(transactional_id)


class FailingStore:
    """Reaches the moments of a store transaction; without its compare-and-set, if told so."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Callable:
        return getattr(self._store, name)

    async def apply(self, topic, advances, task_keys, command_keys, decide, *more):
        def decide_and_reach(snapshot):
            changes = decide(snapshot)
            reached("before-store-commit")
            return changes

        reached("before-store-transaction")
        if "compare-and-set" in without:
            rows = await self._store.partitions(topic, {advance.partition for advance in advances})
            advances = [
                dataclasses.replace(
                    advance, owner=rows[advance.partition].owner, applied=rows[advance.partition].applied
                )
                for advance in advances
            ]
        changes = await self._store.apply(topic, advances, task_keys, command_keys, decide_and_reach, *more)
        reached("after-store-commit")
        return changes


def set_clock() -> None:
    read_ns, ahead_s = time.time_ns, int(os.environ.get("USERTASK_TEST_CLOCK_S", "0"))
    time.time_ns = lambda: read_ns() + ahead_s * 10**9


def main() -> None:
    set_clock()
    settings = load_settings()
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    factories = app.Factories(
        store=lambda settings: FailingStore(app.make_store(settings)), publishers=FailingPublishers
    )
    sys.exit(asyncio.run(app.run(settings, factories)))


if __name__ == "__main__":
    main()
