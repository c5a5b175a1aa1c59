"""`dlq`: dead letters are listed, shown, and sent back so that nothing is applied twice."""

import contextlib
import json
import re
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.integration.harness import (
    COMPLETE,
    CREATE,
    CREATED,
    INSTANT,
    STRUCTURED,
    Bench,
    Position,
    Seen,
    Topics,
    bench,
    cloud_event,
    encoded,
    envelope,
    environment,
    free_port,
    fresh_id,
    fresh_key,
    make_topics,
    run_cli,
)
from tests.integration.terminal import on_a_terminal
from tests.integration.test_cli import commands_in
from worker.cli.redriving import OVERTAKEN

NOWHERE = Topics("no.commands", "no.events", "no.rejections", "no.commands.dlq")
SECRET = "s3cr3t-of-a-customer"
TABLE = "CREATE TABLE poison (key INTEGER)"
TRIGGERS = [  # a task may be written by either
    f"CREATE TRIGGER poison_{verb} BEFORE {verb} ON user_tasks WHEN NEW.user_task_key IN (SELECT key FROM poison)"
    " BEGIN SELECT RAISE(ABORT, 'no'); END"
    for verb in ("INSERT", "UPDATE")
]


@dataclass
class Ward:
    """A worker whose store refuses the keys that it is told to, and a command line beside it."""

    bench: Bench
    folder: Path

    @property
    def wire(self):
        return self.bench.wire

    def sql(self, statement: str, *parameters: object) -> None:
        with contextlib.closing(sqlite3.connect(self.folder / "user-tasks.db", timeout=30)) as store, store:
            store.execute(statement, parameters)

    def poison(self, key: str) -> None:
        self.sql("INSERT INTO poison VALUES (?)", int(key))

    def cure(self, key: str) -> None:
        self.sql("DELETE FROM poison WHERE key = ?", int(key))

    def died(self, value: bytes | None, **how: object) -> Seen:
        """Send a command and return its dead letter."""
        return self.wire.dead_letter(self.wire.send(value, **how))

    def died_of_a_defect(self, key: str | None = None, headers=None, **how: object) -> Seen:
        """Send a create that the store refuses, and let it take the next; return the dead letter."""
        key = key or fresh_key()
        self.poison(key)
        headers = cloud_event(CREATE) if headers is None else headers
        letter = self.died(encoded({"userTaskKey": key}), key=key.encode(), headers=headers, **how)
        assert letter.text("dlq-error-type") == "internal"
        self.cure(key)
        return letter

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_cli("dlq", *arguments, env=self.bench.worker.env, cwd=self.folder)

    def told(self, *arguments: str) -> list[dict]:
        ended = self.cli(*arguments)
        assert ended.returncode == 0, ended.stderr
        return [json.loads(line) for line in ended.stdout.splitlines()]

    def redriven(self, *arguments: str) -> list[Position]:
        """Redrive, and return where the commands stand now."""
        answers = self.told("redrive", *arguments)
        assert {answer["result"] for answer in answers} <= {"redriven"}, answers
        return [position_of(answer["to"]) for answer in answers]


def position_of(text: str) -> Position:
    topic, partition, offset = text.split("/")
    return Position(topic, int(partition), int(offset))


def place(letter: Seen) -> str:
    return f"{letter.partition}/{letter.offset}"


def origin(letter: Seen) -> str:
    return "/".join(letter.text(f"__dlq.errors.{name}") for name in ("topic", "partition", "offset"))


@pytest.fixture(scope="module")
def ward(kafka, tmp_path_factory):
    folder = tmp_path_factory.mktemp("worker")
    with bench(kafka.bootstrap_servers, folder) as running:
        ward = Ward(running, folder)
        for statement in (TABLE, *TRIGGERS):
            ward.sql(statement)
        yield ward


# Listing and showing


def test_a_dead_letter_is_listed_without_its_value(ward):
    key = fresh_key()
    letter = ward.died(SECRET.encode(), key=key.encode(), headers=[("x", b"1")])

    ended = ward.cli("list", "--key", key)

    [told] = map(json.loads, ended.stdout.splitlines())
    assert re.fullmatch(INSTANT, told["failedAt"])
    assert told == {
        "position": place(letter),
        "failedAt": letter.text("dlq-failed-at"),
        "errorType": "malformed-command",
        "message": letter.text("__dlq.errors.message"),
        "key": key,
        "redriveCount": 0,
        "origin": origin(letter),
        "valueBytes": len(SECRET),
    }
    assert SECRET not in ended.stdout + ended.stderr


def test_letters_are_chosen_by_error_partition_and_time(ward):
    key = fresh_key()
    malformed = ward.died(b"no json", key=key.encode(), partition=1)
    internal = ward.died_of_a_defect(key, partition=2)
    after = internal.text("dlq-failed-at")

    def listed(*options: str) -> list[str]:
        return [one["position"] for one in ward.told("list", "--key", key, *options)]

    assert sorted(listed()) == sorted([place(malformed), place(internal)])
    assert listed("--error-type", "internal") == listed("--partition", "2") == [place(internal)]
    assert listed("--error-type", "malformed-command") == listed("--partition", "1") == [place(malformed)]
    assert listed("--since", after) == [place(internal)]
    assert listed("--until", after) == [place(malformed)]
    assert listed("--partition", "99") == listed("--error-type", "else") == []


def test_the_list_ends_at_its_limit_and_says_so(ward):
    key = fresh_key()
    letters = [ward.died(b"no json", key=key.encode(), partition=0) for _ in range(3)]
    ended = ward.cli("list", "--key", key, "--limit", "2")
    assert [json.loads(line)["position"] for line in ended.stdout.splitlines()] == list(map(place, letters[:2]))
    assert ended.stderr == "these are the first 2; --limit gives more\n"


def test_a_letter_is_shown_with_all_its_headers_and_its_value_only_when_asked_for(ward):
    headers = [("x", b"\xff"), *cloud_event()]
    letter = ward.died(SECRET.encode(), key=b"\xff", headers=headers)

    without = ward.cli("show", place(letter))
    [shown] = ward.told("show", place(letter), "--value")

    assert SECRET not in without.stdout
    assert shown == json.loads(without.stdout) | {"value": SECRET}
    assert (shown["key"], shown["headers"]["x"]) == ({"base64": "/w=="}, {"base64": "/w=="})
    assert shown["headers"]["ce_type"] == COMPLETE
    assert shown["headers"]["__dlq.errors.offset"] == letter.text("__dlq.errors.offset")
    assert shown["timestamp"] == letter.timestamp[1]


def test_a_place_without_a_letter_ends_with_1(ward):
    letter = ward.died(b"no json")
    marker = f"{letter.partition}/{letter.offset + 1}"  # the transaction's own
    for nothing in (marker, f"{letter.partition}/{2**40}", "99/0"):
        ended = ward.cli("show", nothing)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.startswith(f"there is no dead letter at {nothing} of ")


def test_people_get_a_table_that_nobody_can_steer(ward):
    key = f"\x1b[31m{fresh_key()}"
    ward.died(b"no json", key=key.encode())
    shown = on_a_terminal("dlq", "list", "--key", key, env=ward.bench.worker.env, cwd=ward.folder).stdout
    assert "\x1b[31m" not in shown
    assert "malformed-command" in shown


# Redriving


def test_a_dead_letter_is_redriven_and_completes_and_again_changes_nothing(ward):
    command_id = fresh_id()
    letter = ward.died_of_a_defect(headers=cloud_event(CREATE, command_id))

    [first] = ward.redriven(place(letter))
    event = ward.wire.event(command_id)
    [second] = ward.redriven(place(letter))
    ward.wire.settle(second)

    assert event.text("ce_type") == CREATED
    assert len(ward.wire.events_of(command_id)) == 1
    assert ward.wire.rejections_of(first) == ward.wire.rejections_of(second) == []
    assert (first.partition, first.topic) == (second.partition, ward.wire.topics.commands)


def test_a_command_without_an_id_is_redriven_and_again_changes_nothing(ward):
    key = ward.wire.created()
    ward.poison(key)
    letter = ward.died(b"{}", key=key.encode())
    ward.cure(key)
    assert letter.text("dlq-error-type") == "internal"

    [first] = ward.redriven(place(letter))
    name = f"redrive:{origin(letter)}"
    event = ward.wire.event(name)
    [second] = ward.redriven(place(letter))
    ward.wire.settle(second)

    assert (event.body["userTaskKey"], event.body["state"]) == (key, "COMPLETED")
    assert len(ward.wire.events_of(name)) == 1
    assert ward.wire.rejections_of(first) == ward.wire.rejections_of(second) == []


def test_what_is_redriven_comes_after_the_commands_that_came_later_and_the_help_says_so(ward):
    key, command_id = ward.wire.created(), fresh_id()
    ward.poison(key)
    letter = ward.died(b"{}", key=key.encode(), headers=cloud_event(COMPLETE, command_id))
    ward.cure(key)
    ward.wire.cancel(key)

    [again] = ward.redriven(place(letter))

    refusal = ward.wire.rejection(again)
    assert (refusal.slug, refusal.body["currentState"]) == ("invalid-state", "CANCELED")
    help_text = " ".join(ward.cli("redrive", "--help").stdout.split())
    assert "a redriven one comes after them" in help_text


def test_what_is_redriven_is_the_command_as_it_was_but_for_count_and_id(kafka, ward):
    key = fresh_key()
    theirs = [("x", b"\xff"), ("x", None), ("dlq-other", b"1"), ("traceparent", b"t")]
    named = ward.died_of_a_defect(key, headers=[*theirs, ("idempotency-key", fresh_id().encode()), *create_only()])
    unnamed = ward.died(b"\xff", key=None, headers=theirs)

    for letter, added in [(named, []), (unnamed, [("idempotency-key", f"redrive:{origin(unnamed)}".encode())])]:
        [position] = ward.redriven(place(letter))
        [sent] = [
            one
            for one in commands_in(kafka.bootstrap_servers, ward.wire.topics.commands)
            if (one.partition, one.offset) == (position.partition, position.offset)
        ]
        original = [header for header in letter.raw_headers if not is_ours(header[0])]
        assert sent.raw_headers == [*original, *added, ("dlq-redrive-count", b"1")]
        assert (sent.key, sent.value) == (letter.key, letter.value)


def test_an_id_in_another_spelling_is_the_commands_own(ward):
    key, name = ward.wire.created(), fresh_id()
    ward.poison(key)
    letter = ward.died(b"{}", key=key.encode(), headers=[("Idempotency-Key", name.encode())])
    ward.cure(key)

    [position] = ward.redriven(place(letter))
    ward.wire.settle(position)

    assert ward.wire.event(name).body["state"] == "COMPLETED"


def create_only():
    return cloud_event(CREATE)


def is_ours(name: str) -> bool:
    return name.startswith("__dlq.errors.") or name in {
        "dlq-error-type",
        "dlq-failed-at",
        "dlq-record-timestamp",
        "dlq-redrive-count",
    }


def test_a_command_in_structured_mode_keeps_its_id(ward):
    key, command_id = fresh_key(), fresh_id()
    ward.poison(key)
    value = encoded(envelope({"userTaskKey": key}, CREATE, id=command_id))
    letter = ward.died(value, key=key.encode(), headers=STRUCTURED)
    ward.cure(key)

    ward.redriven(place(letter))
    [again] = ward.redriven(place(letter))
    ward.wire.settle(again)

    assert len(ward.wire.events_of(command_id)) == 1


def test_one_that_fails_again_is_counted_and_only_its_latest_letter_goes(ward):
    key = fresh_key()
    first = ward.died_of_a_defect(key)
    ward.poison(key)
    [position] = ward.redriven(place(first))
    second = ward.wire.dead_letter(position)
    assert second.text("dlq-redrive-count") == "1"
    ward.cure(key)

    answers = {one["position"]: one for one in ward.told("redrive", "--key", key)}

    assert answers[place(first)]["result"] == "left"
    assert answers[place(first)]["reason"] == f"a later letter of the same command is at {place(second)}"
    assert (answers[place(second)]["result"], answers[place(second)]["redriveCount"]) == ("redriven", 2)
    assert ward.wire.event(first.text("ce_id")).body["userTaskKey"] == key


def test_a_malformed_one_without_an_id_stays_one_command_however_often_it_comes_back(ward):
    letter = ward.died(b"no json", key=(key := fresh_key()).encode())
    for count in range(1, 4):
        answers = ward.told("redrive", "--key", key, "--error-type", "malformed-command")
        [gone] = [one for one in answers if one["result"] == "redriven"]
        assert len(answers) == count
        again = ward.wire.dead_letter(position_of(gone["to"]))
        assert again.text("dlq-redrive-count") == str(count)
        assert again.text("idempotency-key") == f"redrive:{origin(letter)}"
    last = ward.told("redrive", "--key", key, "--error-type", "malformed-command")
    assert {one["result"] for one in last} == {"left"}


def test_another_use_of_the_same_id_is_another_command(ward):
    command_id = fresh_id()
    letters = [ward.died_of_a_defect(headers=cloud_event(CREATE, command_id)) for _ in range(2)]
    answers = ward.told("redrive", *map(place, letters))
    assert [answer["result"] for answer in answers] == ["redriven", "redriven"]


def test_one_that_came_back_too_often_is_left(ward):
    letter = ward.died_of_a_defect(headers=[*cloud_event(CREATE), ("dlq-redrive-count", b"3")])
    [answer] = ward.told("redrive", place(letter))
    assert (answer["result"], answer["reason"]) == ("left", "redriven 3 times already; see --max-redrives")
    [answer] = ward.told("redrive", place(letter), "--max-redrives", "4")
    assert (answer["result"], answer["redriveCount"]) == ("redriven", 4)


def test_a_malformed_one_goes_only_when_it_is_asked_for(ward):
    key = fresh_key()
    letter = ward.died(b"no json", key=key.encode())
    assert ward.told("redrive", "--key", key) == []
    assert len(ward.redriven("--key", key, "--error-type", "malformed-command")) == 1
    assert ward.told("redrive", "--all", "--dry-run", "--error-type", "else") == []
    assert letter.text("dlq-error-type") == "malformed-command"


def test_what_cannot_be_sent_back_is_left_with_the_reason(kafka, ward):
    tombstone = ward.died(None)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    places = []
    for headers in (
        [],
        [("__dlq.errors.topic", b"other"), ("__dlq.errors.partition", b"0"), ("__dlq.errors.offset", b"0")],
    ):
        producer.produce(
            ward.wire.topics.dead_letters, b"x", headers=headers, partition=0,
            on_delivery=lambda _, message: places.append(f"0/{message.offset()}"),
        )  # fmt: skip
        assert producer.flush(30) == 0

    answers = ward.told("redrive", place(tombstone), *places)

    assert {one["position"]: (one["result"], one["reason"]) for one in answers} == {
        place(tombstone): ("left", "without value: none was sent, or it was too large to keep"),
        places[0]: ("left", "no dead letter of a worker"),
        places[1]: ("left", "from another topic, other"),
    }


def test_a_dry_run_says_what_would_be_done_and_sends_nothing(kafka, ward):
    key = fresh_key()
    letter = ward.died_of_a_defect(key)
    before = len(commands_in(kafka.bootstrap_servers, ward.wire.topics.commands))

    ended = ward.cli("redrive", "--key", key, "--dry-run")

    [answer] = map(json.loads, ended.stdout.splitlines())
    assert (answer["position"], answer["result"], answer["redriveCount"]) == (place(letter), "would be redriven", 1)
    assert ended.stderr == f"{OVERTAKEN}\n0 redriven, 0 left\n"
    assert len(commands_in(kafka.bootstrap_servers, ward.wire.topics.commands)) == before


def test_no_more_are_sent_than_the_limit_and_no_faster_than_the_rate(ward):
    key = fresh_key()
    for _ in range(4):
        ward.died_of_a_defect(key)
    started = time.monotonic()
    sent = ward.redriven("--key", key, "--limit", "3", "--rate", "2")
    assert len(sent) == 3
    assert time.monotonic() - started > 1  # two waits of half a second


def test_people_get_a_table_and_a_sum(ward):
    letter = ward.died_of_a_defect()
    ended = on_a_terminal("dlq", "redrive", place(letter), env=ward.bench.worker.env, cwd=ward.folder)
    shown = ended.stdout
    assert ended.stderr == f"{OVERTAKEN}\n1 redriven, 0 left\n"
    assert re.search(rf"{place(letter)}\W+redriven", shown)


# Wrong usage, and what is not there


@pytest.mark.parametrize(
    "arguments",
    [
        "list --since yesterday",
        "list --limit 0",
        "show",
        "show 1",
        "show x/1",
        "show 1/99999999999999999999",
        "redrive",
        "redrive 0/1 --all",
        "redrive 0/1 --key 5",
        "redrive 0",
        "redrive --all --rate 0",
        "redrive --all --max-redrives 0",
    ],
)
def test_a_wrong_command_line_is_a_usage_error(tmp_path, arguments):
    ended = run_cli("dlq", *arguments.split(), env=environment("nowhere:1", NOWHERE), cwd=tmp_path)
    assert (ended.returncode, ended.stdout, "Traceback" in ended.stderr) == (2, "", False)


@pytest.mark.parametrize("arguments", ["list", "show 0/0", "redrive --all"])
def test_without_broker_or_topics_it_says_so(kafka, tmp_path, arguments):
    server = f"127.0.0.1:{free_port()}"
    away = run_cli("dlq", *arguments.split(), env=environment(server, NOWHERE, START_TIMEOUT_S="1"), cwd=tmp_path)
    assert (away.returncode, away.stdout) == (3, "")
    missing = run_cli("dlq", *arguments.split(), env=environment(kafka.bootstrap_servers, NOWHERE), cwd=tmp_path)
    assert (missing.returncode, missing.stdout) == (4, "")
    assert "missing topics: no." in missing.stderr


def test_a_letter_that_somebody_else_wrote_hides_no_other(kafka, ward):
    key = fresh_key()
    letter = ward.died(b"no json", key=key.encode())
    endless = b"9" * 5000  # more digits than Python turns into a number
    about = [("__dlq.errors.topic", b"t"), ("__dlq.errors.partition", endless), ("__dlq.errors.offset", b"1")]
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    headers = [*about, ("dlq-redrive-count", endless)]
    producer.produce(ward.wire.topics.dead_letters, b"x", key.encode(), headers=headers)
    assert producer.flush(30) == 0

    told = ward.told("list", "--key", key)

    assert sorted((one["origin"] or "", one["redriveCount"]) for one in told) == [("", 0), (origin(letter), 0)]


def test_an_empty_topic_has_no_letters(kafka, tmp_path):
    env = environment(kafka.bootstrap_servers, make_topics(kafka.bootstrap_servers))
    for arguments in (["list"], ["redrive", "--all"]):
        ended = run_cli("dlq", *arguments, env=env, cwd=tmp_path)
        assert (ended.returncode, ended.stdout) == (0, "")
