"""What the brokers say of a topic: its ids, who leads its partitions, and where these begin and end.

A broker that was cut off from the others answers from before. So the ids are those that a majority of the brokers asked
agrees on, and a leader is the one of the latest epoch among their answers. Its end may still lag, and never runs ahead.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.errors import KafkaError, StaleMetadata, for_code
from aiokafka.protocol.offset import OffsetRequest, OffsetResetStrategy

from worker.asking import some_brokers
from worker.requests import IdentifiedMetadata
from worker.stores.port import TopicIdentity

log = structlog.stdlib.get_logger(__name__)

_NO_LEADER: Final = -1


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a partition begins, and where its committed records end."""

    beginning: int
    end: int


@dataclass(frozen=True, slots=True)
class Survey:
    """A topic as its brokers describe it."""

    identity: TopicIdentity | None
    """None where the brokers have no ids of topics."""
    extents: Mapping[int, Extent]
    """By partition; one whose leader is not known or does not answer is missing."""


async def survey(client: AIOKafkaClient, topic: str, partitions: Collection[int]) -> Survey:
    """Ask for a topic. Raise KafkaError if a majority does not agree on it."""
    client.add_topic(topic)  # or the client would ask for all topics whenever it looks for brokers
    identity, leaders = await _described(client, topic)
    by_node: defaultdict[int, list[int]] = defaultdict(list)
    for partition in partitions:
        node_id = leaders.get(partition, _NO_LEADER)
        if node_id != _NO_LEADER:
            by_node[node_id].append(partition)
    answers = await asyncio.gather(*(_extents(client, node_id, topic, some) for node_id, some in by_node.items()))
    extents = {partition: extent for answer in answers for partition, extent in answer.items()}
    return Survey(identity, extents)


async def _described(client: AIOKafkaClient, topic: str) -> tuple[TopicIdentity | None, Mapping[int, int]]:
    """Return the topic's identity, and the node that leads each partition."""
    nodes = some_brokers(client)
    failure: Exception = StaleMetadata("the brokers do not agree on the topic's id")
    answers: list[tuple[TopicIdentity | None, Iterable[Any]]] = []
    asking = [asyncio.ensure_future(_described_by(client, node_id, topic)) for node_id in nodes]
    try:
        for answer in asyncio.as_completed(asking):
            try:
                answers.append(await answer)
            except (KafkaError, OSError) as error:
                failure = error
                continue
            identity, votes = Counter(one for one, _ in answers).most_common(1)[0]
            if 2 * votes > len(nodes):
                return identity, _latest_leaders(rows for one, rows in answers if one == identity)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    raise failure


async def _described_by(client: AIOKafkaClient, node_id: int, topic: str) -> tuple[TopicIdentity | None, Iterable[Any]]:
    response = await client.send(node_id, IdentifiedMetadata(topic))
    [(code, _, topic_id, _, partitions, *_)] = response.topics
    raise_for(code, topic)
    identity = TopicIdentity(cluster_id=response.cluster_id or "", topic_id=str(topic_id)) if topic_id.int else None
    return identity, partitions


def _latest_leaders(answers: Iterable[Iterable[Any]]) -> dict[int, int]:
    latest: dict[int, tuple[int, int]] = {}
    for rows in answers:
        for _, partition, leader, epoch, *_ in rows:
            latest[partition] = max(latest.get(partition, (-1, _NO_LEADER)), (epoch, leader))
    return {partition: leader for partition, (_, leader) in latest.items()}


async def _extents(client: AIOKafkaClient, node_id: int, topic: str, partitions: list[int]) -> dict[int, Extent]:
    """Ask one leader. What it does not answer is missing: its partitions wait, and those of others do not."""
    try:
        beginnings = await offsets_of(client, node_id, topic, partitions, OffsetResetStrategy.EARLIEST)
        ends = await offsets_of(client, node_id, topic, partitions, OffsetResetStrategy.LATEST)
    except (KafkaError, OSError) as error:
        log.info("leader_does_not_answer", topic=topic, partitions=partitions, reason=type(error).__name__)
        return {}
    return {partition: Extent(beginnings[partition], ends[partition]) for partition in beginnings.keys() & ends.keys()}


async def offsets_of(
    client: AIOKafkaClient,
    node_id: int,
    topic: str,
    partitions: list[int],
    which: int,
    isolation_level: int = READ_COMMITTED,
) -> dict[int, int]:
    """Ask a leader where partitions begin or end; one that it does not lead is missing. Raise KafkaError or OSError."""
    request = OffsetRequest(-1, isolation_level, [(topic, [(partition, which) for partition in partitions])])
    response = await client.send(node_id, request)
    return {
        partition: offset
        for _, rows in response.topics
        for partition, code, _, offset in rows
        if code == 0 and offset >= 0
    }


def raise_for(code: int, about: str) -> None:
    """Raise the error of a code that is not 0, with what was asked about."""
    if code:
        error = for_code(code)
        raise error(f"{about} (error code {code})")
