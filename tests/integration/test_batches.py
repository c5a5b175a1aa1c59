"""A batch is one store transaction and one Kafka transaction: asserted by counting them, from outside."""

import struct
from contextlib import closing

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import NewTopic

from tests.chaos.judge import Command, await_committed, judge, outcomes, story
from tests.integration.harness import (
    DEAD_LETTER_MAX_BYTES,
    PARTITIONS,
    REJECTED,
    Topics,
    Unsent,
    Wire,
    Worker,
    cloud_event,
    create_topics,
    encoded,
    environment,
    fresh_id,
    make_topics,
)

TASKS = 190
WAL_HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24


def single_partition_topics(bootstrap_servers: str) -> Topics:
    base = f"t{fresh_id()[:8]}"
    topics = Topics(f"{base}.commands", f"{base}.events", f"{base}.rejections", f"{base}.dlq")
    create_topics(
        bootstrap_servers,
        *(NewTopic(name, 1, 1) for name in (topics.commands, topics.events, topics.rejections)),
        NewTopic(topics.dead_letters, 1, 1, config={"max.message.bytes": str(DEAD_LETTER_MAX_BYTES)}),
    )
    return topics


def mixed_commands() -> list[Command]:
    """Return 1,000 commands: five a task, a duplicate among them; and 50 bad ones."""
    commands = [command for number in range(TASKS) for command in story(str(1000 + number))]
    bad = [
        Command(command_id, "1", cloud_event(command_id=command_id), value, REJECTED)
        for value in (b'{"varaibles":{}}', b'{"userTaskKey":"404"}') * 25
        for command_id in [fresh_id()]
    ]
    return commands[:500] + bad + commands[500:]


def commits_in_wal(path) -> int:
    """Count the commit frames of SQLite's write-ahead log (their database size is not zero)."""
    wal = path.with_name(path.name + "-wal").read_bytes()
    page_bytes = struct.unpack_from(">I", wal, 8)[0]
    salt = wal[16:24]
    frames = range(WAL_HEADER_BYTES, len(wal), FRAME_HEADER_BYTES + page_bytes)
    return sum(struct.unpack_from(">I", wal, at + 4)[0] > 0 for at in frames if wal[at + 8 : at + 16] == salt)


def transactions_on(bootstrap_servers: str, topic: str, records: int) -> int:
    """Count the transaction markers of a one-partition topic: what takes an offset and is no record."""
    with closing(Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "count"})) as consumer:
        return consumer.get_watermark_offsets(TopicPartition(topic, 0), 30)[1] - records


def test_a_thousand_mixed_commands_are_one_store_transaction_and_one_kafka_transaction(kafka, tmp_path):
    topics, path = single_partition_topics(kafka.bootstrap_servers), tmp_path / "tasks.db"
    env = environment(kafka.bootstrap_servers, topics, path, MAX_BATCH_RECORDS="1000")
    with Worker(env, tmp_path) as worker:
        assert worker.terminate() == 0  # the store is migrated, the partition taken over once
    commands = mixed_commands()
    with Wire(kafka.bootstrap_servers, topics) as wire:
        for command in commands:
            wire._producer.produce(topics.commands, command.value, command.key.encode(), headers=command.headers)
        assert wire._producer.flush(30) == 0

    with Worker(env, tmp_path) as worker:
        await_committed(kafka.bootstrap_servers, topics.commands, env["USERTASK_GROUP_ID"], 60)
        applied = worker.get("/metrics")[1]
        commits = commits_in_wal(path)
        worker.kill()

    seen = outcomes(kafka.bootstrap_servers, topics)
    assert judge(commands, seen).is_clean
    assert len(commands) == 1000
    for topic in (topics.events, topics.rejections):
        assert transactions_on(kafka.bootstrap_servers, topic, sum(one.topic == topic for one in seen)) == 1
    assert "usertask_store_transaction_seconds_count 1.0" in applied
    assert "usertask_batch_records_sum 1000.0" in applied
    assert commits <= 3  # the takeover's claim, the batch, and the note of what is published


def test_batches_of_nothing_but_duplicates_are_committed_by_one_producer(kafka, tmp_path):
    """Their transactions have no records, so that the offsets come first, right after the last transaction."""
    topics = make_topics(kafka.bootstrap_servers)
    env = environment(kafka.bootstrap_servers, topics, tmp_path / "tasks.db", MAX_BATCH_RECORDS="10")
    with Worker(env, tmp_path) as worker, Wire(kafka.bootstrap_servers, topics, worker.watch) as wire:
        again = [Unsent(encoded({"userTaskKey": "1"}), b"1", cloud_event(command_id=fresh_id()))] * 500
        wire.send_all(again)
        await_committed(kafka.bootstrap_servers, topics.commands, env["USERTASK_GROUP_ID"], 60)

        metrics = worker.get("/metrics")[1]
        assert "usertask_duplicates_total 499.0" in metrics
        assert f"usertask_takeovers_total {PARTITIONS}.0" in metrics
        assert "producer_replaced" not in worker.stderr()
