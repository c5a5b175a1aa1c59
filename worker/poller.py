"""Polling: what aiokafka's getmany hands out, one poll at a time, decoded, and past what it cannot read."""

import asyncio
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from worker.batch import Decoded, decode_all
from worker.decoder import Record, UndecodableRecord

log = structlog.stdlib.get_logger(__name__)

POLL_TIMEOUT_S: Final = 0.1
_CAREFUL_TIMEOUT_S: Final = 1.5
"""Longer than the one fetch under way takes that does not ask for the partition yet (at most 0.5 s)."""
_COLLECT_S: Final = 0.005
"""So long, again and again, the next poll waits for more while the batch before it is in the store."""
_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes of values after which a poll is enough: bounds memory."""
_CHUNK_RECORDS: Final = 250
"""Decoded in one go: for about 3 ms nothing else happens then, such as the store's next statement being sent."""


class Poller:
    """Hands out batches of commands. At most one poll is under way, and none across a change of position.

    The next poll begins when one is handed out: its records are read and decoded while the store is at work.
    """

    def __init__(self, consumer: AIOKafkaConsumer, max_records: int) -> None:
        self._consumer = consumer
        self._max_records = max_records
        self._polling: asyncio.Task[list[Decoded]] | None = None
        self._suspects: deque[TopicPartition] = deque()
        """Partitions of which one holds a record that cannot be read."""
        self._culprit: TopicPartition | None = None
        """The one that does, to be read record by record."""
        self._last_culprit: TopicPartition | None = None
        """Looked at first: whoever writes one such record writes more."""
        self._handed_out: dict[int, int] = {}
        self._is_wanted = False
        """Whether somebody waits for the poll under way; until then it goes on collecting."""

    @property
    def handed_out(self) -> Mapping[int, int]:
        """Give the offset behind the last record that was handed out, by partition, since positions last changed."""
        return self._handed_out

    async def poll(self, partitions: Collection[TopicPartition]) -> list[Decoded]:
        """Wait briefly for commands from any assigned partition; an empty list if none came.

        Never waits for long, though a rebalance may hold the poll itself up. Raise what getmany raises, and
        UnicodeDecodeError for a record that it cannot read. Positions may have moved past records then that nobody has
        seen: they have to be set anew before the next poll.
        """
        polling = self._begin()
        self._is_wanted = True
        done, _ = await asyncio.wait({polling}, timeout=POLL_TIMEOUT_S * 2)
        if not done:
            return []
        self._polling = None
        try:
            commands = polling.result()
        except UnicodeDecodeError:
            log.warning("undecodable_record_met")
            self._suspects.extend(sorted(partitions, key=lambda tp: tp != self._last_culprit))
            raise
        if commands:
            self._begin()
        return commands

    def _begin(self) -> asyncio.Task[list[Decoded]]:
        if self._polling is None:
            self._is_wanted = False
            self._polling = asyncio.create_task(self._next_poll(), name="poll")
        return self._polling

    async def settle(self) -> bool:
        """Let the poll under way end and drop its result, before positions change. False if it has not ended yet."""
        if self._polling is not None:
            self._is_wanted = True
            done, _ = await asyncio.wait({self._polling}, timeout=POLL_TIMEOUT_S * 5)
            if not done:
                return False
            self._polling.exception()  # retrieved, so that nobody warns of it
            self._polling = None
        self._handed_out.clear()
        self._suspects.clear()
        self._culprit = None
        return True

    async def _next_poll(self) -> list[Decoded]:
        if self._culprit is not None:
            return decode_all(await self._poll_record_by_record(self._culprit))
        if self._suspects:
            return decode_all(await self._poll_suspect(self._suspects.popleft()))
        commands: list[Decoded] = []
        size_bytes = 0
        while size_bytes < _BYTES_MAX and (room := self._max_records - len(commands)):
            records = await self._poll_chunk(self._patience_s(commands), room)
            if not records and (self._is_wanted or not commands):
                break
            size_bytes += sum(len(record.value or b"") for record in records)
            commands += decode_all(records)
            await asyncio.sleep(0)  # getmany may return without having let anybody else work
        return commands

    def _patience_s(self, commands: Collection[Decoded]) -> float:
        """Tell how long to wait for more: with something to hand out only as long as nobody wants it."""
        if not commands:
            return POLL_TIMEOUT_S
        return 0 if self._is_wanted else _COLLECT_S

    async def _poll_chunk(self, timeout_s: float, room: int) -> list[Record]:
        polled = await self._consumer.getmany(timeout_ms=int(timeout_s * 1000), max_records=min(_CHUNK_RECORDS, room))
        for tp, records in polled.items():
            self._note(tp, records)
        return [record for records in polled.values() for record in records]

    async def _poll_suspect(self, tp: TopicPartition) -> list[Record]:
        """Poll one partition alone: getmany raises without saying for which, and would do so for ever."""
        if await self._is_at_its_end(tp):
            return []  # without the wait for what does not come, which each idle partition would cost
        try:
            return await self._poll_one(tp, self._max_records)
        except UnicodeDecodeError:
            self._culprit = self._last_culprit = tp  # its position has not moved
            self._suspects.clear()
            return []

    async def _is_at_its_end(self, tp: TopicPartition) -> bool:
        position = await self._consumer.position(tp)
        if tp not in self._consumer.assignment():
            return True  # a rebalance came in between
        end: int | None = self._consumer.last_stable_offset(tp)
        return end is not None and position >= end

    async def _poll_record_by_record(self, tp: TopicPartition) -> list[Record]:
        """Take one record, until the one that cannot be read is met and stepped over.

        Where something else than records stands before it (a transaction's marker), that offset is taken for it first:
        aiokafka does not say where it is. Then a rejection names an offset at which there is no record.
        """
        try:
            found = await self._poll_one(tp, 1)
        except UnicodeDecodeError:
            offset = await self._consumer.position(tp)
            self._consumer.seek(tp, offset + 1)
            self._culprit = None
            return self._note(tp, [UndecodableRecord(tp.topic, tp.partition, offset)])
        if not found:
            self._culprit = None  # read to its end: it is not there
        return found

    async def _poll_one(self, tp: TopicPartition, max_records: int) -> list[Record]:
        timeout_ms = int(_CAREFUL_TIMEOUT_S * 1000)
        polled = await self._consumer.getmany(tp, timeout_ms=timeout_ms, max_records=max_records)
        return self._note(tp, polled.get(tp, []))

    def _note(self, tp: TopicPartition, records: Sequence[Record]) -> list[Record]:
        if records:
            self._handed_out[tp.partition] = records[-1].offset + 1
        return list(records)
