"""Workers for chaos tests: processes that fail at exact moments, and a database for each test."""

import asyncio
import sys
import uuid
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from tests.integration.harness import Worker
from worker.stores.postgres import migrate


class ChaosWorker(Worker):
    """A worker that obeys USERTASK_TEST_… variables; without them it is like any other."""

    command = (sys.executable, "-m", "tests.chaos.failing_worker")


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
