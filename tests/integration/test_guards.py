"""What does not fit together is detected, refused and explained: backups, wrong stores, new topics, lost offsets."""

import json
import shutil
import sqlite3
import time
from contextlib import closing

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from tests.chaos.judge import Load, await_committed, judge, outcomes
from tests.integration.harness import PARTITIONS, Worker, commit, create_topics, environment, make_topics, run_cli
from worker.embedded import EmbeddedKafka

DEADLINE_S = 60


class Bench:
    """A worker's topics, store and group, between one start and the next."""

    def __init__(self, bootstrap_servers, folder) -> None:
        self.bootstrap_servers, self.folder = bootstrap_servers, folder
        self.topics = make_topics(bootstrap_servers)
        self.store = folder / "tasks.db"
        self.env = environment(bootstrap_servers, self.topics, self.store, SESSION_TIMEOUT_S="6")
        self.load = Load(bootstrap_servers, self.topics.commands, commands_per_s=1)
        self.admin = AdminClient({"bootstrap.servers": bootstrap_servers})

    @property
    def group(self) -> str:
        return self.env["USERTASK_GROUP_ID"]

    def send(self, tasks: int) -> None:
        self.load.burst(tasks)
        assert self.load._producer.flush(30) == 0

    def work_off(self, tasks: int) -> str:
        """Send some stories, let a worker work them off and stop in good order; return what it logged."""
        with Worker(self.env, self.folder) as worker:
            self.send(tasks)
            await_committed(self.bootstrap_servers, self.topics.commands, self.group, DEADLINE_S)
            assert worker.terminate() == 0, worker.stderr()
            return worker.stderr()

    def recreate_commands(self, partitions: int = PARTITIONS) -> None:
        self.admin.delete_topics([self.topics.commands])[self.topics.commands].result(30)
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                new = NewTopic(self.topics.commands, partitions, 1)
                self.admin.create_topics([new])[self.topics.commands].result(30)
            except KafkaException:  # the old one is still being deleted
                assert time.monotonic() < deadline
            else:
                return

    def delete_group(self) -> None:
        self.admin.delete_consumer_groups([self.group])[self.group].result(30)

    def verdict(self):
        return judge(self.load.sent, outcomes(self.bootstrap_servers, self.topics))


@pytest.fixture
def bench(kafka, tmp_path):
    return Bench(kafka.bootstrap_servers, tmp_path)


def assert_refused(cause: str, env: dict[str, str], folder) -> None:
    """Start a worker and wait until it refuses its partitions; it is alive then, but not ready."""
    worker = Worker(env | {"USERTASK_HTTP_PORT": "0"}, folder)
    worker.start()
    try:
        await_words(f'"cause": "{cause}"', worker)
        port = next(iter(worker.listening_ports()))
        deadline = time.monotonic() + DEADLINE_S
        while worker.get("/readyz", port)[0] != 503:
            assert time.monotonic() < deadline
        assert worker.get("/livez", port)[0] == 200
        assert worker.terminate() == 0, worker.stderr()
    finally:
        worker.kill()


def await_words(words: str, worker: Worker) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while words not in worker.stderr():
        assert not worker.has_ended(within_s=0.05), worker.stderr()
        assert time.monotonic() < deadline, worker.stderr()


def test_a_store_restored_from_a_backup_is_refused_since_k_is_beyond_applied(bench):
    bench.work_off(20)
    shutil.copy(bench.store, bench.folder / "backup.db")
    bench.work_off(20)
    shutil.copy(bench.folder / "backup.db", bench.store)

    assert_refused("store_behind", bench.env, bench.folder)
    assert bench.verdict().is_clean


def test_another_store_than_the_groups_is_refused(bench):
    bench.work_off(20)

    other = bench.env | {"USERTASK_STORE_URL": f"sqlite:///{bench.folder / 'other.db'}"}

    assert_refused("another_store", other, bench.folder)
    assert bench.verdict().is_clean


def test_two_workers_with_different_stores_in_one_group_do_not_share_partitions(bench):
    bench.work_off(20)
    other = bench.env | {"USERTASK_STORE_URL": f"sqlite:///{bench.folder / 'other.db'}"}
    with Worker(bench.env, bench.folder):
        assert_refused("another_store", other, bench.folder)

    bench.work_off(20)
    assert bench.verdict().is_clean


def test_a_recreated_topic_is_refused(bench):
    bench.work_off(20)
    bench.recreate_commands()

    assert_refused("topic_recreated", bench.env, bench.folder)


def test_a_topic_recreated_together_with_its_group_is_refused(bench):
    bench.work_off(20)
    bench.delete_group()
    bench.recreate_commands()

    assert_refused("topic_recreated", bench.env, bench.folder)


def test_a_recreated_topic_that_is_longer_than_the_one_before_is_refused_and_adopted_when_somebody_says_so(bench):
    bench.work_off(20)
    bench.recreate_commands()
    already_sent = len(bench.load.sent)
    bench.send(40)

    assert_refused("topic_recreated", bench.env, bench.folder)
    planned = run_cli("store", "adopt-topic", "--dry-run", env=bench.env, cwd=bench.folder)
    assert_refused("topic_recreated", bench.env, bench.folder)
    adopted = run_cli("store", "adopt-topic", env=bench.env, cwd=bench.folder)

    assert planned.returncode == adopted.returncode == 0, adopted.stderr
    assert planned.stdout == adopted.stdout
    lines = [json.loads(line) for line in adopted.stdout.splitlines()]
    assert [line["partition"] for line in lines] == list(range(PARTITIONS))
    assert {(line["start"], line["unpublished"]) for line in lines} == {(0, 0)}
    assert already_sent < len(bench.load.sent)
    bench.work_off(20)
    assert bench.verdict().is_clean
    assert run_cli("store", "adopt-topic", env=bench.env, cwd=bench.folder).stdout == ""


def test_a_topic_that_is_recreated_under_a_running_worker_is_refused_as_soon_as_it_is_seen(bench):
    with Worker(bench.env, bench.folder) as worker:
        bench.send(2)
        await_committed(bench.bootstrap_servers, bench.topics.commands, bench.group, DEADLINE_S)
        bench.recreate_commands()
        bench.send(40)

        await_words('"cause": "topic_recreated"', worker)
        assert worker.terminate() == 0, worker.stderr()
    # whatever the worker has committed before it noticed, the topic is read from its beginning
    assert run_cli("store", "adopt-topic", env=bench.env, cwd=bench.folder).returncode == 0
    bench.work_off(20)

    assert not [*bench.verdict().lost, *bench.verdict().doubled]


def test_another_cluster_under_the_old_store_is_refused_though_its_offsets_fit(bench):
    bench.work_off(20)
    with EmbeddedKafka() as other:
        elsewhere = Bench(other.bootstrap_servers, bench.folder)
        names = {name: value for name, value in bench.env.items() if not name.endswith("BOOTSTRAP_SERVERS")}
        env = elsewhere.env | names
        create_topics(
            other.bootstrap_servers,
            *(NewTopic(name, PARTITIONS, 1) for name in vars(bench.topics).values() if not name.endswith("dlq")),
            NewTopic(bench.topics.dead_letters, PARTITIONS, 1, config={"max.message.bytes": "2000000"}),
        )
        load = Load(other.bootstrap_servers, bench.topics.commands, commands_per_s=1)
        load.burst(40)
        assert load._producer.flush(30) == 0

        assert_refused("another_cluster", env, bench.folder)


def test_a_partition_that_has_lost_its_records_is_refused_for_good_and_what_is_left_can_be_adopted(tmp_path):
    with EmbeddedKafka() as broker:
        bench = Bench(broker.bootstrap_servers, tmp_path)
        bench.work_off(20)
        broker.terminate()
        for partition in (broker.data_dir / "records").glob(f"{bench.topics.commands}-?"):
            shutil.rmtree(partition)  # as a disk that was replaced: the topic and its id stay
        broker.restart()

        assert_refused("records_lost", bench.env, bench.folder)
        bench.send(40)  # longer than what was there before: that proves nothing
        assert_refused("records_lost", bench.env, bench.folder)
        adopted = run_cli("store", "adopt-topic", env=bench.env, cwd=bench.folder)
        bench.work_off(20)

        assert adopted.returncode == 0, adopted.stderr
        assert {json.loads(line)["start"] for line in adopted.stdout.splitlines()} == {0}
        assert bench.verdict().is_clean


def test_an_idle_worker_that_was_killed_and_started_again_notes_what_is_published(bench):
    with Worker(bench.env, bench.folder) as worker:
        bench.send(20)
        await_committed(bench.bootstrap_servers, bench.topics.commands, bench.group, DEADLINE_S)
        worker.kill()
    with Worker(bench.env, bench.folder) as worker:
        await_noted(bench)
        worker.kill()
    await_group_gone(bench)

    log = bench.work_off(20)

    assert bench.verdict().is_clean
    assert "committed_offset_missing" in log


def await_noted(bench) -> None:
    """Wait until the store knows of all that it has applied that it is published."""
    deadline = time.monotonic() + DEADLINE_S
    with closing(sqlite3.connect(f"file:{bench.store}?mode=ro", uri=True)) as store:
        while store.execute("SELECT count(*) FROM partitions WHERE published < applied").fetchone() != (0,):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def await_group_gone(bench) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            bench.delete_group()
        except KafkaException:  # the killed member's session has not ended yet
            assert time.monotonic() < deadline
            time.sleep(0.2)
        else:
            return


def test_a_topic_with_fewer_partitions_than_the_store_has_seen_ends_the_start_with_4(bench):
    bench.work_off(20)
    bench.recreate_commands(partitions=1)

    worker = Worker(bench.env, bench.folder)
    worker.start()

    assert worker.has_ended(within_s=DEADLINE_S)
    assert worker.process.returncode == 4
    assert "fewer partitions" in worker.stderr()


def test_offsets_that_expired_after_a_clean_stop_lose_and_double_nothing(bench):
    bench.work_off(20)
    bench.delete_group()

    bench.work_off(20)

    assert bench.verdict().is_clean


def test_offsets_that_expired_after_a_crash_double_at_most_what_was_not_noted_and_say_so(bench):
    with Worker(bench.env, bench.folder) as worker:
        bench.send(20)
        await_committed(bench.bootstrap_servers, bench.topics.commands, bench.group, DEADLINE_S)
        worker.kill()
    await_group_gone(bench)

    log = bench.work_off(20)

    verdict = bench.verdict()
    assert not [*verdict.lost, *verdict.wrong]
    assert "committed_offset_missing" in log


def test_a_group_that_somebody_reset_is_refused(bench):
    bench.work_off(20)
    offsets = dict.fromkeys(range(PARTITIONS), 0)
    commit(bench.bootstrap_servers, bench.group, bench.topics.commands, offsets)

    assert_refused("offset_reset", bench.env, bench.folder)
