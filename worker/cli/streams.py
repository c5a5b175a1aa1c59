"""The standard streams, which whoever starts a process may have closed, filled or broken."""

import io
import os
import sys
from pathlib import Path
from typing import Any, Final

_STDERR: Final = 2


def prepare_streams() -> None:
    """Open a stream that is closed on the null device, and let stderr never fail.

    A file or socket that took the number of a closed stream would get what is meant for the stream; libuv aborts the
    process for it.
    """
    while (opened := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(opened, True)
    os.close(opened)
    sys.stdin = sys.stdin or _text(io.FileIO(0, "r", closefd=False))
    sys.stdout = sys.stdout or _text(io.FileIO(1, "w", closefd=False))
    sys.stderr = _text(_Forgiving(_STDERR, "w", closefd=False))


def write_out() -> bool:
    """Write what stdout still holds. Return whether that worked; if not it is dropped, or Python would end with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return False
    return True


class _Forgiving(io.FileIO):
    """Takes what cannot be written as written: nobody is left to be told, and the exit code says what happened."""

    def write(self, data: Any, /) -> int:
        size = memoryview(data).nbytes
        try:
            return super().write(data) or size
        except OSError:
            return size


def _text(file: io.FileIO) -> io.TextIOWrapper:
    buffered = io.BufferedWriter(file) if file.writable() else io.BufferedReader(file)
    return io.TextIOWrapper(buffered, encoding="utf-8", errors="backslashreplace", line_buffering=True)
