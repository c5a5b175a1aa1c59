"""Batches on their way through: decode, then decide and save in one store transaction, then hand on for publishing."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import structlog
from opentelemetry.trace import SpanContext

from worker.batch import Batch, Broken, Decoded, Limits
from worker.decoder import Received
from worker.encoder import Encoder
from worker.reporting import Reporter
from worker.session import Decided, Session
from worker.stores.port import (
    Advance,
    Changes,
    Snapshot,
    Store,
    StoreRefusedError,
    StoreUnavailableError,
    TooMuchRepeatedError,
)

log = structlog.stdlib.get_logger(__name__)

_RECORDS_MAX: Final = 10_000
_BATCH_BYTES_MAX: Final = 8 * 1024 * 1024
"""Key and value bytes decided together: bounds memory and the length of a Kafka transaction."""


class Processor:
    """Takes records of one topic through the store."""

    def __init__(self, topic: str, store: Store, encoder: Encoder, limits: Limits, reporter: Reporter) -> None:
        self._topic = topic
        self._store = store
        self._encoder = encoder
        self._limits = limits
        self._reporter = reporter
        self._records_max = _RECORDS_MAX

    async def process(self, session: Session, commands: Sequence[Decoded]) -> None:
        """Decide and save commands of held partitions, each partition's in order, and queue what is to be published.

        Raise StoreError or SessionLostError; then the session has to be given up, since its memory may be behind.
        """
        due = [command for command in commands if _is_due(session, command)]
        for some in _split(due, lambda: self._records_max):
            await self._process(session, some)

    async def _process(self, session: Session, commands: Sequence[Decoded]) -> None:
        """Apply and submit, in parts where it has to be: each is submitted before the next, so that none pile up."""
        try:
            decided = await self._apply(session, commands)
        except TooMuchRepeatedError:
            middle = len(commands) // 2
            for half in (commands[:middle], commands[middle:]):
                await self._process(session, half)
        except StoreRefusedError:
            # one of them is beyond the store: find it, so that it stops nobody else
            log.warning("batch_refused_by_store", commands=len(commands))
            for command in commands:
                await _submit(session, await self._apply_alone(session, command))
        else:
            await _submit(session, decided)

    async def _apply_alone(self, session: Session, command: Decoded) -> list[Decided]:
        try:
            return await self._apply(session, [command])
        except StoreRefusedError:
            return await self._apply(session, [Broken(received=_received(command))])

    async def _apply(self, session: Session, commands: Sequence[Decoded]) -> list[Decided]:
        try:
            decided = await self._apply_in_one_transaction(session, commands)
        except StoreUnavailableError:
            # perhaps it was too much for one transaction: less is tried next time, before it is given up for ever
            self._records_max = max(1, len(commands) // 2)
            raise
        self._records_max = min(self._records_max * 2, _RECORDS_MAX)
        return decided

    async def _apply_in_one_transaction(self, session: Session, commands: Sequence[Decoded]) -> list[Decided]:
        batch = Batch(commands, self._encoder, self._limits)
        behind_ms = self._reporter.clocks.behind_store_ms()

        def decide(snapshot: Snapshot) -> Changes:
            changes = batch.decide(snapshot, time.time_ns() // 1_000_000)
            if behind_ms:  # or other workers would take them for old, and forget their ids
                for outcome in changes.outcomes:
                    outcome.decided_at_ms += behind_ms
            return changes

        advances = _advances(session, commands)
        started_s = time.monotonic()
        with self._reporter.tracing.processing(commands) as processing:
            changes = await self._store.apply(
                self._topic,
                advances,
                batch.task_keys,
                batch.command_keys,
                decide,
                batch.asking_keys,
            )
            processing.outcomes = changes.outcomes
            self._reporter.saved(len(commands), batch.report, time.monotonic() - started_s)
        for advance in advances:
            session.held[advance.partition].applied = advance.next_applied
            session.noted[advance.partition] = advance.published
        return _decided(advances, commands, changes, processing.origins)


async def _submit(session: Session, pieces: Sequence[Decided]) -> None:
    for piece in pieces:
        await session.submit(piece)


def _received(command: Decoded) -> Received:
    return command.received if isinstance(command, Broken) else command


def _is_due(session: Session, command: Decoded) -> bool:
    record = command.record
    held = session.held.get(record.partition)
    return held is not None and record.offset >= held.applied


def _split(commands: Sequence[Decoded], records_max: Callable[[], int]) -> Iterator[list[Decoded]]:
    """Cut into batches, each as large as may be when it is asked for: what is saved lets the next one be larger."""
    some: list[Decoded] = []
    size_bytes = 0
    for command in commands:
        weight = len(command.record.key or b"") + len(command.record.value or b"")
        size_bytes += weight
        if len(some) >= records_max() or (some and size_bytes > _BATCH_BYTES_MAX):
            yield some
            some, size_bytes = [], weight
        some.append(command)
    if some:
        yield some


def _advances(session: Session, commands: Sequence[Decoded]) -> list[Advance]:
    ends = {command.record.partition: command.record.offset + 1 for command in commands}
    return [
        Advance(
            partition=partition,
            owner=session.held[partition].owner,
            applied=session.held[partition].applied,
            next_applied=end,
            published=session.held[partition].published,
        )
        for partition, end in sorted(ends.items())
    ]


def _decided(
    advances: Sequence[Advance], commands: Sequence[Decoded], changes: Changes, origins: Sequence[SpanContext]
) -> list[Decided]:
    return Decided.split(
        ((outcome.partition, outcome.offset + 1, outcome.records) for outcome in changes.outcomes),
        {advance.partition: advance.next_applied for advance in advances},
        [command.record.timestamp for command in commands],
        origins,
    )
