"""What is learnt from transactions that failed, so that the next attempt is another one. Outlives producers."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog
from aiokafka.errors import InvalidTimestampError, ProducerFenced

from worker.failures import TOO_LARGE, Culprit, PublishError, culprit_of
from worker.portions import Portions, Suspects
from worker.record_batches import Sent
from worker.reply_topics import ReplyTopics
from worker.timestamps import TimeLimits, Timestamps

log = structlog.stdlib.get_logger(__name__)

_MIN_BATCH_BYTES: Final = 16_384
_TOLD_S: Final = 60


@dataclass(slots=True)
class Attempt:
    """How far a transaction has come."""

    sent: Sent = field(default_factory=list)
    culprit: Culprit | None = None
    """A topic that could not be found."""
    will_differ: bool = False
    """Whether the next attempt leaves out what has failed this time."""

    def culprit_of(self, error: Exception) -> Culprit | None:
        """Return the topic that is why, if it is one that is written to again."""
        if self.will_differ:
            return None
        return self.culprit or culprit_of(self.sent, time_is_up=isinstance(error, TimeoutError))


class Lessons:
    """What the worker knows of its topics and of the path to them.

    Args:
        reply_topics: what is known of the topics that commands have named.
        times: which timestamps the worker's own topics take, as it was at the start.
        batch_bytes: the largest record batch, since a topic's limit is one of whole batches.
        on_failed: told of each transaction that failed, by a cause in one word.

    """

    def __init__(
        self,
        reply_topics: ReplyTopics,
        times: Mapping[str, TimeLimits],
        batch_bytes: int,
        on_failed: Callable[[str], object],
    ) -> None:
        self.reply_topics = reply_topics
        self.timestamps = Timestamps(times)
        self.portions = Portions()
        self.suspects = Suspects()
        self.batch_bytes = batch_bytes
        self._on_failed = on_failed
        self._told: dict[tuple[str | None, str], float] = {}
        """Until when a topic and a cause need not be logged again."""

    def failed(self, error: Exception, attempt: Attempt, outcomes: int) -> PublishError:
        """Learn from a transaction that failed, and return it in words."""
        culprit = attempt.culprit_of(error)
        failure = PublishError(str(culprit) if culprit else f"{type(error).__name__}: {error}")
        failure.fenced = isinstance(error, ProducerFenced) or isinstance(error.__cause__, ProducerFenced)
        failure.culprit = culprit
        failure.is_mended = attempt.will_differ or (culprit is not None and self._does_otherwise(culprit))
        failure.is_worth_another = failure.is_mended
        if not failure.fenced and not attempt.will_differ:  # these say nothing of the size
            failure.is_worth_another |= self.portions.failed()
        self.reply_topics.forget_shapes()
        self._tell(failure, culprit.cause if culprit else type(error).__name__, outcomes)
        return failure

    def _does_otherwise(self, culprit: Culprit) -> bool:
        """Return whether the next attempt gives the topic what it may take instead."""
        if culprit.error is InvalidTimestampError:
            return self.timestamps.refused(culprit.topic)
        if culprit.error in TOO_LARGE and culprit.records > 1 and self.batch_bytes > _MIN_BATCH_BYTES:
            # several records that are not too large by themselves: its limit was lowered
            self.batch_bytes = max(_MIN_BATCH_BYTES, self.batch_bytes // 2)
            return True
        return False

    def _tell(self, failure: PublishError, cause: str, outcomes: int) -> None:
        """Log each cause once in a while."""
        self._on_failed(cause)
        topic, now_s = failure.culprit.topic if failure.culprit else None, time.monotonic()
        if now_s >= self._told.get((topic, cause), 0):
            self._told[topic, cause] = now_s + _TOLD_S
            log.warning("transaction_failed", topic=topic, cause=cause, outcomes=outcomes, reason=str(failure))
