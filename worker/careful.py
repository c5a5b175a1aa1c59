"""Partitions in which something cannot be read: found, read by requests of our own, blocked or stepped over."""

import asyncio
import random
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError, OffsetOutOfRangeError

from worker.batch import Decoded, decode_all
from worker.blocked import Blocked
from worker.damage import Damage, Reading
from worker.decoder import Record, UndecodableRecord
from worker.kafka import client_options
from worker.rereader import Rereader
from worker.settings import Settings

log = structlog.stdlib.get_logger(__name__)

CAUSE: Final = "damaged_batch"
RETRY_S: Final = 5
"""A blocked partition is read again after this time: a replica may be repaired, or a sound one become the leader."""
_ASK_AGAIN_S: Final = 1
_LISTEN_EVERY_S: Final = 5
"""A partition that stands still for so long, though the client fetches, is looked at."""
_STANDING_MAX: Final = 4
"""Of those, so many at a time: with a backlog the others only wait for their turn, and to read them costs."""
_CHUNK_RECORDS: Final = 250
"""Decoded in one go."""
_WHAT_TO_DO: Final = (
    "Repair the replica, or move the leader to a sound one; the partition then goes on by itself."
    " If the records are gone for good, USERTASK_DAMAGED_BATCHES=skip steps over them, where their range is known."
)


@dataclass(slots=True)
class _Partition:
    """One that the client does not read; it is paused there."""

    position: int = 0
    due_at_s: float = 0
    damage: Damage | None = None
    """What was found last."""
    blocked: Blocked | None = None


@dataclass(frozen=True, slots=True)
class _Look:
    """What came of looking at a partition."""

    reading: Reading
    commands: list[Decoded] | None
    """None if they are left to the client."""


class CarefulReading:
    """Reads what the client cannot, beside the client, which reads the other partitions meanwhile.

    Its state belongs to one assignment, and ends with `stop`.

    Args:
        consumer: the client; partitions are paused in it, and given back to it behind what cannot be read.
        rereader: reads a partition at a position.
        skips: whether damaged batches are stepped over where their range is known, or block their partition.

    """

    def __init__(self, consumer: AIOKafkaConsumer, rereader: Rereader, *, skips: bool) -> None:
        self._consumer = consumer
        self._rereader = rereader
        self._skips = skips
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._suspects: set[TopicPartition] = set()
        self._looking: asyncio.Task[dict[TopicPartition, _Look | None]] | None = None
        self._searches = False
        """Whether the look under way is at the suspects."""
        self._listened_at_s = 0.0
        self._stood_at: dict[TopicPartition, int] = {}
        self._is_at_a_loss = False
        """Whether the last search has found nothing that the client could not read."""

    @property
    def blocked(self) -> Mapping[int, Blocked]:
        """Return the partitions that are blocked by damage."""
        return {tp.partition: one.blocked for tp, one in self._partitions.items() if one.blocked is not None}

    @property
    def is_searching(self) -> bool:
        """Return whether it is not yet known which partition the client failed on: it would fail again."""
        return bool(self._suspects)

    def search(self, partitions: Collection[TopicPartition]) -> bool:
        """Find out on which of these the client has failed. Their positions must be right by the next turn.

        Return whether the search before this one was in vain.
        """
        was_in_vain, self._is_at_a_loss = self._is_at_a_loss, False
        self._suspects = set(partitions) - self._consumer.paused()
        return was_in_vain

    def turn(self, partitions: Collection[TopicPartition], *, is_quiet: bool) -> list[Decoded]:
        """Return what was read since, and look at what is due. Does not wait.

        A search waits until `is_quiet`: all that the client has read is handed out, so it stands where to read on.
        """
        commands: list[Decoded] = []
        if self._looking is not None and self._looking.done():
            looks, self._looking = self._looking.result(), None
            is_search, self._searches = self._searches, False
            if is_search:
                self._judge_search(looks)
            for tp, look in looks.items():
                commands += self._judge(tp, look, is_search=is_search)
        if self._looking is None:
            self._look(partitions, is_quiet=is_quiet)
        return commands

    async def wait(self, timeout_s: float) -> None:
        """Wait until the look under way has ended, but no longer."""
        if self._looking is not None:
            await asyncio.wait({self._looking}, timeout=timeout_s)

    async def stop(self) -> None:
        """Forget everything, and disconnect: positions change."""
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        self._partitions.clear()
        self._suspects.clear()
        self._searches = False
        self._stood_at.clear()
        self._is_at_a_loss = False
        await self._rereader.close()

    # looking

    def _look(self, partitions: Collection[TopicPartition], *, is_quiet: bool) -> None:
        now_s = time.monotonic()
        due = {tp: one.position for tp, one in self._partitions.items() if one.due_at_s <= now_s}
        suspects = self._suspects if is_quiet else set()
        others: list[TopicPartition] = []
        if now_s - self._listened_at_s >= _LISTEN_EVERY_S:
            self._listened_at_s = now_s
            others = [tp for tp in partitions if tp not in self._partitions]
        if suspects or due or others:
            self._searches = bool(suspects)
            self._looking = asyncio.create_task(self._look_at(due, suspects, others), name="careful-look")

    async def _look_at(
        self,
        due: Mapping[TopicPartition, int],
        suspected: Collection[TopicPartition],
        others: Collection[TopicPartition],
    ) -> dict[TopicPartition, _Look | None]:
        suspects = {tp: position for tp in suspected if (position := await self._position(tp)) is not None}
        standing = [tp for tp in others if await self._stands_still(tp)]
        chosen = random.sample(standing, min(_STANDING_MAX, len(standing)))
        positions = {**{tp: self._stood_at[tp] for tp in chosen}, **suspects, **due}
        found = await asyncio.gather(*(self._read(tp, position) for tp, position in positions.items()))
        readings = dict(zip(positions, found, strict=True))
        searched = [readings[tp] for tp in suspects]
        # the client may have failed on another replica than the leader's: then all are read from there for once
        is_sound = all(reading is not None and not reading.is_in_trouble for reading in searched)
        taken = {tp for tp in readings if tp in self._partitions or (is_sound and tp in suspects)}
        return {tp: await _look(reading, takes=tp in taken) for tp, reading in readings.items()}

    async def _position(self, tp: TopicPartition) -> int | None:
        """Return where the client stands; None if the partition has gone, or has no position yet."""
        try:
            async with asyncio.timeout(_ASK_AGAIN_S):
                position: int = await self._consumer.position(tp)
        except (IllegalStateError, TimeoutError):
            return None
        return position if tp in self._consumer.assignment() else None

    async def _stands_still(self, tp: TopicPartition) -> bool:
        """Return whether the client gets nothing where something stands, or no answer; it does not say so by itself."""
        position = await self._position(tp)
        if position is None or tp in self._consumer.paused():
            self._stood_at.pop(tp, None)
            return False
        stood_at, self._stood_at[tp] = self._stood_at.get(tp), position
        end, answered_at_ms = self._consumer.last_stable_offset(tp), self._consumer.last_poll_timestamp(tp)
        is_silent = answered_at_ms is None or time.time() - answered_at_ms / 1000 > _LISTEN_EVERY_S
        return position == stood_at and (is_silent or end is None or position < end)

    async def _read(self, tp: TopicPartition, position: int) -> Reading | None:
        """Read one partition; None if its leader does not answer, which is no damage."""
        try:
            return await self._rereader.read(tp, position)
        except OffsetOutOfRangeError:
            return Reading((), position)  # retention has deleted it: the client meets the same, and says so
        except (KafkaError, OSError, TimeoutError) as error:
            log.debug("partition_not_looked_at", partition=tp.partition, reason=f"{type(error).__name__}: {error}")
            return None

    # judging

    def _judge_search(self, looks: Mapping[TopicPartition, _Look | None]) -> None:
        looked = [look for tp in self._suspects if (look := looks.get(tp)) is not None]
        self._is_at_a_loss = all(look.commands is None for look in looked)
        if not self._is_at_a_loss and not any(look.reading.is_in_trouble for look in looked):
            log.warning("damaged_replica_passed", partitions=sorted(tp.partition for tp in self._suspects))
        self._suspects.clear()

    def _judge(self, tp: TopicPartition, look: _Look | None, *, is_search: bool) -> list[Decoded]:
        """Decide what a look means, and return the commands that it has brought."""
        known = self._partitions.get(tp)
        if look is None:
            if known is not None:
                known.due_at_s = time.monotonic() + _ASK_AGAIN_S
            return []
        reading = look.reading
        if known is None and reading.is_in_trouble and not is_search:
            self._suspects.add(tp)  # the client may have read on meanwhile
            return []
        if look.commands is None:
            return []
        known = known or self._take_from_client(tp)
        known.position = reading.next_offset
        known.due_at_s = time.monotonic()
        if reading.damage is not None:
            return look.commands + self._judge_damage(tp, known, reading.damage)
        known.blocked = known.damage = None
        if not reading.is_cut:
            self._give_to_client(tp)
        return look.commands

    def _judge_damage(self, tp: TopicPartition, known: _Partition, damage: Damage) -> list[Decoded]:
        """Step over it, or block the partition; return what stands for the records that are stepped over."""
        if known.damage != damage:
            known.damage = damage
            log.warning("damaged_batch_found", topic=tp.topic, partition=tp.partition, damage=str(damage))
        if self._skips and damage.known_last is not None:
            known.position = damage.known_last + 1
            known.blocked = None
            return decode_all([_stepped_over(tp, damage.first, damage.known_last, damage)])
        known.due_at_s += RETRY_S
        reason = f"{tp.topic}, partition {tp.partition}, {damage}. {_WHAT_TO_DO}"
        known.blocked = Blocked(cause=CAUSE, reason=reason, retry_s=RETRY_S, is_refusal=False)
        return []

    def _take_from_client(self, tp: TopicPartition) -> _Partition:
        if tp in self._consumer.assignment():
            self._consumer.pause(tp)
        self._partitions[tp] = known = _Partition()
        return known

    def _give_to_client(self, tp: TopicPartition) -> None:
        known = self._partitions.pop(tp)
        self._stood_at.pop(tp, None)
        if tp in self._consumer.assignment():
            self._consumer.seek(tp, known.position)
            self._consumer.resume(tp)


async def _look(reading: Reading | None, *, takes: bool) -> _Look | None:
    """Decode what is read, if it is taken from the client or there is something that the client cannot read."""
    if reading is None:
        return None
    if not takes and not reading.is_in_trouble:
        return _Look(reading, None)
    commands: list[Decoded] = []
    for start in range(0, len(reading.records), _CHUNK_RECORDS):
        commands += decode_all(reading.records[start : start + _CHUNK_RECORDS])
        await asyncio.sleep(0)
    return _Look(reading, commands)


def careful_reading(consumer: AIOKafkaConsumer, settings: Settings) -> CarefulReading:
    """Return what the settings ask for."""
    return CarefulReading(consumer, Rereader(client_options(settings)), skips=settings.damaged_batches == "skip")


def _stepped_over(tp: TopicPartition, first: int, last: int, damage: Damage) -> Record:
    return UndecodableRecord(tp.topic, tp.partition, last, first=first, detail=f"A damaged batch, {damage}.")
