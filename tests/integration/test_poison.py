"""Records that break more than a rule: the client under the worker, or the store. None of them stops the partition."""

import contextlib
import sqlite3

import pytest

from tests.integration.harness import (
    COMPLETE,
    CREATE,
    Unsent,
    Wire,
    Worker,
    cloud_event,
    encoded,
    environment,
    fresh_id,
    fresh_key,
    make_topics,
)
from tests.integration.raw_batches import Raw, batch_of, produce_raw

ROUNDS = 5
POISONOUS = 12


@pytest.fixture
def store_path(tmp_path):
    return tmp_path / "tasks.db"


@pytest.fixture
def worker(kafka, tmp_path, store_path):
    env = environment(kafka.bootstrap_servers, make_topics(kafka.bootstrap_servers), store_path)
    with Worker(env, tmp_path) as running:
        yield running


@pytest.fixture
def wire(kafka, worker):
    names = ("commands", "events", "rejections", "dead_letters")
    topics = type("Topics", (), {name: worker.env[f"USERTASK_{name.upper()}_TOPIC"] for name in names})
    with Wire(kafka.bootstrap_servers, topics, worker.watch) as wire:
        yield wire


def batch_with_broken_header_name() -> bytes:
    """Write a record batch with a header name that is not UTF-8; no client's API can."""
    return batch_of([Raw(b"{}", is_broken=True)])


def test_a_header_name_that_is_not_utf_8_is_a_dead_letter_and_the_partition_goes_on(kafka, wire):
    before, after = fresh_key(), fresh_key()
    wire.send(encoded({"userTaskKey": before}), headers=cloud_event(CREATE), partition=1)

    offset = produce_raw(kafka.bootstrap_servers, wire.topics.commands, 1, batch_with_broken_header_name())
    wire.send(encoded({"userTaskKey": after}), headers=cloud_event(CREATE), partition=1)

    wire.wait_until(lambda: len(wire.events()) == 2)
    (letter,) = wire.wait_until(wire.dead_letters)
    (rejection,) = wire.wait_until(wire.rejections)
    assert letter.text("__dlq.errors.offset") == str(offset)
    assert (letter.partition, letter.key, letter.value) == (1, None, None)
    assert (rejection.slug, rejection.body["instance"]) == (
        "malformed-command",
        f"/{wire.topics.commands}/1/{offset}",
    )


def test_of_a_batch_with_one_record_that_cannot_be_read_the_others_are_decided(kafka, wire):
    """The client gives the whole batch up."""
    keys = [fresh_key() for _ in range(5)]
    records = [Raw(encoded({"userTaskKey": key}), cloud_event(CREATE)) for key in keys]
    records[2] = Raw(b"{}", is_broken=True)

    offset = produce_raw(kafka.bootstrap_servers, wire.topics.commands, 1, batch_of(records))

    wire.wait_until(lambda: len(wire.events()) == 4)
    (letter,) = wire.wait_until(wire.dead_letters)
    assert letter.text("__dlq.errors.offset") == str(offset + 2)
    assert {event.body["userTaskKey"] for event in wire.events()} == set(keys[:2] + keys[3:])
    assert len(wire.rejections()) == 1


def test_a_record_that_cannot_be_read_costs_no_command_of_another_partition(kafka, tmp_path, store_path):
    """getmany drops the records that it has read of other partitions when it raises for one."""
    topics = make_topics(kafka.bootstrap_servers)
    env = environment(kafka.bootstrap_servers, topics, store_path)
    sent = set()
    with Wire(kafka.bootstrap_servers, topics) as wire:
        for _ in range(ROUNDS):  # the order in which partitions are drained is left to chance
            keys = [fresh_key() for _ in range(30)]
            wire.send_all(
                Unsent(encoded({"userTaskKey": key}), headers=cloud_event(CREATE), partition=number % 3)
                for number, key in enumerate(keys)
            )
            produce_raw(kafka.bootstrap_servers, topics.commands, 1, batch_with_broken_header_name())
            sent |= set(keys)
            with Worker(env, tmp_path) as worker:  # started with all of it waiting: one fetch brings all partitions
                wire.wait_until(lambda wanted=len(sent): len(wire.events()) >= wanted)  # noqa: B008
                assert worker.terminate() == 0, worker.stderr()

        wire.wait_until(lambda: len(wire.dead_letters()) == ROUNDS)
        assert len(wire.events()) == len(sent)


def test_the_search_for_records_that_cannot_be_read_does_not_wait_for_idle_partitions(kafka, wire):
    """Whoever writes one such writes more. With a wait for each idle partition they took 20 s, and take 1 s without."""
    for _ in range(POISONOUS):
        produce_raw(kafka.bootstrap_servers, wire.topics.commands, 1, batch_with_broken_header_name())
        wire.send(encoded({"userTaskKey": fresh_key()}), headers=cloud_event(CREATE), partition=1)

    wire.wait_until(lambda: len(wire.events()) == len(wire.dead_letters()) == POISONOUS, deadline_s=12)


def test_a_command_that_the_store_refuses_is_answered_with_500_and_stops_nobody(wire, store_path):
    poison, good = fresh_key(), fresh_key()
    with contextlib.closing(sqlite3.connect(store_path, timeout=30)) as store, store:
        store.execute(
            f"CREATE TRIGGER poison BEFORE INSERT ON user_tasks WHEN NEW.user_task_key = {poison}"
            " BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    command_id = fresh_id()

    positions = [
        wire.send(encoded({"userTaskKey": key}), headers=headers, partition=0)
        for key, headers in [
            (good, cloud_event(CREATE)),
            (poison, cloud_event(CREATE, command_id)),
            (good, cloud_event(COMPLETE)),
        ]
    ]

    wire.wait_until(lambda: len(wire.events()) == 2)
    (rejection,) = wire.wait_until(lambda: wire.rejections_of(positions[1]))
    (letter,) = wire.wait_until(lambda: wire.dead_letters_of(positions[1]))
    assert (rejection.slug, rejection.body["status"], rejection.body["title"]) == ("internal", 500, "INTERNAL")
    assert (rejection.body["userTaskKey"], rejection.body["commandId"]) == (poison, command_id)
    assert letter.text("dlq-error-type") == "internal"


def test_an_internal_rejection_leaves_the_command_id_free_for_a_redrive(wire, store_path):
    poison, command = fresh_key(), cloud_event(CREATE)
    with contextlib.closing(sqlite3.connect(store_path, timeout=30)) as store, store:
        store.execute(
            f"CREATE TRIGGER poison BEFORE INSERT ON user_tasks WHEN NEW.user_task_key = {poison}"
            " BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    wire.send(encoded({"userTaskKey": poison}), headers=command)
    wire.wait_until(wire.dead_letters)
    with contextlib.closing(sqlite3.connect(store_path, timeout=30)) as store, store:
        store.execute("DROP TRIGGER poison")

    wire.send(encoded({"userTaskKey": poison}), headers=command)

    (event,) = wire.wait_until(wire.events)
    assert event.body["userTaskKey"] == poison
