"""A start while the store comes and goes."""

import pytest

from worker import app
from worker.kafka import TopicShape
from worker.settings import Settings
from worker.stores.port import StoreUnavailableError
from worker.stores.sqlite import SqliteStore
from worker.telemetry.health import Health

SHAPES = {"user-task.commands": TopicShape(partitions=3, max_message_bytes=1_000_000)}


class RestartedStore(SqliteStore):
    """One that was opened, and is away when it is asked first."""

    away_for = 1

    async def partitions(self, topic, partitions):
        if self.away_for:
            self.away_for -= 1
            raise StoreUnavailableError("away")
        return await super().partitions(topic, partitions)


async def test_a_store_that_goes_away_once_it_is_open_is_waited_for_as_one_that_never_came(tmp_path):
    store = RestartedStore(tmp_path / "tasks.db")
    await store.open()
    await app._check_partitions(Settings(start_timeout_s=5), SHAPES, store, Health())

    store.away_for = 2
    with pytest.raises(StoreUnavailableError):
        await app._check_partitions(Settings(start_timeout_s=0.1), SHAPES, store, Health())
    await store.close()
