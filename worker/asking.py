"""Requests that any broker can answer: to several, so that one that is away or hangs holds nobody up."""

import asyncio
import random
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError, KafkaError

BROKERS_ASKED_MAX: Final = 5
ANSWER_TIMEOUT_S: Final = 1.5


def some_brokers(client: AIOKafkaClient) -> list[int]:
    """Return the ids of at most BROKERS_ASKED_MAX brokers, in random order."""
    nodes = [broker.nodeId for broker in client.cluster.brokers()]
    return random.sample(nodes, min(len(nodes), BROKERS_ASKED_MAX))


async def ask_any(client: AIOKafkaClient, request: Any) -> Any:
    """Ask one broker after the other, each for a short while. Raise KafkaError or OSError if none answers."""
    failure: Exception = KafkaConnectionError("no broker is known")
    for node_id in some_brokers(client):
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await client.send(node_id, request)
        except (KafkaError, OSError) as error:  # TimeoutError is one
            failure = error
    raise failure
