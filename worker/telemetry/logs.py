"""One log for the worker and its libraries: JSON lines or a console, without anybody's local variables."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.processors import ExceptionRenderer, JSONRenderer, TimeStamper
from structlog.stdlib import ProcessorFormatter
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor

from worker.telemetry.outlet import Outlet

REPEAT_INTERVAL_S: Final = 10.0
"""How long a library's line is held back after the same line was written."""

_MAX_REMEMBERED_LINES: Final = 1_000  # some libraries interpolate before they log; their templates never repeat
_MAX_TRACEBACK_FRAMES: Final = 20

_COMMON: Final[list[Processor]] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    TimeStamper(fmt="iso", utc=True, key="timestamp"),
]
# One list for the life of the process: loggers that were cached before a second configuration share it.
_PROCESSORS: Final[list[Processor]] = [
    structlog.stdlib.filter_by_level,
    *_COMMON,
    structlog.stdlib.PositionalArgumentsFormatter(),
    ProcessorFormatter.wrap_for_formatter,
]


def configure_logging(*, level: str, log_format: Literal["json", "console"], stream: TextIO | None = None) -> None:
    """Send structlog, the standard library's loggers and warnings through one chain to a stream.

    Calling it again replaces the earlier configuration; handlers of others stay.

    Args:
        level: the least level written: debug, info, warning, error or critical, in any case.
        log_format: one JSON object a line, or aligned text (coloured on a terminal unless `NO_COLOR` is set).
        stream: where to; standard error as it is at the time of the call if not given. It may break later: lines are
            then lost, and nothing is raised.

    Raises:
        ValueError: there is no such level.

    """
    handler = _Handler(sys.stderr if stream is None else stream)
    handler.setFormatter(_formatter(log_format, handler.stream))
    handler.addFilter(RepeatFilter())
    root = logging.getLogger()
    root.setLevel(level.upper())
    for previous in [one for one in root.handlers if isinstance(one, _Handler)]:
        root.removeHandler(previous)
    root.addHandler(handler)
    logging.captureWarnings(capture=True)
    _quieten_aiokafka(root.level)
    structlog.configure(
        processors=_PROCESSORS,
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def lines_dropped() -> int:
    """Return how many lines were dropped since logging was configured, there being no room for them."""
    return sum(one.outlet.dropped for one in logging.getLogger().handlers if isinstance(one, _Handler))


class RepeatFilter(logging.Filter):
    """Lets a library's line through once in an interval, counted by logger and template, not by arguments.

    A client that cannot reach its broker says so many times a second. The next line let through tells in `suppressed`
    how many were held back. The worker's own lines are names with fields and always pass; so do debug lines, which
    are only there when somebody asked for everything.
    """

    def __init__(self, interval_s: float = REPEAT_INTERVAL_S, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._interval_s = interval_s
        self._clock = clock
        self._lock = Lock()
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}  # when last written, how many held back since

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether to write this record."""
        if isinstance(record.msg, dict) or record.levelno <= logging.DEBUG:
            return True
        with self._lock:
            return self._admit(record, (record.name, str(record.msg)))

    def _admit(self, record: logging.LogRecord, line: tuple[str, str]) -> bool:
        now = self._clock()
        written_at, held_back = self._seen.get(line, (float("-inf"), 0))
        if now - written_at < self._interval_s:
            self._seen[line] = (written_at, held_back + 1)
            return False
        if held_back:
            record.suppressed = held_back
        self._seen.pop(line, None)  # so that the dict stays in the order of writing
        self._seen[line] = (now, 0)
        if len(self._seen) > _MAX_REMEMBERED_LINES:
            del self._seen[next(iter(self._seen))]
        return True


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to a stream that may be closed, full or broken without ever raising into the worker, or holding it up."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.outlet = Outlet(stream)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, if there is room for it."""
        try:
            self.outlet.write(self.format(record) + self.terminator)
        except Exception:  # noqa: BLE001 - as in the standard library, whatever it is
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the standard library's name)
        """Drop a line that cannot be written; say so, without its arguments, if only its formatting failed."""
        error = type(sys.exc_info()[1]).__name__
        lost = {"event": "log_line_lost", "level": "error", "logger": record.name, "error": error}
        with suppress(Exception):  # the stream itself may be what is broken
            self.outlet.write(json.dumps(lost) + self.terminator)


def _formatter(log_format: Literal["json", "console"], stream: TextIO) -> ProcessorFormatter:
    renderers = _json_renderers() if log_format == "json" else _console_renderers(stream)
    return ProcessorFormatter(
        foreign_pre_chain=[*_COMMON, structlog.stdlib.ExtraAdder(), _strip_event],
        processors=[ProcessorFormatter.remove_processors_meta, *renderers],
    )


def _json_renderers() -> list[Processor]:
    # structlog's own dict_tracebacks writes the local variables of every frame, and those are users' data.
    exceptions = ExceptionDictTransformer(show_locals=False, max_frames=_MAX_TRACEBACK_FRAMES)
    return [ExceptionRenderer(exceptions), JSONRenderer()]


def _console_renderers(stream: TextIO) -> list[Processor]:
    # The default formatter is rich's where rich is installed, and that one shows local variables.
    colors = stream.isatty() and not os.environ.get("NO_COLOR")
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]


def _strip_event(_logger: Any, _method: str, event_dict: EventDict) -> EventDict:
    """Take away the line break that every captured warning ends with."""
    event_dict["event"] = str(event_dict["event"]).rstrip()
    return event_dict


def _quieten_aiokafka(level: int) -> None:
    """Let aiokafka speak from warnings on, or fully when debugging, but for its connections.

    Those, and its producers, print whole requests at debug level: record values, and the password of SASL PLAIN.
    """
    logging.getLogger("aiokafka").setLevel(level if level <= logging.DEBUG else max(level, logging.WARNING))
    least = max(level, logging.INFO if level <= logging.DEBUG else logging.WARNING)
    for talkative in ("aiokafka.conn", "aiokafka.producer"):
        logging.getLogger(talkative).setLevel(least)
