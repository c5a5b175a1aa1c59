"""Where log lines go. A reader that stops, or is too slow, costs lines and never time: the event loop logs, too."""

import json
import os
import select
import stat
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, TextIO

_ATOMIC_BYTES: Final = select.PIPE_BUF
"""A pipe that can be written to takes so much without waiting."""
_PATIENCE_S: Final = 0.1
"""Waited for a reader at most, and a tenth of the time that passes."""


class Outlet:
    """Writes lines to a stream; those that its reader has no room for are dropped and counted."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._descriptor, self._poll = _opened(stream)
        self._patience_s = _PATIENCE_S
        self._looked_s = time.monotonic()
        self._untold = 0
        self._is_within_a_line = False
        self.dropped = 0
        """Lines dropped since the beginning."""

    def write(self, line: str) -> None:
        """Write a line that ends with a line break, or drop it. Raise OSError or ValueError if the stream is broken."""
        if self._poll is None:
            self._stream.write(line)
            self._stream.flush()
            return
        if self._untold and self._has_room(0):
            told = {"event": "log_lines_dropped", "level": "warning", "logger": __name__, "lines": self._untold}
            told["timestamp"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
            if self._written(json.dumps(told) + "\n"):
                self._untold = 0
        if not self._written(line):
            self._untold += 1
            self.dropped += 1

    def _written(self, line: str) -> bool:
        data = (f"\n{line}" if self._is_within_a_line else line).encode(errors="backslashreplace")
        while data and self._has_room(self._patience_s):
            try:
                written = os.write(self._descriptor, data[:_ATOMIC_BYTES])
            except BlockingIOError:  # another process was faster
                return False
            data = data[written:]
            self._is_within_a_line = bool(data)
        return not data

    def _has_room(self, patience_s: float) -> bool:
        assert self._poll is not None
        began_s = time.monotonic()
        found = self._poll.poll(patience_s * 1000)
        ended_s = time.monotonic()
        gained_s = (began_s - self._looked_s) / 10
        self._patience_s = max(0.0, min(_PATIENCE_S, self._patience_s + gained_s) - (ended_s - began_s))
        self._looked_s = ended_s
        return bool(found)


def _opened(stream: TextIO) -> "tuple[int, select.poll | None]":
    """Return where to write, and what asks for room; -1 and None for a stream that is no file."""
    poll = select.poll()
    try:
        descriptor = _own_description(stream.fileno())
        poll.register(descriptor, select.POLLOUT)
    except (OSError, AttributeError, ValueError):
        return -1, None
    return descriptor, poll


def _own_description(descriptor: int) -> int:
    """Open a pipe or a terminal once more, so that no write waits: others may share it, and fill it after the poll.

    The flag would hold for all who share the first one.
    """
    if os.isatty(descriptor) or stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        with suppress(OSError):  # where there is no /proc
            return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    return descriptor
