"""Finding a broker that answers, and whether brokers of its kind give what exactly once needs. Starts nothing."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

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


async def check_cluster(settings: Settings) -> tuple[str, Mapping[str, TopicShape]]:
    """Check brokers and topics; return the address of a broker that answers, and the topics' shapes by name.

    One answer is enough: the other brokers may be away. Raise BrokerUnreachableError or TopicsNotReadyError.
    """
    answer = await first_answer(settings)
    if answer.lacks and (answer.is_too_old or not settings.accept_at_least_once):
        remedy = "upgrade it" if answer.is_too_old else "upgrade it, or set USERTASK_ACCEPT_AT_LEAST_ONCE=true"
        raise TopicsNotReadyError(f"the broker is {answer.lacks}: {remedy}")
    answering = settings.model_copy(update={"kafka_bootstrap_servers": answer.address})
    try:
        shapes = await describe_topics(answering)
    except (KafkaError, OSError) as error:  # TimeoutError is one
        raise BrokerUnreachableError(f"{answer.address}: {type(error).__name__}: {error}") from error
    check_shapes(settings, shapes)
    return answer.address, shapes


async def first_answer(settings: Settings) -> Answer:
    """Ask all bootstrap servers at once, and return the first answer. Raise BrokerUnreachableError, which says why."""
    options = client_options(settings)
    addresses = collect_hosts(options.pop("bootstrap_servers"), randomize=False)
    asking = [asyncio.ensure_future(_ask(host, port, options, settings.start_timeout_s)) for host, port, _ in addresses]
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


async def _ask(host: str, port: int, options: Mapping[str, Any], timeout_s: float) -> Answer:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        async with asyncio.timeout(timeout_s):
            versions, features = await _kind_of(host, port, options)
    except (KafkaError, OSError) as error:  # TimeoutError is one
        raise BrokerUnreachableError(f"{address}: {_why(error)}") from None
    return Answer(address=address, versions=versions, features=features)


async def _kind_of(
    host: str, port: int, options: Mapping[str, Any]
) -> tuple[Mapping[int, tuple[int, int]], frozenset[str]]:
    """Ask over a bare connection: a client would say in its log alone why it cannot connect."""
    connection = await create_conn(host, port, **options)
    try:
        await connection.send(MetadataRequest([]))  # answered only to whom the broker lets in
        response = await connection.send(ApiVersions())
    except NotImplementedError:  # the client's word for a version that the broker does not speak
        return {}, frozenset()
    finally:
        await connection.close()
    versions = {key: (oldest, newest) for key, oldest, newest, _ in response.api_versions}
    return versions, supported_features(response.tags)


def _why(error: Exception) -> str:
    if isinstance(error, KafkaConnectionError):
        return f"{error}; do USERTASK_KAFKA_SECURITY_PROTOCOL and the certificate or token fit?"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) if isinstance(error, KafkaError) else f"{type(error).__name__}: {error}"
