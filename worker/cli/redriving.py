"""Sends dead letters back to the commands topic, so that whatever is sent twice is applied once.

A command with an id of its own keeps it. One without is given an `idempotency-key` that is a function of the position
at which it first failed (contract, Dead letters). A redriven command that fails again leaves another letter, under the
same identity; of all letters of one identity only the latest goes, or their number would double with each redrive.
"""

import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

import typer
from aiokafka import TopicPartition
from aiokafka.errors import MessageSizeTooLargeError

from schemas.cloudevents import IDEMPOTENCY_KEY, REDRIVE_KEY_PREFIX, Header
from schemas.problem import Problem
from schemas.spellings import last_values
from worker.cli.bare import BareRecord
from worker.cli.clients import Producer, Reader, producing, reach, reading
from worker.cli.endings import perform
from worker.cli.letters import Choice, Letter, Place, read_letters
from worker.cli.pace import Pace
from worker.cli.tables import for_people, print_table, progressing
from worker.decoder import Readable, decode, idempotency_key_identity, position_identity
from worker.encoder import REDRIVE_COUNT
from worker.exit_codes import ExitCode
from worker.kafka import TopicShape
from worker.settings import Settings

DEFAULT_ERROR_TYPE: Final = Problem.INTERNAL.value
"""A malformed command is malformed again, unless a newer release reads it: it has to be asked for."""

REDRIVEN: Final = "redriven"
OVERTAKEN: Final = (
    "Other commands of the same tasks may have been decided since these failed: what is redriven comes after them."
)
_COLUMNS: Final = ("position", "result", "reason", "to", "redriveCount")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to send back, and how."""

    choice: Choice
    limit: int | None
    rate: float
    """Letters a second."""
    max_redrives: int
    dry_run: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Redriven:
    """A command as it is sent again."""

    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    identity: str
    """The identity under which the worker will know it."""
    count: int


@dataclass(slots=True)
class _Plan:
    """What the first look at the topic has found: the letters that are meant, and the latest of each command."""

    meant: dict[Place, tuple[bytes, int]] = field(default_factory=dict)
    """Digest of the command, and redrive count."""
    left: dict[Place, str] = field(default_factory=dict)
    """Why a letter that is meant cannot go, whatever the others are."""
    latest: dict[bytes, tuple[int, int, Place]] = field(default_factory=dict)

    def add(self, letter: Letter, order: Order, commands_topic: str) -> None:
        """Take note of one letter, also if it is not meant: it may be a later one of a command that is."""
        is_meant = order.choice.takes(letter)
        obstacle = _obstacle(letter, commands_topic)
        if obstacle is None:
            digest = _digest(as_command(letter))
            rank = (letter.redrive_count, letter.failed_at_ms or 0, letter.place)
            self.latest[digest] = max(rank, self.latest.get(digest, rank))
            if is_meant:
                self.meant[letter.place] = (digest, letter.redrive_count)
        elif is_meant:
            self.left[letter.place] = obstacle

    def settle(self, order: Order) -> list[Place]:
        """Give the letters that go, and note why the others do not."""
        going = []
        for place, (digest, count) in self.meant.items():
            *_, latest = self.latest[digest]
            if latest != place:
                self.left[place] = "a later letter of the same command is at {}/{}".format(*latest)
            elif count >= order.max_redrives:
                self.left[place] = f"redriven {count} times already; see --max-redrives"
            else:
                going.append(place)
        return going if order.limit is None else going[: order.limit]


def redrive(order: Order, *, as_json: bool) -> ExitCode:
    """Send letters back and print what became of each.

    Raise SettingsError, BrokerUnreachableError, TopicsNotReadyError, or KafkaError: what was sent until then is told.
    """
    return perform(lambda settings: _redrive(settings, order, as_json=as_json))


def as_command(letter: Letter) -> Redriven:
    """Give the command that a letter was, with an id that is the same each time. Needs its origin."""
    record, origin = letter.record, letter.origin
    assert origin is not None
    headers, count = letter.theirs, letter.redrive_count + 1
    bare = BareRecord(*origin, record.timestamp, record.key, record.value, headers)
    identity = _own_identity(bare)
    if identity is None:
        name = REDRIVE_KEY_PREFIX + "{}/{}/{}".format(*origin)
        identity = idempotency_key_identity(name)
        headers += ((IDEMPOTENCY_KEY, name.encode()),)
    headers += ((REDRIVE_COUNT, str(count).encode()),)
    return Redriven(key=record.key, value=record.value, headers=headers, identity=identity, count=count)


def _digest(command: Redriven) -> bytes:
    """Stand for one command: a redriven copy has the same identity and value, another use of its id another value."""
    text = command.identity.encode("utf-8", "surrogateescape")
    return blake2b(text + b"\n" + (command.value or b""), digest_size=16).digest()


def _own_identity(bare: BareRecord) -> str | None:
    """Give the identity of a command that brings an id along, readable or not."""
    try:
        received = decode(bare)
    except Exception:  # noqa: BLE001 - a defect of the decoder may be what made the letter
        received = None
    if isinstance(received, Readable) and received.identity != position_identity(bare):
        return received.identity
    named = last_values(bare.headers).get(IDEMPOTENCY_KEY)
    return None if named is None else idempotency_key_identity(named.decode("utf-8", "surrogateescape"))


def _obstacle(letter: Letter, commands_topic: str) -> str | None:
    if letter.origin is None:
        return "no dead letter of a worker"
    if letter.origin[0] != commands_topic:
        return f"from another topic, {letter.origin[0]}"
    if letter.record.value is None:
        return "without value: none was sent, or it was too large to keep"
    return None


async def _redrive(settings: Settings, order: Order, *, as_json: bool) -> ExitCode:
    topic = settings.dead_letters_topic
    shapes = await reach(settings, topic, settings.commands_topic)
    async with reading(settings, {topic: shapes[topic]}, from_beginning=True) as reader:
        partitions = range(shapes[topic].partitions)
        plan = await _planned(settings, reader, partitions, order)
        going = plan.settle(order)
        if going:
            typer.echo(OVERTAKEN, err=True)
        with _telling(as_json=as_json) as tell:
            for place, reason in sorted(plan.left.items()):
                tell(place, "left", reason=reason)
            if order.dry_run:
                for place in going:
                    tell(place, "would be redriven", count=plan.meant[place][1] + 1)
            elif going:
                await _send_all(settings, shapes[settings.commands_topic], reader, going, order, tell)
    return ExitCode.DONE


async def _planned(settings: Settings, reader: Reader, partitions: range, order: Order) -> _Plan:
    plan = _Plan()
    async with aclosing(read_letters(settings, reader, partitions)) as letters:
        async for letter in letters:
            plan.add(letter, order, settings.commands_topic)
    return plan


async def _send_all(
    settings: Settings, shape: TopicShape, reader: Reader, going: list[Place], order: Order, tell: "_Telling"
) -> None:
    pace = Pace(order.rate)
    async with (
        producing(settings, shape.max_message_bytes) as producer,
        aclosing(_again(settings, reader, going)) as letters,
    ):
        with progressing("redriving", len(going)) as advance:
            async for letter in letters:
                await pace.wait()
                await _send(settings, producer, letter, tell)
                advance(1)


async def _again(settings: Settings, reader: Reader, going: list[Place]) -> AsyncGenerator[Letter, None]:
    """Read the letters that go a second time: to keep them all in memory might be too much."""
    wanted = set(going)
    first: dict[int, int] = {}
    for partition, offset in going:
        first[partition] = min(offset, first.get(partition, offset))
    for partition, offset in first.items():
        reader.seek(TopicPartition(settings.dead_letters_topic, partition), offset)
    async for letter in read_letters(settings, reader, first):
        if letter.place in wanted:
            yield letter
            wanted.discard(letter.place)
        if not wanted:
            return


async def _send(settings: Settings, producer: Producer, letter: Letter, tell: "_Telling") -> None:
    command = as_command(letter)
    try:
        at = await producer.send_and_wait(
            settings.commands_topic, command.value, key=command.key, headers=list(command.headers)
        )
    except MessageSizeTooLargeError:
        tell(letter.place, "left", reason="too large for the commands topic")
    else:
        tell(letter.place, REDRIVEN, to=f"{at.topic}/{at.partition}/{at.offset}", count=command.count)


class _Telling:
    """Prints what became of each letter: at once as JSON, at the end as a table for people."""

    def __init__(self, *, as_table: bool) -> None:
        self._as_table = as_table
        self._told: list[Mapping[str, Any]] = []
        self._sent = 0
        self._left = 0

    def __call__(
        self, place: Place, result: str, *, reason: str | None = None, to: str | None = None, count: int | None = None
    ) -> None:
        told = {"position": "{}/{}".format(*place), "result": result, "reason": reason, "to": to, "redriveCount": count}
        self._sent += result == REDRIVEN
        self._left += result == "left"
        if self._as_table:
            self._told.append(told)
        else:
            typer.echo(json.dumps(told))

    def end(self) -> None:
        """Sum up."""
        if self._told:
            print_table(_COLUMNS, [[one[name] for name in _COLUMNS] for one in self._told])
        typer.echo(f"{self._sent} redriven, {self._left} left", err=True)


@contextmanager
def _telling(*, as_json: bool) -> Iterator[_Telling]:
    """Sum up also when it ends early: what was sent was sent."""
    telling = _Telling(as_table=for_people(as_json=as_json))
    try:
        yield telling
    finally:
        telling.end()
