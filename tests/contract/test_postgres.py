"""What several workers on one PostgreSQL may do to each other, and what its server may do to them."""

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import asyncpg
import psutil
import pytest

from tests.contract.backends import (
    TOPIC,
    a_task,
    an_advance,
    an_outcome,
    execute,
    fresh_schema,
    postgres_backend,
    save,
    take_over,
)
from tests.embedded_postgres import EmbeddedPostgres
from worker.stores.migrations import migrations
from worker.stores.port import Changes, StoreError, StoreNotReadyError, StoreUnavailableError
from worker.stores.postgres import PostgresStore, migrate

COMMAND = b"c" * 16
WORKERS, BATCHES, TASKS = 4, 200, 7
DEADLINE_S = 30

OCCUPY = "INSERT INTO outcomes VALUES (99, 0, $1, $1, 'x', 1, 204, 1, '')"
CREATE = "INSERT INTO user_tasks VALUES (1, 'CREATED', 5, '{}', '{}', 1, NULL)"

ALL_VERSIONS = [migration.version for migration in migrations("postgres")]


@pytest.fixture
async def backend(postgres):
    async with postgres_backend(postgres.url) as backend:
        yield backend


@pytest.fixture
async def stores(backend):
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(backend.opened()) for _ in range(WORKERS)]


@pytest.fixture(scope="module")
def server():
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture
async def fragile(server):
    async with postgres_backend(server.url) as backend:
        yield backend


@asynccontextmanager
async def a_rival(url):
    """A transaction of somebody else; it commits, and meanwhile the test sees who waits for it."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


async def until_waited_for(connection):
    async with asyncio.timeout(DEADLINE_S):
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
        ):
            pass


async def until_it_works(ask):
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return await ask()
        except StoreUnavailableError:
            assert time.monotonic() < deadline


async def test_a_command_id_that_another_worker_commits_first_is_seen_when_the_batch_is_decided_again(backend, stores):
    store, seen = stores[0], []
    await take_over(store, 0)

    def decide(snapshot):
        seen.append(COMMAND in snapshot.fingerprints)
        return Changes(outcomes=[an_outcome(0, None if seen[-1] else COMMAND)])

    async with a_rival(backend.url) as rival:
        await rival.execute(OCCUPY, COMMAND)
        work = asyncio.create_task(store.apply(TOPIC, [an_advance(0, 1)], [], [COMMAND], decide))
        await until_waited_for(rival)
    await work

    assert seen == [False, True]
    assert len(await store.recorded(TOPIC, 0, 0, 9, 9)) == 1


async def test_a_new_task_that_another_worker_commits_first_is_not_overwritten(backend, stores):
    store, seen = stores[0], []
    await take_over(store, 0)

    def decide(snapshot):
        seen.append(snapshot.tasks[1].version if snapshot.tasks else 0)
        return Changes(tasks={1: a_task(1, seen[-1] + 1)})

    async with a_rival(backend.url) as rival:
        await rival.execute(CREATE)
        work = asyncio.create_task(store.apply(TOPIC, [an_advance(0, 1)], [1], [], decide))
        await until_waited_for(rival)
    await work

    assert seen == [0, 5]
    assert (await store.task(1)).version == 6


async def test_of_two_workers_with_one_command_id_exactly_one_occupies_it(stores):
    for number in range(20):
        command, partitions, last = bytes([number]) * 16, (2 * number, 2 * number + 1), {}
        await take_over(stores[0], *partitions)

        def deciding(partition, command=command, last=last):
            def decide(snapshot):
                last[partition] = command in snapshot.fingerprints
                return Changes(outcomes=[an_outcome(0, None if last[partition] else command, partition)])

            return decide

        await asyncio.gather(
            *(
                store.apply(TOPIC, [an_advance(0, 1, partition)], [], [command], deciding(partition))
                for store, partition in zip(stores, partitions, strict=False)
            )
        )

        assert sorted(last.values()) == [False, True]


async def test_of_several_workers_that_claim_a_partition_one_wins_it(stores):
    for owner in range(20):
        won = await asyncio.gather(
            *(store.claim(TOPIC, {0: owner, 1: owner, 2: 0}, str(n)) for n, store in enumerate(stores))
        )

        assert Counter(partition for some in won for partition in some) == {0: 1, 1: 1} | ({2: 1} if owner == 0 else {})
        for partition, row in (await stores[0].partitions(TOPIC, [0, 1])).items():
            assert row.owner == owner + 1
            assert partition in won[int(row.publisher)]


async def test_many_workers_on_the_same_tasks_lose_no_update_and_no_deadlock_comes_out(stores):
    """Each task counts the batches that touched it; tasks, command ids and partitions come in opposite orders."""
    lanes = WORKERS * 4
    await take_over(stores[0], *range(lanes))
    touched = Counter()

    async def work(lane):
        for step in range(BATCHES // 4):
            keys = [(lane + step * shift) % TASKS for shift in (3, 2, 1)]
            commands = [bytes([step, key]) * 8 for key in keys]
            touched.update(set(keys))

            def decide(snapshot, keys=keys, commands=commands, step=step):
                tasks = {
                    key: a_task(key, snapshot.tasks[key].version + 1 if key in snapshot.tasks else 1) for key in keys
                }
                free = next((one for one in commands if one not in snapshot.fingerprints), None)
                return Changes(tasks=tasks, outcomes=[an_outcome(step, free, lane)])

            store = stores[lane % WORKERS]
            await store.apply(TOPIC, [an_advance(step, step + 1, lane)], keys, commands, decide)

    await asyncio.gather(*map(work, range(lanes)))

    assert {key: (await stores[0].task(key)).version for key in range(TASKS)} == touched


async def test_workers_with_the_same_command_ids_in_opposite_orders_wait_for_each_other_but_never_in_a_ring(backend):
    before = await deadlocks(backend.url)
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(backend.opened()) for _ in range(WORKERS)]
        await take_over(stores[0], *range(WORKERS))

        async def work(lane, step):
            commands = [bytes([step, number]) * 8 for number in range(20)][:: 1 if lane % 2 else -1]

            def decide(snapshot):
                free = [None if one in snapshot.fingerprints else one for one in commands]
                return Changes(outcomes=[an_outcome(20 * step + n, one, lane) for n, one in enumerate(free)])

            await stores[lane].apply(TOPIC, [an_advance(step, step + 1, lane)], [], commands, decide)

        for step in range(20):
            await asyncio.gather(*(work(lane, step) for lane in range(WORKERS)))

    assert await deadlocks(backend.url) == before
    assert (await execute(backend.url, "SELECT count(command_key) FROM outcomes"))[0][0] == 400


async def deadlocks(url):
    """Count them as the server does; it has heard of all of them once the workers' sessions are over."""
    await until_all_sessions_are_over(url)
    query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    return (await execute(url, query))[0][0]


async def until_all_sessions_are_over(url):
    deadline = time.monotonic() + DEADLINE_S
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'user-task-worker'"
    while (await execute(url, sessions))[0][0]:
        assert time.monotonic() < deadline


async def test_workers_that_advance_the_same_partitions_in_opposite_orders_fence_each_other_without_a_deadlock(stores):
    await take_over(stores[0], *range(8))

    async def work(store, order):
        wins = 0
        for _ in range(BATCHES // 4):
            rows = await store.partitions(TOPIC, order)
            advances = [an_advance(rows[number].applied, rows[number].applied + 1, number) for number in order]
            try:
                await save(store, advances, [a_task(1), a_task(2)])
                wins += 1
            except StoreError as error:
                assert type(error).__name__ == "StoreFencedError"  # noqa: PT017 - an ordinary end
        return wins

    orders = [list(range(8)), list(range(7, -1, -1))] * 2
    wins = await asyncio.gather(*map(work, stores, orders))

    assert {row.applied for row in (await stores[0].partitions(TOPIC, range(8))).values()} == {sum(wins)}


async def test_a_row_that_somebody_keeps_locked_makes_the_store_unavailable_in_bounded_time(backend):
    store = PostgresStore(backend.url, statement_timeout_s=2, lock_timeout_s=0.05)
    await store.open()
    await take_over(store, 0)
    async with a_rival(backend.url) as rival:
        await rival.execute("SELECT * FROM partitions FOR UPDATE")
        with pytest.raises(StoreUnavailableError, match="55P03: somebody keeps a lock"):
            await save(store, [an_advance(0, 1)])

    await save(store, [an_advance(0, 1)])
    await store.close()


async def test_a_transaction_that_stands_still_is_ended_by_the_server_and_writes_nothing(backend):
    store = PostgresStore(backend.url, statement_timeout_s=0.2, lock_timeout_s=0.1)
    await store.open()
    await take_over(store, 0)

    def decide(_):
        stuck_until = time.monotonic() + 0.5
        while time.monotonic() < stuck_until:
            pass
        return Changes(tasks={1: a_task(1)})

    with pytest.raises(StoreUnavailableError):
        await store.apply(TOPIC, [an_advance(0, 1)], [1], [], decide)

    assert await until_it_works(lambda: store.task(1)) is None
    await store.close()


async def test_a_server_that_became_a_standby_is_looked_for_anew(fragile, server):
    async with fragile.opened() as store:
        await take_over(store, 0)
        await execute(server.url, "ALTER ROLE usertask SET default_transaction_read_only = on")
        await execute(
            server.url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'user-task-worker'",
        )
        await until_it_works(lambda: store.task(1))
        for ask in (store.ping, lambda: save(store, [an_advance(0, 1)])):
            with pytest.raises(StoreUnavailableError, match=r"25006: the server takes no writes"):
                await ask()
        await execute(server.url, "ALTER ROLE usertask RESET ALL")

        await until_it_works(lambda: save(store, [an_advance(0, 1)]))


async def test_an_idle_store_notices_that_its_server_takes_no_writes_any_more(fragile, server):
    async with fragile.opened() as store:
        await store.ping()
        await execute(server.url, "ALTER SYSTEM SET default_transaction_read_only = on")
        await execute(server.url, "SELECT pg_reload_conf()")
        try:
            deadline = time.monotonic() + DEADLINE_S
            with pytest.raises(StoreUnavailableError, match=r"25006: the server takes no writes"):  # noqa: PT012
                while time.monotonic() < deadline:
                    await store.ping()
        finally:
            await execute(server.url, "ALTER SYSTEM RESET ALL")
            await execute(server.url, "SELECT pg_reload_conf()")
        await until_it_works(store.ping)
        await take_over(store, 0)


@pytest.mark.parametrize("end", ["kill", "terminate"])
async def test_a_store_heals_after_an_outage_of_the_server_and_keeps_what_was_committed(fragile, server, end):
    async with fragile.opened() as store:
        await take_over(store, 0)
        await asyncio.gather(*(store.task(1) for _ in range(8)))  # every connection of the pool
        await save(store, [an_advance(0, 1)], [a_task(1)])
        getattr(server, end)()
        try:
            for ask in (
                store.ping,
                lambda: store.task(1),
                lambda: save(store, [an_advance(1, 2)]),
                lambda: store.claim(TOPIC, {0: 1}, "p"),
                fragile.make().open,
            ):
                with pytest.raises(StoreUnavailableError):
                    await ask()
        finally:
            server.restart()

        assert await until_it_works(lambda: store.task(1)) == a_task(1)
        await asyncio.gather(*(until_it_works(store.ping) for _ in range(8)))
        await save(store, [an_advance(1, 2)])


async def test_a_store_whose_server_is_down_opens_once_it_is_back(fragile, server):
    store = fragile.make()
    server.kill()
    try:
        with pytest.raises(StoreUnavailableError):
            await store.open()
        await store.close()
    finally:
        server.restart()

    await until_it_works(store.open)
    await store.ping()
    await store.close()


async def test_closing_while_the_server_is_down_does_not_raise(fragile, server):
    store = fragile.make()
    await store.open()
    server.kill()
    try:
        await store.close()
    finally:
        server.restart()


@contextmanager
def suspended(server):
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children()]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


async def test_a_server_that_hangs_makes_the_store_unavailable_in_bounded_time(fragile, server):
    store = PostgresStore(fragile.url, statement_timeout_s=0.4, lock_timeout_s=0.2)
    await store.open()
    await take_over(store, 0)
    with suspended(server):
        for ask in (store.ping, lambda: save(store, [an_advance(0, 1)])):
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError):
                await ask()
            assert time.monotonic() - began < 5
        await store.close()

    await until_it_works(store.open)
    await until_it_works(store.ping)
    await store.close()


async def test_migrations_are_applied_once_however_many_ask(postgres):
    async with fresh_schema(postgres.url) as url:
        assert sorted(await asyncio.gather(*(migrate(url) for _ in range(4)))) == [[], [], [], ALL_VERSIONS]
        assert await migrate(url) == []


async def test_a_schema_that_is_missing_or_newer_has_to_be_put_right_by_a_person(postgres):
    async with fresh_schema(postgres.url) as url:
        store = PostgresStore(url)
        with pytest.raises(StoreNotReadyError, match="`user-task-worker store migrate`"):
            await store.open()
        await migrate(url)
        await store.open()
        await store.close()
        await execute(url, "INSERT INTO schema_migrations VALUES (999)")
        with pytest.raises(StoreNotReadyError, match="newer"):
            await store.open()
        with pytest.raises(StoreNotReadyError, match="newer"):
            await migrate(url)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda url: url.replace("/postgres", "/nowhere"), "no database"),
        (lambda url: url.replace("@", "SECRET@"), "user or password"),
        (lambda url: url.replace("@", "/SECRET@"), "%-encoding"),
    ],
    ids=["database", "password", "URL"],
)
async def test_a_wrong_url_is_told_in_words_without_the_password(server, wrong, words):
    url = wrong(server.url)
    for ask in (PostgresStore(url).open, lambda: migrate(url)):
        with pytest.raises(StoreNotReadyError, match=words) as told:
            await ask()
        assert "SECRET" not in str(told.value)
        assert server._password not in str(told.value)
        assert told.value.__suppress_context__


async def test_a_user_who_may_not_create_tables_is_told_so(server):
    await execute(server.url, "CREATE ROLE poor LOGIN PASSWORD 'p'")

    with pytest.raises(StoreNotReadyError, match="lacks rights"):
        await migrate(f"postgresql://poor:p@{server.url.partition('@')[2]}")


async def test_a_database_that_cannot_hold_every_character_is_refused(server):
    await execute(server.url, "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")

    with pytest.raises(StoreNotReadyError, match="UTF8"):
        await migrate(server.url.replace("/postgres", "/latin"))


SHOWN = ("synchronous_commit", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")


async def shown_in_a_transaction(store, *names):
    async def work(connection):
        return [await connection.fetchval("SELECT current_setting($1)", name) for name in names]

    return await store._transact(work)


async def test_every_transaction_commits_durably_and_gives_up_in_time(stores):
    shown = await shown_in_a_transaction(stores[0], *SHOWN, "application_name", "transaction_isolation")
    assert shown == ["on", "10s", "5s", "10s", "user-task-worker", "read committed"]


async def test_what_is_looked_up_by_key_is_found_by_an_index(backend, stores):
    await take_over(stores[0], 0)
    connection = await asyncpg.connect(backend.url, server_settings={"enable_seqscan": "off"})
    for query in (
        "SELECT * FROM outcomes WHERE command_key = ANY('{a,b}'::bytea[])",
        "SELECT * FROM user_tasks WHERE user_task_key = ANY('{1,2}'::bigint[]) ORDER BY user_task_key FOR UPDATE",
        'SELECT * FROM outcomes WHERE partition_id = 1 ORDER BY "offset" LIMIT 1',
    ):
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {query}"))
        assert "Seq Scan" not in plan
    await connection.close()


FILL = """
INSERT INTO outcomes SELECT (SELECT id FROM partitions), n, NULL, NULL, 'x', 1, 204, 1, ''
FROM generate_series(0, 9999) n
"""


async def entries_read(url):
    """Count what was read from the index by which outcomes are pruned."""
    query = "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE indexrelid = 'outcomes_pkey'::regclass"
    return int((await execute(url, query))[0][0] or 0)


async def test_beside_a_long_snapshot_each_step_of_pruning_begins_where_the_last_one_ended(fragile):
    store = fragile.make()
    await store.open()
    await take_over(store, 0)
    await execute(fragile.url, FILL)
    await execute(fragile.url, "UPDATE partitions SET published = 10000")
    async with a_rival(fragile.url) as rival:
        await rival.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await rival.fetch("SELECT count(*) FROM outcomes")  # as pg_dump has it: what is deleted stays for now
        for _ in range(50):
            assert await store.prune(1000, 200) == 200
            assert await store.oldest_ms() in (1, None)
        assert await store.prune(1000, 200) == 0
    await store.close()
    await until_all_sessions_are_over(fragile.url)

    assert await entries_read(fragile.url) < 10 * 10_000
