"""Polling: what aiokafka's getmany hands out, one poll at a time, and past what it cannot read."""

import asyncio
from collections import deque
from collections.abc import Collection
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from worker.decoder import Record, UndecodableRecord

log = structlog.stdlib.get_logger(__name__)

POLL_TIMEOUT_S: Final = 0.1
_CAREFUL_TIMEOUT_S: Final = 1.5
"""Longer than the one fetch under way takes that does not ask for the partition yet (at most 0.5 s)."""


class Poller:
    """Hands out batches of records. At most one poll is under way, and none across a change of position."""

    def __init__(self, consumer: AIOKafkaConsumer, max_records: int) -> None:
        self._consumer = consumer
        self._max_records = max_records
        self._polling: asyncio.Task[list[Record]] | None = None
        self._careful: deque[TopicPartition] = deque()
        """Partitions to be polled record by record."""

    async def poll(self, partitions: Collection[TopicPartition]) -> list[Record]:
        """Wait briefly for records of any assigned partition; an empty list if none came.

        Never waits for long, though a rebalance may hold the poll itself up. Raise what getmany raises.
        """
        if self._polling is None:
            poll = self._poll_carefully() if self._careful else self._poll()
            self._polling = asyncio.create_task(poll, name="poll")
        done, _ = await asyncio.wait({self._polling}, timeout=POLL_TIMEOUT_S * 2)
        if not done:
            return []
        finished, self._polling = self._polling, None
        try:
            return finished.result()
        except UnicodeDecodeError:
            log.warning("undecodable_record_met")
            self._careful.extend(partitions)
            return []

    async def settle(self) -> bool:
        """Let the poll under way end and drop its result, before positions change. False if it has not ended yet."""
        if self._polling is not None:
            done, _ = await asyncio.wait({self._polling}, timeout=POLL_TIMEOUT_S * 5)
            if not done:
                return False
            self._polling.exception()  # retrieved, so that nobody warns of it
            self._polling = None
        return True

    async def _poll(self) -> list[Record]:
        polled = await self._consumer.getmany(timeout_ms=int(POLL_TIMEOUT_S * 1000), max_records=self._max_records)
        return [record for records in polled.values() for record in records]

    async def _poll_carefully(self) -> list[Record]:
        """Take one record of one partition, until the one that cannot be read is met and stepped over.

        getmany raises for it without saying where it stands, and would do so for ever.
        """
        tp = self._careful[0]
        try:
            polled = await self._consumer.getmany(tp, timeout_ms=int(_CAREFUL_TIMEOUT_S * 1000), max_records=1)
        except UnicodeDecodeError:
            offset = await self._consumer.position(tp)
            self._consumer.seek(tp, offset + 1)
            self._careful.clear()
            return [UndecodableRecord(tp.topic, tp.partition, offset)]
        if not polled:
            self._careful.popleft()  # read to its end: it is not there
        return list(polled.get(tp, []))
