"""The metrics of workers that share the partitions out."""

import re
import time

from tests.chaos.fleet import database
from tests.integration.harness import PARTITIONS, Wire, Worker, environment, make_topics

DEADLINE_S = 40


def partitions_of(worker: Worker, name: str) -> set[str]:
    return set(re.findall(rf'^{name}\{{partition="(\d+)"', worker.get("/metrics")[1], re.MULTILINE))


def all_have(workers: list[Worker], partitions: int) -> bool:
    held = [partitions_of(worker, "usertask_unpublished") for worker in workers]
    return sum(map(len, held)) == partitions == len(set().union(*held))


def await_shared_out(workers: list[Worker]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not all_have(workers, PARTITIONS):
        assert time.monotonic() < deadline, [worker.get("/metrics")[1] for worker in workers]
        time.sleep(0.1)


def test_the_series_of_a_partition_go_with_it_at_a_rebalance(kafka, postgres, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    env = environment(kafka.bootstrap_servers, topics, STORE_URL=database(postgres.url), SESSION_TIMEOUT_S="6")
    with Worker(env, tmp_path) as first, Wire(kafka.bootstrap_servers, topics, first.watch) as wire:
        wire.created()
        await_shared_out([first])
        with Worker(env, tmp_path) as second:
            await_shared_out([first, second])
            assert 0 < len(partitions_of(second, "usertask_unpublished")) < PARTITIONS
            lags = [partitions_of(worker, "usertask_consumer_lag") for worker in (first, second)]
            assert not lags[0] & lags[1]
            assert second.terminate() == 0
        await_shared_out([first])
        assert re.search(r"^usertask_rebalances_total [3-9]", first.get("/metrics")[1], re.MULTILINE)
