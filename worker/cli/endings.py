"""How the commands that talk to Kafka or the store run and end: words on stderr, and an exit code of the contract."""

import asyncio
import errno
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from aiokafka.errors import KafkaError

from worker.exit_codes import ExitCode
from worker.kafka import BrokerUnreachableError, TopicsNotReadyError
from worker.settings import Settings, SettingsError, load_settings
from worker.stores.port import StoreError, StoreNotReadyError, StoreUnavailableError
from worker.telemetry.logs import configure_logging


def exit_code_of(error: Exception) -> ExitCode | None:
    """Give the code for an error whose text is enough to act on, or None for a defect."""
    match error:
        case SettingsError():
            return ExitCode.CONFIGURATION
        case BrokerUnreachableError() | StoreUnavailableError():
            return ExitCode.UNREACHABLE
        case TopicsNotReadyError() | StoreNotReadyError():
            return ExitCode.NOT_READY
        case KafkaError() | StoreError() | OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EIO):
            return ExitCode.FAILED  # the last three: the disk is full that stdout leads to, or broken
        case _:
            return None


def perform(work: Callable[[Settings], Coroutine[Any, Any, ExitCode]]) -> ExitCode:
    """Do the work with the settings of the environment. Raise SettingsError, and whatever the work raises."""
    settings = load_settings()
    log_for_people(debugging=settings.log_level == "debug")
    return asyncio.run(work(settings))


def log_for_people(*, debugging: bool) -> None:
    """Let libraries speak only when somebody asked for everything: what they would say is said in words instead."""
    configure_logging(level="debug" if debugging else "warning", log_format="console")
    if not debugging:
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
