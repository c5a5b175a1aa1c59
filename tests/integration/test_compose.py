"""docker-compose.yml as it is, from nothing to a completed task, with three workers, and away again.

Runs where a Docker API answers and the compose plugin is there. It cannot run elsewhere, and the report then says so.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from tests.providers import docker_answers
from worker.embedded import free_port

ROOT = Path(__file__).parents[2]
WORKERS = 3
BUILD_DEADLINE_S = 600
UP_DEADLINE_S = 240
DEADLINE_S = 60


def _what_is_missing() -> str | None:
    if not docker_answers():
        return "no Docker API answers"
    if shutil.which("docker") is None:
        return "there is no docker command"
    asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return None if asked.returncode == 0 else "docker has no compose plugin"


pytestmark = [
    pytest.mark.timeout(BUILD_DEADLINE_S + 2 * UP_DEADLINE_S),
    pytest.mark.skipif(_what_is_missing() is not None, reason=f"docker-compose.yml: {_what_is_missing()}"),
]


class Project:
    """The services of docker-compose.yml under a name of their own."""

    def __init__(self) -> None:
        self.port = free_port()
        self.bootstrap_servers = f"localhost:{self.port}"
        name = f"user-task-worker-test-{self.port}"
        self.image = f"{name}:latest"
        self._env = os.environ | {
            "COMPOSE_PROJECT_NAME": name,
            "KAFKA_PORT": str(self.port),
            "WORKER_IMAGE": self.image,
        }

    def docker(self, *arguments: str, deadline_s: float = DEADLINE_S) -> str:
        """Run docker, and give what it printed."""
        ended = subprocess.run(
            ["docker", *arguments], cwd=ROOT, env=self._env, capture_output=True, text=True,
            timeout=deadline_s, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, f"docker {' '.join(arguments)}: {ended.stdout[-2000:]}{ended.stderr[-4000:]}"
        return ended.stdout

    def compose(self, *arguments: str, deadline_s: float = DEADLINE_S) -> str:
        """Run docker compose, and give what it printed."""
        return self.docker("compose", *arguments, deadline_s=deadline_s)

    def containers(self, service: str) -> list[dict[str, Any]]:
        """Give what docker knows of a service's containers, running or not."""
        names = self.compose("ps", "--all", "--quiet", service).split()
        return json.loads(self.docker("inspect", *names))


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    project = Project()
    project.docker("build", "--tag", project.image, ".", deadline_s=BUILD_DEADLINE_S)
    try:
        project.compose("up", "--detach", "--wait", "--scale", f"worker={WORKERS}", deadline_s=UP_DEADLINE_S)
        yield project
    finally:
        project.compose("down", "--volumes", deadline_s=UP_DEADLINE_S)
        project.docker("rmi", "--force", project.image)


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.5)


def _send(project: Project, key: int, command_type: str, value: dict[str, Any]) -> None:
    producer = Producer({"bootstrap.servers": project.bootstrap_servers, "partitioner": "murmur2_random"})
    about = {"ce_specversion": "1.0", "ce_id": f"{command_type}-{key}", "ce_source": "/test", "ce_type": command_type}
    producer.produce("user-task.commands", json.dumps(value).encode(), str(key), headers=about)
    assert producer.flush(DEADLINE_S) == 0


def _events(project: Project, count: int) -> list[dict[str, Any]]:
    consumer = Consumer(
        {
            "bootstrap.servers": project.bootstrap_servers,
            "group.id": "listener",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    consumer.subscribe(["user-task.events"])
    events: list[dict[str, Any]] = []
    deadline_s = time.monotonic() + DEADLINE_S
    try:
        while len(events) < count and time.monotonic() < deadline_s:
            messages = consumer.consume(count, timeout=1)
            events += [json.loads(message.value()) for message in messages if message.error() is None]
    finally:
        consumer.close()
    return events


def test_tasks_are_created_and_completed(project):
    keys = range(1, 31)
    for key in keys:
        _send(project, key, "user-task.create.v1", {"name": "from outside"})
        _send(project, key, "user-task.complete.v1", {"action": "approve"})

    events = _events(project, 2 * len(keys))

    assert len(events) == 2 * len(keys)
    completed = [event for event in events if event["state"] == "COMPLETED"]
    assert sorted(int(event["userTaskKey"]) for event in completed) == list(keys)
    assert {event["action"] for event in completed} == {"approve"}


def test_three_workers_share_the_partitions(project):
    admin = AdminClient({"bootstrap.servers": project.bootstrap_servers})

    def shares() -> list[int]:
        group = admin.describe_consumer_groups(["user-task-worker"])["user-task-worker"].result(DEADLINE_S)
        return [len(member.assignment.topic_partitions) for member in group.members]

    _until(lambda: len(shares()) == WORKERS and min(shares()) > 0, "the partitions are not shared by three")
    assert max(shares()) - min(shares()) <= 1


def test_a_worker_is_nobody_special_and_writes_nowhere(project):
    assert project.compose("exec", "--no-TTY", "worker", "id", "-u").strip() == "10001"
    for worker in project.containers("worker"):
        assert worker["HostConfig"]["ReadonlyRootfs"] is True
        assert worker["State"]["Health"]["Status"] == "healthy"


def test_operators_have_the_command_line_inside(project):
    assert "ok" in project.compose("exec", "--no-TTY", "worker", "user-task-worker", "check")
    lag = json.loads(project.compose("exec", "--no-TTY", "worker", "user-task-worker", "lag", "--json"))
    assert lag["total"]["lag"] == 0


def test_stopped_workers_have_drained(project):
    project.compose("stop", "worker", deadline_s=UP_DEADLINE_S)

    assert [worker["State"]["ExitCode"] for worker in project.containers("worker")] == [0] * WORKERS
