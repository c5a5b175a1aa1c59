"""The command line against a real broker and a real worker: what it sends, prints and ends with."""

import json
import re
import signal
import subprocess
import sys
import threading
import uuid
from queue import Queue

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from tests.integration.harness import (
    COMPLETE,
    DEAD_LETTER_MAX_BYTES,
    PARTITIONS,
    TOPIC_MAX_BYTES,
    Topics,
    Worker,
    bare_environment,
    bench,
    command_line,
    create_topics,
    encoded,
    environment,
    free_port,
    fresh_id,
    fresh_key,
    run_cli,
    seen,
)

NOWHERE = Topics("no.commands", "no.events", "no.rejections", "no.commands.dlq")
SILENCE_S = "0.5"  # after which nothing more is waited for where nothing comes
LINE_DEADLINE_S = 30
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture(scope="module")
def it(kafka, tmp_path_factory):
    with bench(kafka.bootstrap_servers, tmp_path_factory.mktemp("worker")) as it:
        yield it


@pytest.fixture
def cli(it, tmp_path):
    """Run a command line beside the running worker."""
    return lambda *arguments: run_cli(*arguments, env=it.worker.env, cwd=tmp_path)


@pytest.fixture
def alone(kafka, topics, tmp_path):
    """Run a command line on topics that no worker reads."""
    env = environment(kafka.bootstrap_servers, topics)
    return lambda *arguments: run_cli(*arguments, env=env, cwd=tmp_path)


def answered(ended: subprocess.CompletedProcess[str], code: int = 0) -> dict:
    assert ended.returncode == code, ended.stderr
    assert len(ended.stdout.splitlines()) == 1
    return json.loads(ended.stdout)


def commands_in(bootstrap_servers: str, topic: str) -> list:
    """Return all that stands in a topic."""
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": fresh_id(), "enable.partition.eof": True})
    partitions = [TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(PARTITIONS)]
    consumer.assign(partitions)
    found, ended = [], set()
    while len(ended) < PARTITIONS:
        message = consumer.poll(LINE_DEADLINE_S)
        assert message is not None, "the broker says nothing"
        if message.error() is None:
            found.append(seen(message))
        else:
            ended.add(message.partition())
    consumer.close()
    return found


# Help and version


def test_help_and_version_do_not_wait_for_what_they_do_not_need():
    script = (
        "import sys, worker.cli; print(sorted({'aiokafka', 'pydantic', 'structlog', 'sqlite3'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], env=bare_environment(), capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"


def test_version_is_one_line_on_stdout(tmp_path):
    ended = run_cli("--version", env=bare_environment(), cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.fullmatch(r"user-task-worker \S+\n", ended.stdout)


@pytest.mark.parametrize("command", ["complete", "create", "cancel", "tail", "topics create", "demo"])
def test_each_command_explains_itself(tmp_path, command):
    ended = run_cli(*command.split(), "--help", env=bare_environment(), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "Usage" in ended.stdout


# Sending


def test_a_command_is_sent_in_binary_mode(kafka, topics, alone):
    key = fresh_key()
    ended = alone("complete", key, "--action", "approve", "--variables", '{"approved": true}')
    assert ended.returncode == 0, ended.stderr
    [command] = commands_in(kafka.bootstrap_servers, topics.commands)
    assert re.fullmatch(UUID, command.text("ce_id"))
    assert {name: command.text(name) for name in command.headers} == {
        "ce_specversion": "1.0",
        "ce_id": command.text("ce_id"),
        "ce_source": "/user-task-worker/cli",
        "ce_type": COMPLETE,
        "content-type": "application/json",
    }
    assert command.key == key.encode()
    assert command.body == {"userTaskKey": key, "action": "approve", "variables": {"approved": True}}
    position = f"{topics.commands}/{command.partition}/{command.offset}"
    assert ended.stdout == f"{command.text('ce_id')} {position}\n"


def test_what_is_not_given_is_left_out(kafka, topics, alone):
    key = fresh_key()
    for verb in ("complete", "create", "cancel"):
        assert alone(verb, key).returncode == 0
    bodies = [command.body for command in commands_in(kafka.bootstrap_servers, topics.commands)]
    assert bodies == [{"userTaskKey": key}] * 3


def test_variables_are_sent_as_they_are_written(kafka, topics, alone):
    variables = '{"a": 1.10, "b": 123456789012345678901234567890, "a": 1e400, "ü": "\\ud800"}'
    assert alone("complete", "1", "--variables", variables).returncode == 0
    [command] = commands_in(kafka.bootstrap_servers, topics.commands)
    assert command.value == f'{{"userTaskKey": "1", "variables": {variables}}}'.encode()


def test_the_position_is_told_to_machines(topics, alone):
    sent = answered(alone("cancel", "5", "--id", "my-id", "--json"))
    assert sent.pop("partition") in range(PARTITIONS)
    assert sent == {"commandId": "my-id", "topic": topics.commands, "offset": 0}


def test_commands_go_where_other_clients_send_the_same_key(kafka, topics, alone):
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "partitioner": "murmur2_random"})
    keys = ["2251799813685249", "7", "no number"]
    for key in keys:
        producer.produce(topics.commands, key=key.encode(), value=b"{}")
        assert alone("complete", key).returncode == 0
    assert producer.flush(30) == 0
    partitions = {}
    for command in commands_in(kafka.bootstrap_servers, topics.commands):
        partitions.setdefault(command.key, []).append(command.partition)
    assert all(len(found) == 2 and len(set(found)) == 1 for found in partitions.values()), partitions
    assert len(partitions) == len(keys)


@pytest.mark.parametrize(
    ("given", "key"), [("007", "7"), ("-0", "0"), ("0" * 24 + "5", "5"), ("+7", "+7"), (" 7", " 7")]
)
def test_the_record_key_is_written_as_the_worker_writes_it_if_it_is_one(kafka, topics, alone, given, key):
    for verb in ("complete", "create", "cancel"):
        assert alone(verb, "--", given).returncode == 0
    commands = commands_in(kafka.bootstrap_servers, topics.commands)
    assert [(command.key, command.body["userTaskKey"]) for command in commands] == [(key.encode(), given)] * 3


# Wrong usage: 2


@pytest.mark.parametrize("variables", ["approved", "{", "NaN", '{"a": Infinity}', "", "@no-such-file", "@", "[1] 2"])
def test_variables_that_are_no_json_are_a_usage_error(tmp_path, variables):
    ended = run_cli("complete", "1", "--variables", variables, env=environment("nowhere:1", NOWHERE), cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "--variables" in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    ["tail", "tail nothing", "tail events --max 0", "topics create --partitions 0", "topics create --config x"],
)
def test_a_wrong_command_line_is_a_usage_error(tmp_path, arguments):
    ended = run_cli(*arguments.split(), env=environment("nowhere:1", NOWHERE), cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")


def test_a_custom_header_without_a_value_is_a_usage_error(tmp_path):
    ended = run_cli("create", "1", "--custom-header", "x", env=environment("nowhere:1", NOWHERE), cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")


def test_a_wrong_setting_is_named(tmp_path):
    ended = run_cli("complete", "1", env=environment("nowhere:1", NOWHERE, START_TIMEOUT_S="soon"), cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("USERTASK_START_TIMEOUT_S: ")


# No broker: 3; no topics: 4


COMMANDS = ["complete 1", "create 1 --wait", "cancel 1", "tail events", "topics create"]


@pytest.mark.parametrize("arguments", COMMANDS)
def test_without_a_broker_it_says_so_in_words(tmp_path, arguments):
    server = f"127.0.0.1:{free_port()}"
    ended = run_cli(*arguments.split(), env=environment(server, NOWHERE, START_TIMEOUT_S="1"), cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert f"{server} did not answer within 1 s" in ended.stderr
    assert len(ended.stderr.splitlines()) == 2, ended.stderr


@pytest.mark.parametrize("arguments", [command for command in COMMANDS if "topics" not in command])
def test_without_its_topics_it_says_which(kafka, tmp_path, arguments):
    ended = run_cli(*arguments.split(), env=environment(kafka.bootstrap_servers, NOWHERE), cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (4, "")
    assert ended.stderr.startswith("missing topics: no.")


# Waiting


def test_a_task_is_created_completed_and_answered_with_the_events(cli):
    key = fresh_key()
    assert answered(cli("create", key, "--wait"))["state"] == "CREATED"
    event = answered(cli("complete", key, "--action", "approve", "--variables", '{"approved": true}', "--wait"))
    assert (event["userTaskKey"], event["state"], event["action"]) == (key, "COMPLETED", "approve")
    assert event["variables"] == {"approved": True}


def test_a_task_is_canceled(cli):
    key = fresh_key()
    assert answered(cli("create", key, "--wait", "--json"))["action"] == "create"
    assert answered(cli("cancel", key, "--wait", "--json"))["state"] == "CANCELED"


def test_each_attribute_can_be_given(cli, tmp_path):
    (tmp_path / "variables.json").write_text('{"größe": 7}', encoding="utf-8")
    given = {
        "name": "Prüfen",
        "assignee": "demo",
        "priority": 80,
        "due-date": "2030-01-01T00:00:00+01:00",
        "follow-up-date": "2029-01-01T00:00:00Z",
        "form-key": "11",
        "external-form-reference": "form",
        "element-id": "task",
        "element-instance-key": "12",
        "process-instance-key": "13",
        "process-definition-key": "14",
        "process-definition-id": "process",
        "process-definition-version": 3,
        "tenant-id": "tenant",
        "variables": "@variables.json",
    }
    options = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    lists = ["--candidate-group=a", "--candidate-group=b", "--candidate-user=u", "--tag=t", "--custom-header=k=v=w"]
    event = answered(cli("create", fresh_key(), *options, *lists, "--wait"))
    expected = {
        "name": "Prüfen",
        "assignee": "demo",
        "priority": 80,
        "dueDate": "2029-12-31T23:00:00.000Z",
        "followUpDate": "2029-01-01T00:00:00.000Z",
        "formKey": "11",
        "externalFormReference": "form",
        "elementId": "task",
        "elementInstanceKey": "12",
        "processInstanceKey": "13",
        "processDefinitionKey": "14",
        "processDefinitionId": "process",
        "processDefinitionVersion": 3,
        "tenantId": "tenant",
        "candidateGroups": ["a", "b"],
        "candidateUsers": ["u"],
        "tags": ["t"],
        "customHeaders": {"k": "v=w"},
        "variables": {"größe": 7},
    }
    assert {name: event[name] for name in expected} == expected


def test_a_rejection_is_printed_and_ends_with_5(cli):
    problem = answered(cli("complete", "404404", "--wait"), code=5)
    assert (problem["status"], problem["title"], problem["userTaskKey"]) == (404, "NOT_FOUND", "404404")


@pytest.mark.parametrize(
    ("arguments", "pointer"),
    [
        (["complete", "no number"], "#/userTaskKey"),
        (["complete", "--", "-9223372036854775809"], "#/userTaskKey"),
        (["complete", "1", "--variables", "[1]"], "#/variables"),
        (["create", "1", "--priority", "101"], "#/priority"),
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_sent_and_refused_by_the_worker(cli, arguments, pointer):
    problem = answered(cli(arguments[0], "--wait", *arguments[1:]), code=5)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]


@pytest.mark.parametrize("command_id", ["", "x" * 256, "a\nb"], ids=["empty", "too long", "two lines"])
def test_the_rejection_of_a_malformed_command_is_recognised(cli, command_id):
    problem = answered(cli("complete", "1", "--id", command_id, "--wait"), code=5)
    assert problem["type"].endswith("malformed-command")


def test_the_same_id_is_applied_once_and_answered_once(cli, it):
    key, name = fresh_key(), fresh_id()
    create = ["create", key, "--id", name, "--wait"]
    assert answered(cli(*create))["commandId"] == name
    again = cli(*create, "--timeout", SILENCE_S)
    assert (again.returncode, again.stdout) == (6, "")
    assert "seen before" in again.stderr
    assert answered(cli("cancel", key, "--wait"))["version"] == 2
    it.wire.wait_until(lambda: len([one for one in it.wire.events() if one.body["userTaskKey"] == key]) == 2)


def test_without_a_worker_waiting_ends_with_6(alone):
    ended = alone("complete", "1", "--wait", "--timeout", SILENCE_S)
    assert (ended.returncode, ended.stdout) == (6, "")
    assert f"no outcome within {SILENCE_S} s" in ended.stderr


# Tail


class Tail:
    """`tail` as a process, and what it prints, line by line."""

    def __init__(self, *arguments: str, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command_line("tail", *arguments), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._lines: Queue[str] = Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self):
        self.first_words = self.process.stderr.readline()  # it has found its place
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self._thread.join()
        self.process.stdout.close()
        self.process.stderr.close()

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.put(line)

    def line(self) -> dict:
        return json.loads(self._lines.get(timeout=LINE_DEADLINE_S))

    def stop(self, by: signal.Signals) -> int:
        self.process.send_signal(by)
        return self.process.wait(LINE_DEADLINE_S)


def test_tail_shows_events_live_until_it_is_interrupted(it):
    it.wire.create()
    with Tail("events", env=it.worker.env) as tail:
        event = it.wire.create()
        line = tail.line()
        assert tail.stop(signal.SIGINT) == 0
        assert tail.process.stderr.read() == ""
    assert (line["topic"], line["partition"], line["offset"]) == (event.topic, event.partition, event.offset)
    assert line["timestamp"] == event.timestamp[1]
    assert line["key"] == event.key.decode()
    assert line["headers"] == {name: event.text(name) for name in event.headers}
    assert line["value"] == event.body


def test_tail_from_the_beginning_ends_after_enough(it, cli):
    refusals = [it.wire.rejected(encoded({"userTaskKey": fresh_key()})) for _ in range(2)]
    ended = cli("tail", "rejections", "--from-beginning", "--max", str(len(it.wire.rejections())), "--json")
    assert ended.returncode == 0, ended.stderr
    instances = {json.loads(line)["value"]["instance"] for line in ended.stdout.splitlines()}
    assert instances >= {refusal.body["instance"] for refusal in refusals}


def test_tail_shows_dead_letters_whatever_is_in_them(it):
    with Tail("dlq", "--max", "2", env=it.worker.env) as tail:
        it.wire.malformed(b"\xff\x00\x1b[31m", key=b"\xfe")
        bytes_line = tail.line()
        it.wire.malformed(None, key=b"a key")
        tombstone = tail.line()
        assert tail.process.wait(LINE_DEADLINE_S) == 0
    assert (bytes_line["value"], bytes_line["key"]) == ({"base64": "/wAbWzMxbQ=="}, {"base64": "/g=="})
    assert bytes_line["headers"]["dlq-error-type"] == "malformed-command"
    assert (tombstone["value"], tombstone["key"]) == (None, "a key")


def test_tail_ends_when_nobody_reads_it_any_more(it):
    it.wire.create()
    command = command_line("tail", "events", "--from-beginning")
    process = subprocess.Popen(command, env=it.worker.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout.readline()
        process.stdout.close()
        it.wire.create()
        assert process.wait(LINE_DEADLINE_S) == 0
        assert len(process.stderr.read().splitlines()) == 1
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


# Topics


def unmade() -> Topics:
    base = f"t-{uuid.uuid4().hex[:8]}"
    return Topics(*(f"{base}.{name}" for name in ("commands", "events", "rejections", "dlq")))


def create_with(kafka, topics: Topics, tmp_path, *options: str, **settings: str):
    env = environment(kafka.bootstrap_servers, topics, **settings)
    return run_cli("topics", "create", "--json", *options, env=env, cwd=tmp_path)


def config_of(kafka, topic: str) -> dict[str, str]:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    [described] = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]).values()
    return {name: entry.value for name, entry in described.result(30).items()}


def results(ended: subprocess.CompletedProcess[str]) -> list[tuple[str, int]]:
    assert ended.returncode == 0, ended.stderr
    return [(row["result"], row["partitions"]) for row in json.loads(ended.stdout)]


def test_topics_are_made_so_that_a_worker_runs_on_them(kafka, tmp_path):
    topics = unmade()
    assert results(create_with(kafka, topics, tmp_path, "--partitions", "2")) == [("created", 2)] * 4
    dead_letters = config_of(kafka, topics.dead_letters)
    assert dead_letters["max.message.bytes"] == str(DEAD_LETTER_MAX_BYTES)
    assert dead_letters["retention.ms"] == str(30 * 24 * 3600 * 1000)
    assert dead_letters["cleanup.policy"] == "delete"
    with Worker(environment(kafka.bootstrap_servers, topics, tmp_path / "user-tasks.db"), tmp_path) as worker:
        assert worker.terminate() == 0


def test_topics_can_be_created_again(kafka, tmp_path):
    topics = unmade()
    create_with(kafka, topics, tmp_path, "--partitions", "2")
    again = create_with(kafka, topics, tmp_path, "--partitions", "5")
    assert results(again) == [("unchanged", 2)] * 4
    assert f"{topics.commands} keeps its 2 partitions" in again.stderr


def test_missing_topics_are_added_and_the_dead_letter_topic_follows_the_commands_topic(kafka, tmp_path):
    topics = unmade()
    limit = 2_000_000
    create_topics(kafka.bootstrap_servers, NewTopic(topics.commands, 3, 1, config={"max.message.bytes": str(limit)}))
    ended = create_with(kafka, topics, tmp_path, "--partitions", "2", "--config", "min.insync.replicas=1")
    assert results(ended) == [("unchanged", 3), ("created", 2), ("created", 2), ("created", 3)]
    assert config_of(kafka, topics.dead_letters)["max.message.bytes"] == str(limit + 64 * 1024)


def test_a_dead_letter_topic_with_too_few_partitions_is_given_more(kafka, tmp_path):
    topics = unmade()
    create_topics(
        kafka.bootstrap_servers,
        NewTopic(topics.commands, 3, 1),
        NewTopic(topics.dead_letters, 1, 1, config={"max.message.bytes": str(DEAD_LETTER_MAX_BYTES)}),
    )
    assert results(create_with(kafka, topics, tmp_path))[3] == ("raised", 3)


def test_a_dead_letter_topic_for_too_small_records_is_told_and_left_alone(kafka, tmp_path):
    topics = unmade()
    create_topics(kafka.bootstrap_servers, NewTopic(topics.dead_letters, 12, 1))
    ended = create_with(kafka, topics, tmp_path)
    assert ended.returncode == 4
    assert f"{topics.dead_letters} has max.message.bytes {TOPIC_MAX_BYTES}" in ended.stderr
    assert config_of(kafka, topics.dead_letters)["max.message.bytes"] == str(TOPIC_MAX_BYTES)


def test_larger_records_get_topics_that_take_them(kafka, tmp_path):
    topics = unmade()
    ended = create_with(kafka, topics, tmp_path, "--partitions", "1", MAX_RECORD_BYTES="3000000")
    assert results(ended) == [("created", 1)] * 4
    assert int(config_of(kafka, topics.events)["max.message.bytes"]) > 3_000_000


def test_a_topic_that_the_broker_refuses_is_not_ready(kafka, tmp_path):
    ended = create_with(kafka, unmade(), tmp_path, "--replication-factor", "100")
    assert (ended.returncode, ended.stdout) == (4, "")
    assert "could not be created" in ended.stderr
