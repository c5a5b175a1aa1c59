"""A real Prometheus with the rules that are deployed, and a load that moves each of a worker's metrics."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from tests.integration.harness import (
    CANCEL,
    COMPLETE,
    CREATE,
    ROOT,
    STOP_DEADLINE_S,
    Unsent,
    cloud_event,
    encoded,
    free_port,
    fresh_key,
)
from worker.embedded import end_with_parent

JOB = "user-task-worker"
RULES = ROOT / "deploy/prometheus/rules/user-task-worker.yml"
DASHBOARD = ROOT / "deploy/grafana/dashboards/user-task-worker.json"
START_DEADLINE_S = 30
MISSING = (
    "{} is neither in PATH nor beside Python. On Debian, without installing a service: `apt-get download prometheus`, "
    "`dpkg-deb --extract` it somewhere, and put its usr/bin into PATH."
)


def program(name: str) -> str:
    """Find `prometheus` or `promtool`; that it is missing is a failure, not a reason to test less."""
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    found = shutil.which(name, path=folders)
    assert found is not None, MISSING.format(name)
    return found


class Prometheus:
    """A server that scrapes `worker-1` and so on once a second. `moment` is the Unix time of queries, None for now."""

    def __init__(self, folder: Path, worker_ports: Iterable[int]) -> None:
        self._folder = folder
        self._targets = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": f"worker-{number}"}}
            for number, port in enumerate(worker_ports, 1)
        ]
        self._port = free_port()
        self.moment: float | None = None
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Self:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": JOB, "static_configs": self._targets}],
        }
        file = self._folder / "prometheus.json"  # JSON is YAML
        file.write_text(json.dumps(config))
        log = self._cleanup.enter_context((self._folder / "prometheus.log").open("wb"))
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={file}",
                f"--storage.tsdb.path={self._folder / 'prometheus'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        self._cleanup.callback(_stop, process)
        self._cleanup.enter_context(end_with_parent(process))
        try:
            self.wait_until(self._is_ready, START_DEADLINE_S)
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate an expression; fail with Prometheus' own words if it cannot be."""
        moment = time.time() if self.moment is None else self.moment
        return self._ask("query", query=expression, time=moment)["result"]

    def query_range(self, expression: str, start: float, end: float, step_s: float) -> list[dict[str, Any]]:
        """Evaluate an expression at each step between two Unix times."""
        return self._ask("query_range", query=expression, start=start, end=end, step=step_s)["result"]

    def series(self) -> list[dict[str, str]]:
        """Give the labels of all the workers' series."""
        return self._ask("series", **{"match[]": f'{{job="{JOB}"}}'})

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def wait_until(self, found: Callable[[], object], deadline_s: float) -> None:
        deadline = time.monotonic() + deadline_s
        while not found():
            assert time.monotonic() < deadline, (self._folder / "prometheus.log").read_text(errors="replace")
            time.sleep(0.2)

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.query(f'up{{job="{JOB}"}} == 1'))
        return False

    def _ask(self, what: str, **parameters: object) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{what}?{urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as refused:
            if refused.code == 503:  # not up yet
                raise
            raise AssertionError(f"{parameters}: {refused.read().decode()}") from None


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(STOP_DEADLINE_S)


def panels() -> list[dict[str, Any]]:
    """Give the dashboard's panels that ask for something."""
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def for_prometheus(expression: str, *, rate_s: int, range_s: int) -> str:
    """Put in what Grafana would."""
    return expression.replace("$__rate_interval", f"{rate_s}s").replace("$__range", f"{range_s}s")


def every_kind(tasks: int) -> Iterator[Unsent]:
    """Give commands of each kind and each outcome that a sender can bring about."""
    for key in itertools.islice(iter(fresh_key, None), tasks):
        yield _command(CREATE, key)
        yield _command(COMPLETE, key)
    yield _command(CREATE, key)  # there already
    yield _command(COMPLETE, fresh_key())  # not there
    key = fresh_key()
    yield _command(CREATE, key)
    twice = _command(CANCEL, key)
    yield from (twice, twice)
    yield Unsent(encoded({"userTaskKey": key, "variables": {"a": 1}}), key.encode(), twice.headers)  # the id is used
    yield Unsent(b"no json")
    yield Unsent(encoded({"userTaskKey": key, "variables": 1}))


def _command(kind: str, key: str) -> Unsent:
    return Unsent(encoded({"userTaskKey": key}), key.encode(), cloud_event(kind))
