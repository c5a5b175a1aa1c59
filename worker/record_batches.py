"""Record batches of our own (docs/decisions/0003): what goes into one, to which partition, and how they are sent."""

import asyncio
import random
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder

from worker.encoder import OutgoingRecord
from worker.murmur2 import murmur2

Batches = Mapping[TopicPartition, list[BatchBuilder]]
"""Each partition's batches, in order."""
Sent = list[tuple[str, "asyncio.Future[Any]"]]
"""The topic of each batch that was sent, and what becomes of it."""


def append(batch: BatchBuilder, record: OutgoingRecord) -> bool:
    """Write a record into a batch, unless it is full. The first one fits, whatever its size."""
    written = batch.append(
        timestamp=record.timestamp_ms, key=record.key, value=record.value, headers=list(record.headers)
    )
    return written is not None


def partition_of(record: OutgoingRecord, count: int) -> int:
    """Give the partition asked for, or else the one of Kafka's default partitioner among so many."""
    if record.partition is not None:
        return record.partition
    return random.randrange(count) if record.key is None else (murmur2(record.key) & 0x7FFFFFFF) % count  # noqa: S311


def rounds(batches: Batches) -> int:
    """Give how many batches the partition has that has most."""
    return max(map(len, batches.values()), default=0)


async def send_round(producer: AIOKafkaProducer, batches: Batches, number: int, sent: Sent) -> None:
    """Send each partition's batch of that number, without waiting but for those before it, and note it in `sent`."""
    for tp, queue in batches.items():
        if number < len(queue):
            sent.append((tp.topic, await producer.send_batch(queue[number], tp.topic, partition=tp.partition)))
