"""What is measured: this worker and its peers, each as the process that a user would start."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

import psutil

from benchmarks.ground import Course, Ground
from benchmarks.workload import FIRST_KEY

_STOP_TIMEOUT_S: Final = 60

Store = Literal["none", "sqlite", "postgres"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """Processes that are being measured."""

    processes: Sequence[psutil.Popen]
    group: str

    def cpu_s(self) -> float:
        """Give the CPU seconds that the processes have used so far."""
        times = [process.cpu_times() for process in self.processes]
        return sum(one.user + one.system for one in times)

    def raise_if_ended(self) -> None:
        """Raise if one of them has ended."""
        for process in self.processes:
            if process.poll() is not None:
                raise RuntimeError(f"a measured process ended with {process.returncode}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One of those that are compared."""

    name: str
    store: Store = "none"
    processes: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    peer: Literal["", "streams-rocksdb", "streams-memory", "faststream", "copy"] = ""
    """Empty: this worker."""

    @contextmanager
    def running(self, ground: Ground, course: Course, stored_tasks: int = 0) -> Iterator[Started]:
        """Start the processes, and end them afterwards. `stored_tasks` are in the database before they start."""
        if self.store == "postgres":
            with ground.database(course) as url:
                if not self.peer:
                    self._migrate(url)
                    ground.fill(url, FIRST_KEY, stored_tasks)
                with self._started(ground, course, url) as started:
                    yield started
        else:
            with self._started(ground, course, f"sqlite:///{course.folder / 'tasks.db'}") as started:
                yield started

    def _migrate(self, url: str) -> None:
        environment = {**os.environ, "USERTASK_STORE_URL": url}
        subprocess.run(
            [sys.executable, "-m", "worker", "store", "migrate"], env=environment, check=True, capture_output=True
        )

    @contextmanager
    def _started(self, ground: Ground, course: Course, store_url: str) -> Iterator[Started]:
        group = f"{course.name}-group"
        log = (course.folder / "log").open("wb")
        processes = [
            psutil.Popen(
                self._command(ground, course, group, store_url),
                env={**os.environ, **self._environment(ground, course, group, store_url)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            for _ in range(self.processes)
        ]
        try:
            yield Started(processes=processes, group=group)
        except BaseException:
            sys.stderr.write((course.folder / "log").read_text(errors="replace")[-4000:])
            raise
        finally:
            for process in processes:
                if process.poll() is None:
                    process.terminate()
            for process in processes:
                process.wait(_STOP_TIMEOUT_S)
            log.close()

    def _command(self, ground: Ground, course: Course, group: str, store_url: str) -> list[str]:
        topics = [course.commands, course.events, course.rejections]
        match self.peer:
            case "":
                return [sys.executable, "-m", "worker", "run"]
            case "copy":
                return [sys.executable, "-m", "benchmarks.peers.bare_copy", ground.servers, group, *topics[:2]]
            case "faststream":
                words = [ground.servers, group, *topics, store_url]
                return [sys.executable, "-m", "benchmarks.peers.faststream_handler", *words]
            case "streams-rocksdb" | "streams-memory":
                from benchmarks.peers.kafka_streams import command  # noqa: PLC0415 - fetches jars

                kind = self.peer.removeprefix("streams-")
                return command(ground.servers, group, *topics, str(course.folder / "state"), kind)

    def _environment(self, ground: Ground, course: Course, group: str, store_url: str) -> dict[str, str]:
        return {
            "USERTASK_KAFKA_BOOTSTRAP_SERVERS": ground.servers,
            "USERTASK_GROUP_ID": group,
            "USERTASK_COMMANDS_TOPIC": course.commands,
            "USERTASK_EVENTS_TOPIC": course.events,
            "USERTASK_REJECTIONS_TOPIC": course.rejections,
            "USERTASK_DEAD_LETTERS_TOPIC": course.dead_letters,
            "USERTASK_STORE_URL": store_url,
            "USERTASK_HTTP_PORT": "-1",
            **self.environment,
        }
