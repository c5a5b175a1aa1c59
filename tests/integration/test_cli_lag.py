"""`lag`: what Kafka and the store say of each partition, put together."""

import json

import pytest

from tests.integration.harness import (
    CREATE,
    PARTITIONS,
    Topics,
    Unsent,
    Wire,
    Worker,
    cloud_event,
    encoded,
    environment,
    free_port,
    fresh_key,
    make_topics,
    run_cli,
)
from tests.integration.terminal import on_a_terminal
from worker.cli.lagging import Offsets, line_of
from worker.stores.port import PartitionRow

NOWHERE = Topics("no.commands", "no.events", "no.rejections", "no.commands.dlq")
COUNTS = (4, 2, 0)  # commands that wait, by partition


@pytest.fixture
def topics(kafka):
    return make_topics(kafka.bootstrap_servers)


@pytest.fixture
def env(kafka, topics, tmp_path):
    return environment(kafka.bootstrap_servers, topics, tmp_path / "tasks.db")


def lag(env, cwd) -> dict:
    ended = run_cli("lag", env=env, cwd=cwd)
    assert (ended.returncode, ended.stderr) == (0, "")
    return json.loads(ended.stdout)


def commands(count: int, partition: int) -> list[Unsent]:
    return [
        Unsent(encoded({"userTaskKey": fresh_key()}), headers=cloud_event(CREATE), partition=partition)
        for _ in range(count)
    ]


def test_what_waits_for_a_worker_is_lag_and_goes_when_one_has_worked_it_off(kafka, topics, env, tmp_path):
    with Wire(kafka.bootstrap_servers, topics) as wire:
        with Worker(env, tmp_path) as first:
            assert first.terminate() == 0
        for partition, count in enumerate(COUNTS):
            wire.send_all(commands(count, partition))

        waiting = lag(env, tmp_path)
        assert (waiting["group"], waiting["topic"]) == (env["USERTASK_GROUP_ID"], topics.commands)
        assert [(one["partition"], one["end"], one["lag"]) for one in waiting["partitions"]] == [
            (number, count, count) for number, count in enumerate(COUNTS)
        ]
        assert {(one["applied"], one["published"], one["owner"]) for one in waiting["partitions"]} == {(0, 0, 1)}
        assert {one["member"] for one in waiting["partitions"]} == {None}
        assert waiting["total"] == {"lag": sum(COUNTS), "unpublished": 0}

        with Worker(env, tmp_path) as worker:
            wire.wait_until(lambda: len(wire.events()) == sum(COUNTS))
            held = lag(worker.env, tmp_path)
            assert held["total"] == {"lag": 0, "unpublished": 0}
            members = [one["member"] for one in held["partitions"]]
            assert {(one["clientId"], one["host"]) for one in members} == {("user-task-worker", "127.0.0.1")}
            assert len({one["memberId"] for one in members}) == 1
            assert worker.terminate() == 0

    done = lag(env, tmp_path)["partitions"]
    assert [(one["applied"], one["published"]) for one in done] == [(count, count) for count in COUNTS]
    assert [one["committed"] for one in done] == [4, 2, None]
    assert {one["owner"] for one in done} == {2}
    assert {one["publisher"].startswith(env["USERTASK_GROUP_ID"]) for one in done} == {True}


def test_people_get_a_table_with_a_total(kafka, topics, env, tmp_path):
    with Wire(kafka.bootstrap_servers, topics) as wire, Worker(env, tmp_path) as worker:
        assert worker.terminate() == 0
        wire.send_all(commands(5, 0))
    shown = on_a_terminal("lag", env=env, cwd=tmp_path).stdout
    [total] = [line for line in shown.splitlines() if "total" in line]
    assert [cell.strip() for cell in total.strip("│").split("│")][5:7] == ["5", "0"]


def test_a_partition_that_nobody_has_taken_over_has_all_of_it_before_it():
    line = line_of(1, Offsets(beginning=10, end=25, committed=None), None, None)
    assert (line["lag"], line["unpublished"], line["applied"], line["owner"]) == (15, None, None, None)


def test_what_is_applied_and_not_committed_is_unpublished():
    row = PartitionRow(owner=2, publisher="p", applied=20, published=12)
    line = line_of(1, Offsets(beginning=10, end=25, committed=15), row, None)
    assert (line["lag"], line["unpublished"], line["published"]) == (10, 5, 12)


def test_a_partition_that_only_the_store_knows_is_shown():
    row = PartitionRow(owner=2, publisher="p", applied=20, published=12)
    line = line_of(7, None, row, None)
    assert (line["partition"], line["end"], line["lag"], line["applied"]) == (7, None, None, 20)


def test_without_broker_topics_or_store_it_says_so(kafka, topics, tmp_path):
    server = f"127.0.0.1:{free_port()}"
    for env, code, words in [
        (environment(server, NOWHERE, START_TIMEOUT_S="1"), 3, f"{server} did not answer within 1 s"),
        (environment(kafka.bootstrap_servers, NOWHERE), 4, "missing topics: no.commands"),
        (environment(kafka.bootstrap_servers, topics, tmp_path / "no.db"), 4, "no.db"),
    ]:
        ended = run_cli("lag", env=env, cwd=tmp_path)
        assert (ended.returncode, ended.stdout) == (code, "")
        assert words in ended.stderr


def test_looking_does_not_join_the_group(kafka, topics, env, tmp_path):
    with Worker(env, tmp_path) as worker:
        before = {one["owner"] for one in lag(worker.env, tmp_path)["partitions"]}
        assert len(lag(worker.env, tmp_path)["partitions"]) == PARTITIONS
        assert {one["owner"] for one in lag(worker.env, tmp_path)["partitions"]} == before
        assert worker.stderr().count('"partitions_assigned"') == 1
