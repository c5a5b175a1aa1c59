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


@contextmanager
def transaction(kafka, topics) -> Iterator[Producer]:
    """Give a producer in an open transaction, which is aborted unless it was committed."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": fresh_id()})
    producer.init_transactions(30)
    producer.begin_transaction()
    try:
        yield producer
    except BaseException:
        producer.abort_transaction(30)
        raise


def send(producer: Producer, topics, count: int, partition: int = 0) -> None:
    for _ in range(count):
        value = encoded({"userTaskKey": fresh_key()})
        producer.produce(topics.commands, value=value, headers=cloud_event(CREATE), partition=partition)
    assert producer.flush(30) == 0


def send_committed(kafka, topics, count: int, partition: int = 0) -> None:
    with transaction(kafka, topics) as producer:
        send(producer, topics, count, partition)
        producer.commit_transaction(30)


def send_aborted(kafka, topics, count: int, partition: int = 0) -> None:
    with transaction(kafka, topics) as producer:
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
