"""What operators are promised when they look things up, of every store: all of it while a worker has the store open."""

import pytest

from tests.contract.backends import TOPIC, a_record, a_task, an_advance, an_outcome, execute, save, take_over
from worker.stores.lookup import Recorded
from worker.stores.port import PartitionRow, StoreNotReadyError, StoreUnavailableError
from worker.stores.postgres_lookup import PostgresLookup
from worker.stores.sqlite_lookup import SqliteLookup

COMMAND = b"c" * 16


def make_lookup(backend):
    return SqliteLookup(backend.path) if backend.name == "sqlite" else PostgresLookup(backend.url)


@pytest.fixture
async def lookup(backend, store):
    lookup = make_lookup(backend)
    await lookup.open()
    yield lookup
    await lookup.close()


async def test_a_task_is_found_and_another_is_not(store, lookup):
    await take_over(store, 0)
    await save(store, [an_advance(0, 1)], [a_task(7, variables={"a": 1})])

    assert await lookup.task(7) == a_task(7, variables={"a": 1})
    assert await lookup.task(8) is None


async def test_all_partitions_of_a_topic_that_were_ever_taken_over_are_found_and_no_others(store, lookup):
    await take_over(store, 0, 2)
    await store.claim("other", {1: 0}, "p")
    await save(store, [an_advance(0, 5, partition=2, published=3)])

    assert await lookup.partitions(TOPIC) == {
        0: PartitionRow(owner=1, publisher="first", applied=0, published=0),
        2: PartitionRow(owner=1, publisher="first", applied=5, published=3),
    }


async def test_an_outcome_is_found_by_its_command_id_and_by_its_position_as_it_was_saved(store, lookup):
    await take_over(store, 1)
    outcome = an_outcome(3, COMMAND, partition=1, status=409, records=(a_record(), a_record(None, key=None)))
    await save(store, [an_advance(0, 4, partition=1)], outcomes=[outcome])

    expected = Recorded(topic=TOPIC, outcome=outcome)
    assert await lookup.outcome_of(COMMAND) == expected
    assert await lookup.outcome_at(TOPIC, 1, 3) == expected
    assert expected.position == f"{TOPIC}/1/3"


async def test_an_outcome_that_occupies_no_id_is_found_by_its_position(store, lookup):
    await take_over(store, 0)
    await save(store, [an_advance(0, 1)], outcomes=[an_outcome(0, None)])

    assert (await lookup.outcome_at(TOPIC, 0, 0)).outcome == an_outcome(0, None)


async def test_what_is_not_there_is_not_found(store, lookup):
    await take_over(store, 0)
    await save(store, [an_advance(0, 1)], outcomes=[an_outcome(0, COMMAND)])

    assert await lookup.outcome_of(b"d" * 16) is None
    for position in ((TOPIC, 0, 1), (TOPIC, 1, 0), ("other", 0, 0)):
        assert await lookup.outcome_at(*position) is None
    assert await lookup.search("id", 10, 10) == []


async def test_a_search_finds_all_outcomes_of_a_text_up_to_its_limit_latest_first(store, lookup):
    await take_over(store, 0)
    same = [an_outcome(offset, command_id="same", decided_at_ms=offset) for offset in range(4)]
    await save(store, [an_advance(0, 5)], outcomes=[*same, an_outcome(4, COMMAND)])

    assert [one.outcome.offset for one in await lookup.search("same", 10, 10)] == [3, 2, 1, 0]
    assert [one.outcome.offset for one in await lookup.search("same", 2, 10)] == [3, 2]


async def test_a_search_that_takes_too_long_is_given_up_and_the_next_is_not(backend, store, lookup):
    await take_over(store, 0)
    outcomes = [an_outcome(offset, command_id="x" * 200) for offset in range(20_000)]
    await save(store, [an_advance(0, len(outcomes))], outcomes=outcomes)

    with pytest.raises(StoreUnavailableError, match=r"given up after 0\.001 s"):
        await lookup.search("y", 10, 0.001)

    assert await lookup.search("y", 10, 60) == []


async def test_a_lookup_sees_what_is_saved_after_it_was_opened(store, lookup):
    assert await lookup.partitions(TOPIC) == {}
    await take_over(store, 0)
    assert set(await lookup.partitions(TOPIC)) == {0}


async def test_a_lookup_works_beside_a_store_that_is_closed_and_opens_again(backend, store, lookup):
    await take_over(store, 0)
    await store.close()
    await lookup.close()
    await lookup.open()
    assert set(await lookup.partitions(TOPIC)) == {0}
    await store.open()


async def test_nothing_can_be_written_through_it(backend, store, lookup):
    async def write():
        if backend.name == "postgres":
            await lookup._fetch("DELETE FROM outcomes")
        else:
            lookup._connection.execute("DELETE FROM outcomes")

    with pytest.raises(Exception, match=r"(?i)read.?only"):
        await write()


async def test_one_that_is_not_open_says_so(backend, store):
    lookup = make_lookup(backend)
    await lookup.close()
    with pytest.raises(StoreUnavailableError):
        await lookup.task(1)


async def test_a_schema_of_another_release_is_refused(backend, store):
    if backend.name == "sqlite":
        await store._run(store._file.change, "DELETE FROM schema_migrations WHERE version > ?", [(0,)])
    else:
        await execute(backend.url, "DELETE FROM schema_migrations")

    with pytest.raises(StoreNotReadyError):
        await make_lookup(backend).open()


async def test_a_file_that_is_not_there_or_no_store_is_refused_and_not_made(tmp_path):
    (tmp_path / "text").write_text("no database, but long enough to be looked at" * 100)
    for name in ("none", "text"):
        with pytest.raises(StoreNotReadyError):
            await SqliteLookup(tmp_path / name).open()
    assert not (tmp_path / "none").exists()


async def test_a_server_that_is_away_is_unavailable():
    with pytest.raises(StoreUnavailableError):
        await PostgresLookup("postgresql://u:secret@127.0.0.1:1/d").open()
