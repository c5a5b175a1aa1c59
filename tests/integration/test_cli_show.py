"""`show`: what became of a task or a command, answered from the store beside a running worker."""

import contextlib
import json
import re
import sqlite3
import subprocess

import pytest

from tests.contract.backends import fresh_schema
from tests.integration.harness import (
    COMPLETE,
    COMPLETED,
    CREATE,
    CREATED,
    INSTANT,
    REJECTED,
    Topics,
    bench,
    cloud_event,
    encoded,
    environment,
    fresh_id,
    fresh_key,
    make_topics,
    run_cli,
)
from tests.integration.terminal import on_a_terminal
from worker.stores.postgres import migrate

NOWHERE = Topics("no.commands", "no.events", "no.rejections", "no.commands.dlq")
SECRET = "s3cr3t-of-a-customer"
POISON = fresh_key()


@pytest.fixture(scope="module")
def it(kafka, tmp_path_factory):
    folder = tmp_path_factory.mktemp("worker")
    with bench(kafka.bootstrap_servers, folder) as it:
        with contextlib.closing(sqlite3.connect(folder / "user-tasks.db", timeout=30)) as store, store:
            store.execute(
                f"CREATE TRIGGER poison BEFORE INSERT ON user_tasks WHEN NEW.user_task_key = {POISON}"
                " BEGIN SELECT RAISE(ABORT, 'no'); END"
            )
        yield it


@pytest.fixture(scope="module")
def wire(it):
    return it.wire


@pytest.fixture
def cli(it, tmp_path):
    return lambda *arguments: run_cli(*arguments, env=it.worker.env, cwd=tmp_path)


def told(ended: subprocess.CompletedProcess[str]) -> list[dict]:
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def told_once(ended: subprocess.CompletedProcess[str]) -> dict:
    [one] = told(ended)
    return one


# Each of the contract's outcomes


def test_an_accepted_command_is_a_204_with_its_event(wire, cli):
    key, command_id = fresh_key(), fresh_id()
    event = wire.create(key, headers=[("ce_id", command_id.encode())])

    answer = told_once(cli("show", "command", command_id, "--source", "/tests"))

    assert re.fullmatch(INSTANT, answer.pop("decidedAt"))
    assert answer.pop("position").startswith(f"{wire.topics.commands}/")
    assert answer.pop("published") in {True, False}  # noted a second later
    assert answer == {
        "commandId": command_id,
        "status": 204,
        "problem": None,
        "title": None,
        "detail": None,
        "userTaskKey": key,
        "occupiesId": True,
        "records": [{"topic": wire.topics.events, "type": CREATED, "id": event.text("ce_id")}],
    }


def not_found(wire):
    return wire.send(encoded({"userTaskKey": fresh_key()}))


def invalid_state(wire):
    key = wire.created()
    wire.complete(key)
    return wire.send(encoded({"userTaskKey": key}))


def already_exists(wire):
    return wire.send(encoded({"userTaskKey": wire.created()}), headers=cloud_event(CREATE))


def invalid(wire):
    return wire.send(encoded({"userTaskKey": fresh_key(), "variables": SECRET}))


def reused(wire):
    headers = cloud_event(CREATE)
    wire.accepted(encoded({"userTaskKey": fresh_key()}), headers=headers)
    return wire.send(encoded({"userTaskKey": fresh_key()}), headers=headers)


def too_large(wire):
    return wire.send(encoded({"userTaskKey": wire.created(), "variables": {"text": "x" * 1_020_000}}))


def malformed(wire):
    return wire.send(SECRET.encode(), headers=cloud_event(COMPLETE))


def internal(wire):
    return wire.send(encoded({"userTaskKey": POISON}), headers=cloud_event(CREATE))


@pytest.mark.parametrize(
    ("make", "status", "problem", "occupies"),
    [
        (not_found, 404, "not-found", True),
        (invalid_state, 409, "invalid-state", True),
        (already_exists, 409, "already-exists", True),
        (invalid, 400, "invalid-argument", True),
        (too_large, 400, "too-large", True),
        (reused, 400, "command-id-reused", False),
        (malformed, 400, "malformed-command", False),
        (internal, 500, "internal", False),
    ],
    ids=lambda given: given if isinstance(given, str) else getattr(given, "__name__", None),
)
def test_a_refused_command_is_found_by_its_position(wire, cli, make, status, problem, occupies):
    position = make(wire)
    rejection = wire.rejection(position)

    ended = cli("show", "command", "--position", position.instance)

    answer = told_once(ended)
    assert (answer["status"], answer["problem"]) == (status, f"urn:problem-type:user-task:{problem}")
    assert (answer["title"], answer["detail"]) == (rejection.body["title"], rejection.body["detail"])
    assert (answer["position"], answer["occupiesId"]) == (position.path, occupies)
    assert answer["commandId"] == rejection.body["commandId"]
    expected = [{"topic": wire.topics.rejections, "type": REJECTED, "id": rejection.text("ce_id")}]
    if make in {malformed, internal}:
        named = wire.dead_letter(position).text("ce_id")
        expected.append({"topic": wire.topics.dead_letters, "type": "dead-letter", "id": named})
    assert answer["records"] == expected
    assert SECRET not in ended.stdout + ended.stderr


# By which id


def test_a_command_is_found_by_its_idempotency_key(wire, cli):
    name = fresh_id()
    wire.complete(wire.created(), headers=[("idempotency-key", name.encode())])
    answer = told_once(cli("show", "command", name))
    assert (answer["status"], answer["records"][0]["type"]) == (204, COMPLETED)


def test_a_command_without_an_id_is_found_by_the_command_id_of_its_event(wire, cli):
    event = wire.complete(wire.created())
    assert told_once(cli("show", "command", event.body["commandId"]))["commandId"] == event.body["commandId"]


def test_a_command_of_this_command_line_is_found_without_its_source(cli):
    assert cli("create", fresh_key(), "--id", "by-hand", "--wait").returncode == 0
    assert told_once(cli("show", "command", "by-hand", "--json"))["status"] == 204


def test_a_search_finds_every_outcome_of_an_id_whatever_its_source(wire, cli):
    command_id = fresh_id()
    for source in ("/a", "/b"):
        wire.accepted(encoded({"userTaskKey": fresh_key()}), headers=cloud_event(CREATE, command_id, source))
    wire.rejected(encoded({"userTaskKey": fresh_key()}), headers=cloud_event(CREATE, command_id, "/a"))

    assert cli("show", "command", command_id).returncode == 1
    assert sorted(one["status"] for one in told(cli("show", "command", command_id, "--search"))) == [204, 204, 400]
    assert [one["status"] for one in told(cli("show", "command", command_id, "--source", "/a"))] == [204]


def test_a_repeated_command_is_answered_with_the_first_ones_outcome(wire, cli):
    headers, value = cloud_event(CREATE, fresh_id()), encoded({"userTaskKey": fresh_key()})
    wire.accepted(value, headers=headers)
    again = wire.send(value, headers=headers)
    wire.settle(again)

    assert told_once(cli("show", "command", dict(headers)["ce_id"].decode(), "--source", "/tests"))["status"] == 204
    by_position = cli("show", "command", "--position", again.path)
    assert (by_position.returncode, by_position.stdout) == (1, "")
    assert "a duplicate of an earlier command, pruned after 7 days, or no command at all" in by_position.stderr


# Unknown


def test_an_id_that_is_not_there_is_unknown_and_ends_with_1(cli):
    ended = cli("show", "command", "never-sent")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("unknown: never seen, pruned after 7 days, or not yet applied. Without --source")


def test_a_position_that_is_still_to_come_is_not_yet_applied(wire, cli):
    wire.settle(wire.send(b"{}", partition=0))
    ended = cli("show", "command", "--position", f"{wire.topics.commands}/0/{2**62}")
    assert ended.returncode == 1
    assert re.match(rf"unknown: not yet applied; of {wire.topics.commands}/0, all before offset \d+ is", ended.stderr)


def test_a_partition_that_nobody_holds_is_said(cli):
    ended = cli("show", "command", "--position", "some.topic/0/0")
    assert (ended.returncode, ended.stderr) == (1, "unknown: no worker has taken some.topic/0 over yet\n")


# A task


def test_a_task_is_shown_as_it_stands_and_its_variables_by_name_only(wire, cli):
    event = wire.create(assignee="ann", variables={"secret": SECRET})
    wire.complete(event.body["userTaskKey"], variables={"approved": True})

    ended = cli("show", "task", event.body["userTaskKey"])

    answer = told_once(ended)
    assert SECRET not in ended.stdout
    assert re.fullmatch(INSTANT, answer.pop("endedAt"))
    assert answer == {
        "userTaskKey": event.body["userTaskKey"],
        "state": "COMPLETED",
        "version": 2,
        "createdAt": event.body["createdAt"],
        "attributes": {"assignee": "ann", "tenantId": "<default>", "priority": 50},
        "variables": ["approved", "secret"],
    }


def test_the_values_of_variables_are_shown_when_asked_for(wire, cli):
    key = wire.created(variables={"größe": 7})
    assert told_once(cli("show", "task", key, "--variables"))["variables"] == {"größe": 7}


def test_a_task_that_is_not_there_ends_with_1(cli):
    ended = cli("show", "task", "404404")
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "there is no user task 404404 in the store\n")


def test_people_get_a_table(it, wire, tmp_path):
    key = wire.created(assignee="[red]ann[/red]")
    shown = on_a_terminal("show", "task", key, env=it.worker.env, cwd=tmp_path).stdout
    assert re.search(rf"userTaskKey\W+{key}\b", shown)
    assert "[red]ann[/red]" in shown
    assert "endedAt" not in shown


# PostgreSQL, and what is not there


async def test_it_answers_from_postgresql_too(kafka, postgres, tmp_path):
    async with fresh_schema(postgres.url) as url:
        await migrate(url)
        topics = make_topics(kafka.bootstrap_servers)
        with bench(kafka.bootstrap_servers, tmp_path, topics, STORE_URL=url) as it:
            key = it.wire.created()
            refused = it.wire.send(encoded({"userTaskKey": key}), headers=cloud_event(CREATE, "again"))
            it.wire.rejection(refused)
            ended = run_cli("show", "command", "again", "--source", "/tests", env=it.worker.env, cwd=tmp_path)
            assert (told_once(ended)["status"], told_once(ended)["position"]) == (409, refused.path)
            searched = run_cli("show", "command", "again", "--search", env=it.worker.env, cwd=tmp_path)
            assert told(searched)[0]["position"] == refused.path
            assert told_once(run_cli("show", "task", key, env=it.worker.env, cwd=tmp_path))["state"] == "CREATED"


@pytest.mark.parametrize("arguments", ["show task 1", "show command x"])
def test_a_store_that_is_not_there_is_4_and_one_that_is_away_is_3(tmp_path, arguments):
    missing = run_cli(*arguments.split(), env=environment("nowhere:1", NOWHERE, tmp_path / "no.db"), cwd=tmp_path)
    assert (missing.returncode, missing.stdout) == (4, "")
    assert "no.db" in missing.stderr

    env = environment("nowhere:1", NOWHERE, STORE_URL="postgresql://u:hunter2@127.0.0.1:1/d", START_TIMEOUT_S="1")
    away = run_cli(*arguments.split(), env=env, cwd=tmp_path)
    assert (away.returncode, away.stdout) == (3, "")
    assert "could not be reached within 1 s" in away.stderr
    assert "hunter2" not in away.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        "show",
        "show task",
        "show task abc",
        "show task 9223372036854775808",
        "show command",
        "show command a --position t/0/0",
        "show command --position t/0",
        "show command --position t/x/0",
        "show command --position t/0/9223372036854775808",
        "show command a --source s --search",
        "show command --position t/0/0 --search",
    ],
)
def test_a_wrong_question_is_a_usage_error(tmp_path, arguments):
    ended = run_cli(*arguments.split(), env=environment("nowhere:1", NOWHERE), cwd=tmp_path)
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
