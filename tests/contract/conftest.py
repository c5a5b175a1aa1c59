"""Each test of the contract runs against every store, on data of its own."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.contract.backends import Backend, postgres_backend, sqlite_backend
from worker.stores.port import Store


@pytest.fixture(params=["sqlite", "postgres"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    async with AsyncExitStack() as stack:
        if request.param == "sqlite":
            yield sqlite_backend(tmp_path)
        else:
            url = request.getfixturevalue("postgres").url
            yield await stack.enter_async_context(postgres_backend(url))


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[Store]:
    async with backend.opened() as opened:
        yield opened
