"""A batch that is damaged on the broker's disk: its partition is blocked, or goes on behind it; the others go on."""

import json
import struct
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from tests.integration.harness import (
    CREATE,
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
from tests.integration.raw_batches import (
    ATTRIBUTES_AT,
    COUNT_AT,
    GZIP,
    LENGTH_AT,
    LZ4,
    PAYLOAD_AT,
    PLAIN,
    SNAPPY,
    ZSTD,
    Disk,
    Raw,
    batch_of,
    changed,
    produce_raw,
    signed,
)
from worker.embedded import EmbeddedKafka

DAMAGED, OTHER = 1, 0
"""Partitions."""
PER_BATCH = 4
OTHERS_WITHIN_S = 5
HEALED_WITHIN_S = 12
"""A blocked partition is looked at every 5 s."""


@pytest.fixture(scope="module")
def broker():
    with EmbeddedKafka() as broker:
        yield broker


def garbled(batch: bytes) -> bytes:
    """Let the payload be nothing that its codec knows, under a checksum that is right."""
    return signed(changed(batch, PAYLOAD_AT, b"\xff" * 16))


def flipped(batch: bytes) -> bytes:
    return changed(batch, PAYLOAD_AT + 20, bytes([batch[PAYLOAD_AT + 20] ^ 1]))


@dataclass(frozen=True)
class Kind:
    codec: int
    change: object
    decided: int = 0
    """So many commands of the damaged batch can be read."""
    is_known: bool = True
    """Whether the range can be known."""


KINDS = {
    "a flipped bit": Kind(PLAIN, flipped),
    "no gzip": Kind(GZIP, garbled),
    "no snappy": Kind(SNAPPY, garbled),
    "no lz4": Kind(LZ4, garbled),
    "no zstd": Kind(ZSTD, garbled),
    "an unknown codec": Kind(PLAIN, lambda batch: signed(changed(batch, ATTRIBUTES_AT, b"\0\7"))),
    "too small a count": Kind(PLAIN, lambda batch: signed(changed(batch, COUNT_AT, struct.pack(">i", 1))), 1),
    "an offset far ahead": Kind(PLAIN, lambda batch: changed(batch, 0, struct.pack(">q", 2**40)), is_known=False),
    "a length of nothing": Kind(PLAIN, lambda batch: changed(batch, LENGTH_AT, bytes(4)), is_known=False),
    "a length beyond all": Kind(PLAIN, lambda batch: changed(batch, LENGTH_AT, b"\x7f\0\0\0"), is_known=False),
}


def creations(keys, codec=PLAIN) -> bytes:
    """Write a batch of commands that create these tasks."""
    records = [Raw(encoded({"userTaskKey": key, "name": "n" * 99}), cloud_event(CREATE)) for key in keys]
    return batch_of(records, codec)


class Bench:
    """Three batches in a partition, of which the one in the middle is damaged; and a worker."""

    def __init__(self, broker, folder, kind: Kind, **settings: str) -> None:
        self._broker = broker
        self._folder = folder
        self.topics = make_topics(broker.bootstrap_servers)
        self.env = environment(broker.bootstrap_servers, self.topics, folder / "tasks.db", **settings)
        self.keys = [[fresh_key() for _ in range(PER_BATCH)] for _ in range(3)]
        offsets = [self.write(keys, kind.codec) for keys in self.keys]
        self.first = offsets[1]
        self.last = offsets[2] - 1
        self.disk = Disk(broker, self.topics.commands, DAMAGED)
        self.disk.damage(self.first, kind.change)

    def write(self, keys, codec=PLAIN):
        return produce_raw(self._broker.bootstrap_servers, self.topics.commands, DAMAGED, creations(keys, codec))

    def worker(self):
        return unready(self.env, self._folder)

    def wire(self, worker) -> Wire:
        return Wire(self._broker.bootstrap_servers, self.topics, worker.watch)


@contextmanager
def unready(env, folder):
    """Start a worker, and do not wait until it is ready: it may never be."""
    worker = Worker(env | {"USERTASK_HTTP_PORT": str(free_port())}, folder)
    worker.start()
    try:
        await_http(worker)
        yield worker
    finally:
        worker.kill()


def await_http(worker: Worker) -> None:
    deadline = time.monotonic() + 60
    while True:
        with suppress(OSError):
            worker.get("/livez")
            return
        assert not worker.has_ended(within_s=0.05), worker.stderr()
        assert time.monotonic() < deadline, worker.stderr()


def created(wire: Wire) -> set[str]:
    return {event.body["userTaskKey"] for event in wire.events()}


def await_created(wire: Wire, keys, deadline_s: float = 20) -> None:
    wire.wait_until(lambda: created(wire) >= set(keys), deadline_s)


def await_blocked(worker: Worker) -> str:
    """Wait until the worker is not ready for its blocked partition, and return what it says of it."""
    deadline = time.monotonic() + 20
    while True:
        status, body = worker.get("/readyz?verbose")
        checks = {check["name"]: check for check in json.loads(body)["checks"]}
        if status == 503 and not checks["partitions_unblocked"]["ok"]:
            return checks["partitions_unblocked"]["detail"]
        assert time.monotonic() < deadline, worker.stderr()
        time.sleep(0.05)


def send_elsewhere(wire: Wire) -> list[str]:
    keys = [fresh_key() for _ in range(20)]
    wire.send_all(
        Unsent(encoded({"userTaskKey": key}), headers=cloud_event(CREATE), partition=2 * (number % 2))
        for number, key in enumerate(keys)
    )
    return keys


@pytest.mark.parametrize("name", KINDS)
def test_its_partition_is_blocked_by_name_and_offset_the_others_go_on_and_it_heals_by_itself(broker, tmp_path, name):
    kind = KINDS[name]
    bench = Bench(broker, tmp_path, kind)
    before, damaged, after = bench.keys
    with bench.worker() as worker, bench.wire(worker) as wire:
        await_created(wire, before + damaged[: kind.decided])
        detail = await_blocked(worker)

        await_created(wire, send_elsewhere(wire), OTHERS_WITHIN_S)

        assert f"partition {DAMAGED}: damaged_batch: {bench.topics.commands}" in detail
        expected = bench.first + kind.decided
        assert (f"offset {expected}" in detail) or (f"offsets {expected} to {bench.last}" in detail), detail
        assert worker.get("/livez")[0] == 200
        assert f'usertask_partition_blocked{{cause="damaged_batch",partition="{DAMAGED}"' in worker.get("/metrics")[1]
        assert not created(wire) & set(damaged[kind.decided :] + after)
        assert '"event": "partition_blocked"' in worker.stderr()

        bench.disk.heal()

        await_created(wire, damaged + after, HEALED_WITHIN_S)
        worker.await_ready()
        assert len(wire.events()) == len(created(wire))
        assert not wire.dead_letters()
        assert not wire.rejections()


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.is_known])
def test_it_is_stepped_over_with_a_dead_letter_that_names_the_range_if_a_setting_says_so(broker, tmp_path, name):
    kind = KINDS[name]
    bench = Bench(broker, tmp_path, kind, DAMAGED_BATCHES="skip")
    before, damaged, after = bench.keys
    decided = damaged[: kind.decided]
    with bench.worker() as worker, bench.wire(worker) as wire:
        await_created(wire, before + decided + after)
        worker.await_ready()
        (letter,) = wire.wait_until(wire.dead_letters)

        first = bench.first + kind.decided
        assert (letter.partition, letter.key, letter.value) == (DAMAGED, None, None)
        assert letter.text("dlq-error-type") == "damaged-batch"
        assert letter.text("__dlq.errors.offset") == str(bench.last)
        assert f"offsets {first} to {bench.last}" in (letter.text("__dlq.errors.message") or "")
        assert '"event": "damaged_batch_skipped"' in worker.stderr()
        await_created(wire, send_elsewhere(wire))
        assert not created(wire) & set(damaged[kind.decided :])
        assert not wire.rejections()


def test_a_batch_that_claims_more_records_than_there_are_loses_none(broker, tmp_path):
    too_many = Kind(PLAIN, lambda batch: signed(changed(batch, COUNT_AT, struct.pack(">i", 99))))
    bench = Bench(broker, tmp_path, too_many)
    with bench.worker() as worker, bench.wire(worker) as wire:
        await_created(wire, [key for keys in bench.keys for key in keys])
        worker.await_ready()
        assert len(wire.events()) == len(created(wire))
        assert not wire.dead_letters()


def test_a_range_that_nobody_knows_is_not_stepped_over(broker, tmp_path):
    bench = Bench(broker, tmp_path, KINDS["an offset far ahead"], DAMAGED_BATCHES="skip")
    with bench.worker() as worker, bench.wire(worker) as wire:
        assert f"offset {bench.first}" in await_blocked(worker)
        await_created(wire, bench.keys[0])
        assert not wire.dead_letters()


def test_a_partition_goes_on_when_what_is_damaged_is_deleted(broker, tmp_path):
    bench = Bench(broker, tmp_path, KINDS["a flipped bit"])
    before, damaged, after = bench.keys
    with bench.worker() as worker, bench.wire(worker) as wire:
        await_blocked(worker)
        admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
        behind = TopicPartition(bench.topics.commands, DAMAGED, bench.last + 1)
        for deleted in admin.delete_records([behind]).values():
            deleted.result(30)

        await_created(wire, before + after, HEALED_WITHIN_S)
        worker.await_ready()
        assert not created(wire) & set(damaged)
        assert '"event": "commands_lost_to_retention"' in worker.stderr()


def test_what_a_worker_has_stepped_over_is_stepped_over_once(broker, tmp_path):
    bench = Bench(broker, tmp_path, KINDS["a flipped bit"], DAMAGED_BATCHES="skip")
    before, _, after = bench.keys
    for _ in range(2):
        with bench.worker() as worker, bench.wire(worker) as wire:
            await_created(wire, before + after)
            worker.kill()
    with bench.worker() as worker, bench.wire(worker) as wire:
        await_created(wire, send_elsewhere(wire))
        assert len(wire.dead_letters()) == 1
        assert len(wire.events()) == len(created(wire))
        assert worker.terminate() == 0


def test_a_partition_that_is_blocked_is_blocked_again_after_a_restart_and_heals_then(broker, tmp_path):
    bench = Bench(broker, tmp_path, KINDS["no gzip"])
    before, damaged, after = bench.keys
    for _ in range(2):
        with bench.worker() as worker, bench.wire(worker) as wire:
            await_blocked(worker)
            assert worker.terminate() == 0, worker.stderr()
    bench.disk.heal()
    with bench.worker() as worker, bench.wire(worker) as wire:
        await_created(wire, before + damaged + after)
        assert len(wire.events()) == len(created(wire))


def test_a_blocked_partition_is_no_standstill_and_lag_says_why(broker, tmp_path):
    bench = Bench(broker, tmp_path, KINDS["a length of nothing"], STALL_LIMIT_S="12")
    with bench.worker() as worker:
        await_blocked(worker)
        told = json.loads(run_cli("lag", "--json", env=bench.env, cwd=tmp_path).stdout)
        assert f"offset {bench.first}" in told["partitions"][DAMAGED]["blocked"]
        until = time.monotonic() + 15
        while time.monotonic() < until:
            assert worker.get("/livez")[0] == 200, (worker.get("/livez?verbose"), worker.stderr())
            time.sleep(0.2)
