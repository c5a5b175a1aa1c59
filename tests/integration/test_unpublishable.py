"""Outcomes that Kafka does not take: they hold up their own partition and no other, by name, until they are taken."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME
from confluent_kafka.admin import AdminClient, NewTopic

from tests.chaos.fleet import ChaosWorker
from tests.chaos.proxy import proxied_kafka
from tests.contract.backends import postgres_backend
from tests.integration.harness import (
    CREATE,
    PARTITIONS,
    Bench,
    Position,
    Topics,
    Unsent,
    Wire,
    Worker,
    bench,
    cloud_event,
    create_topics,
    encoded,
    environment,
    fresh_id,
    fresh_key,
    make_topics,
    milliseconds,
    set_config,
)
from worker.encoder import OutgoingRecord
from worker.stores.port import Advance, Changes, Outcome
from worker.stores.sqlite import SqliteStore

BLOCKED_WITHIN_S = 30
HEALED_WITHIN_S = 30


@pytest.fixture
def it(kafka, tmp_path):
    with bench(kafka.bootstrap_servers, tmp_path) as it:
        yield it


def a_create(partition: int, command_id: str, **members: object) -> Unsent:
    key = fresh_key()
    return Unsent(
        encoded({"userTaskKey": key} | members), key.encode(), cloud_event(CREATE, command_id), partition=partition
    )


def created(wire: Wire, partition: int, **members: object) -> str:
    """Send a create command and return its id."""
    command_id = fresh_id()
    wire.send_all([a_create(partition, command_id, **members)])
    return command_id


def logged(worker: Worker, event: str) -> list[dict]:
    lines = (json.loads(line) for line in worker.stderr().splitlines() if line.startswith("{"))
    return [line for line in lines if line["event"] == event]


def blocked(it: Bench, position: Position) -> dict:
    """Return the line that says so, once the worker is not ready for this partition alone."""

    def said() -> dict | None:
        lines = [line for line in logged(it.worker, "partition_blocked") if line["partition"] == position.partition]
        unready = [line.split(":")[0] for line in it.worker.get("/readyz")[1].splitlines()]
        return lines[-1] if lines and unready == ["partitions_unblocked"] else None

    line = it.wire.wait_until(said, BLOCKED_WITHIN_S)
    assert line["cause"] == "unpublishable"
    assert f"the outcome of offset {position.offset} cannot be published" in line["reason"]
    series = f'cause="unpublishable",partition="{position.partition}"'
    assert f"usertask_partition_blocked{{{series}" in it.worker.get("/metrics")[1]
    return line


def others_go_on(it: Bench, partition: int) -> None:
    for other in set(range(PARTITIONS)) - {partition}:
        it.wire.event(created(it.wire, other))


def healed(it: Bench) -> None:
    it.worker.await_ready(HEALED_WITHIN_S)
    assert logged(it.worker, "partition_unblocked")
    series = [
        line for line in it.worker.get("/metrics")[1].splitlines() if line.startswith("usertask_partition_blocked{")
    ]
    assert len(series) == PARTITIONS
    assert all('cause="none"' in line and line.endswith(" 0.0") for line in series)


# Clocks


async def test_a_clock_eight_days_ahead_of_the_databases_is_told_at_the_start(kafka, postgres, tmp_path):
    async with postgres_backend(postgres.url) as backend:
        env = environment(kafka.bootstrap_servers, make_topics(kafka.bootstrap_servers), STORE_URL=backend.url)
        with ChaosWorker(env | {"USERTASK_TEST_CLOCK_S": str(8 * 86_400)}, tmp_path) as worker:
            [line] = logged(worker, "clocks_differ")
            assert line["level"] == "warning"
            assert line["ahead_s"] == pytest.approx(8 * 86_400, abs=60)
            assert "and the store's says" in line["reason"]
            assert re.search(r"^usertask_clock_ahead_seconds 6912\d\d\.", worker.get("/metrics")[1], re.MULTILINE)


def test_outcomes_that_a_clock_two_hours_ahead_has_dated_are_published_once_it_is_right(kafka, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    env = environment(kafka.bootstrap_servers, topics, tmp_path / "tasks.db")
    fast = env | {"USERTASK_TEST_CLOCK_S": "7200"}
    with Wire(kafka.bootstrap_servers, topics) as wire:
        with ChaosWorker(fast, tmp_path) as worker:
            it = Bench(worker, wire)
            [position] = wire.send_all([a_create(0, "ahead")])
            line = blocked(it, position)
            assert f"{topics.events}, partition" in line["reason"]
            assert "said InvalidTimestampError" in line["reason"]
            assert "is this machine's clock right?" in line["reason"]
            worker.kill()
        started_ms = time.time_ns() // 1_000_000
        with Worker(env, tmp_path):
            event = wire.event("ahead")
            wire.event(created(wire, 1))
    decided_ms = milliseconds(event.text("ce_time"))
    kind, timestamp_ms = event.timestamp
    assert decided_ms > started_ms + 3_600_000
    assert kind == TIMESTAMP_CREATE_TIME
    assert started_ms <= timestamp_ms <= time.time_ns() // 1_000_000


def test_a_topic_whose_timestamp_limits_are_lowered_gets_the_present(it):
    events = it.wire.topics.events
    with compacted(it, it.wire.topics.rejections):
        position = it.wire.send(b"no json", key=None, partition=0)
        behind = created(it.wire, 0)
        blocked(it, position)
        set_config(it.worker.env["USERTASK_KAFKA_BOOTSTRAP_SERVERS"], events, message_timestamp_before_max_ms="1000")
        time.sleep(1.5)
    event = it.wire.event(behind)
    assert event.timestamp[1] > milliseconds(event.text("ce_time")) + 1000
    healed(it)


# What topics take


@contextmanager
def compacted(it: Bench, topic: str) -> Iterator[None]:
    server = it.worker.env["USERTASK_KAFKA_BOOTSTRAP_SERVERS"]
    set_config(server, topic, cleanup_policy="compact")
    yield
    set_config(server, topic, cleanup_policy="delete")


def test_a_record_without_key_and_a_topic_that_was_made_compacted(it):
    before = [created(it.wire, partition) for partition in range(PARTITIONS)]
    with compacted(it, it.wire.topics.rejections):
        first, *behind = it.wire.send_all(
            [
                Unsent(b"no json", key=None, partition=0),
                a_create(0, "behind-1"),
                Unsent(b"no json", key=None, partition=0),
                a_create(0, "behind-2"),
            ]
        )
        line = blocked(it, first)
        assert it.wire.topics.rejections in line["reason"]
        assert "set its cleanup.policy to delete" in line["reason"]
        others_go_on(it, 0)
        assert it.wire.events_of("behind-1") == []
        assert not it.worker.is_ready()
    for position in (first, behind[1]):
        it.wire.rejection(position)
        it.wire.dead_letter(position)
    for command_id in ("behind-1", "behind-2"):
        it.wire.event(command_id)
    assert [len(it.wire.events_of(one)) for one in [*before, "behind-1", "behind-2"]] == [1] * (len(before) + 2)
    healed(it)
    [cause] = {line["cause"] for line in logged(it.worker, "transaction_failed")}
    assert cause == "UnknownError"
    assert 'usertask_failed_transactions_total{cause="UnknownError"}' in it.worker.get("/metrics")[1]


def test_among_many_outcomes_the_one_that_is_not_taken_is_found(it):
    with compacted(it, it.wire.topics.rejections):
        commands = [a_create(number % PARTITIONS, f"many-{number}") for number in range(600)]
        commands.insert(300, Unsent(b"no json", key=None, partition=2))
        position = it.wire.send_all(commands)[300]
        blocked(it, position)
        it.wire.wait_until(lambda: len(it.wire.events()) == 500, BLOCKED_WITHIN_S)
    it.wire.wait_until(lambda: len(it.wire.events()) == 600, HEALED_WITHIN_S)
    assert len({event.headers["ce_causationid"] for event in it.wire.events()}) == 600


def test_an_event_larger_than_its_topic_takes_by_now(it):
    server, events = it.worker.env["USERTASK_KAFKA_BOOTSTRAP_SERVERS"], it.wire.topics.events
    set_config(server, events, max_message_bytes="20000")
    [position] = it.wire.send_all([a_create(1, "large", candidateUsers=["x" * 250] * 200)])
    line = blocked(it, position)
    assert f"{events}, partition" in line["reason"]
    assert "raise its max.message.bytes" in line["reason"]
    others_go_on(it, 1)
    # together they are more than the topic takes, each alone is not
    it.wire.send_all([a_create(0, f"small-{number}", candidateUsers=["x" * 250] * 10) for number in range(200)])
    it.wire.wait_until(lambda: len(it.wire.events()) == 202, BLOCKED_WITHIN_S)
    set_config(server, events, max_message_bytes="1048588")
    it.wire.event("large")
    healed(it)


def test_a_topic_that_was_deleted_blocks_what_goes_there_and_nothing_else(it):
    server, rejections = it.worker.env["USERTASK_KAFKA_BOOTSTRAP_SERVERS"], it.wire.topics.rejections
    admin = AdminClient({"bootstrap.servers": server})
    for done in admin.delete_topics([rejections]).values():
        done.result(30)
    position = it.wire.send(encoded({"userTaskKey": fresh_key()}), partition=2)
    line = blocked(it, position)
    assert line["reason"].startswith(f"the outcome of offset {position.offset} cannot be published: {rejections}")
    others_go_on(it, 2)
    create_topics(server, NewTopic(rejections, PARTITIONS, 1))
    healed(it)
    it.wire.event(created(it.wire, 2))


# A slow path


async def decided(store: SqliteStore, topics: Topics, count: int) -> None:
    """Write outcomes of 20 kB into the store that nobody has published."""
    now_ms = time.time_ns() // 1_000_000
    outcomes = [
        Outcome(
            partition=0,
            offset=offset,
            command_key=None,
            fingerprint=None,
            command_id=f"slow-{offset}",
            user_task_key=None,
            status=204,
            decided_at_ms=now_ms,
            records=(OutgoingRecord(topics.events, str(offset).encode(), b"x" * 20_000, (), now_ms),),
        )
        for offset in range(count)
    ]
    await store.open()
    await store.claim(topics.commands, {0: 0}, fresh_id())
    await store.begin(topics.commands, 0, 1, 0)
    advance = Advance(partition=0, owner=1, applied=0, next_applied=count, published=0)
    await store.apply(topics.commands, [advance], (), (), lambda _: Changes(outcomes=outcomes))
    await store.close()


def test_on_a_slow_path_a_backlog_is_published_in_transactions_that_fit_it(tmp_path):
    with proxied_kafka() as (kafka, proxy):
        topics = make_topics(kafka)
        env = environment(proxy.bootstrap_servers, topics, tmp_path / "tasks.db")
        with Wire(kafka, topics) as wire:
            wire.send_all([Unsent(b"decided already", partition=0)] * 400)
            asyncio.run(decided(SqliteStore(tmp_path / "tasks.db"), topics, 400))
            proxy.bytes_per_s = 1024 * 1024
            with Worker(env, tmp_path) as worker:
                assert len(wire.wait_for(400, 60)) == 400
                proxy.bytes_per_s = None
                assert worker.terminate() == 0, worker.stderr()
    assert logged(worker, "partition_blocked") == []
    assert len(logged(worker, "transaction_failed")) <= 1
