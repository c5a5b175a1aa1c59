"""What `check` says of the topics and the group's limits, from what the broker says of them. Judging does no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code

from worker import timestamps
from worker.coordination import TRANSACTION_TIMEOUT_S
from worker.kafka import DEAD_LETTER_HEADROOM_BYTES, RECORD_OVERHEAD_BYTES, rejection_bytes_max, topic_names
from worker.settings import Settings

_TOPIC_CONFIG: Final = ("max.message.bytes", "min.insync.replicas", "cleanup.policy", *timestamps.CONFIG)
_BROKER_CONFIG: Final = ("group.min.session.timeout.ms", "group.max.session.timeout.ms", "transaction.max.timeout.ms")
_KAFKAS_OWN: Final[Mapping[str, str]] = dict(zip(_BROKER_CONFIG, ("6000", "1800000", "900000"), strict=True))
_RETENTION_MIN_MS: Final = 3_600_000
_TIME_LIMIT_MIN_MS: Final = 60_000
_SAFE_REPLICATION: Final = 3
_SAFE_IN_SYNC: Final = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: its name, how it came out, and why."""

    name: str
    result: Literal["ok", "warning", "red", "skipped"]
    detail: str
    is_unreachable: bool = False


def good(name: str, detail: str) -> Finding:
    """Give a green line."""
    return Finding(name, "ok", detail)


def bad(name: str, detail: str, *, is_unreachable: bool = False) -> Finding:
    """Give a red line."""
    return Finding(name, "red", detail, is_unreachable)


def skipped(name: str) -> Finding:
    """Return a line for what cannot be looked at."""
    return Finding(name, "skipped", "a line above has to be mended first")


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """What the broker says of one topic."""

    partitions: int
    leaderless: int
    replicas: int
    """Of the partition with the fewest."""
    in_sync: int
    """Of the partition with the fewest."""
    config: Mapping[str, str] | None
    """None if it may not be read; then `config_error` says why."""
    config_error: str = ""

    def number(self, name: str) -> int:
        """Give a number of the configuration."""
        return int((self.config or {})[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """What the broker says of itself and of the worker's topics; a topic that does not exist is missing."""

    topics: Mapping[str, Topic]
    broker_config: Mapping[str, str] | None
    """None if it may not be read."""


async def read_facts(admin: AIOKafkaAdminClient, settings: Settings) -> ClusterFacts:
    """Ask the broker. Raise KafkaError."""
    wanted = topic_names(settings)
    # all topics, since asking for one by name would create it where the broker allows that
    described = {topic["topic"]: topic for topic in await admin.describe_topics() if topic["topic"] in wanted}
    configs = {name: await _config(admin, ConfigResourceType.TOPIC, name, _TOPIC_CONFIG) for name in described}
    brokers: list[Any] = (await admin.describe_cluster())["brokers"]
    of_broker, _ = await _config(admin, ConfigResourceType.BROKER, str(brokers[0]["node_id"]), _BROKER_CONFIG)
    return ClusterFacts(
        topics={name: _topic(topic["partitions"], *configs[name]) for name, topic in described.items()},
        broker_config=of_broker,
    )


async def _config(
    admin: AIOKafkaAdminClient, kind: ConfigResourceType, name: str, wanted: tuple[str, ...]
) -> tuple[dict[str, str] | None, str]:
    responses: list[Any] = await admin.describe_configs([ConfigResource(kind, name, dict.fromkeys(wanted))])
    [(code, _, _, _, entries, *_)] = [resource for response in responses for resource in response.resources]
    if code:
        return None, for_code(code).__name__
    return {entry[0]: entry[1] for entry in entries}, ""


def _topic(partitions: list[Any], config: dict[str, str] | None, error: str) -> Topic:
    return Topic(
        partitions=len(partitions),
        leaderless=sum(one["leader"] < 0 for one in partitions),
        replicas=min((len(one["replicas"]) for one in partitions), default=0),
        in_sync=min((len(one["isr"]) for one in partitions), default=0),
        config=config,
        config_error=error,
    )


def check_limits(settings: Settings, facts: ClusterFacts) -> list[Finding]:
    """Judge the timeouts that the worker asks for, against what the broker allows."""
    config = facts.broker_config or _KAFKAS_OWN
    source = "" if facts.broker_config else " (Kafka's defaults: the broker's may not be read)"
    lowest, highest, transaction = (int(config[name]) / 1000 for name in _BROKER_CONFIG)
    session_s = settings.session_timeout_s
    session = f"USERTASK_SESSION_TIMEOUT_S {session_s:g}; the broker allows {lowest:g} to {highest:g} s{source}"
    longest = f"{TRANSACTION_TIMEOUT_S} s; the broker allows {transaction:g} s{source}"
    return [
        (good if lowest <= session_s <= highest else bad)("session timeout", session),
        (good if transaction >= TRANSACTION_TIMEOUT_S else bad)("transaction timeout", longest),
    ]


def check_topics(settings: Settings, facts: ClusterFacts) -> list[Finding]:
    """Judge the four topics, a line each."""
    return [_check_topic(settings, facts, name) for name in topic_names(settings)]


def _check_topic(settings: Settings, facts: ClusterFacts, name: str) -> Finding:
    topic = facts.topics.get(name)
    line = f"topic {name}"
    if topic is None:
        return bad(line, "missing, or may not be described; `user-task-worker topics create` makes it")
    if topic.config is None:
        return bad(line, f"its configuration may not be read: {topic.config_error}")
    wrong = [*_wrong_replicas(topic), *_wrong_config(topic), *_wrong_beside(settings, facts, name, topic)]
    if wrong:
        return bad(line, "; ".join(wrong))
    single = ", on one broker only" if topic.replicas == 1 else ""
    return good(line, f"{topic.partitions} partitions, replication {topic.replicas}{single}")


def _wrong_replicas(topic: Topic) -> list[str]:
    at_least = topic.number("min.insync.replicas")
    wrong = []
    if topic.leaderless:
        wrong.append(f"{topic.leaderless} partitions without a leader")
    if at_least > topic.replicas:
        wrong.append(f"min.insync.replicas {at_least} is more than replication {topic.replicas}: no write succeeds")
    elif topic.in_sync < at_least:
        wrong.append(f"a partition has {topic.in_sync} replicas in sync, but needs {at_least}")
    if topic.replicas >= _SAFE_REPLICATION and at_least < _SAFE_IN_SYNC:
        wrong.append("min.insync.replicas 1: one broker that fails may lose what it has acknowledged; set 2")
    return wrong


def _wrong_config(topic: Topic) -> list[str]:
    wrong = []
    policy, retention_ms = (topic.config or {})["cleanup.policy"], topic.number("retention.ms")
    if policy != "delete":
        wrong.append(f"cleanup.policy {policy}: records with the same key would go; set delete")
    if 0 <= retention_ms < _RETENTION_MIN_MS:
        wrong.append(f"retention.ms {retention_ms}: an outage of an hour loses records")
    return wrong + _wrong_times(topic)


def _wrong_times(topic: Topic) -> list[str]:
    config = topic.config or {}
    if config.get("message.timestamp.type") == "LogAppendTime":
        return []
    limits = {name: config.get(name) for name in timestamps.CONFIG if name.endswith(".max.ms")}
    return [
        f"{name} {value}: a record may be on its way for longer than that; set {_TIME_LIMIT_MIN_MS} or more"
        for name, value in limits.items()
        if value is not None and int(value) < _TIME_LIMIT_MIN_MS
    ]


def _wrong_beside(settings: Settings, facts: ClusterFacts, name: str, topic: Topic) -> list[str]:
    """Compare with what the settings need, and a dead letter topic with its commands topic."""
    commands = facts.topics.get(settings.commands_topic)
    needed = {
        settings.events_topic: settings.max_record_bytes + RECORD_OVERHEAD_BYTES,
        settings.rejections_topic: rejection_bytes_max(settings) + RECORD_OVERHEAD_BYTES,
    }.get(name, 0)
    wrong = []
    if name == settings.dead_letters_topic and commands is not None and commands.config is not None:
        needed = commands.number("max.message.bytes") + DEAD_LETTER_HEADROOM_BYTES
        if topic.partitions < commands.partitions:
            wrong.append(f"{topic.partitions} partitions, but needs {commands.partitions}, as many as the commands")
    if topic.number("max.message.bytes") < needed:
        wrong.append(f"max.message.bytes {topic.number('max.message.bytes')}, but needs {needed}")
    return wrong
