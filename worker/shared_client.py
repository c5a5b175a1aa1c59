"""One Kafka client for several users at once, which is replaced when it no longer finds the brokers."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError


class SharedClient:
    """Lends a client. Connects when it is first needed.

    Args:
        options: the client's arguments.

    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._client: AIOKafkaClient | None = None
        self._users: dict[AIOKafkaClient, int] = {}
        self._connecting = asyncio.Lock()

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[AIOKafkaClient]:
        """Return a client that is connected. Raise KafkaError or OSError if no broker can be reached."""
        client = await self._connected()
        self._users[client] = self._users.get(client, 0) + 1
        try:
            yield client
        except (KafkaError, OSError):
            client.force_metadata_update()  # not awaited: whoever answers first is enough
            raise
        finally:
            if client in self._users:  # or it was closed meanwhile
                self._users[client] -= 1
                if client is not self._client:
                    await self._close_unused(client)

    def retire(self) -> None:
        """Connect anew for the next user. The present client is closed when the last of its users is done with it."""
        self._client = None

    async def close(self) -> None:
        """Disconnect; who is still using the client is on their own."""
        self.retire()
        for client in list(self._users):
            self._users[client] = 0
            await self._close_unused(client)

    async def _connected(self) -> AIOKafkaClient:
        async with self._connecting:
            if self._client is None:
                client = AIOKafkaClient(**self._options)
                try:
                    await client.bootstrap()
                except BaseException:
                    await client.close()
                    raise
                self._client = client
            return self._client

    async def _close_unused(self, client: AIOKafkaClient) -> None:
        if not self._users.get(client, 1):
            del self._users[client]
            await client.close()
