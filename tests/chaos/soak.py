"""`python -m tests.chaos.soak`: many commands, several workers, random faults, one verdict. Prints its seed.

python -m tests.chaos.soak --commands 200000 --workers 3 --faults 100 --seed 7
python -m tests.chaos.soak --commands 20000 --workers 3 --faults 25 --brokers 3
"""

import argparse
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.fleet import database
from tests.chaos.judge import Load, Verdict, await_committed, each_outcome, judge
from tests.chaos.leaders import Leaders
from tests.chaos.storm import SESSION_TIMEOUT_S, Ground, Storm, say
from tests.chaos.waits import Listener, Probe, Wait, longest_waits, table
from tests.embedded_cluster import BROKERS, EmbeddedCluster
from tests.embedded_postgres import EmbeddedPostgres
from tests.integration.harness import environment, make_topics
from tests.providers import kafka_provider, postgres_provider

FAULT_S = {1: 4, BROKERS: 25}
"""About how long a fault takes, by the number of brokers: it sets the rate of the load."""
ON_ITS_WAY_S = 2
WORKED_OFF_PER_S = 200
"""What the workers do at least, when no fault hinders them; commands still open have so long."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked for; `rate` is commands a second, 0 for what spreads the commands over the faults."""

    commands: int
    workers: int
    faults: int
    seed: int
    rate: float = 0
    session_timeout_s: float = SESSION_TIMEOUT_S

    def commands_per_s(self, brokers: int) -> float:
        """Return the rate of the load."""
        return self.rate or max(200 if brokers == 1 else 20, self.commands / (self.faults * FAULT_S[brokers] or 1))


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of it."""

    verdict: Verdict
    storm: Storm
    sent: int
    waits: list[Wait]

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing at all is wrong."""
        return self.verdict.is_clean and not self.storm.failures


def run(
    bootstrap_servers: str, store_url: str, folder: Path, plan: Plan, ground: Ground | None = None, **settings: str
) -> Result:
    """Run a storm and judge it."""
    ground = ground or Ground()
    topics = make_topics(bootstrap_servers)
    more = {"SESSION_TIMEOUT_S": str(plan.session_timeout_s), "STORE_URL": store_url, "HTTP_PORT": "-1"} | settings
    env = environment(bootstrap_servers, topics, **more)
    group = env["USERTASK_GROUP_ID"]
    rate = plan.commands_per_s(BROKERS if ground.cluster else 1)
    with ExitStack() as stack:
        storm = Storm(env, folder, plan.workers, plan.seed, ground)
        stack.callback(storm.kill)
        probe = _probe(bootstrap_servers, group, ground)
        outgoing = [topics.events, topics.rejections, *([probe.topic] if probe else [])]
        listener = stack.enter_context(Listener(bootstrap_servers, outgoing))
        with Load(bootstrap_servers, topics.commands, commands_per_s=rate) as load:
            is_caught_up = caught_up(load, listener)
            with probe or ExitStack():
                for _ in range(plan.faults):
                    storm.pause(2)
                    storm.one_fault(is_caught_up)
            while len(load.sent) < plan.commands:
                load.burst(100)
            load.stop(120)
        _await_committed(bootstrap_servers, topics.commands, group, storm, 180 + len(load.sent) / WORKED_OFF_PER_S)
        storm.end()
    verdict = judge(load.sent, each_outcome(bootstrap_servers, topics))
    waits = longest_waits(storm.windows, load.sent, probe.sent if probe else [], listener.arrived_s)
    return Result(verdict=verdict, storm=storm, sent=len(load.sent), waits=waits)


def caught_up(load: Load, listener: Listener) -> Callable[[], bool]:
    """Return what tells whether the listener has seen the outcomes of all that was sent, but for the last moment."""
    answered = 0

    def is_so() -> bool:
        nonlocal answered
        while answered < len(load.sent) and load.sent[answered].command_id in listener.arrived_s:
            answered += 1
        return answered == len(load.sent) or load.sent[answered].sent_s > time.time() - ON_ITS_WAY_S

    return is_so


def _probe(bootstrap_servers: str, group: str, ground: Ground) -> Probe | None:
    """Return another client with the same group coordinator, and one producer for each coordinator of transactions."""
    if ground.cluster is None:
        return None
    leaders = Leaders(ground.cluster)
    names = [f"probe-{number}" for number in range(100)]
    same_group = next(name for name in names if leaders.group_place(name) == leaders.group_place(group))
    producers = {leaders.transaction_place(name): name for name in names}
    return Probe(bootstrap_servers, same_group, producers.values())


def _await_committed(bootstrap_servers: str, topic: str, group: str, storm: Storm, deadline_s: float) -> None:
    try:
        await_committed(bootstrap_servers, topic, group, deadline_s)
    except AssertionError as error:
        storm.failures.append(f"not worked off in {deadline_s:.0f} s: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--rate", type=float, default=0, help="commands a second; 0 spreads them over the faults")
    parser.add_argument("--brokers", type=int, choices=(1, BROKERS), default=1)
    parser.add_argument("--logs", type=Path, help="a folder that keeps the workers' logs; by default they go")
    asked = parser.parse_args()
    started_s = time.monotonic()
    sys.stdout.write(f"{asked}\n")
    with _ground(asked.brokers) as (bootstrap_servers, url, ground), ExitStack() as stack:
        folder = asked.logs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        figures = {name: getattr(asked, name) for name in ("commands", "workers", "faults", "seed", "rate")}
        result = run(bootstrap_servers, database(url), folder, Plan(**figures), ground)
    say(f"{result.sent} commands, {result.verdict.seen} outcomes seen, {dict(result.storm.happened)}")
    sys.stdout.write(f"{table(result.waits)}\n" if asked.brokers > 1 else "")
    wrong = {name: len(getattr(result.verdict, name)) for name in ("lost", "doubled", "wrong", "out_of_order")}
    sys.stdout.write("\n".join([*result.storm.failures, f"{wrong}", f"{time.monotonic() - started_s:.0f} s", ""]))
    sys.exit(not result.is_clean)


@contextmanager
def _ground(brokers: int) -> Iterator[tuple[str, str, Ground]]:
    """Start what the storm runs on. Store and brokers are shaken where there are several brokers."""
    if brokers == 1:
        with kafka_provider() as kafka, postgres_provider() as postgres:
            yield kafka.bootstrap_servers, postgres.url, Ground()
    else:
        with EmbeddedCluster() as cluster, EmbeddedPostgres() as store:
            yield cluster.bootstrap_servers, store.url, Ground(cluster, store)


if __name__ == "__main__":
    main()
