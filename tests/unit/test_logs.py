"""The worker's log: what a line looks like, and what never stands in one."""

import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog

from worker.telemetry.logs import RepeatFilter, configure_logging

EARLY = structlog.stdlib.get_logger("worker.early")  # as modules do, before anything is configured


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in (None, "aiokafka", "aiokafka.conn", "aiokafka.producer")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def configured(level: str = "info", log_format: str = "json") -> io.StringIO:
    stream = io.StringIO()
    root = logging.getLogger()
    root.handlers.clear()  # pytest's own, which write into the records that pass
    configure_logging(level=level, log_format=log_format, stream=stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail_with_a_secret_in_a_local() -> None:
    salary = "very" + "secret"
    try:
        dict[int, int]()[len(salary)]
    except KeyError as error:
        raise ValueError("the store said no") from error


def test_a_line_is_one_json_object_with_time_level_logger_and_event() -> None:
    stream = configured()
    structlog.stdlib.get_logger("worker.consumer").info("batch_published", records=3)
    [line] = lines(stream)
    written_at = datetime.fromisoformat(line.pop("timestamp"))
    assert line == {"level": "info", "logger": "worker.consumer", "event": "batch_published", "records": 3}
    assert written_at.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - written_at) < timedelta(minutes=1)


def test_a_logger_made_at_import_time_follows_the_configuration() -> None:
    first = configured()
    EARLY.info("worker_started")
    second = configured(level="warning")
    EARLY.info("worker_tuned")
    EARLY.warning("worker_stopped")
    assert [line["event"] for line in lines(first)] == ["worker_started"]
    assert [(line["event"], line["logger"]) for line in lines(second)] == [("worker_stopped", "worker.early")]


def test_lines_below_the_level_are_left_out() -> None:
    stream = configured(level="WARNING")
    structlog.stdlib.get_logger("worker").info("batch_published")
    logging.getLogger("asyncio").info("Using selector")
    assert stream.getvalue() == ""


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        configured(level="loud")


def test_bound_context_stands_in_every_line() -> None:
    stream = configured()
    with structlog.contextvars.bound_contextvars(partition=4):
        structlog.stdlib.get_logger("worker").info("batch_published")
        logging.getLogger("asyncpg").info("connected")
    assert [line["partition"] for line in lines(stream)] == [4, 4]


def test_library_loggers_go_through_the_same_chain() -> None:
    stream = configured()
    logging.getLogger("aiokafka.client").error("Unable connect to node with id %s", 1, extra={"node": 1})
    [line] = lines(stream)
    del line["timestamp"]
    assert line == {
        "level": "error",
        "logger": "aiokafka.client",
        "event": "Unable connect to node with id 1",
        "node": 1,
    }


def test_warnings_are_captured() -> None:
    stream = configured()
    with warnings.catch_warnings():
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)  # pytest has its own hook in between
        warnings.simplefilter("always")
        warnings.warn("this is old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    [line] = lines(stream)
    assert (line["level"], line["logger"]) == ("warning", "py.warnings")
    assert "DeprecationWarning: this is old" in line["event"]
    assert line["event"] == line["event"].rstrip()


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("logger", [structlog.stdlib.get_logger("worker"), logging.getLogger("asyncio")])
def test_a_traceback_tells_the_exceptions_and_never_local_variables(log_format: str, logger: logging.Logger) -> None:
    stream = configured(log_format=log_format)
    try:
        fail_with_a_secret_in_a_local()
    except ValueError:
        logger.exception("batch_failed")
    text = stream.getvalue()
    assert "batch_failed" in text
    assert "ValueError" in text
    assert "the store said no" in text
    assert "KeyError" in text
    assert "fail_with_a_secret_in_a_local" in text
    assert "verysecret" not in text
    assert "locals" not in text


def test_a_json_traceback_is_part_of_its_one_line() -> None:
    stream = configured()
    try:
        fail_with_a_secret_in_a_local()
    except ValueError:
        EARLY.exception("batch_failed")
    [line] = lines(stream)
    assert line["level"] == "error"
    assert [(one["exc_type"], one["exc_value"]) for one in line["exception"]] == [
        ("ValueError", "the store said no"),
        ("KeyError", "10"),
    ]


def test_the_console_has_no_colours_where_there_is_no_terminal() -> None:
    stream = configured(log_format="console")
    EARLY.warning("consumer_paused", reason="store")
    assert "\x1b" not in stream.getvalue()
    assert "consumer_paused" in stream.getvalue()
    assert "reason=store" in stream.getvalue()


def test_aiokafka_is_quiet_below_warning_unless_debugging() -> None:
    stream = configured(level="info")
    logging.getLogger("aiokafka.consumer").info("Joined group")
    logging.getLogger("aiokafka.consumer").warning("Heartbeat failed")
    assert [line["event"] for line in lines(stream)] == ["Heartbeat failed"]
    stream = configured(level="debug")
    logging.getLogger("aiokafka.consumer").debug("Updating fetch positions")
    assert [line["event"] for line in lines(stream)] == ["Updating fetch positions"]
    stream = configured(level="critical")
    logging.getLogger("aiokafka.conn").error("broken")
    assert lines(stream) == []


def test_requests_with_their_records_and_passwords_are_not_even_logged_when_debugging() -> None:
    stream = configured(level="debug")
    logging.getLogger("aiokafka.conn").debug("Request to %s:%d %d: %s", "kafka", 9092, 1, b"\0user\0password")
    logging.getLogger("aiokafka.producer.producer").debug("Sending (key=%r value=%r) to %s", b"1", b"hush", "topic")
    assert stream.getvalue() == ""


def test_a_library_that_repeats_itself_is_written_once() -> None:
    stream = configured()
    for node in range(100):
        logging.getLogger("aiokafka.client").error("Unable connect to node with id %s", node)
    logging.getLogger("aiokafka.client").error("Topic %s not found", "x")
    logging.getLogger("aiokafka.cluster").error("Unable connect to node with id %s", 7)
    assert [line["event"] for line in lines(stream)] == [
        "Unable connect to node with id 0",
        "Topic x not found",
        "Unable connect to node with id 7",
    ]


def test_the_workers_own_lines_are_never_held_back() -> None:
    stream = configured()
    for _ in range(5):
        EARLY.info("batch_published")
    assert len(lines(stream)) == 5


def record(template: str = "Unable connect to node", level: int = logging.ERROR) -> logging.LogRecord:
    return logging.LogRecord("aiokafka", level, "", 0, template, (), None)


def test_a_repeated_line_returns_after_the_interval_and_tells_how_many_were_held_back() -> None:
    now = [100.0]
    one_in_ten_seconds = RepeatFilter(10, clock=lambda: now[0])
    assert one_in_ten_seconds.filter(record())
    assert not one_in_ten_seconds.filter(record())
    now[0] = 109.9
    assert not one_in_ten_seconds.filter(record())
    now[0] = 110.0
    returned = record()
    assert one_in_ten_seconds.filter(returned)
    assert returned.__dict__["suppressed"] == 2
    assert not one_in_ten_seconds.filter(record())


def test_debug_lines_are_not_held_back() -> None:
    repeats = RepeatFilter(10)
    assert all(repeats.filter(record(level=logging.DEBUG)) for _ in range(3))


def test_the_filter_remembers_a_limited_number_of_lines() -> None:
    repeats = RepeatFilter(10, clock=lambda: 0.0)
    for number in range(3_000):
        assert repeats.filter(record(f"line {number}"))
    assert len(repeats._seen) == 1_000
    assert not repeats.filter(record("line 2999"))


def test_a_closed_stream_does_not_raise() -> None:
    stream = configured()
    stream.close()
    EARLY.error("worker_stopped")
    logging.getLogger("asyncio").error("too late")


def test_a_line_that_cannot_be_formatted_is_reported_without_its_arguments() -> None:
    stream = configured()
    logging.getLogger("asyncio").error("%d records", "verysecret")
    assert lines(stream) == [
        {"event": "log_line_lost", "level": "error", "logger": "asyncio", "error": "TypeError"},
    ]


def test_a_broken_pipe_neither_raises_nor_spoils_the_exit_code() -> None:
    script = """
import structlog, sys
from worker.telemetry.logs import configure_logging
configure_logging(level="info", log_format="json")
log = structlog.stdlib.get_logger("worker")
sys.stdin.readline()
for _ in range(100):
    log.info("batch_published", filler="x" * 1000)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin
    assert process.stderr
    process.stderr.close()
    process.stdin.write(b"go\n")
    process.stdin.close()
    assert process.wait(timeout=60) == 0
