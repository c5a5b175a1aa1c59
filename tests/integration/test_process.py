"""The worker as a process: exit codes, signals, HTTP, logs, and what it refuses to start with."""

import contextlib
import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import NewTopic

from tests.integration.harness import (
    CREATE,
    DEAD_LETTER_MAX_BYTES,
    PARTITIONS,
    Topics,
    Unsent,
    Wire,
    Worker,
    bare_environment,
    bench,
    cloud_event,
    command_line,
    create_topics,
    encoded,
    environment,
    free_port,
    fresh_id,
    fresh_key,
    make_topics,
    run_cli,
    set_config,
)

NOWHERE = Topics("no.commands", "no.events", "no.rejections", "no.commands.dlq")
METRICS = [
    "usertask_commands_total",
    "usertask_duplicates_total",
    "usertask_replies_ignored_total",
    "usertask_takeovers_total",
    "usertask_fenced_total",
    "usertask_dead_letters_total",
    "usertask_consumer_lag",
    "usertask_command_latency_seconds",
    "usertask_build_info",
]
SETTINGS = [
    "KAFKA_BOOTSTRAP_SERVERS",
    "KAFKA_SECURITY_PROTOCOL",
    "KAFKA_SASL_MECHANISM",
    "KAFKA_SASL_USERNAME",
    "KAFKA_SASL_PASSWORD",
    "KAFKA_SSL_CAFILE",
    "KAFKA_SSL_CERTFILE",
    "KAFKA_SSL_KEYFILE",
    "GROUP_ID",
    "COMMANDS_TOPIC",
    "EVENTS_TOPIC",
    "REJECTIONS_TOPIC",
    "DEAD_LETTERS_TOPIC",
    "STORE_URL",
    "MAX_BATCH_RECORDS",
    "MAX_RECORD_BYTES",
    "SESSION_TIMEOUT_S",
    "DRAIN_TIMEOUT_S",
    "START_TIMEOUT_S",
    "STALL_LIMIT_S",
    "REPLY_TOPICS",
    "PROBLEM_TYPE_BASE",
    "EVENT_SOURCE",
    "RETENTION_DAYS",
    "HTTP_HOST",
    "HTTP_PORT",
    "LOG_LEVEL",
    "LOG_FORMAT",
]


@pytest.fixture(scope="module")
def it(kafka, tmp_path_factory):
    with bench(kafka.bootstrap_servers, tmp_path_factory.mktemp("worker")) as it:
        yield it


def nowhere() -> str:
    return f"127.0.0.1:{free_port()}"


def creations(count: int) -> list[Unsent]:
    keys = [fresh_key() for _ in range(count)]
    return [Unsent(encoded({"userTaskKey": key}), key.encode(), cloud_event(CREATE, f"creation-{key}")) for key in keys]


def keys_of(commands: list[Unsent]) -> list[bytes | None]:
    return sorted((command.key for command in commands), key=str)


def keys_seen(wire: Wire) -> list[bytes | None]:
    return sorted((event.key for event in wire.events()), key=str)


# Usage and configuration: 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("KAFKA_BOOTSTRAP_SERVERS", "kafka..local:9092", id="a host name with an empty part"),
        pytest.param("KAFKA_BOOTSTRAP_SERVERS", f"{'k' * 64}.local:9092", id="a host name that is too long"),
        pytest.param("HTTP_PORT", "eighty", id="a port that is no number"),
        pytest.param("HTTP_PORT", "65536", id="a port that does not exist"),
        pytest.param("HTTP_PORT", "-2", id="a port below -1"),
        pytest.param("MAX_RECORD_BYTES", "lots", id="a size that is no number"),
        pytest.param("MAX_BATCH_RECORDS", "0", id="no records in a batch"),
        pytest.param("START_TIMEOUT_S", "soon", id="a time that is no number"),
        pytest.param("SESSION_TIMEOUT_S", "-1", id="a negative time"),
        pytest.param("DRAIN_TIMEOUT_S", "forever", id="a time that is a word"),
        pytest.param("RETENTION_DAYS", "a week", id="days that are no number"),
        pytest.param("REPLY_TOPICS", "(", id="a pattern that is none"),
        pytest.param("LOG_LEVEL", "loud", id="an unknown log level"),
        pytest.param("LOG_FORMAT", "yaml", id="an unknown log format"),
        pytest.param("KAFKA_SECURITY_PROTOCOL", "TELNET", id="an unknown protocol"),
        pytest.param("STORE_URL", "mysql://localhost/tasks", id="an unknown store"),
        pytest.param("STORE_URL", "user-tasks.db", id="a store that is no URL"),
        pytest.param("STORE_URL", "postgresql://u:p@db/tasks?sslmod=require", id="a misspelt parameter of a store"),
        pytest.param("STORE_URL", "sqlite:///:memory:", id="a store in memory"),
        pytest.param("STORE_URL", "sqlite:///tasks.db?mode=ro", id="a file with parameters"),
        pytest.param("KAFKA_BOOTSTRAP_SERVERS", "SASL_SSL://kafka:9092", id="a scheme of another protocol"),
        pytest.param("HTTP_HOST", "::1::", id="no address to listen on"),
    ],
)
def test_a_wrong_setting_is_named_and_nothing_is_started(tmp_path, name, value):
    env = environment(nowhere(), NOWHERE) | {f"USERTASK_{name}": value}
    ended = run_cli("run", env=env, cwd=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert f"USERTASK_{name}" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_all_wrong_settings_are_named_at_once(tmp_path):
    env = environment(nowhere(), NOWHERE, HTTP_PORT="eighty", LOG_LEVEL="loud")
    ended = run_cli("run", env=env, cwd=tmp_path)
    assert ended.returncode == 2
    assert "USERTASK_HTTP_PORT" in ended.stderr
    assert "USERTASK_LOG_LEVEL" in ended.stderr


def test_a_wrong_store_url_is_refused_without_telling_its_password(tmp_path):
    env = environment(nowhere(), NOWHERE, STORE_URL="postgresql://user:hunter2@host:noport/tasks")
    ended = run_cli("run", env=env, cwd=tmp_path)
    assert ended.returncode == 2
    assert "USERTASK_STORE_URL" in ended.stderr
    assert "hunter2" not in ended.stderr + ended.stdout


@pytest.mark.parametrize("arguments", [["nonsense"], ["run", "--nonsense"], ["complete"]], ids=" ".join)
def test_a_wrong_command_line_is_usage(tmp_path, arguments):
    ended = run_cli(*arguments, env=environment(nowhere(), NOWHERE), cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")


# Not reachable: 3


def test_without_a_broker_it_ends_after_the_start_timeout(tmp_path):
    env = environment(nowhere(), NOWHERE, START_TIMEOUT_S="2")
    assert run_cli("run", env=env, cwd=tmp_path).returncode == 3


def test_without_its_store_it_ends_after_the_start_timeout(kafka, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    url = f"postgresql://user:hunter2@{nowhere()}/tasks"
    env = environment(kafka.bootstrap_servers, topics, START_TIMEOUT_S="2", STORE_URL=url)
    ended = run_cli("run", env=env, cwd=tmp_path)
    assert ended.returncode == 3, ended.stderr
    assert "hunter2" not in ended.stderr + ended.stdout


# Topics or store not ready: 4


def test_a_store_without_the_tls_that_its_url_asks_for_ends_it_at_once(postgres, tmp_path):
    url = f"{postgres.url}{'&' if '?' in postgres.url else '?'}sslmode=require"
    env = environment(nowhere(), NOWHERE, STORE_URL=url, START_TIMEOUT_S="3000")
    ended = run_cli("run", env=env, cwd=tmp_path)
    assert ended.returncode == 4, ended.stderr
    assert "does not speak TLS" in ended.stderr


def topics_without(bootstrap_servers: str, missing: str | None, **dead_letters) -> Topics:
    """Make all topics but one; `dead_letters` overrides partitions or config of the dead letter topic."""
    base = fresh_id()
    topics = Topics(*(f"{base}.{name}" for name in ("commands", "events", "rejections", "dlq")))
    usual = {"num_partitions": PARTITIONS, "config": {"max.message.bytes": str(DEAD_LETTER_MAX_BYTES)}}
    made = [NewTopic(name, PARTITIONS, 1) for name in (topics.commands, topics.events, topics.rejections)]
    made.append(NewTopic(topics.dead_letters, replication_factor=1, **(usual | dead_letters)))
    create_topics(bootstrap_servers, *(topic for topic in made if topic.topic != f"{base}.{missing}"))
    return topics


@pytest.mark.parametrize("missing", ["commands", "events", "rejections", "dlq"])
def test_a_missing_topic_is_not_ready(kafka, tmp_path, missing):
    topics = topics_without(kafka.bootstrap_servers, missing)
    env = environment(kafka.bootstrap_servers, topics, START_TIMEOUT_S="5")
    ended = run_cli("run", env=env, cwd=tmp_path)
    assert ended.returncode == 4, ended.stderr
    assert f".{missing}" in ended.stderr


@pytest.mark.parametrize(
    "dead_letters",
    [
        pytest.param({"num_partitions": PARTITIONS - 1}, id="fewer partitions than the commands topic"),
        pytest.param({"config": {}}, id="the size of the commands topic"),
        pytest.param(
            {"config": {"max.message.bytes": str(DEAD_LETTER_MAX_BYTES - 1)}}, id="one byte less than 64 KiB above"
        ),
    ],
)
def test_a_dead_letter_topic_too_small_is_not_ready(kafka, tmp_path, dead_letters):
    topics = topics_without(kafka.bootstrap_servers, None, **dead_letters)
    env = environment(kafka.bootstrap_servers, topics, START_TIMEOUT_S="5")
    ended = run_cli("run", env=env, cwd=tmp_path)
    assert ended.returncode == 4, ended.stderr
    assert topics.dead_letters in ended.stderr


@pytest.mark.parametrize("compacted", ["commands", "events", "rejections", "dead_letters"])
@pytest.mark.parametrize("policy", ["compact", "delete,compact"])
def test_a_compacted_topic_is_not_ready(kafka, tmp_path, compacted, policy):
    topics = make_topics(kafka.bootstrap_servers)
    set_config(kafka.bootstrap_servers, getattr(topics, compacted), cleanup_policy=policy)
    ended = run_cli("run", env=environment(kafka.bootstrap_servers, topics, START_TIMEOUT_S="5"), cwd=tmp_path)
    assert ended.returncode == 4, ended.stderr
    assert f"{getattr(topics, compacted)} has cleanup.policy" in ended.stderr


def test_a_dead_letter_topic_with_more_partitions_is_ready(kafka, tmp_path):
    topics = topics_without(kafka.bootstrap_servers, None, num_partitions=PARTITIONS + 1)
    with Worker(environment(kafka.bootstrap_servers, topics), tmp_path) as worker:
        assert worker.terminate() == 0


# Signals


STOPPING = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.mark.parametrize("by", STOPPING, ids=[one.name for one in STOPPING])
def test_an_idle_worker_ends_with_0(kafka, tmp_path, by):
    with bench(kafka.bootstrap_servers, tmp_path) as it:
        assert it.worker.stop(by) == 0, it.worker.stderr()


def test_a_terminal_that_hangs_up_twice_does_not_abort_the_drain(kafka, tmp_path):
    with bench(kafka.bootstrap_servers, tmp_path) as it:
        it.worker.process.send_signal(signal.SIGHUP)
        assert it.worker.stop(signal.SIGHUP) == 0, it.worker.stderr()


def test_an_interrupt_drains_also_where_a_shell_has_it_ignored(kafka, tmp_path, monkeypatch):
    monkeypatch.setattr(Worker, "command", ("bash", "-c", 'trap "" INT; exec "$@"', "bash", *command_line("run")))
    with bench(kafka.bootstrap_servers, tmp_path) as it:
        assert it.worker.stop(signal.SIGINT) == 0, it.worker.stderr()


@pytest.mark.parametrize("by", STOPPING, ids=[one.name for one in STOPPING])
def test_under_load_it_drains_and_ends_with_0_and_its_successor_does_the_rest_once(kafka, tmp_path, by):
    topics = make_topics(kafka.bootstrap_servers)
    env = environment(kafka.bootstrap_servers, topics, tmp_path / "user-tasks.db", MAX_BATCH_RECORDS="50")
    commands = creations(3000)
    with Wire(kafka.bootstrap_servers, topics) as wire:
        with Worker(env, tmp_path) as worker:
            positions = wire.send_all(commands)
            wire.wait_for(1)
            assert worker.stop(by) == 0, worker.stderr()
        with Worker(env, tmp_path) as worker:
            wire.wait_for(len(commands), deadline_s=60)
            for position in {position.partition: position for position in positions}.values():
                wire.settle(position)
            assert keys_seen(wire) == keys_of(commands)


def test_a_killed_worker_is_followed_by_one_that_does_the_rest_once(kafka, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    store = tmp_path / "user-tasks.db"
    env = environment(kafka.bootstrap_servers, topics, store, MAX_BATCH_RECORDS="50", SESSION_TIMEOUT_S="6")
    commands = creations(3000)
    with Wire(kafka.bootstrap_servers, topics) as wire:
        with Worker(env, tmp_path) as worker:
            positions = wire.send_all(commands)
            wire.wait_for(1)
            worker.kill()
        with Worker(env, tmp_path):
            wire.wait_for(len(commands), deadline_s=60)
            for position in {position.partition: position for position in positions}.values():
                wire.settle(position)
            assert keys_seen(wire) == keys_of(commands)


# Reading from the beginning


def test_a_new_group_reads_from_the_beginning(kafka, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    with Wire(kafka.bootstrap_servers, topics) as wire:
        positions = [wire.send(encoded({"userTaskKey": fresh_key()}), partition=number) for number in range(PARTITIONS)]
        with Worker(environment(kafka.bootstrap_servers, topics), tmp_path):
            assert [wire.rejection(position).slug for position in positions] == ["not-found"] * PARTITIONS


# HTTP


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_a_worker_that_is_well_answers_200(it, path):
    assert it.worker.get(path)[0] == 200


@pytest.mark.parametrize("name", METRICS)
def test_the_metrics_are_there_by_name(it, name):
    it.wire.malformed(b"no json")
    metrics = it.worker.get("/metrics")[1]
    assert re.search(rf"^# TYPE {name} ", metrics, re.MULTILINE), metrics


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        pytest.param("usertask_commands_total", {"outcome", "status"}, id="commands"),
        pytest.param("usertask_consumer_lag", {"topic", "partition"}, id="lag"),
    ],
)
def test_the_metrics_have_the_labels_of_the_contract(it, name, labels):
    it.wire.create()
    sample = it.wire.wait_until(
        lambda: re.search(rf"^{name}\{{([^}}]*)\}} ", it.worker.get("/metrics")[1], re.MULTILINE)
    )
    assert set(re.findall(r'(\w+)="', sample[1])) == labels


@pytest.mark.parametrize("status", ["400", "404", "409"])
def test_rejections_are_counted_by_their_status(it, status):
    before = counted(it.worker, status)
    key = it.wire.created()
    value = {"400": b"no json", "404": encoded({"userTaskKey": fresh_key()}), "409": encoded({"userTaskKey": key})}
    it.wire.rejected(value[status], headers=cloud_event(CREATE) if status == "409" else [])
    it.wire.wait_until(lambda: counted(it.worker, status) == before + 1)


def counted(worker: Worker, status: str) -> float:
    metrics = worker.get("/metrics")[1]
    samples = re.findall(rf'^usertask_commands_total\{{[^}}]*status="{status}"[^}}]*\}} (\S+)$', metrics, re.MULTILINE)
    return sum(float(sample) for sample in samples)


def test_the_latency_is_a_histogram(it):
    it.wire.create()
    assert "usertask_command_latency_seconds_bucket{" in it.worker.get("/metrics")[1]


def test_it_listens_on_its_port_only(it):
    assert it.worker.listening_ports() == {it.worker.port}


def test_port_0_picks_a_free_port(kafka, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    worker = Worker(environment(kafka.bootstrap_servers, topics, HTTP_PORT="0"), tmp_path)
    with Wire(kafka.bootstrap_servers, topics) as wire, started(worker, wire):
        (port,) = worker.listening_ports()
        assert worker.get("/livez", port)[0] == 200


def test_port_minus_1_serves_nothing(kafka, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    worker = Worker(environment(kafka.bootstrap_servers, topics, HTTP_PORT="-1"), tmp_path)
    with Wire(kafka.bootstrap_servers, topics) as wire, started(worker, wire):
        assert worker.listening_ports() == set()
        assert worker.terminate() == 0


@contextlib.contextmanager
def started(worker: Worker, wire: Wire) -> Iterator[None]:
    """Start a worker whose port is not known, and wait until it decided a command."""
    worker.start()
    position = wire.send(encoded({"userTaskKey": fresh_key()}))
    try:
        wire.wait_until(lambda: worker.watch() or wire.rejections_of(position), deadline_s=60)
        yield
    finally:
        worker.kill()


def test_a_port_in_use_is_refused(kafka, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = run_cli("run", env=environment(kafka.bootstrap_servers, topics, HTTP_PORT=port), cwd=tmp_path)
    assert ended.returncode != 0, ended.stderr
    assert port in ended.stderr


# The store


def test_a_second_worker_on_the_same_sqlite_file_is_refused_and_told_of_postgresql(kafka, tmp_path):
    with bench(kafka.bootstrap_servers, tmp_path) as it:
        second = run_cli("run", env=it.worker.env | {"USERTASK_HTTP_PORT": "0"}, cwd=tmp_path)
        assert second.returncode != 0, second.stderr
        assert "PostgreSQL" in second.stderr
        assert it.wire.create().body["state"] == "CREATED"


def test_run_migrates_sqlite_and_keeps_what_is_there(kafka, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    env = environment(kafka.bootstrap_servers, topics, tmp_path / "user-tasks.db")
    with Wire(kafka.bootstrap_servers, topics) as wire:
        with Worker(env, tmp_path) as worker:
            key = wire.created()
            assert worker.terminate() == 0
        with Worker(env, tmp_path):
            assert wire.complete(key).body["version"] == 2


def test_a_relative_store_url_is_relative_to_the_working_directory(kafka, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    env = environment(kafka.bootstrap_servers, topics, "here.db")
    with Worker(env, tmp_path):
        assert Path(tmp_path, "here.db").is_file()


def test_a_secret_may_stand_in_a_file(kafka, tmp_path):
    url = tmp_path / "store-url"
    url.write_text(f"sqlite:///{tmp_path / 'from-a-file.db'}\n")
    env = environment(kafka.bootstrap_servers, make_topics(kafka.bootstrap_servers))
    del env["USERTASK_STORE_URL"]
    with Worker(env | {"USERTASK_STORE_URL_FILE": str(url)}, tmp_path):
        assert Path(tmp_path, "from-a-file.db").is_file()


# Logs


def test_logs_are_json_lines_on_stderr_and_stdout_is_empty(kafka, tmp_path):
    with bench(kafka.bootstrap_servers, tmp_path) as it:
        it.wire.create()
        it.wire.malformed(b"no json")
        assert it.worker.terminate() == 0
        lines = it.worker.stderr().splitlines()
        assert lines
        assert all(isinstance(json.loads(line), dict) for line in lines)
        assert it.worker.stdout() == ""


class UnreadWorker(Worker):
    """One whose standard error is a pipe that nobody reads, as behind a log collector that hangs."""

    def start(self) -> None:
        self._process = subprocess.Popen(self.command, env=self.env, cwd=self._folder, stderr=subprocess.PIPE)

    def kill(self) -> None:
        super().kill()
        self.process.stderr.close()

    def stderr(self) -> str:
        return ""


def test_a_log_that_nobody_reads_holds_up_nothing(kafka, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    env = environment(kafka.bootstrap_servers, topics, tmp_path / "user-tasks.db", LOG_LEVEL="debug")
    with Wire(kafka.bootstrap_servers, topics) as wire, UnreadWorker(env, tmp_path) as worker:

        def dropped() -> float:
            wire.malformed(b"no json")
            [line] = re.findall(r"^usertask_log_lines_dropped_total (.+)$", worker.get("/metrics")[1], re.MULTILINE)
            return float(line)

        wire.wait_until(dropped, 60)
        assert worker.get("/readyz")[0] == worker.get("/livez")[0] == 200
        assert worker.terminate() == 0


# Other command lines


def test_the_version_is_told_on_stdout(tmp_path):
    ended = run_cli("--version", env=bare_environment(), cwd=tmp_path)
    assert ended.returncode == 0
    assert re.search(r"\d", ended.stdout)


def test_config_prints_every_setting(tmp_path):
    ended = run_cli("config", env=bare_environment(), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert [name for name in SETTINGS if f"USERTASK_{name}" not in ended.stdout] == []


@pytest.mark.parametrize(
    "default",
    [
        "localhost:9092",
        "PLAINTEXT",
        "user-task-worker",
        "user-task.commands",
        "user-task.events",
        "user-task.rejections",
        "user-task.commands.dlq",
        "1000000",
        r"^user-task\.replies(\..+)?$",
        "urn:problem-type:user-task:",
        "/user-task-worker",
        "127.0.0.1",
        "8080",
    ],
)
def test_config_prints_the_defaults(default, defaults):
    assert default in defaults


@pytest.fixture(scope="module")
def defaults(tmp_path_factory):
    return run_cli("config", env=bare_environment(), cwd=tmp_path_factory.mktemp("config")).stdout


def test_config_masks_secrets(tmp_path):
    secrets = {
        "USERTASK_STORE_URL": "postgresql://user:hunter2@db.example/tasks",
        "USERTASK_KAFKA_SASL_PASSWORD": "hunter3",
    }
    ended = run_cli("config", env=bare_environment() | secrets, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "USERTASK_STORE_URL" in ended.stdout
    assert not re.search("hunter[23]", ended.stdout + ended.stderr)


def test_config_prints_what_is_set(tmp_path):
    env = bare_environment() | {"USERTASK_GROUP_ID": "a-group-of-its-own"}
    assert "a-group-of-its-own" in run_cli("config", env=env, cwd=tmp_path).stdout
