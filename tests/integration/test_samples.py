"""The samples of the documentation do what they say, with a real worker."""

import asyncio
import importlib.util
from pathlib import Path

import pytest
from confluent_kafka.admin import NewTopic

from schemas.events import UserTaskEvent
from schemas.problem import ProblemDetail
from schemas.user_task import UserTaskState
from tests.integration.harness import PARTITIONS, bench, create_topics, fresh_id, fresh_key

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("faststream", reason="the group bench is not installed")


@pytest.fixture(scope="module")
def it(kafka, tmp_path_factory):
    with bench(kafka.bootstrap_servers, tmp_path_factory.mktemp("worker")) as running:
        yield running


@pytest.fixture(scope="module")
def sample():
    spec = importlib.util.spec_from_file_location("faststream_client", ROOT / "docs/samples/faststream_client.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_a_typed_handler_of_faststream_gets_events_and_rejections(kafka, it, sample):
    topic = f"user-task.replies.{fresh_id()}"
    create_topics(kafka.bootstrap_servers, NewTopic(topic, PARTITIONS, 1))
    key, unknown = it.wire.created(), fresh_key()

    broker = sample.KafkaBroker(kafka.bootstrap_servers, logger=None)
    tasks = sample.UserTasks(broker, topic, fresh_id(), it.wire.topics.commands)
    await broker.start()
    try:
        first = await tasks.complete(key, "approve")
        others = await asyncio.gather(tasks.complete(key), tasks.complete(unknown), tasks.complete("no key"))
    finally:
        await broker.stop()

    assert isinstance(first, UserTaskEvent)
    assert (first.user_task_key, first.state, first.action) == (int(key), UserTaskState.COMPLETED, "approve")
    assert all(isinstance(one, ProblemDetail) for one in others)
    assert [one.status for one in others] == [409, 404, 400]
