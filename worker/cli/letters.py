"""Dead letters as operators see them: what failed, why, and where it came from; the value only when asked for."""

import json
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import typer
from aiokafka import TopicPartition

from schemas.cloudevents import Header
from schemas.spellings import last_values
from worker.cli.clients import Reader, Record, reach, reading
from worker.cli.endings import perform
from worker.cli.listening import json_or_text, text_or_base64
from worker.cli.numerals import is_numeral
from worker.cli.tables import for_people, print_table
from worker.encoder import REDRIVE_COUNT, OutgoingRecord, own_headers
from worker.exit_codes import ExitCode
from worker.settings import Settings

_POLL_MS: Final = 200
_COLUMNS: Final = ("position", "failedAt", "errorType", "key", "redriveCount", "origin", "message")

Place = tuple[int, int]
"""Partition and offset in the dead letter topic."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which dead letters are meant; None chooses them all. Times are milliseconds since 1970, of the failure."""

    error_type: str | None = None
    partition: int | None = None
    key: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    places: frozenset[Place] = frozenset()
    """If there are any, only these."""

    def takes(self, letter: "Letter") -> bool:
        """Tell whether a letter is meant. One that does not say when it failed is in no stretch of time."""
        failed_at_ms = letter.failed_at_ms
        return (
            (not self.places or letter.place in self.places)
            and self.error_type in (None, letter.error_type)
            and self.partition in (None, letter.record.partition)
            and (self.key is None or letter.record.key == self.key.encode("utf-8", "surrogateescape"))
            and (self.since_ms is None or (failed_at_ms is not None and failed_at_ms >= self.since_ms))
            and (self.until_ms is None or (failed_at_ms is not None and failed_at_ms < self.until_ms))
        )


@dataclass(frozen=True, slots=True)
class Letter:
    """A record of the dead letter topic, and what its headers say: any may be missing, for anybody may write there."""

    record: Record
    own: dict[str, str] = field(init=False, repr=False)
    """The headers that the worker put on it."""
    theirs: tuple[Header, ...] = field(init=False, repr=False)
    """The headers that the command had."""

    def __post_init__(self) -> None:
        record = self.record
        headers: tuple[Header, ...] = tuple(record.headers)
        own = own_headers(OutgoingRecord(record.topic, None, None, headers, 0))
        names = {name for name, _ in own}
        texts = {name: value.decode(errors="replace") for name, value in last_values(own).items()}
        object.__setattr__(self, "own", texts)
        object.__setattr__(self, "theirs", tuple(header for header in headers if header[0] not in names))

    @property
    def place(self) -> Place:
        """Give partition and offset."""
        return self.record.partition, self.record.offset

    @property
    def error_type(self) -> str | None:
        """Give the slug of what was wrong."""
        return self.own.get("dlq-error-type")

    @property
    def origin(self) -> tuple[str, int, int] | None:
        """Give the topic, partition and offset of the command, or None if no worker of ours wrote the letter."""
        topic, *numbers = (self.own.get(f"__dlq.errors.{name}", "") for name in ("topic", "partition", "offset"))
        if not topic or not all(map(is_numeral, numbers)):
            return None
        partition, offset = map(int, numbers)
        return topic, partition, offset

    @property
    def redrive_count(self) -> int:
        """Give how often it was sent back."""
        count = self.own.get(REDRIVE_COUNT, "0")
        return int(count) if is_numeral(count) else 0

    @property
    def failed_at_ms(self) -> int | None:
        """Give when it failed, in milliseconds since 1970."""
        try:
            return round(datetime.fromisoformat(self.own["dlq-failed-at"]).timestamp() * 1000)
        except (KeyError, ValueError):
            return None

    def told(self) -> dict[str, Any]:
        """Tell it without its value."""
        origin = self.origin
        return {
            "position": "{}/{}".format(*self.place),
            "failedAt": self.own.get("dlq-failed-at"),
            "errorType": self.error_type,
            "message": self.own.get("__dlq.errors.message"),
            "key": text_or_base64(self.record.key),
            "redriveCount": self.redrive_count,
            "origin": None if origin is None else "{}/{}/{}".format(*origin),
            "valueBytes": None if self.record.value is None else len(self.record.value),
        }


def list_letters(choice: Choice, limit: int, *, as_json: bool) -> ExitCode:
    """Print letters. Raise SettingsError, BrokerUnreachableError or TopicsNotReadyError."""
    return perform(lambda settings: _list(settings, choice, limit, as_json=as_json))


def show_letter(place: Place, *, with_value: bool, as_json: bool) -> ExitCode:
    """Print one letter. Raise as `list_letters` does."""
    return perform(lambda settings: _show(settings, place, with_value=with_value, as_json=as_json))


async def read_letters(settings: Settings, reader: Reader, partitions: Collection[int]) -> AsyncGenerator[Letter, None]:
    """Read from where the reader stands to what is the end now, the letters of each partition in their order."""
    waiting = {TopicPartition(settings.dead_letters_topic, number) for number in partitions}
    ends = await reader.end_offsets(waiting)
    while waiting := {one for one in waiting if await reader.position(one) < ends[one]}:
        for partition, records in (await reader.getmany(*waiting, timeout_ms=_POLL_MS)).items():
            for record in records:
                if record.offset < ends[partition]:
                    yield Letter(record)


async def _list(settings: Settings, choice: Choice, limit: int, *, as_json: bool) -> ExitCode:
    topic = settings.dead_letters_topic
    shape = (await reach(settings, topic))[topic]
    partitions = range(shape.partitions) if choice.partition is None else [choice.partition]
    if choice.partition is not None and choice.partition >= shape.partitions:
        partitions = []
    told: list[dict[str, Any]] = []
    async with (
        reading(settings, {topic: shape}, from_beginning=True) as reader,
        aclosing(read_letters(settings, reader, partitions)) as letters,
    ):
        async for letter in letters:
            if choice.takes(letter):
                told.append(letter.told())
            if len(told) == limit:
                typer.echo(f"these are the first {limit}; --limit gives more", err=True)
                break
    if for_people(as_json=as_json):
        print_table(_COLUMNS, [[one[name] for name in _COLUMNS] for one in told])
    else:
        for one in told:
            typer.echo(json.dumps(one))
    return ExitCode.DONE


async def _show(settings: Settings, place: Place, *, with_value: bool, as_json: bool) -> ExitCode:
    letter = await _read_one(settings, place)
    if letter is None:
        typer.echo(f"there is no dead letter at {place[0]}/{place[1]} of {settings.dead_letters_topic}", err=True)
        return ExitCode.FAILED
    headers = {name: text_or_base64(value) for name, value in letter.record.headers}
    told = letter.told() | {"timestamp": letter.record.timestamp, "headers": headers}
    if with_value:
        told["value"] = json_or_text(letter.record.value)
    if not for_people(as_json=as_json):
        typer.echo(json.dumps(told))
        return ExitCode.DONE
    rows = {name: value for name, value in told.items() if name != "headers"} | headers
    shown = {name: value if isinstance(value, str) else json.dumps(value) for name, value in rows.items()}
    print_table(("", ""), list(shown.items()))
    return ExitCode.DONE


async def _read_one(settings: Settings, place: Place) -> Letter | None:
    topic = settings.dead_letters_topic
    shape = (await reach(settings, topic))[topic]
    partition = TopicPartition(topic, place[0])
    if place[0] >= shape.partitions:
        return None
    async with reading(settings, {topic: shape}) as reader:
        beginning = (await reader.beginning_offsets([partition]))[partition]
        if not beginning <= place[1] < (await reader.end_offsets([partition]))[partition]:
            return None
        reader.seek(partition, place[1])
        async with aclosing(read_letters(settings, reader, [place[0]])) as letters:
            first = await anext(letters, None)
    return first if first is not None and first.place == place else None
