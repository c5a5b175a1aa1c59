"""Sends the commands of a file or a pipe, line by line, with a bounded number of them under way."""

import asyncio
import json
import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import typer
from aiokafka.errors import MessageSizeTooLargeError

from worker.cli.bulk import Form, Ready, Unsendable, read_line
from worker.cli.clients import Producer, producing, reach
from worker.cli.endings import perform
from worker.cli.lines import Line, read_lines
from worker.cli.pace import Pace
from worker.cli.tables import for_people, progressing
from worker.exit_codes import ExitCode
from worker.settings import Settings

_MAX_UNDER_WAY: Final = 5_000
"""Commands that the broker may not have confirmed yet."""
_BATCH_OVERHEAD_BYTES: Final = 100
"""More than a batch adds to its only record, but for its headers."""
_HEADER_OVERHEAD_BYTES: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to send, and how."""

    descriptor: int
    """Of the open file."""
    form: Form
    rate: float | None
    """Commands a second; None for as many as go."""
    dry_run: bool


@dataclass(slots=True)
class _Tally:
    """What has become of the lines so far. Empty lines are none."""

    lines: int = 0
    sent: int = 0
    """Those that the broker has confirmed."""
    not_sendable: int = 0
    wrong: int = 0
    """Those that this release would refuse for their members."""
    under_way: deque[tuple[int, asyncio.Future[Any]]] = field(default_factory=deque)

    def refuse(self, number: int, reason: str) -> None:
        """Tell of a line that cannot be sent."""
        self.not_sendable += 1
        typer.echo(f"line {number} is not sendable: {reason}", err=True)

    def warn(self, number: int, wrong: str) -> None:
        """Tell of a line that can be sent, and will be refused."""
        self.wrong += 1
        typer.echo(f"line {number} would be refused: {wrong}", err=True)

    async def confirm_oldest(self) -> None:
        """Wait until the broker has the oldest command under way. Raise KafkaError."""
        number, future = self.under_way[0]
        try:
            await future
            self.sent += 1
        except MessageSizeTooLargeError:
            self.refuse(number, "too large for the commands topic.")
        self.under_way.popleft()

    def count_what_is_left(self) -> None:
        """Count what was confirmed though nobody waited for it any more."""
        futures = [future for _, future in self.under_way if future.done() and not future.cancelled()]
        self.sent += sum(future.exception() is None for future in futures)


def send_lines(order: Order, *, as_json: bool) -> ExitCode:
    """Send all lines, and print how many they were.

    Raise SettingsError, BrokerUnreachableError, TopicsNotReadyError, OSError if the file cannot be read, or KafkaError:
    what was sent until then is told.
    """
    return perform(lambda settings: _send_lines(settings, order, as_json=as_json))


async def _send_lines(settings: Settings, order: Order, *, as_json: bool) -> ExitCode:
    shapes = await reach(settings, settings.commands_topic)
    limit = shapes[settings.commands_topic].max_message_bytes
    with _telling(order, as_json=as_json) as tally:
        if order.dry_run:
            await _go_through(settings, order, tally, limit, None)
        else:
            async with producing(settings, limit) as producer:
                await _go_through(settings, order, tally, limit, producer)
    is_well = tally.not_sendable == 0 and not (order.dry_run and tally.wrong)
    return ExitCode.DONE if is_well else ExitCode.FAILED


async def _go_through(settings: Settings, order: Order, tally: _Tally, limit: int, producer: Producer | None) -> None:
    pace = Pace(order.rate)
    with progressing("reading" if producer is None else "sending", _size(order.descriptor), in_bytes=True) as advance:
        async for line in read_lines(order.descriptor, limit, advance):
            command = _judged(line, order, tally, limit)
            if command is None or producer is None:
                continue
            await pace.wait()
            sending = await producer.send(
                settings.commands_topic, command.value, key=command.key, headers=list(command.headers)
            )
            tally.under_way.append((line.number, sending))
            if len(tally.under_way) >= _MAX_UNDER_WAY:
                await tally.confirm_oldest()
        while tally.under_way:
            await tally.confirm_oldest()


def _judged(line: Line, order: Order, tally: _Tally, limit: int) -> Ready | None:
    if line.raw is not None and not line.raw.strip():
        return None
    tally.lines += 1
    too_large = Unsendable(reason=f"larger than the {limit} bytes that the commands topic takes.")
    command = too_large if line.raw is None else read_line(line.raw, line.number, order.form)
    if isinstance(command, Ready) and _record_bytes(command) > limit:
        command = too_large
    if isinstance(command, Unsendable):
        tally.refuse(line.number, command.reason)
        return None
    if command.wrong:
        tally.warn(line.number, command.wrong)
    return command


def _record_bytes(command: Ready) -> int:
    headers = sum(len(name.encode()) + len(value or b"") + _HEADER_OVERHEAD_BYTES for name, value in command.headers)
    return len(command.key) + len(command.value) + headers + _BATCH_OVERHEAD_BYTES


def _size(descriptor: int) -> int | None:
    """Give the bytes of a file, or None for a pipe or a terminal."""
    status = os.fstat(descriptor)
    return status.st_size if stat.S_ISREG(status.st_mode) else None


@contextmanager
def _telling(order: Order, *, as_json: bool) -> Iterator[_Tally]:
    """Print the counts at the end, also at an early one: what was sent was sent."""
    tally = _Tally()
    is_complete = False
    try:
        yield tally
        is_complete = True
    finally:
        tally.count_what_is_left()
        _print(order, tally, as_json=as_json)
        if not is_complete and not order.dry_run:
            typer.echo(f"ended early; sent again with --id {order.form.run}, each line is applied once", err=True)


def _print(order: Order, tally: _Tally, *, as_json: bool) -> None:
    counts = {"lines": tally.lines, "sent": tally.sent, "notSendable": tally.not_sendable, "wrong": tally.wrong}
    if not for_people(as_json=as_json):
        typer.echo(json.dumps({"id": order.form.run} | counts))
        return
    sent = "none sent, as asked" if order.dry_run else f"{tally.sent} sent under the id {order.form.run}"
    typer.echo(f"{tally.lines} lines: {sent}, {tally.not_sendable} not sendable, {tally.wrong} would be refused")
