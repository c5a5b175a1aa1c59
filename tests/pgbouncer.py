"""A real PgBouncer in front of a PostgreSQL, for tests of what a pooler takes away: settings, names, and TLS given."""

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self
from urllib.parse import unquote, urlsplit

from worker.embedded import end_with_parent, free_port

HOST = "127.0.0.1"
UNPRIVILEGED_USER = "nobody"
START_DEADLINE_S = 30
MISSING = (
    "pgbouncer is neither in PATH nor beside Python. On Debian, without installing a service: as .ci/run does, "
    "`apt-get download pgbouncer`, `dpkg-deb --extract` it somewhere, and put its program into PATH."
)


class PgBouncer:
    """One pooler with PgBouncer's own defaults but for `settings`; a context manager that starts and stops it."""

    def __init__(self, server_url: str, **settings: str) -> None:
        self._server = urlsplit(server_url)
        self._port = free_port()
        self._settings = settings
        self._cleanup = ExitStack()

    def url_for(self, url: str, host: str = HOST) -> str:
        """Return a URL of the server, through the pooler."""
        parts = urlsplit(url)
        return parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{host}:{self._port}").geturl()

    def __enter__(self) -> Self:
        program = _program()
        folder = Path(self._cleanup.enter_context(TemporaryDirectory(prefix="user-task-pgbouncer-")))
        config = self._configure(folder)
        log = self._cleanup.enter_context((folder / "pgbouncer.log").open("wb"))
        process = subprocess.Popen([program, str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        watcher = end_with_parent(process)
        self._cleanup.callback(_end, process, watcher)
        self._wait(process, folder / "pgbouncer.log")
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def _configure(self, folder: Path) -> Path:
        """Write the configuration; the pooler reads it before it gives up root's rights."""
        password = unquote(self._server.password or "")
        (folder / "users").write_text(f'"{self._server.username}" "{password}"\n')
        settings = {
            "listen_addr": HOST,
            "listen_port": str(self._port),
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": str(folder / "users"),
            **({"user": UNPRIVILEGED_USER} if os.geteuid() == 0 else {}),
            **self._settings,
        }
        lines = [f"[databases]\n* = host={self._server.hostname} port={self._server.port}\n[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        (folder / "pgbouncer.ini").write_text("\n".join([*lines, ""]))
        return folder / "pgbouncer.ini"

    def _wait(self, process: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        while True:
            with suppress(OSError), socket.create_connection((HOST, self._port), 1):
                return
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)


def _program() -> str:
    """Find PgBouncer; that it is missing is a failure, not a reason to test less."""
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent), "/usr/sbin"])
    found = shutil.which("pgbouncer", path=folders)
    assert found is not None, MISSING
    return found


def _end(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
