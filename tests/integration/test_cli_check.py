"""`check`: green where a worker would run, and one red line with the right exit code for each thing that is broken."""

import asyncio
import json
import sqlite3

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from tests.contract.backends import a_record, an_advance, an_outcome, fresh_schema
from tests.integration.harness import (
    DEAD_LETTER_MAX_BYTES,
    PARTITIONS,
    Topics,
    Unsent,
    Wire,
    Worker,
    create_topics,
    environment,
    free_port,
    fresh_id,
    make_topics,
    run_cli,
    set_config,
)
from tests.integration.terminal import on_a_terminal
from worker.cli.topic_checks import ClusterFacts, Topic, check_limits, check_topics
from worker.embedded import EmbeddedKafka
from worker.settings import load_settings
from worker.stores.port import Changes
from worker.stores.postgres import migrate
from worker.stores.sqlite import SqliteStore

NOWHERE = Topics("no.commands", "no.events", "no.rejections", "no.commands.dlq")
SECRET = "hunter2"
CHECKS = [
    "settings",
    "variables",
    "broker",
    "broker version",
    "session timeout",
    "transaction timeout",
    "topic {commands}",
    "topic {events}",
    "topic {rejections}",
    "topic {dead_letters}",
    "right to read commands",
    "right to see the group",
    "right to transactional ids",
    "right to write {events}",
    "right to write {rejections}",
    "right to write {dead_letters}",
    "right to commit for the group",
    "store",
    "right to change the store",
    "takeover",
    "waiting outcomes",
]


@pytest.fixture
def topics(kafka):
    return make_topics(kafka.bootstrap_servers)


@pytest.fixture
def env(kafka, topics, tmp_path):
    return environment(kafka.bootstrap_servers, topics, tmp_path / "tasks.db")


def checked(env, cwd, code: int = 0) -> dict[str, tuple[str, str]]:
    """Return each line's result and detail."""
    ended = run_cli("check", env=env, cwd=cwd)
    assert (ended.returncode, ended.stderr) == (code, ""), ended.stdout + ended.stderr
    report = json.loads(ended.stdout)
    assert report["ok"] is (code == 0)
    return {check["name"]: (check["result"], check["detail"]) for check in report["checks"]}


def red(checks: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {name: detail for name, (result, detail) in checks.items() if result == "red"}


def only_red(env, cwd, code: int = 4) -> tuple[str, str]:
    [line] = red(checked(env, cwd, code)).items()
    return line


# Green


def test_all_is_green_where_a_worker_would_run(topics, env, tmp_path):
    checks = checked(env, tmp_path)
    names = {name: getattr(topics, name) for name in ("commands", "events", "rejections", "dead_letters")}
    assert list(checks) == [check.format(**names) for check in CHECKS]
    assert {result for result, _ in checks.values()} == {"ok"}
    assert not list(tmp_path.glob("tasks.db*"))


async def test_it_is_green_beside_a_running_worker_on_postgresql_and_disturbs_nothing(
    kafka, postgres, topics, tmp_path
):
    async with fresh_schema(postgres.url) as url:
        await migrate(url)
        env = environment(kafka.bootstrap_servers, topics, STORE_URL=url)
        with Wire(kafka.bootstrap_servers, topics) as wire, Worker(env, tmp_path) as worker:
            wire.created()
            before = committed(kafka, env)

            assert red(checked(worker.env, tmp_path)) == {}

            wire.created()
            assert before != committed(kafka, env) or before == [0] * PARTITIONS
            assert wire.rejections() == wire.dead_letters() == []
            assert len(wire.events()) == 2
            assert worker.stderr().count('"partitions_assigned"') == 1
            assert "producer_replaced" not in worker.stderr()
            assert worker.terminate() == 0


def committed(kafka, env: dict[str, str]) -> list[int]:
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": env["USERTASK_GROUP_ID"]})
    asked = [TopicPartition(env["USERTASK_COMMANDS_TOPIC"], number) for number in range(PARTITIONS)]
    found = [one.offset for one in consumer.committed(asked, timeout=30)]
    consumer.close()
    return found


def test_it_leaves_no_offset_and_nothing_that_a_listener_would_see(kafka, topics, env, tmp_path):
    with Wire(kafka.bootstrap_servers, topics) as wire:
        checked(env, tmp_path)
        assert set(committed(kafka, env)) == {-1001}  # librdkafka's word for none
        with Worker(env, tmp_path):
            wire.created()
        assert (len(wire.events()), wire.rejections(), wire.dead_letters()) == (1, [], [])


def test_settings_are_told_and_secrets_are_not(kafka, topics, tmp_path):
    url = f"postgresql://user:{SECRET}@127.0.0.1:1/tasks"
    env = environment(kafka.bootstrap_servers, topics, STORE_URL=url, KAFKA_SASL_PASSWORD=SECRET)
    ended = run_cli("check", env=env, cwd=tmp_path)
    assert SECRET not in ended.stdout + ended.stderr
    report = json.loads(ended.stdout)
    assert report["settings"]["USERTASK_STORE_URL"] == report["settings"]["USERTASK_KAFKA_SASL_PASSWORD"] == "*" * 10
    assert report["settings"]["USERTASK_RETENTION_DAYS"] == 7.0
    assert f"USERTASK_COMMANDS_TOPIC={topics.commands}" in report["checks"][0]["detail"]


def test_people_get_a_line_for_each(env, tmp_path):
    shown = on_a_terminal("check", env=env, cwd=tmp_path).stdout
    assert all(check.split("{")[0].strip() in shown for check in CHECKS)
    assert "skipped" not in shown


# Red: the broker and the store


def test_without_a_broker_it_is_one_red_line_and_3(tmp_path):
    server = f"127.0.0.1:{free_port()}"
    checks = checked(environment(server, NOWHERE, START_TIMEOUT_S="5"), tmp_path, 3)
    [(name, detail)] = red(checks).items()
    assert (name, server in detail) == ("broker", True)
    assert checks["rights"][0] == checks["topics"][0] == "skipped"


def test_a_store_that_does_not_answer_is_red_and_3(kafka, topics, tmp_path):
    env = environment(kafka.bootstrap_servers, topics, STORE_URL=f"postgresql://u:{SECRET}@127.0.0.1:1/d")
    name, detail = only_red(env, tmp_path, 3)
    assert (name, SECRET in detail) == ("store", False)


async def test_a_store_that_is_not_migrated_is_red_and_4(kafka, postgres, topics, tmp_path):
    async with fresh_schema(postgres.url) as url:
        name, detail = only_red(environment(kafka.bootstrap_servers, topics, STORE_URL=url), tmp_path)
    assert (name, "store migrate" in detail) == ("store", True)


def test_a_file_that_is_no_store_is_red(kafka, topics, tmp_path):
    (tmp_path / "text").write_text("no database, but long enough to be looked at" * 100)
    assert only_red(environment(kafka.bootstrap_servers, topics, tmp_path / "text"), tmp_path)[0] == "store"


def test_a_topic_that_has_lost_partitions_does_not_fit_the_store(kafka, topics, env, tmp_path):
    with Worker(env, tmp_path) as worker:
        assert worker.terminate() == 0
    fewer = f"{topics.commands}.new"
    create_topics(kafka.bootstrap_servers, NewTopic(fewer, 1, 1))
    store = sqlite3.connect(tmp_path / "tasks.db")
    with store:
        store.execute("UPDATE partitions SET topic = ?", (fewer,))
    store.close()
    name, detail = only_red(env | {"USERTASK_COMMANDS_TOPIC": fewer}, tmp_path)
    assert (name, detail.startswith(f"it has seen 3 partitions of {fewer}, which has 1")) == ("store", True)


def test_wrong_settings_are_2_as_everywhere(tmp_path):
    ended = run_cli("check", env=environment("nowhere:1", NOWHERE, START_TIMEOUT_S="soon"), cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")


# Red: where no worker could work


def red_takeover(env, cwd) -> dict[str, str]:
    """Return the lines of the takeover and its partitions, where nothing else is red."""
    lines = red(checked(env, cwd, 4))
    assert lines.keys() == {"takeover", *(f"partition {number}" for number in range(PARTITIONS))}
    return lines


def a_worked_off_store(kafka, topics, env, cwd) -> None:
    """Let a worker apply a command of each partition, and stop."""
    with Wire(kafka.bootstrap_servers, topics) as wire, Worker(env, cwd) as worker:
        for number in range(PARTITIONS):
            wire.rejection(wire.send(b"no json", partition=number))
        assert worker.terminate() == 0


@pytest.mark.parametrize("left", ["nothing", "an empty store"])
def test_a_store_that_is_gone_beside_the_groups_offsets_is_red(kafka, topics, env, tmp_path, left):
    a_worked_off_store(kafka, topics, env, tmp_path)
    assert red(checked(env, tmp_path)) == {}
    for file in tmp_path.glob("tasks.db*"):
        file.unlink()
    if left == "an empty store":
        asyncio.run(made(tmp_path / "tasks.db"))

    lines = red_takeover(env, tmp_path)

    assert all(lines[f"partition {number}"].startswith("another_store: ") for number in range(PARTITIONS))
    assert lines["takeover"] == "of 3 partitions, 3 would be blocked"


async def made(path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.close()


def test_a_store_that_is_behind_the_group_is_red_partition_by_partition(kafka, topics, env, tmp_path):
    a_worked_off_store(kafka, topics, env, tmp_path)
    store = sqlite3.connect(tmp_path / "tasks.db")
    with store:
        store.execute("UPDATE partitions SET applied = 0, published = 0")
    store.close()

    lines = red_takeover(env, tmp_path)

    assert all(lines[f"partition {number}"].startswith("store_behind: ") for number in range(PARTITIONS))


def test_it_is_green_beside_a_running_worker_on_sqlite_and_leaves_its_files_alone(kafka, topics, env, tmp_path):
    with Wire(kafka.bootstrap_servers, topics) as wire, Worker(env, tmp_path) as worker:
        wire.created()
        for _ in range(3):
            wire.send_all([Unsent(b"no json", partition=number % PARTITIONS) for number in range(1000)])
            assert red(checked(worker.env, tmp_path)) == {}
        assert "was deleted" not in worker.stderr()
        assert worker.terminate() == 0


def test_a_folder_in_which_nothing_can_be_made_is_red(kafka, topics, tmp_path):
    name, detail = only_red(environment(kafka.bootstrap_servers, topics, "/proc/tasks.db"), tmp_path)
    assert (name, detail.startswith("/proc cannot be written")) == ("right to change the store", True)


async def test_a_database_that_takes_no_writes_is_red(kafka, postgres, topics, tmp_path):
    async with fresh_schema(postgres.url) as url:
        await migrate(url)
        read_only = f"{url}&options=-c%20default_transaction_read_only%3Don"
        name, detail = only_red(environment(kafka.bootstrap_servers, topics, STORE_URL=read_only), tmp_path)
    assert (name, "takes no writes" in detail) == ("right to change the store", True)


def test_an_outcome_that_its_topic_no_longer_takes_is_red(kafka, topics, env, tmp_path):
    with Wire(kafka.bootstrap_servers, topics) as wire:
        wire.send(b"no json", partition=0)
    asyncio.run(decided(tmp_path / "tasks.db", topics, b"x" * 1_500_000))

    name, detail = only_red(env, tmp_path)

    assert name == "waiting outcomes"
    assert detail.startswith(f"{topics.events} said MessageSizeTooLargeError: the record is larger")


async def decided(path, topics: Topics, value: bytes) -> None:
    """Record an outcome that is not published."""
    store = SqliteStore(path)
    await store.open()
    await store.claim(topics.commands, {0: 0}, "p")
    await store.begin(topics.commands, 0, 1, 0)
    outcome = an_outcome(0, records=(a_record(value, topic=topics.events),))
    await store.apply(topics.commands, [an_advance(0, 1)], [], [], lambda _: Changes(outcomes=[outcome]))
    await store.close()


# Red: the topics


@pytest.mark.parametrize("missing", ["commands", "events", "rejections", "dead_letters"])
def test_a_missing_topic_is_one_red_line(env, tmp_path, missing):
    name, detail = only_red(env | {f"USERTASK_{missing.upper()}_TOPIC": "not.there"}, tmp_path)
    assert (name, "topics create" in detail) == ("topic not.there", True)


def test_too_few_partitions_of_dead_letters_are_one_red_line(kafka, env, tmp_path):
    few = f"few-{fresh_id()}"
    config = {"max.message.bytes": str(DEAD_LETTER_MAX_BYTES)}
    create_topics(kafka.bootstrap_servers, NewTopic(few, 2, 1, config=config))
    line = only_red(env | {"USERTASK_DEAD_LETTERS_TOPIC": few}, tmp_path)
    assert line == (f"topic {few}", "2 partitions, but needs 3, as many as the commands")


@pytest.mark.parametrize(
    ("topic", "config", "words"),
    [
        ("events", {"max_message_bytes": "1000"}, "max.message.bytes 1000, but needs 1001024"),
        ("rejections", {"max_message_bytes": "1000"}, "max.message.bytes 1000, but needs 1001024"),
        ("dead_letters", {"max_message_bytes": "1048588"}, "max.message.bytes 1048588, but needs 1114124"),
        ("commands", {"cleanup_policy": "compact"}, "cleanup.policy compact"),
        ("commands", {"retention_ms": "60000"}, "retention.ms 60000: an outage of an hour loses records"),
        (
            "events",
            {"message_timestamp_before_max_ms": "59999"},
            "message.timestamp.before.max.ms 59999: a record may be",
        ),
        ("rejections", {"message_timestamp_after_max_ms": "0"}, "message.timestamp.after.max.ms 0: a record may be"),
        ("events", {"min_insync_replicas": "2"}, "min.insync.replicas 2 is more than replication 1"),
    ],
)
def test_a_configuration_that_does_not_fit_is_one_red_line(kafka, topics, env, tmp_path, topic, config, words):
    set_config(kafka.bootstrap_servers, getattr(topics, topic), **config)
    name, detail = only_red(env, tmp_path)
    assert name == f"topic {getattr(topics, topic)}"
    assert detail.startswith(words)


def test_a_session_timeout_that_the_broker_forbids_is_one_red_line(env, tmp_path):
    name, detail = only_red(env | {"USERTASK_SESSION_TIMEOUT_S": "3000"}, tmp_path)
    assert (name, detail.startswith("USERTASK_SESSION_TIMEOUT_S 3000; the broker allows")) == ("session timeout", True)


def a_topic(**changed: object) -> Topic:
    config = {"max.message.bytes": "2000000", "min.insync.replicas": "2", "cleanup.policy": "delete"}
    about = {"partitions": 3, "leaderless": 0, "replicas": 3, "in_sync": 3}
    return Topic(**about | {"config": config | {"retention.ms": "-1"}} | changed)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"leaderless": 2}, "2 partitions without a leader"),
        ({"in_sync": 1}, "a partition has 1 replicas in sync, but needs 2"),
        ({"config": a_topic().config | {"min.insync.replicas": "1"}}, "min.insync.replicas 1: one broker that fails"),
        ({"config": None, "config_error": "TopicAuthorizationFailedError"}, "its configuration may not be read: Topic"),
    ],
)
def test_what_a_single_broker_cannot_show_is_judged_too(changed, words):
    settings = load_settings({})
    names = ("user-task.commands", "user-task.events", "user-task.rejections", "user-task.commands.dlq")
    healthy = dict.fromkeys(names, a_topic(config=a_topic().config | {"max.message.bytes": "2000000"}))
    healthy[names[3]] = a_topic(config=a_topic().config | {"max.message.bytes": "3000000"})
    assert {one.result for one in check_topics(settings, ClusterFacts(topics=healthy, broker_config=None))} == {"ok"}

    broken = ClusterFacts(topics=healthy | {names[1]: a_topic(**changed)}, broker_config=None)
    [line] = [one for one in check_topics(settings, broken) if one.result == "red"]
    assert line.detail.startswith(words)


def test_limits_that_may_not_be_read_are_taken_for_kafkas_own():
    lines = check_limits(load_settings({}), ClusterFacts(topics={}, broker_config=None))
    assert {one.result for one in lines} == {"ok"}
    assert all("may not be read" in one.detail for one in lines)


def test_a_transaction_timeout_that_the_broker_forbids_is_red():
    config = {"group.min.session.timeout.ms": "6000", "group.max.session.timeout.ms": "1800000"}
    facts = ClusterFacts(topics={}, broker_config=config | {"transaction.max.timeout.ms": "5000"})
    [line] = [one for one in check_limits(load_settings({}), facts) if one.result == "red"]
    assert (line.name, line.detail) == ("transaction timeout", "10 s; the broker allows 5 s")


# Red: the rights, on a broker that gives them to somebody else


@pytest.fixture(scope="module")
def guarded():
    overrides = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",  # but where somebody has a right, nobody else has any
    }
    with EmbeddedKafka(overrides=overrides) as broker:
        yield broker.bootstrap_servers


def reserve(bootstrap_servers: str, kind: ResourceType, name: str, *for_all: AclOperation) -> None:
    """Give somebody else the rights to read and write, and everybody only those in `for_all`."""
    given = [("User:somebody", AclOperation.READ), ("User:somebody", AclOperation.WRITE)]
    bindings = [
        AclBinding(kind, name, ResourcePatternType.PREFIXED, principal, "*", operation, AclPermissionType.ALLOW)
        for principal, operation in [*given, *(("User:*", operation) for operation in for_all)]
    ]
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    for made in admin.create_acls(bindings).values():
        made.result(30)


DESCRIBE, CONFIGS, WRITE = AclOperation.DESCRIBE, AclOperation.DESCRIBE_CONFIGS, AclOperation.WRITE


@pytest.mark.parametrize(
    ("kind", "which", "left", "line", "words"),
    [
        (ResourceType.TOPIC, "commands", [DESCRIBE, CONFIGS], "right to read commands", "TopicAuthorizationFailed"),
        (ResourceType.TOPIC, "events", [DESCRIBE, CONFIGS], "right to write {}", "TopicAuthorizationFailed"),
        (ResourceType.TOPIC, "dead_letters", [DESCRIBE, CONFIGS], "right to write {}", "TopicAuthorizationFailed"),
        (ResourceType.TOPIC, "rejections", [DESCRIBE, WRITE], "topic {}", "its configuration may not be read: Topic"),
        (ResourceType.TOPIC, "rejections", [], "topic {}", "missing, or may not be described"),
        (ResourceType.GROUP, "group", [], "right to see the group", "GroupAuthorizationFailed"),
        (ResourceType.GROUP, "group", [DESCRIBE], "right to commit for the group", "GroupAuthorizationFailed"),
        (ResourceType.TRANSACTIONAL_ID, "group", [], "right to transactional ids", "TransactionalIdAuthorization"),
    ],
)
def test_a_right_that_is_missing_is_one_red_line(guarded, tmp_path, kind, which, left, line, words):
    topics, group = make_topics(guarded), f"group-{fresh_id()}"
    name = group if which == "group" else getattr(topics, which)
    renamed = {"DEAD_LETTERS_TOPIC": unlike(guarded, topics)} if which == "commands" else {}
    reserve(guarded, kind, name, *left)

    found, detail = only_red(environment(guarded, topics, GROUP_ID=group, **renamed), tmp_path)

    assert (found, detail.startswith(words)) == (line.format(name), True), detail


def unlike(bootstrap_servers: str, topics: Topics) -> str:
    """Make a dead letter topic whose name does not begin like that of the commands."""
    name = f"dead-{topics.commands}"
    config = {"max.message.bytes": str(DEAD_LETTER_MAX_BYTES)}
    create_topics(bootstrap_servers, NewTopic(name, PARTITIONS, 1, config=config))
    return name
