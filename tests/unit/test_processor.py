"""Batches that go through the store in parts."""

import time

import pytest

from tests.unit.records import DESTINATIONS, LIMITS, ARecord, a_command
from worker import batch as batches
from worker.batch import decode_all
from worker.encoder import Encoder, Reply
from worker.processor import Processor
from worker.reporting import Reporter
from worker.session import Decided, Held
from worker.stores.port import StoreUnavailableError
from worker.stores.sqlite import SqliteStore
from worker.telemetry.health import Health
from worker.telemetry.metrics import Metrics
from worker.telemetry.tracing import Tracing

DUPLICATES = 8


class Queue:
    """What the processor needs of a session; notes how far the store was at each submission."""

    def __init__(self) -> None:
        self.held, self.noted = {0: Held(owner=1, applied=0, published=0)}, {}
        self.submitted: list[tuple[int, Decided]] = []

    async def submit(self, decided: Decided) -> None:
        self.submitted.append((self.held[0].applied, decided))


@pytest.fixture
async def store(tmp_path):
    store = SqliteStore(tmp_path / "tasks.db")
    await store.open()
    await store.claim("commands", {0: 0}, "first")
    await store.begin("commands", 0, 1, 0)
    yield store
    await store.close()


async def test_each_part_of_what_is_too_much_at_once_is_submitted_before_the_next_is_applied(store, monkeypatch):
    tracing = Tracing("commands", "group")
    reporter = Reporter("commands", "group", Metrics(), Health(), tracing)
    processor, queue = Processor("commands", store, Encoder(DESTINATIONS), LIMITS, reporter), Queue()
    monkeypatch.setattr(batches, "REPEATED_BYTES_MAX", 1)
    records: list[ARecord] = [a_command("create", {"userTaskKey": "1"}, "same", at) for at in range(DUPLICATES + 1)]
    for record in records[1:]:
        record.headers.append(("reply_to", b"replies"))

    await processor.process(queue, decode_all(records))

    replies = [(applied, one) for applied, decided in queue.submitted for one in decided.records if type(one) is Reply]
    assert [applied for applied, _ in replies] == list(range(2, DUPLICATES + 2))
    assert len({one.value for _, one in replies}) == 1


class WearyStore(SqliteStore):
    """A store that was away for some batches; notes how many offsets each batch advances."""

    away_for = 6

    async def apply(self, topic, advances, *more):
        if self.away_for:
            self.away_for -= 1
            raise StoreUnavailableError("away")
        self.taken = [*getattr(self, "taken", []), sum(one.next_applied - one.applied for one in advances)]
        return await super().apply(topic, advances, *more)


async def test_after_an_outage_batches_grow_while_they_are_taken(tmp_path):
    store = WearyStore(tmp_path / "tasks.db")
    await store.open()
    await store.claim("commands", {0: 0}, "first")
    await store.begin("commands", 0, 1, 0)
    reporter = Reporter("commands", "group", Metrics(), Health(), Tracing("commands", "group"))
    processor, queue = Processor("commands", store, Encoder(DESTINATIONS), LIMITS, reporter), Queue()
    commands = decode_all([a_command("create", {"userTaskKey": str(at + 1)}, str(at), at) for at in range(63)])
    for _ in range(WearyStore.away_for):
        with pytest.raises(StoreUnavailableError):
            await processor.process(queue, commands)

    await processor.process(queue, commands)

    assert store.taken == [1, 2, 4, 8, 16, 32]
    await store.close()


async def test_what_a_clock_behind_the_stores_has_decided_counts_as_decided_by_the_stores_clock(store):
    reporter = Reporter("commands", "group", Metrics(), Health(), Tracing("commands", "group"))
    processor, queue = Processor("commands", store, Encoder(DESTINATIONS), LIMITS, reporter), Queue()
    now_ms = time.time_ns() // 1_000_000
    reporter.clocks.store_said(now_ms + 8 * 86_400_000)

    await processor.process(queue, decode_all([a_command("create", {"userTaskKey": "1"}, "id", 0)]))

    assert await store.oldest_ms() == pytest.approx(now_ms + 8 * 86_400_000, abs=60_000)
    [(_, decided)] = queue.submitted
    assert decided.records[0].timestamp_ms == pytest.approx(now_ms, abs=60_000)
