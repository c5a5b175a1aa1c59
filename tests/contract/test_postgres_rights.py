"""The rights that docs/operating.md asks for are those that the worker needs, and no others."""

import re
from pathlib import Path
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from tests.contract.backends import TOPIC, Backend, a_task, an_advance, an_outcome, execute, postgres_backend, save
from tests.contract.backends import take_over as take_partition_over
from tests.contract.test_retention import pruned_for_ever
from worker.stores.port import StoreError, StoreUnavailableError, TopicIdentity
from worker.stores.postgres import PostgresStore
from worker.telemetry.metrics import Metrics

OPERATING = Path(__file__).resolve().parents[2] / "docs/operating.md"


def documented() -> list[tuple[str, str]]:
    """Give each right of the table, as the object and the operation."""
    section = OPERATING.read_text(encoding="utf-8").split("\n### Rights in PostgreSQL\n")[1].split("\n### ")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([A-Z, ]+) \|", section, re.MULTILINE)
    return [(table, right) for table, rights in rows for right in rights.split(", ")]


@pytest.fixture
async def backend(postgres):
    async with postgres_backend(postgres.url) as backend:
        yield backend


@pytest.fixture
async def restricted(backend):
    """The same schema for a user with the documented rights, and the name of the user."""
    name, schema = f"worker_{uuid4().hex[:8]}", backend.url.rpartition("search_path=")[2]
    await execute(backend.url, f"CREATE ROLE {name} LOGIN PASSWORD 'p'")
    await execute(backend.url, f"GRANT USAGE ON SCHEMA {schema} TO {name}")
    for table, right in documented():
        await execute(backend.url, f"GRANT {right} ON {table} TO {name}")
    url = f"postgresql://{name}:p@{backend.url.partition('@')[2]}"
    try:
        yield name, Backend("postgres", lambda: PostgresStore(url), url=url)
    finally:
        await execute(backend.url, f"DROP OWNED BY {name}; DROP ROLE {name}")


async def work(store):
    """All that a worker does."""
    await store.open()
    await store.ping()
    await take_partition_over(store, 0)
    await store.claim(TOPIC, {0: 1}, "second")
    owners = {0: 2}
    await save(store, [an_advance(0, 1, owner=2)], [a_task(1)], [an_outcome(0, b"k" * 16)])
    await save(store, [an_advance(1, 2, owner=2)], [a_task(1, 2)], [an_outcome(1)])
    await store.note_published(TOPIC, owners, {0: 2})
    await store.identify(TOPIC, owners, TopicIdentity(cluster_id="c", topic_id="t"))
    await store.note_blocked(TOPIC, owners, {0: "why"})
    await store.note_lost(TOPIC, owners, {0: 1})
    assert len(await store.recorded(TOPIC, 0, 0, 9, 9)) == 2
    assert await store.oldest_ms() == 1
    assert await store.prune(1000, 10) == 2


async def test_with_the_documented_rights_a_worker_does_all_its_work(restricted):
    store = restricted[1].make()
    await work(store)
    await store.close()


@pytest.mark.parametrize(("table", "right"), documented())
async def test_without_one_of_them_it_does_not(backend, restricted, table, right):
    name, user = restricted
    await execute(backend.url, f"REVOKE {right} ON {table} FROM {name}")
    store = user.make()
    try:
        with pytest.raises(StoreError, match="lacks"):
            await work(store)
    finally:
        await store.close()


async def test_pruning_that_may_not_delete_warns_with_the_cause_once_and_shows_how_old_the_oldest_outcome_is(
    backend, restricted
):
    name, user = restricted
    await execute(backend.url, f"REVOKE DELETE ON outcomes FROM {name}")
    metrics = Metrics()
    async with user.opened() as store:
        await take_partition_over(store, 0)
        await save(store, [an_advance(0, 1)], outcomes=[an_outcome(0)])
        await store.note_published(TOPIC, {0: 1}, {0: 1})
        with pytest.raises(StoreUnavailableError, match="42501: the user lacks a right"):
            await store.prune(1000, 10)
        with capture_logs() as lines:
            async with pruned_for_ever(store, metrics, rounds=5):
                pass

    told = [line for line in lines if line["event"] == "pruning_postponed"]
    assert [line["log_level"] for line in told] == ["warning"]
    assert "lacks a right" in told[0]["reason"]
    assert metrics.registry.get_sample_value("usertask_oldest_outcome_age_seconds") > 1e9
    assert metrics.registry.get_sample_value("usertask_outcomes_pruned_total") == 0
