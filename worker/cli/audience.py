"""Who listens to the demo: gathers what is committed, by the command that caused it."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from worker.cli.clients import Reader, Record
from worker.cli.sending import Sent
from worker.cli.story import Expected, Step
from worker.settings import Settings

ANSWER_TIMEOUT_S: Final = 60
_POLL_MS: Final = 100


class DemoFailedError(Exception):
    """What the demo promises did not come, or something else did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One record, as far as the demo shows it."""

    cause: str
    """The command's id for an event, its position for the others."""
    kind: str
    outcome: str
    details: str

    def fulfils(self, expected: Expected) -> bool:
        """Tell whether it is what was promised."""
        told = all(word in self.details for word in expected.details)
        return told and (self.kind, self.outcome) == (expected.kind, expected.outcome)


class Audience:
    """Listens to events, rejections and dead letters. `watch` raises if there is nobody left to listen to."""

    def __init__(self, reader: Reader, settings: Settings, watch: Callable[[], None]) -> None:
        self._reader = reader
        self._settings = settings
        self._watch = watch
        self._heard: list[Heard] = []

    async def answers(self, step: Step, sent: Sent) -> list[Heard]:
        """Wait for all that must come of a command. Raise DemoFailedError if it does not, or is something else."""
        if not step.expected:
            return []
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                while len(answers := self._of(sent)) < len(step.expected):
                    await self._listen()
        except TimeoutError:
            raise DemoFailedError(f"“{step.what}”: no answer within {ANSWER_TIMEOUT_S} s") from None
        answers.sort(key=lambda heard: [expected.kind for expected in step.expected].index(heard.kind))
        if not all(map(Heard.fulfils, answers, step.expected)):
            raise DemoFailedError(f"“{step.what}”: unexpected: {answers}")
        return answers

    def count(self) -> Counter[str]:
        """Count what was heard by kind."""
        return Counter(heard.kind for heard in self._heard)

    def _of(self, sent: Sent) -> list[Heard]:
        return [heard for heard in self._heard if heard.cause in {sent.command_id, sent.position}]

    async def _listen(self) -> None:
        self._watch()
        for records in (await self._reader.getmany(timeout_ms=_POLL_MS)).values():
            self._heard.extend(map(self._understood, records))

    def _understood(self, record: Record) -> Heard:
        headers = {name: value.decode() for name, value in record.headers}
        value = record.value or b""
        if record.topic == self._settings.dead_letters_topic:
            return _dead_letter(headers, value)
        return _event(headers, value) if record.topic == self._settings.events_topic else _rejection(value)


def _event(headers: dict[str, str], value: bytes) -> Heard:
    body = json.loads(value)
    details = f"action {json.dumps(body['action'])}, version {body['version']}"
    if body["variables"]:
        details += f", variables {json.dumps(body['variables'])}"
    return Heard(cause=headers["ce_causationid"], kind="event", outcome=body["state"], details=details)


def _rejection(value: bytes) -> Heard:
    body = json.loads(value)
    errors = "; ".join(f"{error['pointer']} {error['code']}" for error in body.get("errors", ()))
    outcome = f"{body['status']} {body['title']}"
    details = errors or body["detail"]
    return Heard(cause=body["instance"].removeprefix("/"), kind="rejection", outcome=outcome, details=details)


def _dead_letter(headers: dict[str, str], value: bytes) -> Heard:
    cause = "/".join(headers[f"__dlq.errors.{name}"] for name in ("topic", "partition", "offset"))
    details = f"as it was sent: {value.decode()}"
    return Heard(cause=cause, kind="dead letter", outcome=headers["dlq-error-type"], details=details)
