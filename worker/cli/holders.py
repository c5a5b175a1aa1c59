"""Open transactions of senders: where each holds a partition, for how long, and whose it is. Ends none."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED
from aiokafka.errors import KafkaError
from aiokafka.protocol.offset import OffsetResetStrategy

from worker.cli.transaction_requests import DescribeProducers, ListTransactions
from worker.kafka import client_options
from worker.rereader import Rereader
from worker.settings import Settings
from worker.shared_client import SharedClient
from worker.survey import offsets_of

_LIMIT_S: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTransaction:
    """What is known of the transaction that holds a partition; None for what nobody may or can tell."""

    offset: int
    """The last stable offset, where its first record stands."""
    waiting: int
    """How many offsets cannot be read until it ends, its own among them."""
    open_s: float | None = None
    """Seconds since its first record was written, by that record's timestamp."""
    producer_id: int | None = None
    transactional_id: str | None = None


async def find_open(settings: Settings, topic: str, partitions: Collection[int]) -> dict[int, OpenTransaction]:
    """Return the open transactions by the partition that they hold.

    Raise KafkaError or OSError if the leaders do not answer within 5 s.
    """
    clients, rereader = SharedClient(client_options(settings)), Rereader(client_options(settings))
    try:
        async with asyncio.timeout(_LIMIT_S), clients.lent() as client:
            await client.add_topic(topic)
            found = await _found(client, topic, partitions)
            names = await _names(client, {one.producer_id for one in found.values() if one.producer_id is not None})
            return {
                number: replace(
                    one,
                    open_s=await _open_s(rereader, TopicPartition(topic, number), one.offset),
                    transactional_id=names.get(one.producer_id),
                )
                for number, one in found.items()
            }
    finally:
        await rereader.close()
        await clients.close()


async def _found(client: AIOKafkaClient, topic: str, partitions: Collection[int]) -> dict[int, OpenTransaction]:
    by_leader: defaultdict[int, list[int]] = defaultdict(list)
    for number in partitions:
        leader = client.cluster.leader_for_partition(TopicPartition(topic, number))
        if leader is not None and leader >= 0:
            by_leader[leader].append(number)
    answers = await asyncio.gather(*(_held(client, leader, topic, some) for leader, some in by_leader.items()))
    return {number: one for answer in answers for number, one in answer.items()}


async def _held(client: AIOKafkaClient, leader: int, topic: str, partitions: list[int]) -> dict[int, OpenTransaction]:
    """Ask for the ends first: what is not stable afterwards was not stable then, and has been there for a while."""
    latest = OffsetResetStrategy.LATEST
    ends = await offsets_of(client, leader, topic, partitions, latest, READ_UNCOMMITTED)
    stable_ends = await offsets_of(client, leader, topic, partitions, latest, READ_COMMITTED)
    held = {number: end for number, end in stable_ends.items() if end < ends.get(number, 0)}
    producers = await _producers(client, leader, topic, held) if held else {}
    return {
        number: OpenTransaction(offset=offset, waiting=ends[number] - offset, producer_id=producers.get(number))
        for number, offset in held.items()
    }


async def _producers(client: AIOKafkaClient, leader: int, topic: str, held: Mapping[int, int]) -> dict[int, int]:
    """Return whose transaction begins at the offset of each partition, as far as the leader may tell."""
    try:
        response = await client.send(leader, DescribeProducers(topic, held))
    except KafkaError:  # the broker does not know the request; the rest is worth printing
        return {}
    return {
        number: producer_id
        for _, rows, _ in response.topics
        for number, _, _, producers, _ in rows
        for producer_id, _, _, _, _, start, _ in producers
        if start == held[number]
    }


async def _names(client: AIOKafkaClient, producer_ids: Collection[int]) -> dict[int | None, str]:
    """Return the transactional ids of producers, from the brokers that know them and answer."""
    if not producer_ids:
        return {}
    nodes = [broker.nodeId for broker in client.cluster.brokers()]
    asking = (client.send(node_id, ListTransactions(producer_ids)) for node_id in nodes)
    answers: list[Any] = await asyncio.gather(*asking, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, KafkaError | OSError):
            raise answer
    return {
        producer_id: name
        for answer in answers
        if not isinstance(answer, BaseException)
        for name, producer_id, _, _ in answer.transactions
    }


async def _open_s(rereader: Rereader, tp: TopicPartition, offset: int) -> float | None:
    try:
        written_at_ms = await rereader.written_at_ms(tp, offset)
    except (KafkaError, OSError):
        return None
    return None if written_at_ms is None else round(max(0.0, time.time() - written_at_ms / 1000), 1)
