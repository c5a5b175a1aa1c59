"""The embedded Kafka is a real one, can be killed and restarted, leaves nothing behind, and says what it lacks."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from worker.embedded import EmbeddedKafka, EmbeddedKafkaError, find_java

DEADLINE_S = 30


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedKafka]:
    with EmbeddedKafka() as broker:
        yield broker


def create(broker: EmbeddedKafka, topic: str) -> None:
    with AdminClient({"bootstrap.servers": broker.bootstrap_servers}) as admin:
        admin.create_topics([NewTopic(topic, 1, 1)])[topic].result()


def write(broker: EmbeddedKafka, topic: str, value: bytes, *, commit: bool) -> None:
    settings = {"bootstrap.servers": broker.bootstrap_servers, "transactional.id": topic}
    with Producer(settings) as producer:
        producer.init_transactions(DEADLINE_S)
        producer.begin_transaction()
        producer.produce(topic, value)
        producer.flush(DEADLINE_S)
        (producer.commit_transaction if commit else producer.abort_transaction)(DEADLINE_S)


def read_one(broker: EmbeddedKafka, topic: str) -> bytes | None:
    settings = {
        "bootstrap.servers": broker.bootstrap_servers,
        "group.id": topic,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
    }
    with Consumer(settings) as consumer:
        consumer.subscribe([topic])
        return poll(consumer).value()


def poll(consumer: Consumer) -> Message:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        record = consumer.poll(1)
        if record is not None and record.error() is None:
            return record
    raise AssertionError(f"no record within {DEADLINE_S} s")


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_committed_record_comes_out_and_an_aborted_one_does_not(broker: EmbeddedKafka) -> None:
    create(broker, "transactions")
    write(broker, "transactions", b"aborted", commit=False)
    write(broker, "transactions", b"committed", commit=True)
    assert read_one(broker, "transactions") == b"committed"


@pytest.mark.parametrize("end", [EmbeddedKafka.kill, EmbeddedKafka.terminate])
def test_a_restart_keeps_the_records_and_the_address(broker: EmbeddedKafka, end) -> None:
    create(broker, end.__name__)
    write(broker, end.__name__, b"kept", commit=True)
    before = (broker.bootstrap_servers, broker.pid)
    end(broker)
    assert broker.pid is None
    broker.restart()
    assert broker.bootstrap_servers == before[0]
    assert broker.pid != before[1]
    assert read_one(broker, end.__name__) == b"kept"


def test_the_bundled_java_runs_the_broker_which_leaves_neither_process_nor_data_behind() -> None:
    with EmbeddedKafka(java=find_java(search_path="")) as broker:
        create(broker, "bundled")
        write(broker, "bundled", b"value", commit=True)
        assert read_one(broker, "bundled") == b"value"
        pid, folder = broker.pid, broker.data_dir
        assert pid is not None
        assert folder.is_dir()
    assert is_gone(pid)
    assert not folder.exists()
    broker.stop()


def test_a_given_data_folder_outlives_the_broker_and_serves_the_next_one(tmp_path: Path) -> None:
    with EmbeddedKafka(data_dir=tmp_path) as broker:
        create(broker, "kept")
    with (
        EmbeddedKafka(data_dir=tmp_path) as broker,
        AdminClient({"bootstrap.servers": broker.bootstrap_servers}) as admin,
    ):
        assert "kept" in admin.list_topics(timeout=DEADLINE_S).topics


def test_the_broker_ends_when_its_python_is_killed(tmp_path: Path) -> None:
    script = f"""
import signal, pathlib
from worker.embedded import EmbeddedKafka
broker = EmbeddedKafka(data_dir=pathlib.Path({str(tmp_path)!r}))
broker.start()
print(broker.pid, flush=True)
signal.pause()
"""
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        broker = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + DEADLINE_S
    while not is_gone(broker.pid):
        assert time.monotonic() < deadline, "the broker lives on"


def test_it_says_what_it_lacks_where_there_is_no_java() -> None:
    with pytest.raises(EmbeddedKafkaError, match="Java 17 or newer: the PATH has none"):
        find_java(search_path="", bundled=False)


def test_an_old_java_is_no_java(tmp_path: Path) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_452\"' >&2\n")
    java.chmod(0o755)
    with pytest.raises(EmbeddedKafkaError, match="an older one"):
        find_java(search_path=str(tmp_path), bundled=False)


def test_a_java_that_is_not_there_is_named_and_nothing_is_left_behind(tmp_path: Path) -> None:
    broker = EmbeddedKafka(java=tmp_path / "no-such-java")
    with pytest.raises(EmbeddedKafkaError, match="no-such-java"):
        broker.start()
    assert not broker.data_dir.exists()


def test_a_broker_that_cannot_start_shows_the_end_of_its_log() -> None:
    broker = EmbeddedKafka(overrides={"listeners": "PLAINTEXT://192.0.2.1:9092,CONTROLLER://192.0.2.1:9093"})
    with pytest.raises(EmbeddedKafkaError, match=r"(?s)while starting.*log.*192\.0\.2\.1"):
        broker.start(timeout_s=30)
    assert not broker.data_dir.exists()


def test_a_setting_that_kafka_refuses_is_named() -> None:
    with pytest.raises(EmbeddedKafkaError, match=r"log\.retention\.hours"):
        EmbeddedKafka(overrides={"log.retention.hours": "none"}).start()


def test_a_taken_port_is_named(broker: EmbeddedKafka) -> None:
    port = broker.bootstrap_servers.rpartition(":")[2]
    with pytest.raises(EmbeddedKafkaError, match=f"Port {port}"):
        EmbeddedKafka(port=int(port)).start()
