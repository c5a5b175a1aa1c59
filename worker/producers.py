"""Ends a producer at once, in whatever state it is: its requests, its connections, its bytes on their way.

aiokafka's own `stop` waits for its records, and so for ever while the broker is away; what it has handed to a slow
connection goes on for minutes, and competes with the next producer's. This reads what the client keeps to itself.
"""

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection
from aiokafka.producer.sender import Sender

_END_S: Final = 1
_DROP_UNSENT: Final = struct.pack("ii", 1, 0)


class _Sender(Sender):
    """Knows the tasks of its requests: the client's forgets those that are under way when it fails."""

    requests: set["asyncio.Task[Any]"]

    async def _send_produce_req(self, node_id: Any, batches: Any) -> None:
        self._note(asyncio.current_task())
        await Sender._send_produce_req(self, node_id, batches)

    def _maybe_do_transactional_request(self) -> "asyncio.Task[Any] | None":
        task: asyncio.Task[Any] | None = Sender._maybe_do_transactional_request(self)
        self._note(task)
        return task

    def _note(self, task: "asyncio.Task[Any] | None") -> None:
        if task is not None:
            self.requests.add(task)
            task.add_done_callback(self.requests.discard)
            task.add_done_callback(look_at)


class _Client(AIOKafkaClient):
    """Drops what a connection has not sent yet when it is closed, be it since a request was not answered in time."""

    def _on_connection_closed(self, conn: AIOKafkaConnection, reason: Any) -> None:
        transport: Any = getattr(conn._protocol, "_transport", None)
        if transport is not None:
            with suppress(OSError):  # the other end has closed it
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DROP_UNSENT)
            transport.abort()
        AIOKafkaClient._on_connection_closed(self, conn, reason)


def mortal(producer: AIOKafkaProducer) -> AIOKafkaProducer:
    """Prepare a producer that was not started yet for `kill`."""
    sender: Any = producer._sender
    producer.client.__class__, sender.__class__, sender.requests = _Client, _Sender, set()
    return producer


async def kill(producer: AIOKafkaProducer) -> None:
    """End at once. A request on its way may or may not arrive; what was to follow it never does."""
    producer._closed, sender = True, producer._sender
    assert isinstance(sender, _Sender), "made mortal"
    tasks = {*sender.requests, sender.sender_task} - {None}
    for task in tasks:
        task.cancel()
    await producer.client.close()
    if tasks:
        await asyncio.wait(tasks, timeout=_END_S)
    for future in _unwatched(producer):
        look_at(future)


def _unwatched(producer: AIOKafkaProducer) -> Iterator["asyncio.Future[Any]"]:
    """Give the futures that fail with the sender, and that only the client itself knows."""
    for batches in producer._message_accumulator._batches.values():
        for batch in batches:
            yield from (batch.future, batch._drain_waiter)
    if (waiter := producer._txn_manager._transaction_waiter) is not None:
        yield waiter


def look_at(future: "asyncio.Future[Any]") -> None:
    """Retrieve a future's failure, now or when it comes, so that nothing complains that nobody did."""
    if not future.done():
        future.add_done_callback(look_at)
    elif not future.cancelled():
        future.exception()
