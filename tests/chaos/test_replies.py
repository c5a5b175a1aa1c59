"""A worker that is killed at any moment of a batch: each command that asks has one reply, the bytes of its outcome."""

import signal
from contextlib import closing

import pytest
from confluent_kafka.admin import NewTopic

from tests.chaos.failing_worker import MOMENTS
from tests.chaos.fleet import ChaosWorker, DoomedWorker, database
from tests.chaos.judge import await_committed
from tests.integration.harness import (
    CREATE,
    PARTITIONS,
    Collector,
    Unsent,
    Wire,
    cloud_event,
    create_topics,
    encoded,
    environment,
    fresh_id,
    make_topics,
)

TASKS = 40
NTH = 2


def story(key: str, reply_topic: str) -> list[Unsent]:
    """Create a task, say so again, complete it twice, and send what cannot be read; each asks, with its own id."""
    created, completed = cloud_event(CREATE), cloud_event()
    whole = encoded({"userTaskKey": key})
    steps = [(whole, created), (whole, created), (whole, completed), (whole, cloud_event()), (b"no json", [])]
    return [
        Unsent(
            value, key.encode(), [*headers, ("reply_to", reply_topic.encode()), ("correlation_id", fresh_id().encode())]
        )
        for value, headers in steps
    ]


@pytest.mark.parametrize(
    ("moment", "store"), [*((moment, "sqlite") for moment in MOMENTS), ("after-store-commit", "postgres")]
)
def test_each_command_has_one_reply_with_the_bytes_of_its_outcome_when_killed_at(
    moment, store, kafka, request, tmp_path
):
    sqlite = f"sqlite:///{tmp_path / 'tasks.db'}"
    store_url = sqlite if store == "sqlite" else database(request.getfixturevalue("postgres").url)
    topics, replies = make_topics(kafka.bootstrap_servers), f"user-task.replies.{fresh_id()}"
    create_topics(kafka.bootstrap_servers, NewTopic(replies, PARTITIONS, 1))
    env = environment(
        kafka.bootstrap_servers, topics, STORE_URL=store_url, SESSION_TIMEOUT_S="6", MAX_BATCH_RECORDS="30"
    )
    fault = {"USERTASK_TEST_MOMENT": moment, "USERTASK_TEST_COUNT": str(NTH)}
    commands = [command for key in range(1, TASKS + 1) for command in story(str(key), replies)]

    with (
        Wire(kafka.bootstrap_servers, topics) as wire,
        closing(Collector(kafka.bootstrap_servers, [replies])) as listener,
    ):
        with DoomedWorker(env | fault, tmp_path) as worker:
            wire.send_all(commands)
            assert worker.has_ended(within_s=60), worker.stderr()
            assert worker.process.returncode == -signal.SIGKILL
        with ChaosWorker(env, tmp_path) as worker:
            await_committed(kafka.bootstrap_servers, topics.commands, env["USERTASK_GROUP_ID"], 60)
            listener.catch_up(worker.watch, 20)
            wire._collector.catch_up(worker.watch, 20)
            assert "usertask_replies_ignored_total 0.0" in worker.get("/metrics")[1]
        answers, outcomes = listener.records(replies), wire.events() + wire.rejections()

    asked = [dict(command.headers)["correlation_id"] for command in commands]
    assert sorted(one.headers["correlation_id"] for one in answers) == sorted(asked)
    assert len(outcomes) == 4 * TASKS
    values = {one.headers["ce_id"]: (one.key, one.value) for one in outcomes}
    assert all(values[one.headers["ce_id"]] == (one.key, one.value) for one in answers)
    assert len({one.headers["ce_id"] for one in answers}) == 4 * TASKS
