"""Reply topics: what can be written to is found out without making a topic, and remembered for a while."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiokafka.admin.config_resource import ConfigResourceType
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    BrokerResponseError,
    KafkaError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.admin import DescribeConfigsRequest
from aiokafka.protocol.metadata import MetadataRequest

from worker.asking import ask_any
from worker.failures import OF_THE_TRANSACTION
from worker.kafka import DEFAULT_MAX_MESSAGE_BYTES
from worker.telemetry.left_out import LeftOutLines
from worker.timestamps import CONFIG as TIMESTAMPS_CONFIG
from worker.timestamps import NO_LIMITS, TimeLimits, read_limits

log = structlog.stdlib.get_logger(__name__)

UNKNOWN: Final = "unknown"
FORBIDDEN: Final = "forbidden"
REFUSED: Final = "refused"
SILENT: Final = "silent"

_LIMIT: Final = "max.message.bytes"
_CLEANUP: Final = "cleanup.policy"

_KNOWN_S: Final = 30
_UNKNOWN_S: Final = 5
"""Short, for somebody may be making the topic just now, or its leader may be back."""
_REFUSED_S: Final = 60
"""Longer than a takeover takes, since it is what keeps the replay from failing in the same way."""
_TOPICS_MAX: Final = 1000
"""Looked up and remembered: strangers may name any number that are not there."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What matters of a reply topic."""

    partitions: int
    led: frozenset[int]
    """The partitions that have a leader."""
    max_message_bytes: int
    is_compacted: bool
    """Whether it takes no record without key."""
    times: TimeLimits = NO_LIMITS


class ReplyTopics:
    """What the worker knows of the topics that commands have named. It outlives producers, but not the process.

    Args:
        own_topics: those of the worker, to which no reply may go, whatever the settings were when it was decided.
        on_ignored: told of how many replies were left out, once their outcomes are published.
        clock: seconds that never go back.

    """

    def __init__(
        self,
        own_topics: Collection[str] = (),
        on_ignored: Callable[[int], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.own_topics = frozenset(own_topics)
        self._on_ignored = on_ignored
        self._lines = LeftOutLines(clock)
        self._clock = clock
        self._looked_up: dict[str, tuple[Shape | str, float]] = {}
        self._failed: dict[str, tuple[str, float]] = {}
        """Topics that have not taken their replies, SILENT once or REFUSED, and until when that counts."""

    @property
    def usable(self) -> set[str]:
        """Give the topics that could be written to when they were last looked at."""
        return {topic for topic, (shape, _) in self._looked_up.items() if isinstance(shape, Shape)}

    async def shapes(self, client: AIOKafkaClient, topics: Collection[str]) -> dict[str, Shape | str]:
        """Give each topic's shape, or in a word why it cannot be written to. Raise KafkaError if no broker answers."""
        found = {topic: known for topic in topics if (known := self._known(topic)) is not None}
        if missing := [topic for topic in topics if topic not in found]:
            looked_up = await _look_up(client, missing)
            found |= looked_up
            for topic, shape in looked_up.items():
                self._looked_up.pop(topic, None)
                self._looked_up[topic] = shape, self._clock() + lasts_s(shape)
            while len(self._looked_up) > _TOPICS_MAX:
                del self._looked_up[next(iter(self._looked_up))]
        return found

    def forget_shapes(self) -> None:
        """Look at every topic anew: a transaction has failed, and a topic that is no more may be why."""
        self._looked_up.clear()

    def judge(self, replies: Iterable[tuple[str, "asyncio.Future[Any]"]], *, time_is_up: bool) -> None:
        """Remember which topics have not taken their replies, so that the replay leaves these out.

        A topic that says no is refused at once. One that says nothing is so at the second time in a row: it may be an
        outage, which is over when the replay comes.

        Args:
            replies: topics and what became of the records.
            time_is_up: whether replies without an answer should have had one by now.

        """
        self._failed = {topic: known for topic, known in self._failed.items() if known[1] > self._clock()}
        by_topic: defaultdict[str, list[asyncio.Future[Any]]] = defaultdict(list)
        for topic, future in replies:
            by_topic[topic].append(future)
        for topic, futures in by_topic.items():
            errors = [future.exception() for future in futures if future.done()]
            if noes := [
                one
                for one in errors
                if isinstance(one, BrokerResponseError) and not isinstance(one, OF_THE_TRANSACTION)
            ]:
                self._refuse(topic, type(noes[0]).__name__)
            elif len(errors) < len(futures):
                if time_is_up:
                    self._suspect(topic)
            elif not any(errors):
                self._failed.pop(topic, None)

    def tell_left_out(self, replies: Counter[tuple[str, str]]) -> None:
        """Count and log replies that were left out, by topic and reason."""
        self._on_ignored(replies.total())
        self._lines.tell(replies)

    def _known(self, topic: str) -> Shape | str | None:
        if topic in self.own_topics:
            return FORBIDDEN
        for memory in (self._failed, self._looked_up):
            known, until_s = memory.get(topic, (SILENT, 0))
            if known != SILENT and until_s > self._clock():
                return known
        return None

    def _suspect(self, topic: str) -> None:
        if topic in self._failed:
            self._refuse(topic, "no answer, twice")
        else:
            self._failed[topic] = SILENT, self._clock() + _REFUSED_S

    def _refuse(self, topic: str, reason: str) -> None:
        log.warning("reply_topic_refused", topic=topic, reason=reason, forgotten_in_s=_REFUSED_S)
        self._failed[topic] = REFUSED, self._clock() + _REFUSED_S


def lasts_s(shape: Shape | str) -> float:
    """Give for how long to believe what was looked up: for a short while only if it keeps replies from being sent."""
    return _KNOWN_S if isinstance(shape, Shape) and len(shape.led) == shape.partitions else _UNKNOWN_S


async def _look_up(client: AIOKafkaClient, topics: Collection[str]) -> dict[str, Shape | str]:
    response = await ask_any(client, MetadataRequest(list(topics), allow_auto_topic_creation=False))
    described = {topic: (code, is_internal, partitions) for code, topic, is_internal, partitions in response.topics}
    found: dict[str, Any] = {}
    for topic in topics:
        code, is_internal, partitions = described.get(topic, (-1, False, ()))
        if for_code(code) is TopicAuthorizationFailedError or is_internal:
            found[topic] = FORBIDDEN
        else:
            found[topic] = partitions if code == 0 and partitions else UNKNOWN
    configs = await _configs(client, [topic for topic, shape in found.items() if not isinstance(shape, str)])
    return {
        topic: shape if isinstance(shape, str) else _shape(shape, configs.get(topic, {}))
        for topic, shape in found.items()
    }


def _shape(partitions: Collection[tuple[Any, ...]], config: Mapping[str, str | None]) -> Shape:
    led = frozenset(partition for _, partition, leader, *_ in partitions if leader >= 0)
    limit = int(config.get(_LIMIT) or DEFAULT_MAX_MESSAGE_BYTES)
    is_compacted = "compact" in (config.get(_CLEANUP) or "")
    return Shape(len(partitions), led, limit, is_compacted=is_compacted, times=read_limits(config))


async def _configs(client: AIOKafkaClient, topics: Collection[str]) -> Mapping[str, Mapping[str, str | None]]:
    """Read what matters of the topics' configurations; one that cannot be read is missing or empty."""
    if not topics:
        return {}
    asked = [(int(ConfigResourceType.TOPIC), topic, [_LIMIT, _CLEANUP, *TIMESTAMPS_CONFIG]) for topic in topics]
    try:
        response = await ask_any(client, DescribeConfigsRequest(asked))
    except (KafkaError, OSError):
        return {}  # the defaults are good enough: should they be wrong, the topic says so
    return {topic: {name: value for name, value, *_ in entries} for _, _, _, topic, entries, *_ in response.resources}
