"""A fleet of workers to which random things happen: to them, to their store, and to the brokers of a cluster."""

import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.fleet import ChaosWorker
from tests.chaos.leaders import TRANSACTIONS, Leaders, Place
from tests.chaos.waits import Window
from tests.embedded_cluster import BROKERS, EmbeddedCluster, Node
from tests.embedded_postgres import EmbeddedPostgres
from tests.integration.harness import PARTITIONS

SESSION_TIMEOUT_S = 3
DRAINED, KILLED = 0, -signal.SIGKILL
HEALTHY_DEADLINE_S = 120
CAUGHT_UP_DEADLINE_S = 60
UNWANTED = (
    "Traceback",
    "Future exception was never retrieved",
    "Task exception was never retrieved",
    "partition_refused",
)
"""What no worker may say, whatever happens to the brokers."""


@dataclass(frozen=True)
class Ground:
    """What a storm may shake besides the workers: what is None is left alone."""

    cluster: EmbeddedCluster | None = None
    store: EmbeddedPostgres | None = None


class Storm:
    """A fleet of workers to which random things happen."""

    def __init__(
        self, env: dict[str, str], folder: Path, workers: int, seed: int, ground: Ground | None = None
    ) -> None:
        self.happened: Counter[str] = Counter()
        self.failures: list[str] = []
        self.windows: list[Window] = []
        self._env = env
        self._folder = folder
        self._random = random.Random(seed)
        self._ground = ground or Ground()
        self._started_workers: list[ChaosWorker] = []
        self._workers = [self._started() for _ in range(workers)]

    def bootstrap(self, bootstrap_servers: str) -> None:
        """Give the workers that start from now on other brokers to begin with."""
        self._env |= {"USERTASK_KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers}

    # faults

    def one_fault(self, is_caught_up: Callable[[], bool] = lambda: True) -> None:
        """Let something happen, and put a new worker in the place of one that ends by it.

        After a fault of brokers wait, not too long, until all that was sent is answered: `is_caught_up`.
        """
        self.replace_ended()
        faults = self._random.choice([self._worker_faults, *self._ground_faults()])
        name, fault = self._random.choice(list(faults().items()))
        self.happened[name] += 1
        began_s = time.time()
        fault()
        healthy_s = self._await_healthy()
        self.windows.append(Window(name, began_s, healthy_s))
        if self._ground.cluster is not None:
            caught_up_s = _until(is_caught_up, CAUGHT_UP_DEADLINE_S)
            say(f"{name}: {healthy_s - began_s:.1f} s until healthy, caught up after {caught_up_s:.1f} s")

    def _worker_faults(self) -> dict[str, Callable[[], None]]:
        place = self._random.randrange(len(self._workers))
        return {
            "kill a worker": lambda: self.kill_worker(place),
            "drain a worker": lambda: self.drain_worker(place),
            "freeze a worker": lambda: self.freeze_worker(place),
        }

    def _ground_faults(self) -> Iterator[Callable[[], dict[str, Callable[[], None]]]]:
        if self._ground.cluster is not None:
            yield from [self._broker_faults] * 3
        if self._ground.store is not None:
            yield self._store_faults

    def _store_faults(self) -> dict[str, Callable[[], None]]:
        store = self._ground.store
        assert store is not None
        return {
            "kill the store": lambda: self._without_store(store.kill),
            "stop the store": lambda: self._without_store(store.terminate),
        }

    def _broker_faults(self) -> dict[str, Callable[[], None]]:
        aim, place = self._aim()
        return {
            f"stop {aim}": lambda: self._without(self._leader(place), Node.terminate),
            f"kill {aim}": lambda: self._without(self._leader(place), Node.kill),
            f"freeze {aim}": lambda: self._frozen(self._leader(place)),
            f"move {aim}": lambda: self._move(place),
            "elect the preferred leaders": self._leaders.elect_preferred,
            "stop two of three": lambda: self._without_two(Node.terminate),
            "kill two of three": lambda: self._without_two(Node.kill),
        }

    # of workers

    def kill_worker(self, place: int) -> None:
        """Kill a worker, and start another."""
        worker = self._workers[place]
        worker.process.kill()
        self._expect(worker, worker.process.wait(), KILLED)
        self._workers[place] = self._started()

    def drain_worker(self, place: int, **more: str) -> None:
        """Let a worker leave, and start another, which may be given more settings."""
        self._drain(self._workers[place])
        self._workers[place] = self._started(more)

    def freeze_worker(self, place: int) -> None:
        worker = self._workers[place]
        worker.process.send_signal(signal.SIGSTOP)
        # the length is the point: shorter than the session timeout, or longer
        self._wait(0.1, 2 * float(self._env["USERTASK_SESSION_TIMEOUT_S"]))
        worker.process.send_signal(signal.SIGCONT)

    # of the store

    def _without_store(self, end: Callable[[], None]) -> None:
        assert self._ground.store is not None
        end()
        self._wait(0, 3)
        self._ground.store.restart()

    # of brokers

    @property
    def _leaders(self) -> Leaders:
        assert self._ground.cluster is not None
        return Leaders(self._ground.cluster)

    def _aim(self) -> tuple[str, Place]:
        """Choose whom a fault shall hit, in words, and what it leads."""
        commands = self._env["USERTASK_COMMANDS_TOPIC"]
        return self._random.choice(
            [
                ("the group's coordinator", self._leaders.group_place(self._env["USERTASK_GROUP_ID"])),
                ("a transactions' coordinator", self._publishers_place()),
                ("a commands leader", Place(commands, self._random.randrange(PARTITIONS))),
            ]
        )

    def _publishers_place(self) -> Place:
        """Return whose leader coordinates the transactions of some worker that runs."""
        publishers = [name for worker in self._workers if (name := last_publisher(worker)) is not None]
        if publishers:
            return self._leaders.transaction_place(self._random.choice(publishers))
        return Place(TRANSACTIONS, 0)

    def _leader(self, place: Place) -> Node:
        return self._leaders.leader(place)

    def _without(self, node: Node, end: Callable[[Node], None]) -> None:
        end(node)
        self._wait_away(0, 5)
        node.restart()

    def _frozen(self, node: Node) -> None:
        node.freeze()
        self._wait_away(5, 25)
        node.thaw()

    def _without_two(self, end: Callable[[Node], None]) -> None:
        assert self._ground.cluster is not None
        for node in self._random.sample(list(self._ground.cluster.nodes.values()), BROKERS - 1):
            end(node)
        self._wait(0, 5)
        self._ground.cluster.restart()

    def _move(self, place: Place) -> None:
        self._leaders.move(place, self._random.choice(self._leaders.others(self._leader(place))).node_id)

    def _wait_away(self, shortest_s: float, longest_s: float) -> None:
        """Wait, and in one of two cases kill a worker then: others have to take over with what is left."""
        self._wait(shortest_s, longest_s)
        if self._random.random() < 0.5:
            self.happened["a worker killed meanwhile"] += 1
            self.kill_worker(self._random.randrange(len(self._workers)))
            self._wait(0, 5)

    def _await_healthy(self) -> float:
        if self._ground.cluster is not None:
            self._leaders.await_healthy(HEALTHY_DEADLINE_S)
        return time.time()

    # around it

    def pause(self, longest_s: float) -> None:
        self._wait(0, longest_s)

    def end(self) -> None:
        """Drain all workers, and look at what they have said."""
        self.replace_ended()
        for worker in self._workers:
            self._drain(worker)
        self.failures += unwanted(self._started_workers)

    def kill(self) -> None:
        """Leave no process behind, whatever went wrong."""
        for worker in self._workers:
            worker.kill()

    def replace_ended(self) -> None:
        """Start another worker for each that has ended by itself, which is a failure."""
        for place, worker in enumerate(self._workers):
            if worker.has_ended():
                self.failures.append(f"ended by itself with {worker.process.returncode}:\n{worker.stderr()[-3000:]}")
                self._workers[place] = self._started()

    def _drain(self, worker: ChaosWorker) -> None:
        while "worker_starting" not in worker.stderr() and not worker.has_ended(within_s=0.05):
            pass  # before that, Python itself is starting, and ends at a signal as any program does
        self._expect(worker, worker.terminate(), DRAINED)

    def _wait(self, shortest_s: float, longest_s: float) -> None:
        threading.Event().wait(self._random.uniform(shortest_s, longest_s))

    def _started(self, more: Mapping[str, str] | None = None) -> ChaosWorker:
        worker = ChaosWorker(self._env | (more or {}), self._folder)
        worker.start()
        self._started_workers.append(worker)
        return worker

    def _expect(self, worker: ChaosWorker, code: int, expected: int) -> None:
        if code != expected:
            self.failures.append(f"exit code {code} instead of {expected}:\n{worker.stderr()[-3000:]}")


def say(words: str) -> None:
    """Tell how a long run gets on."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {words}\n")
    sys.stdout.flush()


def last_publisher(worker: ChaosWorker) -> str | None:
    """Return the transactional id under which a worker publishes, by its log; None if it has taken nothing over."""
    lines = [line for line in worker.stderr().splitlines() if '"partitions_taken_over"' in line]
    return json.loads(lines[-1])["publisher"] if lines else None


def unwanted(workers: Sequence[ChaosWorker]) -> list[str]:
    """Return one line for each thing that a worker should not have said."""
    found = Counter(
        words for worker in workers for line in worker.stderr().splitlines() for words in UNWANTED if words in line
    )
    return [f"{times} times in the logs: {words}" for words, times in found.items()]


def _until(is_so: Callable[[], bool], deadline_s: float) -> float:
    """Poll, not longer than that; return how long it took."""
    began_s = time.monotonic()
    while not is_so() and time.monotonic() - began_s < deadline_s:
        threading.Event().wait(0.1)
    return time.monotonic() - began_s
