"""Polling: what aiokafka's getmany hands out, one poll at a time, decoded, and what is read beside it."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CorruptRecordException

from worker.batch import Decoded, decode_all
from worker.blocked import Blocked
from worker.careful import CarefulReading
from worker.damage import is_damage
from worker.decoder import Record
from worker.reach import Reach, reach_of

log = structlog.stdlib.get_logger(__name__)

POLL_TIMEOUT_S: Final = 0.1
_COLLECT_S: Final = 0.005
"""So long, again and again, the next poll waits for more while the batch before it is in the store."""
_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes of values after which a poll is enough: bounds memory."""
_CHUNK_RECORDS: Final = 250
"""Decoded in one go: for about 3 ms nothing else happens then, such as the store's next statement being sent."""


class UnreadableError(Exception):
    """The client has failed on a batch, and dropped records of other partitions: all positions have to be set anew."""


class Poller:
    """Hands out batches of commands. At most one poll is under way, and none across a change of position.

    The next poll begins when one is handed out: its records are read and decoded while the store is at work.
    """

    def __init__(self, consumer: AIOKafkaConsumer, careful: CarefulReading, max_records: int) -> None:
        self._consumer = consumer
        self._careful = careful
        self._max_records = max_records
        self._polling: asyncio.Task[list[Decoded]] | None = None
        self._failure: UnreadableError | None = None
        """What the client has failed with, behind records that had to be handed out first."""
        self._handed_out: dict[int, int] = {}
        self._is_wanted = False
        """Whether somebody waits for the poll under way; until then it goes on collecting."""

    @property
    def handed_out(self) -> Mapping[int, int]:
        """Give the offset behind the last record that was handed out, by partition, since positions last changed."""
        return self._handed_out

    @property
    def blocked(self) -> Mapping[int, Blocked]:
        """Return the partitions that are blocked by damage."""
        return self._careful.blocked

    async def reaches(self, topic: str, partitions: Collection[int]) -> dict[int, Reach]:
        """Return how far these assigned partitions are; one of which nothing is known yet is missing."""
        found = [
            await reach_of(self._consumer, TopicPartition(topic, number), self._handed_out.get(number, 0))
            for number in partitions
        ]
        return {number: one for number, one in zip(partitions, found, strict=True) if one is not None}

    async def poll(self, partitions: Collection[TopicPartition]) -> list[Decoded]:
        """Wait briefly for commands from any assigned partition; an empty list if none came.

        Never waits for long, though a rebalance may hold the poll itself up. Raise what getmany raises, but
        UnreadableError for a batch that it cannot read. Positions may have moved past records then that nobody has
        seen: they have to be set anew before the next poll.
        """
        is_quiet = self._polling is None
        commands = self._careful.turn(partitions, is_quiet=is_quiet)
        if commands:
            self._note_read(commands)
            return commands
        if self._careful.is_searching and is_quiet:
            await self._careful.wait(POLL_TIMEOUT_S)
            return []
        polling = self._begin()
        self._is_wanted = True
        done, _ = await asyncio.wait({polling}, timeout=POLL_TIMEOUT_S * 2)
        if not done:
            return []
        self._polling = None
        try:
            commands = polling.result()
        except UnreadableError as error:
            if self._careful.search(partitions):
                raise CorruptRecordException(f"{error}, and no batch is found to be damaged") from error
            log.warning("unreadable_batch_met", reason=str(error))
            raise
        if commands and not self._careful.is_searching:
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
        self._failure = None
        self._handed_out.clear()
        await self._careful.stop()
        return True

    async def _next_poll(self) -> list[Decoded]:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        commands: list[Decoded] = []
        size_bytes = 0
        while size_bytes < _BYTES_MAX and (room := self._max_records - len(commands)):
            try:
                records = await self._poll_chunk(self._patience_s(commands), room)
            except UnreadableError as error:
                if not commands:
                    raise
                self._failure = error  # what came before has to be handed out first, or nothing would ever be
                break
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
        limit = min(_CHUNK_RECORDS, room)
        try:
            polled = await self._consumer.getmany(timeout_ms=int(timeout_s * 1000), max_records=limit)
        except Exception as error:
            if not is_damage(error):
                raise
            raise UnreadableError(f"a fetched batch cannot be read: {type(error).__name__}") from error
        for tp, records in polled.items():
            self._note(tp, records)
        return [record for records in polled.values() for record in records]

    def _note(self, tp: TopicPartition, records: Sequence[Record]) -> None:
        """Note how far it is. Raise UnreadableError for an offset beyond the end: no checksum covers it."""
        if records:
            offset, end = records[-1].offset, self._consumer.highwater(tp)
            if end is not None and offset >= end:
                raise UnreadableError(f"offset {offset} was fetched, and partition {tp.partition} ends at {end}")
            self._handed_out[tp.partition] = offset + 1

    def _note_read(self, commands: Sequence[Decoded]) -> None:
        """Note how far it is, of what was read beside the client."""
        for command in commands:
            record = command.record
            self._handed_out[record.partition] = max(self._handed_out.get(record.partition, 0), record.offset + 1)
