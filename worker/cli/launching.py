"""Starts the worker in this process: settings, logging, tracing and the event loop."""

import asyncio
import gc
import os
from collections.abc import Callable
from typing import Final

import structlog

from worker import app
from worker.exit_codes import ExitCode
from worker.settings import load_settings, unknown_variables
from worker.telemetry.exporting import spans_exported
from worker.telemetry.logs import configure_logging
from worker.version import worker_version

log = structlog.stdlib.get_logger(__name__)

_GARBAGE_THRESHOLDS: Final = (100_000, 50, 100)
"""New objects before a collection: with Python's own 700, looking for cycles that a batch does not have costs a fifth
of the CPU (docs/performance.md)."""


def launch() -> ExitCode:
    """Run one worker to its end. Raise SettingsError."""
    settings = load_settings()
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    for variable, nearest in unknown_variables(os.environ).items():
        log.warning("setting_unknown", variable=variable, nearest=nearest)
    with spans_exported(os.environ, worker_version()):
        tune_garbage_collection()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(app.run(settings))


def tune_garbage_collection() -> None:
    """Let this process look for garbage cycles rarely."""
    gc.freeze()  # what was imported stays: no collection needs to look at it
    gc.set_threshold(*_GARBAGE_THRESHOLDS)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - there are systems without it
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
