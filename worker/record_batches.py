"""Record batches of our own (docs/decisions/0003): what goes into one, to which partition, and how they are sent."""

import asyncio
import random
from collections.abc import Mapping
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder

from worker.encoder import OutgoingRecord
from worker.murmur2 import murmur2
from worker.producers import look_at

Batches = Mapping[TopicPartition, list[BatchBuilder]]
"""Each partition's batches, in order."""


class SentBatch(NamedTuple):
    """A batch that was sent."""

    tp: TopicPartition
    records: int
    future: "asyncio.Future[Any]"
    """What becomes of it."""


Sent = list[SentBatch]


def append(batch: BatchBuilder, record: OutgoingRecord, timestamp_ms: int) -> bool:
    """Write a record into a batch, unless it is full. The first one fits, whatever its size."""
    written = batch.append(timestamp=timestamp_ms, key=record.key, value=record.value, headers=list(record.headers))
    return written is not None


def partition_of(record: OutgoingRecord, count: int) -> int:
    """Give the partition asked for, or else the one of Kafka's default partitioner among so many."""
    if record.partition is not None:
        return record.partition
    return random.randrange(count) if record.key is None else (murmur2(record.key) & 0x7FFFFFFF) % count  # noqa: S311


async def send_all(producer: AIOKafkaProducer, batches: Batches, sent: Sent) -> None:
    """Send every partition's first batch in one tight loop, so that one request adds them all; then the rest.

    Each is noted in `sent`. Waits for nothing but those before it of its partition.
    """
    for number in range(max(map(len, batches.values()), default=0)):
        for tp, queue in batches.items():
            if number < len(queue):
                batch = queue[number]
                future = await producer.send_batch(batch, tp.topic, partition=tp.partition)
                look_at(future)  # whoever waits for it may have given up by the time that it fails
                sent.append(SentBatch(tp, batch.record_count(), future))


async def end_of(sent: Sent) -> None:
    """Wait until the brokers have all of them, or one has failed, and raise its failure."""
    if sent:
        done, _ = await asyncio.wait([one.future for one in sent], return_when=asyncio.FIRST_EXCEPTION)
        for future in done:
            future.result()
