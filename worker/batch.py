"""The heart: what a batch of records leads to. Of load, decide, save, publish this is the deciding; it does no I/O."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from schemas.cloudevents import MAX_COPIED_BYTES, Header, copied_headers
from schemas.problem import DAMAGED_BATCH, DEAD_LETTERED, PROBLEMS, Problem
from schemas.replies import ReplyAddress, Unanswerable, reply_addresses
from schemas.spellings import last_values
from worker.decoder import (
    InvalidArgument,
    Readable,
    Received,
    Record,
    Unreadable,
    decode,
    is_stepped_over,
    position_identity,
    position_of,
)
from worker.encoder import Encoder, OutgoingRecord, Reply, own_headers, repeated, replies
from worker.lifecycle import Refusal, StoredTask, Transition, decide
from worker.stores.port import REPEATED_BYTES_MAX, Changes, First, Outcome, Snapshot, TooMuchRepeatedError
from worker.telemetry.defects import where

log = structlog.stdlib.get_logger(__name__)

ACCEPTED: Final = 204
_HEADERS_BYTES_MAX: Final = 2 * MAX_COPIED_BYTES
"""More than the headers of an event or a rejection ever have: those that are copied, and ids of bounded length."""
_INTERNAL: Final = Refusal(problem=Problem.INTERNAL, detail="The worker failed on this command; nothing was applied.")
_REUSED: Final = Refusal(problem=Problem.COMMAND_ID_REUSED, detail="This command id was used for another command.")
_INVALID: Final = Refusal(
    problem=Problem.INVALID_ARGUMENT, detail="Members of the command are wrong, missing or unknown; see errors."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A record on which the worker failed, by a defect of its own: answered with 500 and a dead letter."""

    received: Received

    @property
    def record(self) -> Record:
        """Give the record."""
        return self.received.record


Decoded = Readable | Unreadable | Broken


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How large outgoing records may become, in bytes of key, value and headers."""

    event_bytes: int
    """A command that would lead to a larger event is refused."""
    rejection_bytes: int
    """A rejection that its command's record key makes larger goes without key."""
    dead_letter_bytes: int
    """A larger dead letter goes without value, or more: only a command that was compressed can be so large."""


@dataclass(slots=True, kw_only=True)
class Report:
    """What a batch led to, for logs and metrics. Made anew whenever the batch is decided anew."""

    transitions: list[Transition] = field(default_factory=list)
    refusals: list[tuple[Received, Refusal]] = field(default_factory=list)
    stepped_over: list[Unreadable] = field(default_factory=list)
    """Damaged batches."""
    duplicates: int = 0
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Replies that were asked for and cannot be sent, by topic and reason."""

    @property
    def replies_ignored(self) -> int:
        """Return how many replies cannot be sent."""
        return self.left_out.total()


@dataclass(slots=True)
class _Working:
    """The tasks and command ids as the commands so far have left them."""

    tasks: dict[int, StoredTask]
    fingerprints: dict[bytes, bytes]
    changes: Changes
    report: Report
    now_ms: int
    first: dict[bytes, First]
    """Outcomes by command key, of the commands that somebody asks a reply about."""
    repeated_bytes: int = 0


def decode_all(records: Sequence[Record]) -> list[Decoded]:
    """Decode a batch. A record on which the decoder itself fails is set aside, so that it stops nobody else."""
    return [_decode_one(record) for record in records]


def broken(record: Record) -> Broken:
    """Set a record aside of which nothing but its position can be said, and where it asks for replies."""
    position = position_of(record)
    copied, reply_to = _read_headers(record)
    received = Received(
        record=record,
        command_id=position,
        identity=position_identity(record),
        correlation_id=position,
        copied=copied,
        reply_to=reply_to,
    )
    return Broken(received=received)


def _read_headers(record: Record) -> tuple[tuple[Header, ...], tuple[ReplyAddress | Unanswerable, ...]]:
    try:
        headers = last_values(record.headers)
        return copied_headers(headers), reply_addresses(headers)
    except Exception as error:  # noqa: BLE001 - they may be what the decoder has failed on
        _log_defect("command_decoding_failed", record, error)
        return (), ()


def _decode_one(record: Record) -> Decoded:
    try:
        return decode(record)
    except Exception as error:  # noqa: BLE001 - a defect of ours must not block the partition
        _log_defect("command_decoding_failed", record, error)
        return broken(record)


def _log_defect(event: str, record: Record, error: Exception) -> None:
    log.error(event, position=position_of(record), error=type(error).__name__, where=where(error))


class Batch:
    """Decoded commands that are decided together, and what they need of the store."""

    def __init__(self, commands: Sequence[Decoded], encoder: Encoder, limits: Limits) -> None:
        self.commands = commands
        self.report = Report()
        self.asking_keys = {one.command_key for one in commands if isinstance(one, Readable) and one.reply_to}
        """What stands in the store for the ids of the commands that ask for a reply."""
        self._encoder = encoder
        self._limits = limits

    @property
    def task_keys(self) -> set[int]:
        """Give the keys of all user tasks that the batch speaks of."""
        keys = (command.user_task_key for command in self.commands if isinstance(command, Readable))
        return {key for key in keys if key is not None}

    @property
    def command_keys(self) -> set[bytes]:
        """Give what stands for the batch's command ids in the store."""
        return {command.command_key for command in self.commands if isinstance(command, Readable)}

    def decide(self, snapshot: Snapshot, now_ms: int) -> Changes:
        """Decide every command in record order, each on what those before it left.

        Raise TooMuchRepeatedError if several commands repeat more than that; a single one never does.
        """
        self.report = Report()
        tasks, fingerprints, first = dict(snapshot.tasks), dict(snapshot.fingerprints), dict(snapshot.first)
        working = _Working(tasks, fingerprints, Changes(), self.report, now_ms, first)
        for command in self.commands:
            match command:
                case Broken():
                    self._refuse(working, command.received, _INTERNAL)
                case Unreadable() if is_stepped_over(command.record):
                    self._step_over(working, command)
                case Unreadable():
                    self._refuse(working, command, Refusal(problem=Problem.MALFORMED_COMMAND, detail=command.detail))
                case Readable():
                    self._decide_safely(working, command)
        if working.repeated_bytes > REPEATED_BYTES_MAX and len(self.commands) > 1:
            raise TooMuchRepeatedError
        return working.changes

    def _decide_safely(self, working: _Working, command: Readable) -> None:
        try:
            self._decide_readable(working, command)
        except Exception as error:  # noqa: BLE001 - a defect of ours must not block the partition
            _log_defect("command_deciding_failed", command.record, error)
            self._refuse(working, command, _INTERNAL)

    def _decide_readable(self, working: _Working, command: Readable) -> None:
        """Check in the contract's order: command id, shape, existence and state, size."""
        earlier = working.fingerprints.get(command.command_key)
        if earlier == command.fingerprint:
            working.report.duplicates += 1
            if command.reply_to:
                self._repeat(working, command)
        elif earlier is not None:
            self._refuse(working, command, _REUSED)
        elif isinstance(command.command, InvalidArgument):
            self._refuse(working, command, _INVALID)
        else:
            # the task was loaded by the first, and is decided by the second: they must never differ
            assert command.user_task_key == command.command.user_task_key
            task = working.tasks.get(command.command.user_task_key)
            decision = decide(task, command.command, now_ms=working.now_ms)
            if isinstance(decision, Refusal):
                self._refuse(working, command, decision)
            else:
                self._accept(working, command, decision)

    def _accept(self, working: _Working, command: Readable, transition: Transition) -> None:
        event = self._encoder.event(command, transition, working.now_ms)
        if _may_exceed(event, self._limits.event_bytes) and event.size_bytes > self._limits.event_bytes:
            detail = f"The event would have more than {self._limits.event_bytes} bytes."
            self._refuse(working, command, Refusal(problem=Problem.TOO_LARGE, detail=detail))
            return
        records = (event, *self._replies(working, command, event)) if command.reply_to else (event,)
        outcome = _outcome(command, ACCEPTED, records, working.now_ms)
        working.tasks[transition.task.user_task_key] = transition.task
        working.changes.tasks[transition.task.user_task_key] = transition.task
        working.report.transitions.append(transition)
        self._record(working, outcome)

    def _refuse(self, working: _Working, received: Received, refusal: Refusal) -> None:
        rejection = self._encoder.rejection(received, refusal, working.now_ms)
        limit = self._limits.rejection_bytes
        too_large = _may_exceed(rejection, limit) and rejection.wire_bytes > limit
        records = [rejection._replace(key=None) if too_large else rejection]
        if refusal.problem in DEAD_LETTERED:
            dead_letter = self._encoder.dead_letter(received, refusal.problem, refusal.detail, working.now_ms)
            records.append(_fitting(dead_letter, self._limits.dead_letter_bytes))
        if received.reply_to:
            records += self._replies(working, received, records[0])
        occupies_id = refusal.problem not in {Problem.COMMAND_ID_REUSED, Problem.INTERNAL}
        status = PROBLEMS[refusal.problem].status
        outcome = _outcome(received, status, tuple(records), working.now_ms, occupies_id=occupies_id)
        working.report.refusals.append((received, refusal))
        self._record(working, outcome)

    def _step_over(self, working: _Working, received: Unreadable) -> None:
        """Leave a dead letter for a damaged batch, and no rejection: that answers a command, and none is known."""
        letter = self._encoder.dead_letter(received, DAMAGED_BATCH, received.detail, working.now_ms)
        working.report.stepped_over.append(received)
        self._record(working, _outcome(received, PROBLEMS[Problem.INTERNAL].status, (letter,), working.now_ms))

    def _repeat(self, working: _Working, duplicate: Readable) -> None:
        """Answer a duplicate by the first outcome, in a row of its own: its position is what a replay finds it by."""
        first = working.first.get(duplicate.command_key)
        if first is None:  # forgotten by the retention since its fingerprint was read
            working.report.left_out.update((one.topic, "forgotten") for one in duplicate.reply_to)
            return
        record = repeated(first.record, duplicate, working.now_ms)
        if answers := self._replies(working, duplicate, record):
            working.repeated_bytes += record.wire_bytes
            outcome = _outcome(duplicate, first.status, answers, working.now_ms, occupies_id=False)
            working.changes.outcomes.append(outcome)

    def _replies(self, working: _Working, received: Received, record: OutgoingRecord) -> tuple[Reply, ...]:
        allowed = []
        for one in received.reply_to:
            if isinstance(one, Unanswerable):
                working.report.left_out[one] += 1
            elif obstacle := self._encoder.obstacle(received, one):
                working.report.left_out[one.topic, obstacle] += 1
            else:
                allowed.append(one)
        return replies(record, allowed)

    def _record(self, working: _Working, outcome: Outcome) -> None:
        working.changes.outcomes.append(outcome)
        if outcome.command_key is not None and outcome.fingerprint is not None:
            working.fingerprints[outcome.command_key] = outcome.fingerprint
            if outcome.command_key in self.asking_keys:
                working.first[outcome.command_key] = First(outcome.status, outcome.records[0])


def _may_exceed(record: OutgoingRecord, max_bytes: int) -> bool:
    """Tell whether it is worth while to add up a record's headers."""
    return len(record.key or b"") + len(record.value or b"") + _HEADERS_BYTES_MAX > max_bytes


def _fitting(dead_letter: OutgoingRecord, max_bytes: int) -> OutgoingRecord:
    """Drop what makes a dead letter too large; what is left still says where the command stands."""
    losses: tuple[dict[str, Any], ...] = ({"value": None}, {"key": None}, {"headers": own_headers(dead_letter)})
    for loss in losses:
        if dead_letter.wire_bytes <= max_bytes:
            break
        dead_letter = dead_letter._replace(**loss)
    return dead_letter


def _outcome(
    received: Received, status: int, records: tuple[OutgoingRecord, ...], now_ms: int, *, occupies_id: bool = True
) -> Outcome:
    readable = received if isinstance(received, Readable) else None
    return Outcome(
        partition=received.record.partition,
        offset=received.record.offset,
        command_key=readable.command_key if readable and occupies_id else None,
        fingerprint=readable.fingerprint if readable and occupies_id else None,
        command_id=received.command_id,
        user_task_key=readable.user_task_key if readable else None,
        status=status,
        decided_at_ms=now_ms,
        records=records,
    )
