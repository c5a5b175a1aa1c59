"""Requests that any broker can answer: to several, so that one that is away or hangs holds nobody up."""

import asyncio
import random
from collections.abc import Coroutine, Iterator
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError, KafkaError

_BROKERS_ASKED_MAX: Final = 5
_PATIENCE_S: Final = 0.3
"""A broker that has not answered by then is not waited for alone."""


def some_brokers(client: AIOKafkaClient) -> list[int]:
    """Return the ids of at most five brokers, in random order."""
    nodes = [broker.nodeId for broker in client.cluster.brokers()]
    return random.sample(nodes, min(len(nodes), _BROKERS_ASKED_MAX))


async def ask_any(client: AIOKafkaClient, request: Any) -> Any:
    """Ask one broker, and soon the next as well if it fails or is slow; return the first answer.

    Raise KafkaError or OSError if none answers, within the client's own limit for a request.
    """
    nodes = iter(some_brokers(client))
    asking: set[asyncio.Task[Any]] = set()
    failure: Exception = KafkaConnectionError("no broker is known")
    try:
        while (more := _ask_next(client, nodes, request, asking)) or asking:
            done, asking = await asyncio.wait(
                asking, timeout=_PATIENCE_S if more else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                try:
                    return task.result()
                except (KafkaError, OSError) as error:
                    failure = error
    finally:
        await _end(asking)
    raise failure


def _ask_next(client: AIOKafkaClient, nodes: Iterator[int], request: Any, asking: set[asyncio.Task[Any]]) -> bool:
    node_id = next(nodes, None)
    if node_id is None:
        return False
    asking.add(asyncio.ensure_future(client.send(node_id, request)))
    return True


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Do several things side by side. If one fails, the others are ended before its error is raised."""
    tasks = {asyncio.ensure_future(one) for one in work}
    try:
        await asyncio.gather(*tasks)
    finally:
        await _end(tasks)


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
