"""What every Kafka client of the worker is given, and what must be true of the cluster before it runs."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from ssl import PROTOCOL_TLS_CLIENT, SSLContext, SSLError
from typing import Any, Final

import structlog
from aiokafka import client
from aiokafka.abc import AbstractTokenProvider
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.helpers import create_ssl_context
from aiokafka.protocol.metadata import MetadataRequest

from worker.settings import Settings, SettingsError
from worker.timestamps import CONFIG as TIMESTAMPS_CONFIG
from worker.timestamps import NO_LIMITS, TimeLimits, read_limits

log = structlog.stdlib.get_logger(__name__)

DEAD_LETTER_HEADROOM_BYTES: Final = 64 * 1024
RECORD_OVERHEAD_BYTES: Final = 1024
"""More than a record batch adds to key, value and headers of its only record."""
REJECTION_BYTES_MAX: Final = 512 * 1024
"""Every rejection fits into this, but for the command's record key."""
DEFAULT_MAX_MESSAGE_BYTES: Final = 1_048_588
"""Kafka's own, for a topic whose configuration may not be read."""

_ADMIN_REQUEST_TIMEOUT_MS: Final = 5000

# The client asks for topics in a way that makes those that are missing, where the broker allows it, and has no setting
# for that. A reply topic that its owner has deleted must stay so; the client reads this name each time.
client.MetadataRequest = partial(MetadataRequest, allow_auto_topic_creation=False)  # type: ignore[attr-defined, assignment]


class BrokerUnreachableError(Exception):
    """No broker answers. Wait and try again."""


class TopicsNotReadyError(Exception):
    """A topic is missing or does not fit, or the broker is too old: somebody has to act first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicShape:
    """What matters of a topic."""

    partitions: int
    max_message_bytes: int
    cleanup_policy: str = "delete"
    times: TimeLimits = NO_LIMITS


def client_options(settings: Settings) -> dict[str, Any]:
    """Give the arguments that every aiokafka client takes. Raise SettingsError for certificates that cannot be read."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap_servers,
        "security_protocol": settings.kafka_security_protocol,
        "client_id": "user-task-worker",
    }
    if settings.kafka_security_protocol.startswith("SASL"):
        options |= _login(settings)
    if settings.kafka_security_protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(settings)
    return options


def _login(settings: Settings) -> dict[str, Any]:
    login: dict[str, Any] = {"sasl_mechanism": settings.kafka_sasl_mechanism}
    if settings.kafka_sasl_mechanism == "OAUTHBEARER" and settings.kafka_sasl_token_file:
        provider = _TokenFile(settings.kafka_sasl_token_file, settings.sasl_extensions)
        return login | {"sasl_oauth_token_provider": provider}
    if settings.kafka_sasl_password:
        login["sasl_plain_username"] = settings.kafka_sasl_username
        login["sasl_plain_password"] = settings.kafka_sasl_password.get_secret_value()
    return login


class _TokenFile(AbstractTokenProvider):
    """Gives the token that the file has now: whoever issues tokens replaces it before it expires."""

    def __init__(self, path: Path, extensions: dict[str, str]) -> None:
        self._path = path
        self._extensions = extensions

    def extensions(self) -> dict[str, str]:
        """Return what goes with the token."""
        return self._extensions

    async def token(self) -> str:
        """Read the token. Raise OSError, which the client takes for a connection that failed."""
        about = f"USERTASK_KAFKA_SASL_TOKEN_FILE: {_shown(self._path)}"
        try:
            text = (await asyncio.to_thread(self._path.read_bytes)).decode("ascii").strip()
        except OSError as error:
            raise OSError(error.errno, f"{about} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            text = ""
        if not text.isprintable() or not text:
            raise OSError(f"{about} has no token")
        return text


def _ssl_context(settings: Settings) -> SSLContext:
    ca, certificate, key = settings.kafka_ssl_cafile, settings.kafka_ssl_certfile, settings.kafka_ssl_keyfile
    _check_file("CAFILE", ca, has_certificate=True)
    _check_file("CERTFILE", certificate, has_certificate=True)
    _check_file("KEYFILE", key, has_certificate=False)
    try:
        # with an empty password OpenSSL asks nobody for the right one
        return create_ssl_context(cafile=ca, certfile=certificate, keyfile=key, password="")
    except SSLError as error:  # the certificates are read: it is about the key
        if certificate is None or key is None:
            about = f"USERTASK_KAFKA_SSL_CERTFILE: {certificate} has no key; name it by USERTASK_KAFKA_SSL_KEYFILE"
        else:
            about = f"USERTASK_KAFKA_SSL_KEYFILE: {key} is not the key of {certificate}, or is encrypted"
        raise SettingsError(f"{about}: {error}") from None


def _check_file(setting: str, path: Path | None, *, has_certificate: bool) -> None:
    """Raise SettingsError, with path and reason, for a file that cannot be read or has no certificate."""
    if path is None:
        return
    about = f"USERTASK_KAFKA_SSL_{setting}: {_shown(path)}"
    try:
        path.read_bytes()
        if has_certificate:
            SSLContext(PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except SSLError as error:  # an OSError, too
        raise SettingsError(f"{about} has no certificate: {error}") from None
    except OSError as error:
        raise SettingsError(f"{about} cannot be read: {error.strerror}") from None


def _shown(path: Path) -> str:
    """Return a path as it may be shown: somebody may have put the key or the token itself there."""
    return str(path) if path.is_absolute() else "what it names"


def topic_names(settings: Settings) -> tuple[str, str, str, str]:
    """Give the names of the commands, events, rejections and dead letters topics."""
    return (
        settings.commands_topic,
        settings.events_topic,
        settings.rejections_topic,
        settings.dead_letters_topic,
    )


async def describe_topics(settings: Settings) -> dict[str, TopicShape]:
    """Give the shapes of the worker's topics; one that does not exist is missing. The caller sets the limit of time."""
    admin = AIOKafkaAdminClient(**client_options(settings), request_timeout_ms=_ADMIN_REQUEST_TIMEOUT_MS)
    try:
        await admin.start()
        # all topics, since asking for one by name would create it where the broker allows that
        known = {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics()}
        names = [name for name in topic_names(settings) if name in known]
        configs = await _configs(admin, names)
    finally:
        await admin.close()
    return {name: _shape(known[name], configs.get(name, {})) for name in names}


def _shape(partitions: int, config: Mapping[str, str | None]) -> TopicShape:
    return TopicShape(
        partitions=partitions,
        max_message_bytes=int(config.get("max.message.bytes") or DEFAULT_MAX_MESSAGE_BYTES),
        cleanup_policy=config.get("cleanup.policy") or "delete",
        times=read_limits(config),
    )


async def _configs(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str | None]]:
    """Read what matters of the topics' configurations; of one that may not be read nothing."""
    if not names:
        return {}
    wanted = dict.fromkeys(("max.message.bytes", "cleanup.policy", *TIMESTAMPS_CONFIG))
    responses: list[Any] = await admin.describe_configs(
        [ConfigResource(ConfigResourceType.TOPIC, name, wanted) for name in names]
    )
    configs = {}
    for response in responses:
        for code, _, _, name, entries, *_ in response.resources:
            if code:
                log.warning("topic_config_unreadable", topic=name, error_code=code, assumed=DEFAULT_MAX_MESSAGE_BYTES)
            configs[name] = {entry[0]: entry[1] for entry in entries}
    return configs


def check_shapes(settings: Settings, shapes: Mapping[str, TopicShape]) -> None:
    """Raise TopicsNotReadyError unless all four topics are there and fit the settings."""
    missing = [name for name in topic_names(settings) if name not in shapes]
    if missing:
        raise TopicsNotReadyError(
            f"missing topics: {', '.join(missing)}; `user-task-worker topics create` makes them. If they are there, the"
            " right to them is missing"
        )
    for name, shape in shapes.items():
        _check_policy(name, shape)
    commands, dead_letters = shapes[settings.commands_topic], shapes[settings.dead_letters_topic]
    if dead_letters.partitions < commands.partitions:
        raise TopicsNotReadyError(
            f"{settings.dead_letters_topic} has {dead_letters.partitions} partitions, but needs {commands.partitions},"
            f" as many as {settings.commands_topic}"
        )
    _check_limit(settings.dead_letters_topic, dead_letters, commands.max_message_bytes + DEAD_LETTER_HEADROOM_BYTES)
    event_bytes = settings.max_record_bytes + RECORD_OVERHEAD_BYTES
    _check_limit(settings.events_topic, shapes[settings.events_topic], event_bytes)
    rejection_bytes = rejection_bytes_max(settings) + RECORD_OVERHEAD_BYTES
    _check_limit(settings.rejections_topic, shapes[settings.rejections_topic], rejection_bytes)


def rejection_bytes_max(settings: Settings) -> int:
    """Give the largest rejection; one that the command's record key makes larger goes without key."""
    return max(settings.max_record_bytes, REJECTION_BYTES_MAX)


def _check_policy(topic: str, shape: TopicShape) -> None:
    if "compact" in shape.cleanup_policy:
        raise TopicsNotReadyError(
            f"{topic} has cleanup.policy {shape.cleanup_policy}, but needs delete: compaction removes records that have"
            " the same key, and such a topic takes no record without one"
        )


def _check_limit(topic: str, shape: TopicShape, needed: int) -> None:
    if shape.max_message_bytes < needed:
        raise TopicsNotReadyError(f"{topic} has max.message.bytes {shape.max_message_bytes}, but needs {needed}")
