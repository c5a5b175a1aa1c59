"""Replay: the publishing of what is decided but not visible, by a new owner (docs/exactly-once.md, Takeover 6)."""

from collections.abc import AsyncIterator, Mapping
from typing import Final

import structlog
from aiokafka import TopicPartition

from worker.failures import PublishError
from worker.lessons import Lessons
from worker.publisher import Publisher
from worker.session import Decided, Outgoing
from worker.starting import Start
from worker.stores.port import Store
from worker.telemetry.tracing import Tracing

log = structlog.stdlib.get_logger(__name__)

_OUTCOMES_MAX: Final = 1000
"""Outcomes replayed in one transaction, or fewer if they are large, or if transactions fail."""
_PAGE_OUTCOMES: Final = 100
"""Outcomes read at a time: bounds memory."""
_AGAIN_DEADLINE_S: Final = 4
"""For an outcome that has blocked its partition: all others wait for it."""


class Replay:
    """Publishes recorded outcomes with one publisher."""

    def __init__(self, topic: str, store: Store, publisher: Publisher, lessons: Lessons, tracing: Tracing) -> None:
        self._topic = topic
        self._store = store
        self._publisher = publisher
        self._portions = lessons.portions
        self._suspects = lessons.suspects
        self._tracing = tracing

    async def run(self, starts: Mapping[int, Start], committed: Mapping[int, int | None]) -> None:
        """Publish at once, for nobody knows when the next command comes. Raise PublishError or StoreError.

        What has failed alone goes first and alone.
        """
        portion: list[Outgoing] = []
        for partition in sorted(starts, key=lambda one: (not self._suspects.alone(one), one)):
            async for outcome in self._outcomes(partition, starts[partition], committed[partition]):
                portion.append(outcome)
                if len(portion) >= self._most(partition):
                    await self._publish(portion)
                    portion = []
        if portion:
            await self._publish(portion)

    def _most(self, partition: int) -> int:
        return 1 if self._suspects.alone(partition) else min(_OUTCOMES_MAX, self._portions.most)

    async def _outcomes(self, partition: int, start: Start, committed: int | None) -> AsyncIterator[Outgoing]:
        position, reached = start.replay, committed or 0
        while position < start.apply:
            page = await self._store.recorded(self._topic, partition, position, start.apply, _PAGE_OUTCOMES)
            for offset, outgoing in page:
                reached = offset + 1
                yield partition, reached, outgoing
            position = reached if len(page) == _PAGE_OUTCOMES else start.apply
        if reached < start.apply:
            # the last commands have no outcome, or retention has moved the beginning to beyond K
            yield partition, start.apply, ()

    async def _publish(self, portion: list[Outgoing]) -> None:
        for piece in Decided.split(portion, {}):
            try:
                await self._publish_piece(piece)
            except PublishError as error:
                if len(piece.outcomes) == 1:
                    self._suspect(piece.outcomes[0], error)
                raise
            self._suspects.passed(piece.offsets)

    async def _publish_piece(self, piece: Decided) -> None:
        records, again = piece.records, any(map(self._suspects.was_blocked, piece.offsets))
        reached = {TopicPartition(self._topic, partition): offset for partition, offset in piece.offsets.items()}
        deadline = {"deadline_s": _AGAIN_DEADLINE_S} if again else {}
        with self._tracing.republishing(records):
            await self._publisher.publish(records, reached, len(piece.outcomes), **deadline)
        log.info("outcomes_replayed", records=len(records), partitions=sorted(piece.offsets))

    def _suspect(self, outcome: Outgoing, error: PublishError) -> None:
        """Hold the outcome responsible, unless others would fail like it, or its next attempt is another one."""
        partition, next_offset, _ = outcome
        culprit = error.culprit
        if error.fenced or error.is_mended or (culprit is None and not self._suspects.was_blocked(partition)):
            return
        why = f"{culprit}. To mend it: {culprit.advice}." if culprit else f"{error}."
        reason = f"the outcome of offset {next_offset - 1} cannot be published: {why}"
        is_certain = culprit is not None and culprit.is_certain
        self._suspects.failed(partition, next_offset - 1, reason, is_certain=is_certain)
        error.is_worth_another = True
