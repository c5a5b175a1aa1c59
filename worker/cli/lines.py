"""Reads lines from a file, a pipe or a terminal as they come, in flat memory however long a line is."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple

_READ_BYTES: Final = 64 * 1024


class Line(NamedTuple):
    """One line, without its end; lines count from 1."""

    number: int
    raw: bytes | None
    """None if it is longer than was asked for."""


async def read_lines(descriptor: int, max_line_bytes: int, on_read: Callable[[int], None]) -> AsyncIterator[Line]:
    """Give the lines of an open file to its end. `on_read` is told of bytes as they are read. Raise OSError."""
    number, rest, is_too_long = 0, b"", False
    while some := await _read(descriptor):
        on_read(len(some))
        *whole, rest = (rest + some).split(b"\n")
        for raw in whole:
            number += 1
            yield Line(number, None if is_too_long or len(raw) > max_line_bytes else raw)
            is_too_long = False
        if len(rest) > max_line_bytes:
            rest, is_too_long = b"", True
    if rest or is_too_long:
        yield Line(number + 1, None if is_too_long else rest)


async def _read(descriptor: int) -> bytes:
    """Read what is there, waiting for it without a thread: one that waits for a terminal would outlive an interrupt."""
    loop, is_readable = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(descriptor, is_readable.set)
    except PermissionError:  # a file on a disk cannot be waited for, and need not
        await asyncio.sleep(0)
    else:
        try:
            await is_readable.wait()
        finally:
            loop.remove_reader(descriptor)
    return os.read(descriptor, _READ_BYTES)
