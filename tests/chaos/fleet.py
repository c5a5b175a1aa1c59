"""Workers for chaos tests: processes that fail at exact moments, and a database for each test."""

import asyncio
import sys
import uuid
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from tests.integration.harness import Worker, free_port
from worker.stores.postgres import migrate


class ChaosWorker(Worker):
    """A worker that obeys USERTASK_TEST_… variables; without them it is like any other."""

    command = (sys.executable, "-m", "tests.chaos.failing_worker")


class DoomedWorker(ChaosWorker):
    """One that is not waited for: its moment may come before anybody could see that it was ready."""

    def __enter__(self) -> Self:
        self.env = self.env | {"USERTASK_HTTP_PORT": str(free_port())}
        self.start()
        return self


def database(server_url: str) -> str:
    """Make a fresh, migrated database on the server, and return its address."""
    name = f"t{uuid.uuid4().hex[:12]}"
    url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))

    async def make() -> None:
        connection = await asyncpg.connect(server_url)
        try:
            await connection.execute(f"CREATE DATABASE {name}")
        finally:
            await connection.close()
        await migrate(url)

    asyncio.run(make())
    return url
