"""A batch that is damaged on disk, under load, with kills: the other partitions go on, and all is decided once."""

import time
from contextlib import closing

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.chaos.fleet import DoomedWorker
from tests.chaos.judge import Load, await_committed, judge, outcomes
from tests.integration.harness import Worker, environment, make_topics
from tests.integration.raw_batches import PAYLOAD_AT, Disk, changed
from worker.embedded import EmbeddedKafka

DAMAGED, SOUND = 1, (0, 2)
COMMANDS_PER_S = 300
BEHIND_MAX = 3 * COMMANDS_PER_S
"""Of both sound partitions together, in offsets; a standstill is beyond it after a few seconds."""
LOOKED_AT_S = 10
BLOCKED_WITHIN_S = 20


def flipped(batch: bytes) -> bytes:
    at = PAYLOAD_AT + 5
    return changed(batch, at, bytes([batch[at] ^ 0x10]))


def behind(bootstrap_servers: str, topic: str, group: str, partitions: tuple[int, ...]) -> int:
    """Return how many offsets the group is behind the ends."""
    settings = {"bootstrap.servers": bootstrap_servers, "group.id": group, "enable.auto.commit": False}
    with closing(Consumer(settings)) as consumer:
        asked = [TopicPartition(topic, number) for number in partitions]
        ends = [consumer.get_watermark_offsets(tp, 10)[1] for tp in asked]
        return sum(end - max(tp.offset, 0) for tp, end in zip(consumer.committed(asked, 10), ends, strict=True))


def await_blocked(worker: Worker) -> None:
    deadline = time.monotonic() + BLOCKED_WITHIN_S
    while '"partition_blocked"' not in worker.stderr():
        worker.watch()
        assert time.monotonic() < deadline, worker.stderr()
        time.sleep(0.1)


def assert_blocked(worker: Worker, for_s: float) -> None:
    until = time.monotonic() + for_s
    while time.monotonic() < until:
        time.sleep(0.5)
        worker.watch()
        assert (worker.get("/livez")[0], worker.get("/readyz")[0]) == (200, 503), worker.stderr()


@pytest.mark.timeout(300)
def test_the_others_go_on_under_load_and_through_a_kill_and_all_have_one_outcome_when_it_is_healed(tmp_path):
    with EmbeddedKafka() as broker:
        address = broker.bootstrap_servers
        topics = make_topics(address)
        env = environment(address, topics, tmp_path / "tasks.db", SESSION_TIMEOUT_S="2")
        group = env["USERTASK_GROUP_ID"]
        load = Load(address, topics.commands, commands_per_s=COMMANDS_PER_S)
        for _ in range(20):  # as many batches a partition
            load.burst(10)
            load.flush()
        disk = Disk(broker, topics.commands, DAMAGED)
        disk.damage(next(base for base in disk.bases() if base >= 100), flipped)
        with load:
            for _ in range(2):
                with DoomedWorker(env, tmp_path) as worker:
                    await_blocked(worker)
                    assert_blocked(worker, LOOKED_AT_S)
                    assert behind(address, topics.commands, group, SOUND) < BEHIND_MAX
                    assert behind(address, topics.commands, group, (DAMAGED,)) > COMMANDS_PER_S
                    worker.kill()
            with DoomedWorker(env, tmp_path) as worker:  # it may find the damage before it is seen to be ready
                disk.heal()
                worker.await_ready()
                load.stop()
                await_committed(address, topics.commands, group, 60)
                assert worker.terminate() == 0, worker.stderr()

        verdict = judge(load.sent, outcomes(address, topics))

    assert verdict.is_clean, verdict
    assert verdict.seen == len({command.command_id for command in load.sent})
