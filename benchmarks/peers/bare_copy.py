"""The limit of the client: commands are copied to the events topic in transactions, neither read nor kept.

Arguments: bootstrap servers, group, commands topic, events topic.
"""

import asyncio
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.producer import sender

_RECORDS_MAX: Final = 2000
_BATCH_BYTES: Final = 1_000_000
sender.BACKOFF_OVERRIDE = 0.002  # as the worker has it


async def copy(servers: str, group: str, commands: str, events: str, stop: asyncio.Event) -> None:
    """Copy until told to stop."""
    consumer = AIOKafkaConsumer(
        commands,
        bootstrap_servers=servers,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=128 * 1024,
        fetch_max_bytes=16 * 1024 * 1024,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=servers,
        transactional_id=f"{group}-copy",
        retry_backoff_ms=10,
        max_batch_size=_BATCH_BYTES,
        linger_ms=0,
    )
    async with consumer, producer:
        while not stop.is_set():
            polled = await consumer.getmany(timeout_ms=100, max_records=_RECORDS_MAX)
            if polled:
                async with producer.transaction():
                    await _send(producer, polled, events)
                    offsets = {tp: records[-1].offset + 1 for tp, records in polled.items()}
                    await producer.send_offsets_to_transaction(offsets, group)


async def _send(producer: AIOKafkaProducer, polled: Mapping[TopicPartition, Sequence[Any]], events: str) -> None:
    sent = []
    for tp, records in polled.items():
        batch = producer.create_batch()
        for record in records:
            about = {"key": record.key, "value": record.value, "headers": list(record.headers)}
            if batch.append(timestamp=record.timestamp, **about) is None:
                sent.append(await producer.send_batch(batch, events, partition=tp.partition))
                batch = producer.create_batch()
                batch.append(timestamp=record.timestamp, **about)
        sent.append(await producer.send_batch(batch, events, partition=tp.partition))
    await asyncio.gather(*sent)


async def _main(arguments: Sequence[str]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    servers, group, commands, events = arguments
    await copy(servers, group, commands, events, stop)


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(_main(sys.argv[1:]))
    else:
        uvloop.run(_main(sys.argv[1:]))
