"""What a takeover asks of Kafka by requests of its own: fences, and final offsets behind a barrier.

Each answer on which a decision stands is asked of a broker that is known to be right; see docs/exactly-once.md.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar

import structlog
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    StaleMetadata,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
    TxnOffsetCommitRequest,
)

from worker.asking import ask_any
from worker.requests import CommittedOffsets
from worker.shared_client import SharedClient
from worker.survey import Survey, raise_for, survey

log = structlog.stdlib.get_logger(__name__)

T = TypeVar("T")

TRANSACTION_TIMEOUT_S: Final = 10
"""After this the broker aborts a transaction by itself, so that listeners are not held up for longer."""
_REQUEST_TIMEOUT_S: Final = 3
_DEADLINE_S: Final = 2 * TRANSACTION_TIMEOUT_S
"""Another's open transaction may have to end first, by its timeout."""
_BARRIER_TIMEOUT_S: Final = 2
"""No transaction of these producers is ever committed, so the broker may abort it soon."""
_FAREWELL_S: Final = 1
_RETRY_S: Final = 0.05
_MARKERS_S: Final = 0.003
"""How long to wait at first for the markers of a transaction that has ended."""
_LONGEST_WAIT_S: Final = 0.5
_UNSTABLE_OFFSET_COMMIT: Final = 88
_CONCURRENT_TRANSACTIONS: Final = 51
_FORBIDDEN: Final = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)


class Coordination:
    """Talks to coordinators. Connects at the first call; safe to use from several tasks.

    Args:
        client_options: the arguments that every aiokafka client takes.
        group_id: the consumer group.

    """

    def __init__(self, client_options: Mapping[str, Any], group_id: str) -> None:
        self._group_id = group_id
        self._clients = SharedClient({**client_options, "request_timeout_ms": _REQUEST_TIMEOUT_S * 1000})

    async def close(self) -> None:
        """Disconnect."""
        await self._clients.close()

    async def ping(self) -> None:
        """Return if a broker answers. Raise KafkaError or OSError."""
        async with self._clients.lent() as client:
            await ask_any(client, MetadataRequest([]))

    async def fence(self, transactional_id: str) -> None:
        """End another producer and its open transaction, by InitProducerId with its own name.

        When this returns, that producer's offsets are final: its last commit is applied, or never will be. Raise
        KafkaError or TimeoutError if that is not known to be so.
        """
        await self._repeated(lambda client: self._init_producer_id(client, transactional_id))

    async def final_offsets(self, name: str, topic: str, partitions: Collection[int]) -> dict[int, int | None]:
        """Return the group's committed offsets behind a barrier; None for a partition that has none.

        To be called when whoever could commit has been fenced. A broker that acknowledges a write after that is the
        true coordinator, so it knows the final offsets; they are read from that broker alone. The write belongs to a
        transaction that is always aborted, of a producer of its own, whose name is `name` and used for nothing else.
        Raise KafkaError or TimeoutError if no broker has acknowledged and answered.
        """
        return await self._repeated(lambda client: self._offsets_behind_barrier(client, name, topic, partitions))

    async def committed(self, topic: str, partitions: Collection[int]) -> dict[int, int | None]:
        """Return the group's committed offsets without a barrier: they may be old. Raise as `final_offsets` does."""

        async def ask(client: AIOKafkaClient) -> dict[int, int | None]:
            node_id = await self._coordinator(client, CoordinationType.GROUP, self._group_id)
            return await self._read(client, node_id, CommittedOffsets(self._group_id, topic, partitions, stable=False))

        return await self._repeated(ask)

    async def survey(self, topic: str, partitions: Collection[int]) -> Survey:
        """Return what the brokers say of a topic. Raise KafkaError or TimeoutError if they do not agree or answer."""
        return await self._repeated(lambda client: survey(client, topic, partitions))

    async def _repeated(self, ask: Callable[[AIOKafkaClient], Coroutine[Any, Any, T]]) -> T:
        """Ask until there is an answer: a coordinator may be moving. Raise what will not pass, or the last failure."""
        failure: Exception = TimeoutError("no broker answered in time, or a transaction did not end")
        waits_s = _growing(_RETRY_S)
        try:
            async with asyncio.timeout(_DEADLINE_S):
                while True:
                    try:
                        async with self._clients.lent() as client:
                            return await ask(client)
                    except _FORBIDDEN:
                        raise
                    except (KafkaError, OSError) as error:
                        log.debug("kafka_asked_again", reason=f"{type(error).__name__}: {error}")
                        failure = error
                    await asyncio.sleep(next(waits_s))
        except TimeoutError:
            self._clients.retire()  # the next call finds the brokers anew, should all of them have moved
            raise failure from None

    async def _coordinator(self, client: AIOKafkaClient, kind: int, key: str) -> int:
        response = await ask_any(client, FindCoordinatorRequest(key, kind))
        raise_for(response.error_code, key)
        node_id: int = response.coordinator_id
        return node_id

    async def _init_producer_id(self, client: AIOKafkaClient, name: str) -> tuple[int, int, int]:
        """Return producer id, epoch, and the node that gave them. Waits until a transaction in commit has ended."""
        node_id = await self._coordinator(client, CoordinationType.TRANSACTION, name)
        request = InitProducerIdRequest(name, _BARRIER_TIMEOUT_S * 1000)
        waits_s = _growing(_MARKERS_S)
        while True:
            response = await client.send(node_id, request)
            if response.error_code != _CONCURRENT_TRANSACTIONS:
                raise_for(response.error_code, name)
                return response.producer_id, response.producer_epoch, node_id
            await asyncio.sleep(next(waits_s))

    async def _offsets_behind_barrier(
        self, client: AIOKafkaClient, name: str, topic: str, partitions: Collection[int]
    ) -> dict[int, int | None]:
        producer_id, epoch, transactions_node = await self._init_producer_id(client, name)
        producer = (name, producer_id, epoch)
        added = await client.send(transactions_node, AddOffsetsToTxnRequest(*producer, self._group_id))
        raise_for(added.error_code, self._group_id)
        end = EndTxnRequest(*producer, False)  # noqa: FBT003 - abort
        try:
            group_node = await self._coordinator(client, CoordinationType.GROUP, self._group_id)
            offsets = [(topic, [(partition, 0, "") for partition in partitions])]
            commit = TxnOffsetCommitRequest(name, self._group_id, producer_id, epoch, offsets)
            acknowledged = await client.send(group_node, commit)
        except asyncio.CancelledError:
            # left open, it would keep the offsets unstable for whoever takes over next, until it times out
            with suppress(KafkaError, OSError):  # its failure must not stand for the cancellation
                await asyncio.shield(asyncio.wait_for(client.send(transactions_node, end), _FAREWELL_S))
            raise
        for _, codes in acknowledged.errors:
            for _, code in codes:
                raise_for(code, topic)
        ended = await client.send(transactions_node, end)
        raise_for(ended.error_code, name)
        return await self._read(client, group_node, CommittedOffsets(self._group_id, topic, partitions, stable=True))

    async def _read(self, client: AIOKafkaClient, node_id: int, request: CommittedOffsets) -> dict[int, int | None]:
        """Read committed offsets from this broker and no other; an error of any kind is raised."""
        waits_s = _growing(_MARKERS_S)
        while True:
            response = await client.send(node_id, request)
            rows = [row for _, rows, _ in response.topics for row in rows]
            codes = {response.error_code, *(row[4] for row in rows)}
            if _UNSTABLE_OFFSET_COMMIT not in codes:
                break
            await asyncio.sleep(next(waits_s))
        for code in codes:
            raise_for(code, self._group_id)
        read = {partition: None if offset < 0 else offset for partition, offset, *_ in rows}
        if read.keys() != set(request.partitions):
            raise StaleMetadata("an answer without the partitions that were asked for")
        return read


def _growing(first_s: float) -> Iterator[float]:
    """Return times to wait, without end: what does not pass soon is asked for less often."""
    while True:
        yield first_s
        first_s = min(_LONGEST_WAIT_S, first_s * 1.5)
