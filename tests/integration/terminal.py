"""Runs a command line on a terminal, as people do."""

import os
import pty
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

from tests.integration.harness import START_DEADLINE_S, command_line


def on_a_terminal(
    *arguments: str, env: dict[str, str], cwd: Path, errors_too: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run to the end; `stdout` is what a screen was sent, with stderr in it if `errors_too`."""
    ours, theirs = pty.openpty()
    shown = bytearray()
    reader = threading.Thread(target=_read_all, args=(ours, shown), daemon=True)
    reader.start()
    stderr = theirs if errors_too else subprocess.PIPE
    ended = subprocess.run(
        command_line(*arguments), env=env, cwd=cwd, stdout=theirs, stderr=stderr, text=True,
        timeout=START_DEADLINE_S, check=False,
    )  # fmt: skip
    os.close(theirs)
    reader.join(START_DEADLINE_S)
    os.close(ours)
    return subprocess.CompletedProcess(ended.args, ended.returncode, shown.decode(), ended.stderr or "")


def _read_all(terminal: int, shown: bytearray) -> None:
    with suppress(OSError):  # how Linux tells the end of a terminal
        while some := os.read(terminal, 65_536):
            shown.extend(some)
