"""Prints records as a `read_committed` listener sees them, a line each."""

import json
import os
import sys
from base64 import b64encode
from collections.abc import Callable
from typing import Any, Final

import typer

from schemas.user_task import write_instant_ms
from worker.cli.clients import Record, reach, reading
from worker.cli.endings import perform
from worker.exit_codes import ExitCode
from worker.settings import Settings

_SHOWN_CHARS_MAX: Final = 1_000
"""Of a record's value, on a terminal."""


def follow(which: str, *, from_beginning: bool, max_records: int | None, as_json: bool) -> ExitCode:
    """Print the records of `events`, `rejections` or `dlq` until interrupted, or until there were enough.

    Raise SettingsError, BrokerUnreachableError or TopicsNotReadyError.
    """
    write = _json_line if as_json or not sys.stdout.isatty() else _line_for_people
    try:
        return perform(lambda settings: _follow(settings, which, write, max_records, from_beginning=from_beginning))
    except KeyboardInterrupt:
        return ExitCode.DONE
    except BrokenPipeError:  # `tail … | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE


async def _follow(
    settings: Settings,
    which: str,
    write: Callable[[Record], str],
    max_records: int | None,
    *,
    from_beginning: bool,
) -> ExitCode:
    topics = {"events": settings.events_topic, "rejections": settings.rejections_topic}
    topic = topics.get(which, settings.dead_letters_topic)
    shapes = await reach(settings, topic)
    async with reading(settings, {topic: shapes[topic]}, from_beginning=from_beginning) as reader:
        typer.echo(f"reading {topic} from {'the beginning' if from_beginning else 'now'} on; Ctrl-C ends", err=True)
        count = 0
        async for record in reader:
            typer.echo(write(record))
            count += 1
            if count == max_records:
                break
    return ExitCode.DONE


def _json_line(record: Record) -> str:
    line = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": text_or_base64(record.key),
        "headers": {name: text_or_base64(value) for name, value in record.headers},
        "value": json_or_text(record.value),
    }
    return json.dumps(line)


def text_or_base64(raw: bytes | None) -> str | dict[str, str] | None:
    """Give bytes as text if they are UTF-8."""
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(raw).decode()}


def json_or_text(raw: bytes | None) -> Any:
    """Give the value as JSON if it is an object, as all outcomes are; a dead letter may be anything."""
    try:
        value = json.loads(raw or b"")
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else text_or_base64(raw)


def _line_for_people(record: Record) -> str:
    headers = dict(record.headers)
    kind = headers.get("dlq-error-type") or headers.get("ce_type")
    body = _on_one_line(record.value)
    cut = body if len(body) <= _SHOWN_CHARS_MAX else f"{body[:_SHOWN_CHARS_MAX]}…"
    return f"{_time(record.timestamp)}  {_on_one_line(record.key):<19}  {_on_one_line(kind):<24}  {cut}"


def _time(timestamp_ms: int) -> str:
    try:
        return write_instant_ms(timestamp_ms)
    except (ValueError, OverflowError, OSError):  # any producer may have written any number
        return str(timestamp_ms)


def _on_one_line(raw: bytes | None) -> str:
    """Write out what would break the line or steer the terminal."""
    text = "-" if raw is None else raw.decode(errors="backslashreplace")
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
