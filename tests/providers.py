"""Where the tests' Kafka and PostgreSQL come from: an address in the environment, Docker, or a child process."""

import io
import os
import socket
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit
from uuid import uuid4

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic, TopicMetadata

from tests.embedded_postgres import EmbeddedPostgres
from worker.embedded import KAFKA_VERSION, SMALL_NODE, EmbeddedKafka

ProviderName = Literal["environment", "docker", "embedded"]

KAFKA_ADDRESS = "USERTASK_TEST_KAFKA"
POSTGRES_ADDRESS = "USERTASK_TEST_POSTGRES"
FORCED = "USERTASK_TEST_PROVIDER"
DOCKER_TIMEOUT_S = 2
ADMIN_TIMEOUT_S = 30
DEAD_LETTER_MAX_BYTES = 1_048_588 + 65_536
KAFKA_PORT = 9092
SCRIPT = "/tmp/start.sh"
DOCKER_LISTENERS = {
    "listeners": f"OUTSIDE://0.0.0.0:{KAFKA_PORT},PLAINTEXT://localhost:19092,CONTROLLER://localhost:9093",
    "listener.security.protocol.map": "OUTSIDE:PLAINTEXT,PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "controller.quorum.voters": "1@localhost:9093",
}


@dataclass(frozen=True)
class KafkaProvider:
    """A broker for the tests; `broker` can be killed and restarted, and is there for `embedded` alone."""

    name: ProviderName
    bootstrap_servers: str
    broker: EmbeddedKafka | None = None


@dataclass(frozen=True)
class PostgresProvider:
    """A database for the tests; `server` can be killed and restarted, and is there for `embedded` alone."""

    name: ProviderName
    url: str
    server: EmbeddedPostgres | None = None


class ProviderError(Exception):
    """What the tests were told to use is not there."""


@contextmanager
def kafka_provider() -> Iterator[KafkaProvider]:
    """Give the broker that the environment names, or one in Docker, or an embedded one."""
    match _chosen(KAFKA_ADDRESS):
        case "environment":
            yield KafkaProvider("environment", os.environ[KAFKA_ADDRESS])
        case "docker":
            with _kafka_in_docker() as bootstrap_servers:
                yield KafkaProvider("docker", bootstrap_servers)
        case "embedded":
            with EmbeddedKafka() as broker:
                yield KafkaProvider("embedded", broker.bootstrap_servers, broker)


@contextmanager
def postgres_provider() -> Iterator[PostgresProvider]:
    """Give the database that the environment names, or one in Docker, or an embedded one."""
    match _chosen(POSTGRES_ADDRESS):
        case "environment":
            yield PostgresProvider("environment", os.environ[POSTGRES_ADDRESS])
        case "docker":
            with _postgres_in_docker() as url:
                yield PostgresProvider("docker", url)
        case "embedded":
            with EmbeddedPostgres() as server:
                yield PostgresProvider("embedded", server.url, server)


def _chosen(address: str) -> ProviderName:
    """Return the first provider that is there, or the forced one; a forced one that is missing is an error."""
    forced = os.environ.get(FORCED)
    for name, is_there, missing in _candidates(address):
        if forced in (None, name):
            if is_there():
                return name
            if forced is not None:
                raise ProviderError(f"{FORCED} is {forced}, but {missing}.")
    raise ProviderError(f"{FORCED} is {forced!r}; it may be environment, docker or embedded.")


def _candidates(address: str) -> tuple[tuple[ProviderName, Callable[[], bool], str], ...]:
    return (
        ("environment", lambda: bool(os.environ.get(address)), f"{address} is not set"),
        ("docker", docker_answers, "no Docker API answers, neither at DOCKER_HOST nor at the default socket"),
        ("embedded", lambda: True, ""),
    )


def docker_answers() -> bool:
    """Tell within 2 s whether a Docker API listens; its own client, asked in vain, leaves a socket open."""
    address = urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    family = socket.AF_UNIX if address.scheme == "unix" else socket.AF_INET
    with socket.socket(family) as probe, suppress(OSError):
        probe.settimeout(DOCKER_TIMEOUT_S)
        probe.connect(address.path if family == socket.AF_UNIX else (address.hostname, address.port or 2375))
        return True
    return False


@contextmanager
def _postgres_in_docker() -> Iterator[str]:
    from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415 - slow; unit tests need it not

    with PostgresContainer("postgres:18", driver=None) as container:
        yield container.get_connection_url()


@contextmanager
def _kafka_in_docker() -> Iterator[str]:
    """Run apache/kafka; the host port it must advertise is known once it runs, so it waits for its start script."""
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - slow to import, as above
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy  # noqa: PLC0415 - the same

    container = DockerContainer(f"apache/kafka:{KAFKA_VERSION}").with_exposed_ports(KAFKA_PORT)
    container.with_command(["sh", "-c", f"until [ -f {SCRIPT} ]; do sleep 0.1; done; exec sh {SCRIPT}"])
    for name, value in {**SMALL_NODE, **DOCKER_LISTENERS}.items():
        container.with_env(f"KAFKA_{name.replace('.', '_').upper()}", value)
    with container:
        bootstrap_servers = f"{container.get_container_host_ip()}:{container.get_exposed_port(KAFKA_PORT)}"
        container.get_wrapped_container().put_archive("/", _start_script(bootstrap_servers))
        LogMessageWaitStrategy("Kafka Server started").with_startup_timeout(60).wait_until_ready(container)
        yield bootstrap_servers


def _start_script(bootstrap_servers: str) -> bytes:
    """Return a tar archive with the script that tells the broker its address and starts it."""
    script = (
        f"export KAFKA_ADVERTISED_LISTENERS=OUTSIDE://{bootstrap_servers},PLAINTEXT://localhost:19092\n"
        "exec /etc/kafka/docker/run\n"
    ).encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo(SCRIPT.lstrip("/"))
        entry.size = len(script)
        tar.addfile(entry, io.BytesIO(script))
    return archive.getvalue()


@dataclass(frozen=True)
class Topics:
    """The names of one worker's four topics."""

    commands: str
    events: str
    rejections: str
    dead_letters: str

    @property
    def all(self) -> tuple[str, ...]:
        """The four names."""
        return (self.commands, self.events, self.rejections, self.dead_letters)


def create_topics(bootstrap_servers: str, *, commands: int = 3, events: int = 3) -> Topics:
    """Create four topics with fresh names, and wait until each partition has a leader.

    `commands` is the number of partitions of the commands and of the dead letters, `events` that of the events and of
    the rejections.
    """
    base = f"t-{uuid4().hex[:8]}"
    topics = Topics(f"{base}.commands", f"{base}.events", f"{base}.rejections", f"{base}.commands.dlq")
    partitions = dict(zip(topics.all, (commands, events, events, commands), strict=True))
    new = [NewTopic(name, count, 1) for name, count in partitions.items()]
    new[-1].config = {"max.message.bytes": str(DEAD_LETTER_MAX_BYTES)}  # the greatest record, and why it was refused
    with AdminClient({"bootstrap.servers": bootstrap_servers}) as admin:
        for made in admin.create_topics(new, operation_timeout=ADMIN_TIMEOUT_S).values():
            made.result()
        _wait_for_leaders(admin, partitions)
    return topics


def _wait_for_leaders(admin: AdminClient, partitions: Mapping[str, int]) -> None:
    """Poll until a client may write: a topic is created by the controller and reaches the broker a little later."""
    deadline = time.monotonic() + ADMIN_TIMEOUT_S
    while True:
        known = admin.list_topics(timeout=ADMIN_TIMEOUT_S).topics
        if all(name in known and _led(known[name]) == count for name, count in partitions.items()):
            return
        assert time.monotonic() < deadline, f"without leaders after {ADMIN_TIMEOUT_S} s: {', '.join(partitions)}"


def _led(topic: TopicMetadata) -> int:
    return sum(partition.leader >= 0 for partition in topic.partitions.values())


def delete_topics(bootstrap_servers: str, topics: Topics) -> None:
    """Ask the broker to forget the topics; one that was killed in the test has better things to do."""
    with AdminClient({"bootstrap.servers": bootstrap_servers}) as admin:
        for deleted in admin.delete_topics(list(topics.all), request_timeout=2).values():
            with suppress(KafkaException):
                deleted.result()
