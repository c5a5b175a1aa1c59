"""Partitions read by requests of our own: the client does not say where it has failed to read what it has fetched."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED
from aiokafka.errors import CorruptRecordException, LeaderNotAvailableError, StaleMetadata, UnknownError, for_code
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v10, FetchRequestStruct
from aiokafka.record.memory_records import MemoryRecords

from worker.damage import Damage, Fetched, Reading, begins_at, read
from worker.shared_client import SharedClient

FETCH_BYTES_MAX: Final = 128 * 1024
"""Of one partition in one answer; a batch that is larger comes whole."""
_REQUEST_TIMEOUT_S: Final = 5


class _LeaderFetch(FetchRequest):
    """In the last version that only a leader answers (before KIP-392): a broker that leads no more says so."""

    def prepare(self, versions: dict[int, tuple[int, int]]) -> FetchRequestStruct:  # noqa: ARG002 - brokers know it since 2.1
        """Return the request in that version."""
        return self.build(FetchRequest_v10)


class Rereader:
    """Reads partitions of a topic, at any position, without regard to what the consumer does.

    Connects at the first call.

    Args:
        client_options: the arguments that every aiokafka client takes.

    """

    def __init__(self, client_options: Mapping[str, Any]) -> None:
        self._clients = SharedClient({**client_options, "request_timeout_ms": _REQUEST_TIMEOUT_S * 1000})

    async def close(self) -> None:
        """Disconnect."""
        await self._clients.close()

    async def read(self, tp: TopicPartition, position: int) -> Reading:
        """Ask the leader for what stands at the position, and read it.

        The consumer may have read another replica: that of its rack, or of a former leader. Raise KafkaError, OSError
        or TimeoutError if the leader gives no answer that says something of the records.
        """
        try:
            fetched = await self._fetch(tp, position)
        except (CorruptRecordException, UnknownError) as error:
            cause = f"the broker itself cannot read it ({type(error).__name__}); its log says why"
            return Reading((), position, Damage(first=position, cause=cause))
        reading = read(tp, fetched, position)
        damage = reading.damage
        if damage is None or damage.last is None or damage.is_sure:
            return reading
        return replace(reading, damage=replace(damage, is_sure=await self._begins_at(tp, damage.last + 1)))

    async def _begins_at(self, tp: TopicPartition, offset: int) -> bool:
        """Return whether a batch begins at this very offset, as it does behind a header that is right."""
        try:
            fetched = await self._fetch(tp, offset)
        except (CorruptRecordException, UnknownError):
            return False
        return begins_at(fetched.data, offset)

    async def written_at_ms(self, tp: TopicPartition, offset: int) -> int | None:
        """Return the timestamp of the batch at an offset, committed or not; None if there is none. Raise as `read`."""
        fetched = await self._fetch(tp, offset, READ_UNCOMMITTED)
        batch: Any = MemoryRecords(fetched.data).next_batch()
        return None if batch is None or batch.max_timestamp < 0 else batch.max_timestamp

    async def _fetch(self, tp: TopicPartition, position: int, isolation_level: int = READ_COMMITTED) -> Fetched:
        async with asyncio.timeout(2 * _REQUEST_TIMEOUT_S), self._clients.lent() as client:
            await client.add_topic(tp.topic)
            if client.cluster.leader_for_partition(tp) is None:  # another read has added the topic, and waits itself
                await client.force_metadata_update()
            leader = client.cluster.leader_for_partition(tp)
            if leader is None or leader < 0:
                raise LeaderNotAvailableError(tp)
            asked = [(tp.topic, [(tp.partition, position, FETCH_BYTES_MAX)])]
            response = await client.send(leader, _LeaderFetch(0, 1, FETCH_BYTES_MAX, isolation_level, asked))
            rows = [row for _, rows in response.topics for row in rows]
            if not rows:
                raise StaleMetadata("an answer without the partition: the broker throttles")
            [(_, code, _, stable_end, _, aborted, data)] = rows
            if code:
                raise for_code(code)(tp)
        return Fetched(bytes(data or b""), aborted or (), stable_end)
