"""Whether anything stands in a partition that a worker could read: its markers and aborted records are no commands."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from worker.asking import together
from worker.kafka import client_options
from worker.rereader import Rereader
from worker.settings import Settings

_LIMIT_S: Final = 5
_ANSWERS_MAX: Final = 64
"""For each partition, of at most 128 KiB as a rule: enough for some ten thousands of aborted records."""
_AT_A_TIME: Final = 8


async def find_read(settings: Settings, spans: Mapping[TopicPartition, tuple[int, int]]) -> set[TopicPartition]:
    """Return the partitions that have no record to read from the first to before the second offset of their span.

    Reads what is there, within limits: one of which it does not get to know so is left out.
    """
    rereader = Rereader(client_options(settings))
    room = asyncio.Semaphore(_AT_A_TIME)
    found: set[TopicPartition] = set()

    async def look(tp: TopicPartition, start: int, end: int) -> None:
        async with room:
            if await _is_read(rereader, tp, start, end):
                found.add(tp)

    try:
        with suppress(TimeoutError):  # what is found by then counts
            async with asyncio.timeout(_LIMIT_S):
                await together(*(look(tp, *span) for tp, span in spans.items()))
    finally:
        await rereader.close()
    return found


async def _is_read(rereader: Rereader, tp: TopicPartition, start: int, end: int) -> bool:
    """Return whether it is known that there is nothing to read."""
    for _ in range(_ANSWERS_MAX):
        if start >= end:
            return True
        try:
            reading = await rereader.read(tp, start)
        except (KafkaError, OSError):  # TimeoutError is one; the lag is told without it
            return False
        if reading.records or reading.is_in_trouble or reading.next_offset <= start:
            return False
        start = reading.next_offset
    return start >= end
