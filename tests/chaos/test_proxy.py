"""The connection to the broker cut at each type of request, before or after it is sent: nothing lost or doubled."""

import os
import signal
import threading
import time
from contextlib import contextmanager

import pytest
from confluent_kafka import ConsumerGroupState
from confluent_kafka.admin import AdminClient

from tests.chaos.fleet import ChaosWorker
from tests.chaos.judge import Load, await_committed, judge, outcomes
from tests.chaos.proxy import Cut, proxied_kafka
from tests.integration.harness import PARTITIONS, environment, make_topics

OUTAGE_S = 12  # longer than the broker lets a transaction wait
SESSION_TIMEOUT_S = 2
CUTS = 3
OFTEN = {
    "AddPartitionsToTxn": 24,
    "Produce": 0,
    "AddOffsetsToTxn": 25,
    "TxnOffsetCommit": 28,
    "EndTxn": 26,
    "Fetch": 1,
    "Heartbeat": 12,
}
AT_TAKEOVER = {"InitProducerId": 22, "FindCoordinator": 10, "OffsetFetch": 9, "JoinGroup": 11, "SyncGroup": 14}
UNTIL = {"AddOffsetsToTxn": "EndTxn", "TxnOffsetCommit": "EndTxn", "EndTxn": "AddOffsetsToTxn"}
INVALID_PRODUCER_EPOCH = 47


@pytest.fixture(scope="module")
def kafka_and_proxy():
    with proxied_kafka() as kafka_and_proxy:
        yield kafka_and_proxy


@contextmanager
def judged_run(kafka_and_proxy, tmp_path):
    """A worker behind the proxy, under load; when the context is left, it ends in good order and is judged."""
    kafka, proxy = kafka_and_proxy
    topics = make_topics(kafka)
    store = tmp_path / "tasks.db"
    env = environment(proxy.bootstrap_servers, topics, store, SESSION_TIMEOUT_S=str(SESSION_TIMEOUT_S))
    group = env["USERTASK_GROUP_ID"]
    with Load(kafka, topics.commands, commands_per_s=300) as load, ChaosWorker(env, tmp_path) as worker:
        yield worker
        load.burst(10)
        load.stop()
        await_committed(kafka, topics.commands, group, 60)
        assert worker.terminate() == 0, worker.stderr()

    verdict = judge(load.sent, outcomes(kafka, topics))
    assert verdict.is_clean, (verdict, worker.stderr())
    assert verdict.seen == len({command.command_id for command in load.sent})


def await_cuts(cut, count, worker):
    deadline = time.monotonic() + 30
    while cut.made < count:
        worker.watch()
        assert time.monotonic() < deadline, f"{cut}\n{worker.stderr()}"
        time.sleep(0.05)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", OFTEN)
def test_a_connection_cut_at_a_request_of_every_batch(kind, when, kafka_and_proxy, tmp_path):
    cut = Cut(OFTEN[kind], when, first=3, every=5)
    with kafka_and_proxy[1].cutting(cut), judged_run(kafka_and_proxy, tmp_path) as worker:
        await_cuts(cut, CUTS, worker)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", AT_TAKEOVER)
def test_a_connection_cut_at_a_request_of_a_takeover(kind, when, kafka_and_proxy, tmp_path):
    """At the first start, and again when the worker was away for so long that the group gave it up.

    A takeover asks for the offsets of all partitions side by side, and asks again for all that a cut has left without
    an answer. Were every third request cut, none of three would ever be answered; so as many as that pass in a row.
    """
    kafka, proxy = kafka_and_proxy
    start, again = (Cut(AT_TAKEOVER[kind], when, first=1, every=PARTITIONS + 1) for _ in range(2))
    with proxy.cutting(start), judged_run(kafka_and_proxy, tmp_path) as worker:
        await_cuts(start, 1, worker)
        with proxy.cutting(again):
            be_given_up(worker, kafka)
            await_cuts(again, 1, worker)


def be_given_up(worker, kafka):
    """Hold the worker up until the group is empty."""
    group = worker.env["USERTASK_GROUP_ID"]
    deadline = time.monotonic() + 30
    os.kill(worker.process.pid, signal.SIGSTOP)
    with AdminClient({"bootstrap.servers": kafka}) as admin:
        while admin.describe_consumer_groups([group])[group].result(10).state != ConsumerGroupState.EMPTY:
            assert time.monotonic() < deadline, "the group did not notice"
            time.sleep(0.1)
    os.kill(worker.process.pid, signal.SIGCONT)


@pytest.mark.parametrize("kind", UNTIL)
def test_a_late_first_copy_cannot_touch_the_next_transaction(kind, kafka_and_proxy, tmp_path):
    """It could commit the next transaction half way, or set the group's offset back, if the producer were the same."""
    cut = Cut(OFTEN[kind], "late", first=3, every=5, until=OFTEN[UNTIL[kind]])
    with kafka_and_proxy[1].cutting(cut), judged_run(kafka_and_proxy, tmp_path) as worker:
        await_cuts(cut, CUTS, worker)

    assert set(cut.error_codes) == {INVALID_PRODUCER_EPOCH}, cut


@pytest.mark.parametrize("kind", UNTIL)
def test_control_a_producer_that_is_not_replaced_lets_a_late_first_copy_in(kind, kafka_and_proxy, tmp_path):
    kafka, proxy = kafka_and_proxy
    topics = make_topics(kafka)
    env = environment(proxy.bootstrap_servers, topics, tmp_path / "tasks.db")
    cut = Cut(OFTEN[kind], "late", first=3, every=5, until=OFTEN[UNTIL[kind]])
    with (
        proxy.cutting(cut),
        Load(kafka, topics.commands, commands_per_s=300),
        ChaosWorker(env | {"USERTASK_TEST_WITHOUT": "replacement"}, tmp_path) as worker,
    ):
        await_cuts(cut, 1, worker)

    assert cut.error_codes[0] == 0, "the check is blind: the broker refuses a late copy by itself"


def test_a_network_that_is_away_for_longer_than_a_transaction_may_last(kafka_and_proxy, tmp_path):
    proxy = kafka_and_proxy[1]
    with judged_run(kafka_and_proxy, tmp_path) as worker:
        proxy.close()
        threading.Event().wait(OUTAGE_S)
        assert worker.get("/livez")[0] == 200
        assert worker.get("/readyz")[0] == 503
        proxy.open()
        worker.await_ready()
