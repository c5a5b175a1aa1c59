"""Any history of commands, redeliveries, crashes and takeovers leaves in the store what a few dicts say it should."""

import asyncio
import json
from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.contract.backends import Backend, postgres_backend, sqlite_backend
from tests.unit.records import DESTINATIONS, LIMITS, a_command
from worker.batch import Batch, decode_all
from worker.encoder import Encoder, Reply
from worker.stores.port import Advance, StoreFencedError

PARTITIONS = (0, 1)
KEYS = range(3)
NOW_MS = 1_700_000_000_000

partitions = st.sampled_from(PARTITIONS)
keys = st.sampled_from(KEYS)


class Model:
    """What a store is to hold, said once more and without a store: dicts, and commands one after the other."""

    def __init__(self):
        self.tasks = {}  # key: (state, version)
        self.ids = {}  # command id: the command, and the status it led to
        self.outcomes = {partition: {} for partition in PARTITIONS}  # offset: status
        self.applied = dict.fromkeys(PARTITIONS, 0)
        self.owners = dict.fromkeys(PARTITIONS, 0)

    def apply(self, partition, commands):
        for command in commands:
            status = self._decide(*command)
            if status is not None:
                self.outcomes[partition][self.applied[partition]] = status
            self.applied[partition] += 1

    def _decide(self, kind, key, command_id, asks):
        if command_id in self.ids:
            command, status = self.ids[command_id]
            return 400 if command != (kind, key) else status if asks else None
        status = self._transition(kind, key)
        self.ids[command_id] = ((kind, key), status)
        return status

    def _transition(self, kind, key):
        state, version = self.tasks.get(key, (None, 0))
        if kind == "create":
            after = "CREATED" if state is None else None
        else:
            after = {"complete": "COMPLETED", "cancel": "CANCELED"}[kind] if state == "CREATED" else None
        if after is None:
            return 404 if state is None else 409
        self.tasks[key] = (after, version + 1)
        return 204


class CrashedError(Exception):
    pass


class History(RuleBasedStateMachine):
    """One topic and its tasks for each example, all in the same store."""

    runner: asyncio.Runner
    backend: Backend
    examples: count

    def __init__(self):
        super().__init__()
        self.number = next(self.examples)
        self.topic = f"commands-{self.number}"
        self.model = Model()
        self.log = {partition: [] for partition in PARTITIONS}
        self.encoder = Encoder(DESTINATIONS)
        self.store = self.backend.make()
        self.run(self.store.open())

    def run(self, work):
        return self.runner.run(work)

    def teardown(self):
        self.run(self.store.close())

    @initialize()
    def first_takeover(self):
        for partition in PARTITIONS:
            self.take_over(partition)
            self.run(self.store.begin(self.topic, partition, 1, 0))
        self.believed = dict(self.model.applied)

    @rule(partition=partitions, key=keys, kind=st.sampled_from(["create", "complete", "cancel"]), asks=st.booleans())
    def send(self, partition, key, kind, asks):
        self.log[partition].append((kind, key, f"{self.number}-{partition}-{len(self.log[partition])}", asks))

    @rule(partition=partitions, asks=st.booleans(), data=st.data())
    def send_a_duplicate(self, partition, asks, data):
        if sent := self.log[0] + self.log[1]:
            self.log[partition].append((*data.draw(st.sampled_from(sent))[:3], asks))

    @rule(partition=partitions, key=keys, data=st.data())
    def send_another_command_with_a_used_id(self, partition, key, data):
        if sent := self.log[0] + self.log[1]:
            self.log[partition].append(("cancel", key, data.draw(st.sampled_from(sent))[2], False))

    @rule(limit=st.integers(1, 6), chosen=st.sampled_from([(0,), (1,), (0, 1)]))
    def work(self, limit, chosen):
        batches = {number: self.batch(number, limit) for number in chosen}
        self.apply(batches)
        for number, commands in batches.items():
            self.model.apply(number, commands)
        self.believed = dict(self.model.applied)

    @rule(partition=partitions, limit=st.integers(1, 6))
    def crash_before_the_commit(self, partition, limit):
        with pytest.raises(CrashedError):
            self.apply({partition: self.batch(partition, limit)}, crash=True)

    @rule(partition=partitions, limit=st.integers(1, 6))
    def crash_after_the_commit(self, partition, limit):
        commands = self.batch(partition, limit)
        self.apply({partition: commands})
        self.model.apply(partition, commands)
        rows = self.run(self.store.partitions(self.topic, PARTITIONS))
        self.believed = {number: row.applied for number, row in rows.items()}

    @rule(partition=partitions, data=st.data())
    def redeliver_what_is_applied(self, partition, data):
        if self.believed[partition] == 0:
            return
        first = data.draw(st.integers(0, self.believed[partition] - 1))
        with pytest.raises(StoreFencedError):
            self.apply({partition: self.log[partition][first:]}, first=first)

    @rule(partition=partitions)
    def take_over(self, partition):
        owner = self.model.owners[partition]
        assert self.run(self.store.claim(self.topic, {partition: owner}, f"p{owner}")) == {partition}
        self.model.owners[partition] += 1

    @rule(partition=partitions, limit=st.integers(1, 6), back=st.integers(1, 3))
    def wake_up_as_a_zombie(self, partition, limit, back):
        owner = self.model.owners[partition] - back
        with pytest.raises(StoreFencedError):
            self.apply({partition: self.batch(partition, limit)}, owner=owner)
        assert self.run(self.store.claim(self.topic, {partition: owner}, "zombie")) == set()

    @rule()
    def restart(self):
        self.run(self.store.close())
        self.store = self.backend.make()
        self.run(self.store.open())

    @invariant()
    def the_store_holds_what_the_model_holds(self):
        if not hasattr(self, "believed"):
            return
        rows = self.run(self.store.partitions(self.topic, PARTITIONS))
        assert {number: (row.owner, row.applied) for number, row in rows.items()} == {
            number: (self.model.owners[number], self.model.applied[number]) for number in PARTITIONS
        }
        for key in KEYS:
            task = self.run(self.store.task(self.key(key)))
            assert (task and (task.state, task.version)) == self.model.tasks.get(key)
        for number in PARTITIONS:
            recorded = self.run(self.store.recorded(self.topic, number, 0, 2**62, 10_000))
            assert {offset: status_of(records) for offset, records in recorded} == self.model.outcomes[number]

    def key(self, key):
        return self.number * len(KEYS) + key + 1

    def batch(self, partition, limit):
        applied = self.model.applied[partition]
        return self.log[partition][applied : applied + limit]

    def apply(self, batches, *, first=None, owner=None, crash=False):
        """Do what a worker does with these commands, by partition."""
        advances, records = [], []
        for number, commands in batches.items():
            start = self.believed[number] if first is None else first
            advances.append(
                Advance(
                    partition=number,
                    owner=self.model.owners[number] if owner is None else owner,
                    applied=start,
                    next_applied=start + len(commands),
                    published=0,
                )
            )
            records += [self.record(number, start + index, command) for index, command in enumerate(commands)]
        batch = Batch(decode_all(records), self.encoder, LIMITS)

        def decide(snapshot):
            changes = batch.decide(snapshot, NOW_MS)
            if crash:
                raise CrashedError
            return changes

        keys = (batch.task_keys, batch.command_keys)
        return self.run(self.store.apply(self.topic, advances, *keys, decide, batch.asking_keys))

    def record(self, partition, offset, command):
        kind, key, command_id, asks = command
        record = a_command(kind, {"userTaskKey": str(self.key(key))}, command_id, offset)
        headers = [*record.headers, *([("reply_to", b"replies")] if asks else [])]
        return type(record)(record.value, record.key, headers, offset, self.topic, partition)


def status_of(records):
    assert len({(one.key, one.value, one.headers) for one in records}) == 1, "a reply repeats its outcome"
    assert [type(one) for one in records[1:]] in ([], [Reply])
    return json.loads(records[0].value).get("status", 204)


@pytest.mark.parametrize("name", ["sqlite", "postgres"])
def test_any_history_leaves_what_the_model_says(name, tmp_path, request):
    url = request.getfixturevalue("postgres").url if name == "postgres" else ""
    with asyncio.Runner() as runner:
        made = postgres_backend(url)
        backend = runner.run(made.__aenter__()) if url else sqlite_backend(tmp_path)
        machine = type("History", (History,), {"runner": runner, "backend": backend, "examples": count()})
        try:
            run_state_machine_as_test(machine, settings=modest())
        finally:
            if url:
                runner.run(made.__aexit__(None, None, None))


def modest():
    """A soak may run as long as its profile says; every other run takes a few seconds."""
    examples = max(30, settings().max_examples) if settings().max_examples > 100 else 30
    return settings(max_examples=examples, stateful_step_count=30, suppress_health_check=list(HealthCheck))
