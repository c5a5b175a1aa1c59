"""What every measurement stands on: a real Kafka and a real PostgreSQL, private, durable, on this machine only."""

import asyncio
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.embedded_postgres import EmbeddedPostgres
from worker.embedded import KAFKA_VERSION, EmbeddedKafka

POSTGRES_SETTINGS: Final = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
}
"""Fully durable. Sized as for a database of its own, so that checkpoints do not fall into some runs and not others."""

_FILL: Final = """
INSERT INTO user_tasks
SELECT {first_key} + number, 'CREATED', 1, '{{"tenantId":"<default>","priority":50,"assignee":"demo"}}',
       '{{"amount":' || number || '}}', 1764000000000, NULL
FROM generate_series(0, {count} - 1) AS number
"""
_MAX_MESSAGE_BYTES: Final = 2_097_152
"""Of the dead letter topic: a dead letter is a little larger than its command."""
_TOPIC_TIMEOUT_S: Final = 60
_READ_TIMEOUT_S: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """The topics, the group and the folder of one run, of which none was used before."""

    name: str
    partitions: int
    folder: Path

    @property
    def commands(self) -> str:
        """Name the input topic."""
        return f"{self.name}.commands"

    @property
    def events(self) -> str:
        """Name the topic of events."""
        return f"{self.name}.events"

    @property
    def rejections(self) -> str:
        """Name the topic of rejections."""
        return f"{self.name}.rejections"

    @property
    def dead_letters(self) -> str:
        """Name the topic of dead letters."""
        return f"{self.name}.dlq"

    @property
    def topics(self) -> list[str]:
        """Name all topics."""
        return [self.commands, self.events, self.rejections, self.dead_letters]


class Ground:
    """A broker and a database, and what measuring needs of them."""

    def __init__(self, servers: str, database_url: str, folder: Path) -> None:
        self.servers = servers
        self.database_url = database_url
        self._folder = folder
        self._admin = AdminClient({"bootstrap.servers": servers})
        self._count = 0

    @contextmanager
    def course(self, name: str, partitions: int) -> Iterator[Course]:
        """Give fresh topics, and remove them afterwards, so that no run pays for those before it."""
        self._count += 1
        full_name = f"{name}-{self._count}"
        course = Course(name=full_name, partitions=partitions, folder=self._folder / full_name)
        course.folder.mkdir()
        config = {"max.message.bytes": str(_MAX_MESSAGE_BYTES)}
        new = [
            NewTopic(topic, partitions, 1, config=config if topic == course.dead_letters else {})
            for topic in course.topics
        ]
        for future in self._admin.create_topics(new).values():
            future.result(_TOPIC_TIMEOUT_S)
        try:
            yield course
        finally:
            for future in self._admin.delete_topics(course.topics).values():
                future.result(_TOPIC_TIMEOUT_S)
            shutil.rmtree(course.folder, ignore_errors=True)

    @contextmanager
    def database(self, course: Course) -> Iterator[str]:
        """Give the URL of a fresh database, and drop it afterwards."""
        name = "bench_" + course.name.replace("-", "_")
        asyncio.run(_execute(self.database_url, f"CREATE DATABASE {name}"))
        try:
            yield urlunsplit(urlsplit(self.database_url)._replace(path=f"/{name}"))
        finally:
            asyncio.run(_execute(self.database_url, f"DROP DATABASE {name} WITH (FORCE)", "CHECKPOINT"))

    def fill(self, url: str, first_key: int, count: int) -> None:
        """Put created user tasks into the worker's table."""
        if count:
            asyncio.run(_execute(url, _FILL.format(first_key=first_key, count=count), "VACUUM ANALYZE user_tasks"))

    def committed(self, group: str, course: Course) -> dict[int, int]:
        """Return the next offset of each partition that the group has committed.

        A consumer is asked: the admin client's list_consumer_group_offsets ends the process (SIGSEGV) if the
        coordinator is not there yet, in every release of librdkafka so far (confluentinc/librdkafka#5040).
        """
        asked = [TopicPartition(course.commands, number) for number in range(course.partitions)]
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": group, "enable.auto.commit": False})
        try:
            return {one.partition: max(one.offset, 0) for one in consumer.committed(asked, _TOPIC_TIMEOUT_S)}
        finally:
            consumer.close()

    def count(self, topic: str, partitions: int) -> int:
        """Count a topic's committed records, by reading them."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.servers,
                "group.id": "benchmark-count",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            }
        )
        consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        try:
            return _read_to_the_end(consumer, partitions)
        finally:
            consumer.close()


@contextmanager
def private_ground() -> Iterator[Ground]:
    """Start a broker and a database, and end them afterwards."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="user-task-benchmark-")))
        kafka = stack.enter_context(EmbeddedKafka())
        postgres = stack.enter_context(EmbeddedPostgres(POSTGRES_SETTINGS))
        yield Ground(kafka.bootstrap_servers, postgres.url, folder)


def machine() -> str:
    """Say what was measured on, in one line."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in ("aiokafka", "asyncpg", "pydantic"))
    return (
        f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.system()} {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, {packages}, Kafka {KAFKA_VERSION}, PostgreSQL 18"
    )


def _read_to_the_end(consumer: Consumer, partitions: int) -> int:
    count, ended = 0, set()
    deadline_s = time.monotonic() + _READ_TIMEOUT_S
    while len(ended) < partitions:
        if time.monotonic() > deadline_s:
            raise TimeoutError("the outgoing records could not be counted in time")
        for message in consumer.consume(10_000, timeout=0.5):
            if message.error() is None:
                count += 1
            else:
                ended.add(message.partition())  # no error, but the end of the partition
    return count


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
