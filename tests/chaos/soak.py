"""`python -m tests.chaos.soak`: many commands, several workers, random faults, one verdict. Prints its seed.

python -m tests.chaos.soak --commands 200000 --workers 3 --faults 100 --seed 7
"""

import argparse
import random
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from tests.chaos.fleet import ChaosWorker, database
from tests.chaos.judge import Load, Verdict, await_committed, judge, outcomes
from tests.integration.harness import environment, make_topics
from tests.providers import kafka_provider, postgres_provider

SESSION_TIMEOUT_S = 3
DRAINED, KILLED = 0, -signal.SIGKILL


class Storm:
    """A fleet of workers to which random things happen."""

    def __init__(self, env: dict[str, str], folder: Path, workers: int, seed: int) -> None:
        self.happened: Counter[str] = Counter()
        self.failures: list[str] = []
        self._env = env
        self._folder = folder
        self._random = random.Random(seed)
        self._workers = [self._started() for _ in range(workers)]

    def one_fault(self) -> None:
        """Let something happen to a worker, and put a new one in the place of one that ends by it."""
        place = self._random.randrange(len(self._workers))
        fault = self._random.choice([self._kill, self._terminate, self._freeze])
        self.happened[fault.__name__.strip("_")] += 1
        fault(place)

    def end(self) -> None:
        for worker in self._workers:
            self._drain(worker)

    def _drain(self, worker: ChaosWorker) -> None:
        while "worker_starting" not in worker.stderr() and not worker.has_ended(within_s=0.05):
            pass  # before that, Python itself is starting, and ends at a signal as any program does
        self._expect(worker, worker.terminate(), DRAINED)

    def kill(self) -> None:
        """Leave no process behind, whatever went wrong."""
        for worker in self._workers:
            worker.kill()

    def _kill(self, place: int) -> None:
        worker = self._workers[place]
        worker.process.kill()
        self._expect(worker, worker.process.wait(), KILLED)
        self._workers[place] = self._started()

    def _terminate(self, place: int) -> None:
        self._drain(self._workers[place])
        self._workers[place] = self._started()

    def _freeze(self, place: int) -> None:
        worker = self._workers[place]
        worker.process.send_signal(signal.SIGSTOP)
        # the length is the point: shorter than the session timeout, or longer
        threading.Event().wait(self._random.uniform(0.1, 2 * SESSION_TIMEOUT_S))
        worker.process.send_signal(signal.SIGCONT)

    def pause(self, longest_s: float) -> None:
        threading.Event().wait(self._random.uniform(0, longest_s))

    def _started(self) -> ChaosWorker:
        worker = ChaosWorker(self._env, self._folder)
        worker.start()
        return worker

    def _expect(self, worker: ChaosWorker, code: int, expected: int) -> None:
        if code != expected:
            self.failures.append(f"exit code {code} instead of {expected}:\n{worker.stderr()[-3000:]}")


def run(
    bootstrap_servers: str, store_url: str, folder: Path, *, commands: int, workers: int, faults: int, seed: int
) -> tuple[Verdict, Storm, int]:
    """Run a storm and judge it. Return verdict, storm and the number of commands."""
    topics = make_topics(bootstrap_servers)
    more = {"SESSION_TIMEOUT_S": str(SESSION_TIMEOUT_S), "STORE_URL": store_url, "HTTP_PORT": "-1"}
    env = environment(bootstrap_servers, topics, **more)
    storm = Storm(env, folder, workers, seed)
    with ExitStack() as cleanup:
        cleanup.callback(storm.kill)
        rate = max(200, commands / (faults * 4))
        with Load(bootstrap_servers, topics.commands, commands_per_s=rate) as load:
            for _ in range(faults):
                storm.pause(2)
                storm.one_fault()
            while len(load.sent) < commands:
                load.burst(100)
        await_committed(bootstrap_servers, topics.commands, env["USERTASK_GROUP_ID"], 180)
        storm.end()
    return judge(load.sent, outcomes(bootstrap_servers, topics)), storm, len(load.sent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    asked = parser.parse_args()
    started_s = time.monotonic()
    sys.stdout.write(f"{asked}\n")
    with kafka_provider() as kafka, postgres_provider() as postgres, tempfile.TemporaryDirectory() as folder:
        verdict, storm, sent = run(kafka.bootstrap_servers, database(postgres.url), Path(folder), **vars(asked))
    figures = {name: len(getattr(verdict, name)) for name in ("lost", "doubled", "wrong", "out_of_order")}
    sys.stdout.write(f"{sent} commands, {verdict.seen} outcomes seen, {dict(storm.happened)}, {figures}\n")
    sys.stdout.write("\n".join(storm.failures) + f"\n{time.monotonic() - started_s:.0f} s\n")
    sys.exit(not verdict.is_clean or bool(storm.failures))


if __name__ == "__main__":
    main()
