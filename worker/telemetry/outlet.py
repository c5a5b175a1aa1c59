"""Where log lines go. A reader that stops, or is too slow, costs lines and never time: the event loop logs, too."""

import io
import json
import os
import select
import time
from typing import Final, TextIO

_ATOMIC_BYTES: Final = select.PIPE_BUF
"""A pipe that can be written to takes so much without waiting."""
_PATIENCE_S: Final = 0.1
"""Waited for a reader at most, and a tenth of the time that passes."""


class Outlet:
    """Writes lines to a stream; those that its reader has no room for are dropped and counted."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._poll = _poll(stream)
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
            self._untold -= self._untold * self._written(json.dumps(told) + "\n")
        if not self._written(line):
            self._untold += 1
            self.dropped += 1

    def _written(self, line: str) -> bool:
        data = ("\n" * self._is_within_a_line + line).encode(errors="backslashreplace")
        while data and self._has_room(self._patience_s):
            written = os.write(self._stream.fileno(), data[:_ATOMIC_BYTES])
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


def _poll(stream: TextIO) -> "select.poll | None":
    """Return what asks for room, or None for a stream that is no file."""
    poll = select.poll()
    try:
        poll.register(stream.fileno(), select.POLLOUT)
    except (io.UnsupportedOperation, AttributeError, ValueError):
        return None
    return poll
