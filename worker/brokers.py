"""Finding a broker that answers, and whether brokers of its kind give what exactly once needs. Starts nothing."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from socket import gaierror
from typing import Any, Final, TypeVar

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from worker.kafka import (
    BrokerUnreachableError,
    TopicShape,
    TopicsNotReadyError,
    check_shapes,
    client_options,
    describe_topics,
)
from worker.requests import ApiVersions, supported_features
from worker.settings import Settings

T = TypeVar("T")

_RETRY_S: Final = 0.5
_ADVERTISED_ASKED_MAX: Final = 10
_FETCH: Final = 1
_METADATA: Final = 3
_OFFSET_FETCH: Final = 9
_FETCH_MIN_VERSION_OF_4_0: Final = 4  # KIP-896: brokers from 4.0 on no longer know the versions below
_FEATURE_OF_4_0: Final = "group.version"
"""Named by brokers that have the group coordinator of Kafka 4, and by no other product that speaks its protocol."""
_NEEDED: Final[Mapping[int, int]] = {_METADATA: 10, _OFFSET_FETCH: 7}
"""The versions of requests without which no worker can run."""
TAKEOVERS_MAY_DOUBLE: Final = "a takeover may publish outcomes twice"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a broker says of itself."""

    address: str
    """`host:port`, one of the bootstrap servers."""
    versions: Mapping[int, tuple[int, int]]
    """The oldest and the newest version of each request that it speaks, by API key."""
    features: frozenset[str]
    advertised: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    """Host and port of each broker, by its id, as all clients are told: they use no others."""

    @property
    def is_too_old(self) -> bool:
        """Return whether requests are missing without which nothing goes."""
        return any(self.versions.get(key, (0, 0))[1] < version for key, version in _NEEDED.items())

    @property
    def lacks(self) -> str | None:
        """Return in words what is missing for exactly once; None if nothing is."""
        if self.is_too_old:
            return "older than 2.8, where no worker can run"
        if self.versions.get(_FETCH, (0, 0))[0] < _FETCH_MIN_VERSION_OF_4_0:
            return f"older than 4.0, where {TAKEOVERS_MAY_DOUBLE}"
        if _FEATURE_OF_4_0 not in self.features:
            return f"not known to have the group coordinator of Apache Kafka 4.0; without it, {TAKEOVERS_MAY_DOUBLE}"
        return None


def address_of(host: str, port: int) -> str:
    """Return host and port as they are written in settings."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def deadline_of(settings: Settings) -> float:
    """Return the event loop's time when the start timeout has passed from now on."""
    return asyncio.get_running_loop().time() + settings.start_timeout_s


async def until_reached(
    settings: Settings,
    attempt: Callable[[float], Awaitable[T]],
    tell: Callable[[BrokerUnreachableError], None],
) -> T:
    """Attempt until brokers are reached, and return what the attempt returns.

    Each attempt is given the deadline, in the event loop's time. `tell` is told of the first failure. Raise
    BrokerUnreachableError after the start timeout: the last one, but for an attempt that was only cut short.
    """
    loop, deadline_s = asyncio.get_running_loop(), deadline_of(settings)
    failure: BrokerUnreachableError | None = None
    while True:
        try:
            return await attempt(deadline_s)
        except BrokerUnreachableError as error:
            if failure is None:
                tell(error)
            if failure is None or loop.time() < deadline_s:
                failure = error
        if loop.time() + _RETRY_S >= deadline_s:
            raise failure
        await asyncio.sleep(_RETRY_S)


async def check_cluster(settings: Settings, deadline_s: float) -> tuple[str, Mapping[str, TopicShape]]:
    """Check brokers and topics; return the address of a broker that answers, and the topics' shapes by name.

    One answer is enough: the other brokers may be away. Raise BrokerUnreachableError or TopicsNotReadyError.
    """
    answer = await first_answer(settings, deadline_s)
    if answer.lacks and (answer.is_too_old or not settings.accept_at_least_once):
        remedy = "upgrade it" if answer.is_too_old else "upgrade it, or set USERTASK_ACCEPT_AT_LEAST_ONCE=true"
        raise TopicsNotReadyError(f"the broker is {answer.lacks}: {remedy}")
    shapes = await read_shapes(settings, answer, deadline_s)
    check_shapes(settings, shapes)
    return answer.address, shapes


async def read_shapes(settings: Settings, answer: Answer, deadline_s: float) -> dict[str, TopicShape]:
    """Return the shapes of the worker's topics that exist, from the broker that has answered.

    Raise BrokerUnreachableError, also if no broker answers under the address that it advertises.
    """
    if answer.advertised and answer.address not in {address_of(*one) for one in answer.advertised.values()}:
        await _first(_asking_advertised(settings, answer, deadline_s))
    answering = settings.model_copy(update={"kafka_bootstrap_servers": answer.address})
    try:
        async with asyncio.timeout_at(deadline_s):
            return await describe_topics(answering)
    except (KafkaError, OSError) as error:  # TimeoutError is one
        raise BrokerUnreachableError(f"{answer.address}: {type(error).__name__}: {error}") from error


async def first_answer(settings: Settings, deadline_s: float) -> Answer:
    """Ask all bootstrap servers at once, and return the first answer. Raise BrokerUnreachableError, which says why."""
    options = client_options(settings)
    addresses = collect_hosts(options.pop("bootstrap_servers"), randomize=False)
    return await _first([_ask(host, port, options, deadline_s) for host, port, _ in addresses])


async def silent_brokers(settings: Settings, answer: Answer, deadline_s: float) -> list[str]:
    """Return in words which brokers do not answer under the address that they advertise, of at most ten.

    Raise BrokerUnreachableError if none answers there.
    """
    asking = _asking_advertised(settings, answer, deadline_s)
    found = await asyncio.gather(*asking, return_exceptions=True)
    failures = [one for one in found if isinstance(one, BaseException)]
    for failure in failures:
        if not isinstance(failure, BrokerUnreachableError):
            raise failure
    words = sorted(map(str, failures))
    if words and len(words) == len(asking):
        raise BrokerUnreachableError("; ".join(words))
    return words


def _asking_advertised(settings: Settings, answer: Answer, deadline_s: float) -> list[Coroutine[Any, Any, None]]:
    options = client_options(settings)
    del options["bootstrap_servers"]
    nodes = random.sample(sorted(answer.advertised), min(len(answer.advertised), _ADVERTISED_ASKED_MAX))
    return [_ask_advertised(node_id, *answer.advertised[node_id], options, deadline_s) for node_id in nodes]


async def _ask_advertised(node_id: int, host: str, port: int, options: Mapping[str, Any], deadline_s: float) -> None:
    try:
        await _ask(host, port, options, deadline_s)
    except BrokerUnreachableError as error:
        raise BrokerUnreachableError(f"broker {node_id} advertises {error}; see its advertised.listeners") from None


async def _first(questions: Iterable[Coroutine[Any, Any, T]]) -> T:
    """Return the first answer. Raise BrokerUnreachableError with all failures if there is none."""
    asking = [asyncio.ensure_future(question) for question in questions]
    failures: list[str] = []
    try:
        for answer in asyncio.as_completed(asking):
            try:
                return await answer
            except BrokerUnreachableError as error:
                failures.append(str(error))
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    raise BrokerUnreachableError("; ".join(sorted(failures)))


async def _ask(host: str, port: int, options: Mapping[str, Any], deadline_s: float) -> Answer:
    address = address_of(host, port)
    try:
        async with asyncio.timeout_at(deadline_s):
            return await _answer_of(address, host, port, options)
    except (KafkaError, OSError) as error:  # TimeoutError is one
        raise BrokerUnreachableError(f"{address}: {_why(error)}") from None


async def _answer_of(address: str, host: str, port: int, options: Mapping[str, Any]) -> Answer:
    """Ask over a bare connection: a client would say in its log alone why it cannot connect."""
    connection = await create_conn(host, port, **options)
    try:
        metadata = await connection.send(MetadataRequest([]))  # answered only to whom the broker lets in
        response = await connection.send(ApiVersions())
    except NotImplementedError:  # the client's word for a version that the broker does not speak
        return Answer(address=address, versions={}, features=frozenset())
    finally:
        await connection.close()
    return Answer(
        address=address,
        versions={key: (oldest, newest) for key, oldest, newest, _ in response.api_versions},
        features=supported_features(response.tags),
        advertised={node_id: (host, port) for node_id, host, port, *_ in metadata.brokers},
    )


def _why(error: Exception) -> str:
    if isinstance(error, KafkaConnectionError):
        return f"{error}; do USERTASK_KAFKA_SECURITY_PROTOCOL and the certificate or token fit?"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, gaierror):
        return f"the name does not resolve ({error.strerror})"
    return str(error) if isinstance(error, KafkaError) else f"{type(error).__name__}: {error}"
