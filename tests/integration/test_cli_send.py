"""`send` against a real broker and a real worker: what arrives, what does not, and what is told of it."""

import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from tests.integration.harness import (
    CREATE,
    TOPIC_MAX_BYTES,
    Topics,
    bench,
    command_line,
    encoded,
    environment,
    free_port,
    fresh_id,
    fresh_key,
    make_topics,
    run_cli,
)
from tests.integration.terminal import on_a_terminal
from tests.integration.test_cli import NOWHERE, commands_in
from worker.embedded import EmbeddedKafka

LINE_DEADLINE_S = 30


@pytest.fixture(scope="module")
def it(kafka, tmp_path_factory):
    with bench(kafka.bootstrap_servers, tmp_path_factory.mktemp("worker")) as it:
        yield it


class Sender:
    """Writes a file of lines and sends it, on topics that no worker reads."""

    def __init__(self, bootstrap_servers: str, topics: Topics, folder) -> None:
        self.bootstrap_servers, self.topics, self.folder = bootstrap_servers, topics, folder
        self.env = environment(bootstrap_servers, topics)

    def write(self, *lines: object) -> str:
        text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
        (self.folder / "lines").write_text(text, encoding="utf-8")
        return "lines"

    def send(self, *lines: object, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return run_cli("send", self.write(*lines), *options, env=self.env, cwd=self.folder)

    def arrived(self) -> list:
        return commands_in(self.bootstrap_servers, self.topics.commands)


@pytest.fixture
def sender(kafka, topics, tmp_path):
    return Sender(kafka.bootstrap_servers, topics, tmp_path)


def counted(ended: subprocess.CompletedProcess[str], code: int = 0) -> dict:
    assert ended.returncode == code, ended.stderr
    return json.loads(ended.stdout)


def event(kind: str, command_id: str, data: dict, **attributes: str) -> dict:
    return {"specversion": "1.0", "id": command_id, "source": "/tests", "type": kind, "data": data} | attributes


# What arrives


def test_each_line_is_answered_by_the_worker(it, tmp_path):
    key, other = fresh_key(), fresh_key()
    lines = [
        event(CREATE, fresh_id(), {"userTaskKey": key, "name": "one"}),
        event(CREATE, fresh_id(), {"userTaskKey": other}),
        {"userTaskKey": key, "action": "approve"},
        {"userTaskKey": key},
    ]
    (tmp_path / "lines").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    run = counted(run_cli("send", "lines", env=it.worker.env, cwd=tmp_path))

    assert run == {"id": run["id"], "lines": 4, "sent": 4, "notSendable": 0, "wrong": 0}
    assert it.wire.event(f"{run['id']}/3").body["action"] == "approve"
    [refused] = it.wire.wait_until(
        lambda: [one for one in it.wire.rejections() if one.text("ce_causationid") == f"{run['id']}/4"]
    )
    assert (refused.body["status"], refused.body["currentState"]) == (409, "COMPLETED")
    assert it.wire.event(lines[1]["id"]).body["userTaskKey"] == other


def test_the_values_are_the_lines_and_the_keys_are_the_tasks(sender):
    body = '{"variables": {"a": 1.10, "b": 123456789012345678901234567890}, "userTaskKey": "007"}'
    structured = json.dumps(event(CREATE, "my-id", {"userTaskKey": 7}))
    partitioned = json.dumps(event(CREATE, "other-id", {"userTaskKey": 7}, partitionkey="a key"))
    options = ("--type", "cancel", "--id", "import-1", "--header", "ce_correlationid=import", "--header", "x=y=z")
    ended = sender.send(body, structured, partitioned, options=options)

    assert counted(ended)["sent"] == 3
    found = {command.value.decode(): command for command in sender.arrived()}
    assert {value: command.key for value, command in found.items()} == {
        body: b"7",
        structured: b"7",
        partitioned: b"a key",
    }
    assert {name: found[body].text(name) for name in found[body].headers} == {
        "ce_specversion": "1.0",
        "ce_id": "import-1/1",
        "ce_source": "/user-task-worker/cli",
        "ce_type": "user-task.cancel.v1",
        "content-type": "application/json",
        "ce_correlationid": "import",
        "x": "y=z",
    }
    assert found[structured].text("content-type") == "application/cloudevents+json"
    assert found[body].partition == found[structured].partition


def test_the_commands_of_one_task_arrive_in_the_order_of_their_lines(sender):
    lines = [{"userTaskKey": str(number % 7), "variables": {"number": number}} for number in range(3_000)]

    assert counted(sender.send(*lines))["sent"] == 3_000
    arrived: dict[bytes, list[int]] = {}
    for command in sender.arrived():
        arrived.setdefault(command.key, []).append(command.body["variables"]["number"])
    assert sum(map(len, arrived.values())) == 3_000
    assert all(numbers == sorted(numbers) for numbers in arrived.values())


def test_the_same_file_under_the_same_id_is_applied_once(it, tmp_path):
    keys = [fresh_key() for _ in range(3)]
    (tmp_path / "lines").write_bytes(b"\n".join(encoded({"userTaskKey": key}) for key in keys))
    name = fresh_id()
    arguments = ("send", "lines", "--type", "create", "--id", name)
    for _ in range(2):
        assert counted(run_cli(*arguments, env=it.worker.env, cwd=tmp_path))["sent"] == 3
    anew = counted(run_cli(*arguments[:-2], env=it.worker.env, cwd=tmp_path))["id"]

    refused = it.wire.wait_until(
        lambda: (
            found
            if len(found := [one for one in it.wire.rejections() if one.body.get("userTaskKey") in keys]) == 3
            else None
        )
    )
    assert {one.text("ce_causationid") for one in refused} == {f"{anew}/{number}" for number in (1, 2, 3)}
    assert [len(it.wire.events_of(f"{name}/{number}")) for number in (1, 2, 3)] == [1, 1, 1]


def test_empty_lines_are_none(sender):
    assert counted(sender.send("", {"userTaskKey": "1"}, "  \t", ""))["lines"] == 1


def test_an_empty_file_is_sent_at_once(sender):
    assert counted(sender.send())["lines"] == 0
    assert sender.arrived() == []


# What does not


def test_what_is_not_sendable_is_told_by_its_line_and_the_others_are_sent(sender):
    lines = ['{"userTaskKey": "1"}', "secret", '{"action": "secret"}', '{"userTaskKey": "2"}', '["secret"]']
    ended = sender.send(*lines)

    assert counted(ended, code=1) | {"id": ""} == {"id": "", "lines": 5, "sent": 2, "notSendable": 3, "wrong": 0}
    assert re.findall(r"^line (\d+) is not sendable: \S", ended.stderr, re.MULTILINE) == ["2", "3", "5"]
    assert "secret" not in ended.stderr
    assert {command.key for command in sender.arrived()} == {b"1", b"2"}


@pytest.mark.parametrize("size", [TOPIC_MAX_BYTES - 200, TOPIC_MAX_BYTES, 5_000_000])
def test_what_is_too_large_for_the_topic_is_told_and_the_others_are_sent(sender, size):
    large = '{"userTaskKey": "1", "variables": {"a": "' + "x" * (size - 44) + '"}}'
    assert len(large) == size
    ended = sender.send({"userTaskKey": "1"}, large, {"userTaskKey": "2"})

    assert counted(ended, code=1)["sent"] == 2
    assert re.match(r"line 2 is not sendable: larger than the \d+ bytes", ended.stderr)
    assert len(ended.stderr) < 200


def test_what_is_just_not_too_large_is_sent(sender):
    large = '{"userTaskKey": "1", "variables": {"a": "' + "x" * (TOPIC_MAX_BYTES - 500) + '"}}'

    assert counted(sender.send(large))["sent"] == 1
    assert [command.value for command in sender.arrived()] == [large.encode()]


def test_what_the_worker_would_refuse_is_told_and_sent(sender):
    ended = sender.send({"userTaskKey": "1", "varaibles": "secret", "action": 5})

    assert counted(ended)["wrong"] == 1
    assert ended.stderr == "line 1 would be refused: #/action string_type; #/varaibles extra_forbidden\n"
    assert len(sender.arrived()) == 1


@pytest.mark.parametrize(
    ("line", "code"), [('{"userTaskKey": "1"}', 0), ('{"userTaskKey": "1", "x": 1}', 1), ("no json", 1)]
)
def test_a_dry_run_says_what_is_wrong_and_sends_nothing(sender, line, code):
    ended = sender.send(line, options=("--dry-run",))

    assert counted(ended, code)["sent"] == 0
    assert bool(ended.stderr) == bool(code)
    assert sender.arrived() == []


# How it goes


def test_a_rate_is_kept(sender):
    began_s = time.monotonic()
    assert counted(sender.send(*[{"userTaskKey": "1"}] * 6, options=("--rate", "5")))["sent"] == 6
    assert time.monotonic() - began_s >= 1


@pytest.fixture
def piped(it) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command_line("send", "-", "--type", "create", "--id", fresh_id()),
        env=it.worker.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        yield process
        process.kill()


def test_lines_of_a_pipe_are_sent_as_they_come(it, piped):
    for key in (fresh_key(), fresh_key()):
        piped.stdin.write(encoded({"userTaskKey": key}) + b"\n")
        piped.stdin.flush()
        it.wire.wait_until(lambda key=key: [one for one in it.wire.events() if one.body["userTaskKey"] == key])
    out, err = piped.communicate(timeout=LINE_DEADLINE_S)

    assert (piped.returncode, err) == (0, b"")
    assert json.loads(out)["sent"] == 2


def test_an_interrupt_tells_what_was_sent_and_how_to_go_on(it, piped):
    key = fresh_key()
    piped.stdin.write(encoded({"userTaskKey": key}) + b"\n")
    piped.stdin.flush()
    it.wire.wait_until(lambda: [one for one in it.wire.events() if one.body["userTaskKey"] == key])
    piped.send_signal(signal.SIGINT)

    assert piped.wait(LINE_DEADLINE_S) == 130
    told = json.loads(piped.stdout.read())
    assert (told["lines"], told["sent"]) == (1, 1)
    assert f"with --id {told['id']}" in piped.stderr.read().decode()


def test_a_terminal_has_a_bar_and_words(sender):
    sender.write(*[{"userTaskKey": "1"}] * 5)
    shown = on_a_terminal("send", "lines", "--id", "me", env=sender.env, cwd=sender.folder, errors_too=True)

    assert shown.returncode == 0
    assert "5 lines: 5 sent under the id me, 0 not sendable, 0 would be refused" in shown.stdout
    assert re.search(r"sending\W.*105/105 bytes", shown.stdout)


# How it ends


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nowhere"],
        ["."],
        ["lines", "--type", "other"],
        ["lines", "--header", "x"],
        ["lines", "--id", ""],
        ["lines", "--id", "a\nb"],
        ["lines", "--rate", "0"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_a_usage_error(tmp_path, arguments):
    (tmp_path / "lines").touch()
    ended = run_cli("send", *arguments, env=environment("nowhere:1", NOWHERE), cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")


def test_without_a_broker_it_says_so(tmp_path):
    (tmp_path / "lines").touch()
    server = f"127.0.0.1:{free_port()}"
    ended = run_cli("send", "lines", env=environment(server, NOWHERE, START_TIMEOUT_S="1"), cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert f"{server} did not answer within 1 s" in ended.stderr


def test_without_its_topic_it_says_which(kafka, tmp_path):
    (tmp_path / "lines").touch()
    ended = run_cli("send", "lines", env=environment(kafka.bootstrap_servers, NOWHERE), cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (4, "")
    assert ended.stderr.startswith("missing topics: no.commands")


def await_one_in(bootstrap_servers: str, topic: str) -> None:
    deadline = time.monotonic() + LINE_DEADLINE_S
    while not commands_in(bootstrap_servers, topic):
        assert time.monotonic() < deadline, "nothing was sent"


def test_an_outage_of_the_broker_is_waited_out(tmp_path):
    with EmbeddedKafka() as broker:
        topics = make_topics(broker.bootstrap_servers)
        process = subprocess.Popen(
            command_line("send", "-", "--id", "import"), env=environment(broker.bootstrap_servers, topics),
            cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        with process:
            try:
                process.stdin.write(b'{"userTaskKey": 1}\n')
                process.stdin.flush()
                await_one_in(broker.bootstrap_servers, topics.commands)
                broker.terminate()
                rest = b"".join(b'{"userTaskKey": %d}\n' % number for number in range(2, 1_000))
                writer = threading.Thread(target=process.communicate, args=(rest,))
                writer.start()
                broker.restart()
                writer.join(LINE_DEADLINE_S)
                assert process.returncode == 0
            finally:
                process.kill()
        arrived = commands_in(broker.bootstrap_servers, topics.commands)

    assert sorted(int(command.key) for command in arrived) == list(range(1, 1_000))
