"""Senders with transactions: their markers and aborted records are nothing to do, and an open one holds a partition."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Producer

from tests.integration.harness import (
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
    run_cli,
)
from tests.integration.terminal import on_a_terminal

DEADLINE_S = 20


@pytest.fixture
def topics(kafka):
    return make_topics(kafka.bootstrap_servers)


@pytest.fixture
def env(kafka, topics, tmp_path):
    return environment(kafka.bootstrap_servers, topics, tmp_path / "tasks.db")


@pytest.fixture
def wire(kafka, topics):
    with Wire(kafka.bootstrap_servers, topics) as wire:
        yield wire


class Sender(Producer):
    """A producer with transactions, which knows its transactional id."""

    def __init__(self, kafka) -> None:
        self.name = fresh_id()
        super().__init__({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": self.name})


@contextmanager
def transaction(kafka) -> Iterator[Sender]:
    """Give a sender in an open transaction, which is aborted if anything fails."""
    producer = Sender(kafka)
    producer.init_transactions(30)
    producer.begin_transaction()
    try:
        yield producer
    except BaseException:
        producer.abort_transaction(30)
        raise


def command(partition: int) -> Unsent:
    return Unsent(encoded({"userTaskKey": fresh_key()}), headers=cloud_event(CREATE), partition=partition)


def send(producer: Producer, topics, count: int, partition: int = 0) -> None:
    for one in (command(partition) for _ in range(count)):
        producer.produce(topics.commands, value=one.value, headers=one.headers, partition=partition)
    assert producer.flush(30) == 0


def send_committed(kafka, topics, count: int, partition: int = 0) -> None:
    with transaction(kafka) as producer:
        send(producer, topics, count, partition)
        producer.commit_transaction(30)


def send_aborted(kafka, topics, count: int, partition: int = 0) -> None:
    with transaction(kafka) as producer:
        send(producer, topics, count, partition)
        producer.abort_transaction(30)


def lag(env, cwd) -> dict:
    ended = run_cli("lag", env=env, cwd=cwd)
    assert (ended.returncode, ended.stderr) == (0, "")
    return json.loads(ended.stdout)


def lags(env, cwd) -> list[int]:
    return [one["lag"] for one in lag(env, cwd)["partitions"]]


def metric(worker: Worker, name: str) -> dict[int, float]:
    """Give a metric by partition."""
    found = re.findall(rf'^{name}\{{partition="(\d+)".*\}} (\S+)$', worker.get("/metrics")[1], re.MULTILINE)
    return {int(partition): float(value) for partition, value in found}


def logged(worker: Worker, event: str) -> list[dict]:
    lines = (json.loads(line) for line in worker.stderr().splitlines() if f'"{event}"' in line)
    return [line for line in lines if line["event"] == event]


def wait_until(found: Callable[[], object], told: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not found():
        assert time.monotonic() < deadline, told()
        time.sleep(0.1)


# Nothing to do


def test_lag_is_0_behind_markers_and_aborted_records_when_all_that_can_be_read_is_answered(
    kafka, topics, env, wire, tmp_path
):
    with Worker(env, tmp_path) as worker:
        send_committed(kafka, topics, 2, partition=0)
        send_aborted(kafka, topics, 20, partition=0)
        send_aborted(kafka, topics, 3, partition=1)
        wire.wait_until(lambda: len(wire.events()) == 2)

        name = "usertask_consumer_lag"
        nothing = {0: 0, 1: 0, 2: 0}
        wait_until(lambda: metric(worker, name) == nothing, lambda: metric(worker, name))
        assert lags(worker.env, tmp_path) == [0, 0, 0]
        assert worker.terminate() == 0

    # without a worker there is nothing but the log and the committed offset, if there is one
    assert lags(env, tmp_path) == [0, 0, 0]
    send_committed(kafka, topics, 2, partition=0)
    send_committed(kafka, topics, 1, partition=1)
    of_0, of_1, of_2 = lags(env, tmp_path)
    assert of_0 >= 2
    assert of_1 >= 1
    assert of_2 == 0


def test_a_command_that_is_read_and_not_answered_is_lag_whatever_stands_behind_it(kafka, topics, env, wire, tmp_path):
    with Worker(env, tmp_path) as worker:
        assert worker.terminate() == 0
    send_aborted(kafka, topics, 5)
    send_committed(kafka, topics, 1)
    send_aborted(kafka, topics, 5)
    assert lags(env, tmp_path)[0] >= 1
    with Worker(env, tmp_path):
        wire.wait_until(lambda: len(wire.events()) == 1)
        wait_until(lambda: lags(env, tmp_path) == [0, 0, 0], lambda: lags(env, tmp_path))


# Open transactions


def test_an_open_transaction_is_named_with_the_offset_and_the_sender_and_so_is_its_end(
    kafka, topics, env, wire, tmp_path
):
    seconds = "usertask_open_transaction_seconds"
    with Worker(env, tmp_path) as worker:
        send_committed(kafka, topics, 1)
        wire.wait_until(lambda: len(wire.events()) == 1)
        before = time.time()
        with transaction(kafka) as producer:
            send(producer, topics, 2)
            wire.send_all([command(partition=0) for _ in range(3)])
            wait_until(lambda: "transaction_stays_open" in worker.stderr(), worker.stderr)

            held, *others = lag(worker.env, tmp_path)["partitions"]
            assert (held["end"], held["lag"]) == (2, 0)
            told = held["transaction"]
            assert (told["offset"], told["waiting"], told["transactionalId"]) == (2, 5, producer.name)
            assert told["producerId"] >= 0
            assert 9 < told["openSeconds"] < time.time() - before + 1
            assert [one["transaction"] for one in others] == [None, None]
            assert metric(worker, seconds)[0] >= 10
            assert metric(worker, seconds).keys() == {0, 1, 2}
            assert metric(worker, "usertask_consumer_lag") == {0: 0, 1: 0, 2: 0}
            assert worker.get("/livez")[0] == 200  # no restart would help
            assert len(wire.events()) == 1
            producer.abort_transaction(30)

        wire.wait_until(lambda: len(wire.events()) == 4)
        wait_until(lambda: metric(worker, seconds)[0] == 0, lambda: metric(worker, seconds))
        assert {one["transaction"] for one in lag(worker.env, tmp_path)["partitions"]} == {None}
        [line] = logged(worker, "transaction_stays_open")
        assert (line["level"], line["topic"], line["partition"]) == ("warning", topics.commands, 0)
        assert (line["offset"], line["waiting"]) == (2, 5)
        assert [line["offset"] for line in logged(worker, "transaction_ended")] == [2]


def test_people_are_told_what_holds_a_partition(kafka, topics, env, tmp_path):
    with Worker(env, tmp_path) as worker:
        assert worker.terminate() == 0
    with transaction(kafka) as producer:
        send(producer, topics, 2, partition=1)
        shown = on_a_terminal("lag", env=env, cwd=tmp_path).stdout
        producer.abort_transaction(30)
    [line] = [line for line in shown.splitlines() if line.startswith("partition 1 ")]
    assert line.startswith("partition 1 is held at offset 0 by an open transaction, open for ")
    assert f"transactional id {producer.name}, producer id" in line
    assert line.endswith("; 2 offsets wait")
