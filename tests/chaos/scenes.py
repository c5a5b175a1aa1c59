"""Scenes on three brokers: orderly moves of a coordinator, and a coordinator or a leader of yesterday.

`python -m tests.chaos.scenes coordinator-of-yesterday --rounds 10 --without barrier` plays one, and says what came
of it.
"""

import argparse
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.fleet import database
from tests.chaos.judge import Load, Verdict, await_committed, each_outcome, judge
from tests.chaos.leaders import Leaders, Place, await_true
from tests.chaos.storm import Ground, Storm, say
from tests.chaos.waits import Listener
from tests.embedded_cluster import EmbeddedCluster, Node
from tests.embedded_postgres import EmbeddedPostgres
from tests.integration.harness import PARTITIONS, TopicNames, environment, make_topics

WORKERS = 3
COMMANDS_PER_S = 200
SESSION_TIMEOUT_S = 10
PROGRESS_DEADLINE_S = 120
HEALTHY_DEADLINE_S = 60
SHORT_SESSION = {"broker.session.timeout.ms": "6000"}
"""A frozen broker has a successor before the clients give up waiting for it."""


@dataclass
class Stage:
    """Workers under load on a cluster, and who leads it."""

    cluster: EmbeddedCluster
    topics: TopicNames
    group: str
    storm: Storm
    load: Load
    listener: Listener
    random: random.Random

    @property
    def leaders(self) -> Leaders:
        return Leaders(self.cluster)

    def await_progress(self, deadline_s: float = PROGRESS_DEADLINE_S) -> None:
        """Wait until a command is answered that is sent only now."""
        number = len(self.load.sent)

        def is_answered() -> bool:
            self.storm.replace_ended()
            return any(one.command_id in self.listener.arrived_s for one in self.load.sent[number : number + 500])

        await_true(is_answered, deadline_s, "no command is answered")

    def pause(self, shortest_s: float, longest_s: float) -> None:
        threading.Event().wait(self.random.uniform(shortest_s, longest_s))

    def end(self) -> Verdict:
        """Work everything off, and judge."""
        self.leaders.await_healthy(HEALTHY_DEADLINE_S)
        self.load.stop()
        await_committed(self.cluster.bootstrap_servers, self.topics.commands, self.group, 120)
        self.storm.end()
        return judge(self.load.sent, each_outcome(self.cluster.bootstrap_servers, self.topics))


@contextmanager
def stage(
    cluster: EmbeddedCluster, store_url: str, folder: Path, *, seed: int = 1, without: str = ""
) -> Iterator[Stage]:
    """Set the stage: three workers that have answered something."""
    topics = make_topics(cluster.bootstrap_servers)
    settings = {"SESSION_TIMEOUT_S": str(SESSION_TIMEOUT_S), "STORE_URL": store_url, "HTTP_PORT": "-1"}
    env = environment(cluster.bootstrap_servers, topics, **settings) | {"USERTASK_TEST_WITHOUT": without}
    with ExitStack() as stack:
        storm = Storm(env, folder, WORKERS, seed, Ground(cluster))
        stack.callback(storm.kill)
        listener = stack.enter_context(Listener(cluster.bootstrap_servers, (topics.events, topics.rejections)))
        load = stack.enter_context(Load(cluster.bootstrap_servers, topics.commands, commands_per_s=COMMANDS_PER_S))
        it = Stage(cluster, topics, env["USERTASK_GROUP_ID"], storm, load, listener, random.Random(seed))
        it.await_progress()
        yield it


def orderly_moves(it: Stage, rounds: int) -> None:
    """Move the group's coordinator from one healthy broker to another, and let the workers be rolled meanwhile.

    Each worker that leaves and each that comes makes all of them take over, and ask a coordinator that has just moved.
    """
    place = it.leaders.group_place(it.group)
    for number in range(rounds):
        it.leaders.move(place, it.random.choice(it.leaders.others(it.leaders.leader(place))).node_id)
        it.storm.drain_worker(number % WORKERS)
        it.pause(0, 1)


def coordinator_of_yesterday(it: Stage, rounds: int) -> None:
    """Freeze the group's coordinator, let workers commit at its successor, and thaw it while they take over.

    Their transactions begin some seconds after the freeze, so that they last until there is a successor. They have
    taken long, so that each worker takes over anew, and still asks the coordinator that it knows.
    """
    place = it.leaders.group_place(it.group)
    for _ in range(rounds):
        node = it.leaders.leader(place)
        it.leaders.leave_only(place, node)
        it.await_progress()
        it.pause(2, 3)  # all clients have noticed
        it.load.pause(it.group)
        node.freeze()
        it.pause(1.5, 3)
        it.load.resume()
        _thaw_late(it, node, place)


def leader_of_yesterday(it: Stage, rounds: int) -> None:
    """Freeze the leader of a partition of the commands, and thaw it when workers have applied more than it has."""
    for number in range(rounds):
        place = Place(it.topics.commands, number % PARTITIONS)
        node = it.leaders.leader(place)
        node.freeze()
        it.storm.bootstrap(",".join(other.bootstrap_servers for other in it.leaders.others(node)))
        it.storm.kill_worker(number % WORKERS)
        it.leaders.await_leader(place, lambda leader: leader not in (-1, node.node_id))  # noqa: B023
        it.await_progress()
        _thaw_late(it, node, place)


def _thaw_late(it: Stage, node: Node, place: Place) -> None:
    """Thaw a node that leads no more, which it learns after 0.1 to 0.5 s: until then it answers as before."""
    it.leaders.await_leader(place, lambda leader: leader not in (-1, node.node_id))
    it.await_progress()
    it.pause(0, 1.5)
    node.thaw()
    it.leaders.await_healthy(HEALTHY_DEADLINE_S)
    it.await_progress()


SCENES: dict[str, Callable[[Stage, int], None]] = {
    "orderly-moves": orderly_moves,
    "coordinator-of-yesterday": coordinator_of_yesterday,
    "leader-of-yesterday": leader_of_yesterday,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene", choices=SCENES)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--without", default="")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--logs", type=Path, default=Path(tempfile.gettempdir()) / "scenes")
    asked = parser.parse_args()
    with EmbeddedCluster(SHORT_SESSION) as cluster, EmbeddedPostgres() as store:
        for number in range(asked.times):
            folder = asked.logs / f"{asked.scene}-{asked.without}-{asked.seed + number}"
            folder.mkdir(parents=True, exist_ok=True)
            began_s = time.monotonic()
            with stage(cluster, database(store.url), folder, seed=asked.seed + number, without=asked.without) as it:
                SCENES[asked.scene](it, asked.rounds)
                verdict = it.end()
            wrong = {name: len(getattr(verdict, name)) for name in ("lost", "doubled", "wrong", "out_of_order")}
            say(f"{folder.name}: {len(it.load.sent)} commands in {time.monotonic() - began_s:.0f} s, {wrong}")
            say("\n".join(it.storm.failures))


if __name__ == "__main__":
    main()
