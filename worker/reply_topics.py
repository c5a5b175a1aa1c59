"""Reply topics: what can be written to is found out without making a topic, and remembered for a while."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiokafka.admin.config_resource import ConfigResourceType
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    BrokerResponseError,
    KafkaConnectionError,
    KafkaError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.admin import DescribeConfigsRequest
from aiokafka.protocol.metadata import MetadataRequest

from worker.kafka import DEFAULT_MAX_MESSAGE_BYTES
from worker.record_batches import Sent
from worker.telemetry.sampling import Allowance

log = structlog.stdlib.get_logger(__name__)

UNKNOWN: Final = "unknown"
FORBIDDEN: Final = "forbidden"
REFUSED: Final = "refused"

_KNOWN_S: Final = 30
_UNKNOWN_S: Final = 5
"""Short, for somebody may be making the topic just now."""
_REFUSED_S: Final = 60
"""Longer than a takeover takes, since it is what keeps the replay from failing in the same way."""
_TOPICS_MAX: Final = 1000
_TOPICS_LOGGED_MAX: Final = 5
_LINES_PER_S: Final = 1
_BROKERS_ASKED_MAX: Final = 3
_ANSWER_TIMEOUT_S: Final = 1.5


@dataclass(frozen=True, slots=True)
class Shape:
    """What matters of a reply topic."""

    partitions: int
    led: frozenset[int]
    """The partitions that have a leader."""
    max_message_bytes: int


class ReplyTopics:
    """What the worker knows of the topics that commands have named. It outlives producers, but not the process.

    Args:
        on_ignored: told of how many replies were left out, once their outcomes are published.
        clock: seconds that never go back.

    """

    def __init__(
        self, on_ignored: Callable[[int], object] = lambda _: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._on_ignored = on_ignored
        self._lines = Allowance(_LINES_PER_S)
        self._clock = clock
        self._looked_up: dict[str, tuple[float, Shape | str]] = {}
        self._refused: dict[str, float] = {}
        self._suspected: dict[str, None] = {}

    @property
    def usable(self) -> set[str]:
        """Give the topics that could be written to when they were last looked at."""
        return {topic for topic, (_, shape) in self._looked_up.items() if isinstance(shape, Shape)}

    async def shapes(self, client: AIOKafkaClient, topics: Collection[str]) -> dict[str, Shape | str]:
        """Give each topic's shape, or in a word why it cannot be written to. Raise KafkaError if no broker answers."""
        now_s = self._clock()
        found: dict[str, Shape | str] = dict.fromkeys(
            (one for one in topics if self._refused.get(one, 0) > now_s), REFUSED
        )
        for topic in topics:
            until_s, shape = self._looked_up.get(topic, (now_s, UNKNOWN))
            if topic not in found and until_s > now_s:
                found[topic] = shape
        if missing := [topic for topic in topics if topic not in found]:
            looked_up = await _look_up(client, missing)
            found |= looked_up
            for topic, shape in looked_up.items():
                lasts_s = _KNOWN_S if isinstance(shape, Shape) else _UNKNOWN_S
                _put(self._looked_up, topic, (now_s + lasts_s, shape))
        return found

    def forget_shapes(self) -> None:
        """Look at every topic anew: a transaction has failed, and a topic that is no more may be why."""
        self._looked_up.clear()

    def judge(self, replies: Sent, *, others_arrived: bool, time_is_up: bool) -> None:
        """Remember which topics have not taken their replies, so that the replay leaves these out.

        A topic that says no is refused at once. One that says nothing is so at the second time in a row: it may be an
        outage, which is over when the replay comes.

        Args:
            replies: topics and what became of the records.
            others_arrived: whether the brokers have the other records of the transaction. If not, what is wrong with
                them may be wrong with the replies, too; only a lack of rights is a topic's own then.
            time_is_up: whether replies without an answer should have had one by now.

        """
        for topic, future in replies:
            if not future.done():
                if time_is_up:
                    self._suspect(topic)
            elif (error := future.exception()) is None:
                self._suspected.pop(topic, None)
            elif isinstance(error, BrokerResponseError if others_arrived else TopicAuthorizationFailedError):
                self._refuse(topic, type(error).__name__)

    def tell_left_out(self, replies: Counter[tuple[str, str]]) -> None:
        """Count and log replies that were left out, by topic and reason."""
        self._on_ignored(replies.total())
        if self._lines.take(1):
            some = {f"{topic}: {reason}": number for (topic, reason), number in replies.most_common(_TOPICS_LOGGED_MAX)}
            log.warning("replies_left_out", replies=replies.total(), by=some)

    def _suspect(self, topic: str) -> None:
        if topic in self._suspected:
            self._refuse(topic, "no answer, twice")
        else:
            _put(self._suspected, topic, None)

    def _refuse(self, topic: str, reason: str) -> None:
        if self._refused.get(topic, 0) <= self._clock():
            log.warning("reply_topic_refused", topic=topic, reason=reason, forgotten_in_s=_REFUSED_S)
        self._suspected.pop(topic, None)
        _put(self._refused, topic, self._clock() + _REFUSED_S)


def _put(memory: dict[str, Any], topic: str, known: object) -> None:
    """Remember, and forget what is oldest."""
    memory.pop(topic, None)
    memory[topic] = known
    if len(memory) > _TOPICS_MAX:
        del memory[next(iter(memory))]


async def _look_up(client: AIOKafkaClient, topics: Collection[str]) -> dict[str, Shape | str]:
    response = await _ask(client, MetadataRequest(list(topics), allow_auto_topic_creation=False))
    described = {topic: (code, is_internal, partitions) for code, topic, is_internal, partitions in response.topics}
    found: dict[str, Any] = {}
    for topic in topics:
        code, is_internal, partitions = described.get(topic, (-1, False, ()))
        if for_code(code) is TopicAuthorizationFailedError or is_internal:
            found[topic] = FORBIDDEN
        else:
            found[topic] = partitions if code == 0 and partitions else UNKNOWN
    limits = await _limits(client, [topic for topic, shape in found.items() if not isinstance(shape, str)])
    return {
        topic: shape if isinstance(shape, str) else _shape(shape, limits.get(topic, DEFAULT_MAX_MESSAGE_BYTES))
        for topic, shape in found.items()
    }


def _shape(partitions: Collection[tuple[Any, ...]], max_message_bytes: int) -> Shape:
    led = frozenset(partition for _, partition, leader, *_ in partitions if leader >= 0)
    return Shape(len(partitions), led, max_message_bytes)


async def _limits(client: AIOKafkaClient, topics: Collection[str]) -> Mapping[str, int]:
    """Read `max.message.bytes`; a topic whose configuration cannot be read is missing."""
    if not topics:
        return {}
    asked = [(int(ConfigResourceType.TOPIC), topic, ["max.message.bytes"]) for topic in topics]
    try:
        response = await _ask(client, DescribeConfigsRequest(asked))
    except (KafkaError, OSError):
        return {}  # a default is good enough: should it be too large, the topic says so
    return {
        topic: int(entry[1] or DEFAULT_MAX_MESSAGE_BYTES)
        for _code, _, _, topic, entries, *_ in response.resources
        for entry in entries
    }


async def _ask(client: AIOKafkaClient, request: Any) -> Any:
    """Ask one broker after the other, each for a short while: one that is away holds nobody up."""
    nodes = [broker.nodeId for broker in client.cluster.brokers()]
    failure: Exception = KafkaConnectionError("no broker is known")
    for node_id in random.sample(nodes, min(len(nodes), _BROKERS_ASKED_MAX)):
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                return await client.send(node_id, request)
        except (KafkaError, OSError) as error:  # TimeoutError is one
            failure = error
    raise failure
