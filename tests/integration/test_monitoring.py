"""Rules and dashboard, by promtool and by a real Prometheus that scrapes a worker under load."""

import math
import re
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.integration.harness import ROOT, Wire, Worker, environment, make_topics
from tests.integration.prometheus import RULES, Prometheus, every_kind, for_prometheus, panels, program

LOAD_S = 12
TASKS_A_ROUND = 50
ROUNDS_APART_S = 0.2
RATE_S = 8
DEADLINE_S = 20
OPERATING = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
HISTOGRAM_PARTS = ("_bucket", "_count", "_sum")


def promtool(*arguments: str) -> None:
    ended = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_promtool_takes_the_rules():
    promtool("check", "rules", str(RULES))


def test_promtool_takes_the_configuration_of_the_compose_file():
    promtool("check", "config", "--lint=all", str(ROOT / "deploy/prometheus/prometheus.yml"))


def test_every_alert_fires_when_it_should_and_only_then():
    promtool("test", "rules", *map(str, (ROOT / "deploy/prometheus/tests").glob("*.yml")))


@pytest.fixture(scope="module")
def prometheus(kafka, tmp_path_factory) -> Iterator[Prometheus]:
    """A Prometheus that has watched a worker under load, and is asked about the moment when the load ends."""
    folder = tmp_path_factory.mktemp("monitoring")
    topics = make_topics(kafka.bootstrap_servers)
    with (
        Worker(environment(kafka.bootstrap_servers, topics), folder) as worker,
        Wire(kafka.bootstrap_servers, topics, worker.watch) as wire,
        Prometheus(folder, [worker.port]) as server,
    ):
        deadline, sent = time.monotonic() + LOAD_S, 0
        while time.monotonic() < deadline:
            sent += len(wire.send_all(every_kind(TASKS_A_ROUND)))
            time.sleep(ROUNDS_APART_S)
        decided = f"sum(usertask_commands_total) + sum(usertask_duplicates_total) == {sent}"
        server.wait_until(lambda: server.query(decided), DEADLINE_S)
        server.moment = time.time()
        yield server


def documented() -> dict[str, set[str]]:
    """Give the documented metrics with their labels, a histogram as its three series."""
    section = OPERATING.split("\n## Metrics\n")[1].split("\n## ")[0]
    found = {}
    for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*)\|", section, re.MULTILINE):
        for part in HISTOGRAM_PARTS if kind == "histogram" else ("",):
            found[name + part] = set(re.findall(r"`(\w+)`", labels)) | ({"le"} if part == "_bucket" else set())
    return found


def test_prometheus_has_all_documented_series_with_their_labels_and_no_other(prometheus):
    found = {}
    for labels in prometheus.series():
        name = labels["__name__"]
        if name.startswith(("usertask_", "messaging_")) and not name.endswith("_created"):
            found.setdefault(name, set()).update(labels.keys() - {"__name__", "job", "instance"})
    assert found == documented()


def test_the_load_has_moved_what_it_should(prometheus):
    outcomes = {sample["metric"]["outcome"] for sample in prometheus.query("usertask_commands_total > 0")}
    assert outcomes == {"created", "completed", "canceled", "rejected"}
    refused = {sample["metric"]["error_type"] for sample in prometheus.query("usertask_rejections_total > 0")}
    assert refused >= {"malformed-command", "invalid-argument", "command-id-reused", "not-found", "already-exists"}
    assert prometheus.query("usertask_duplicates_total > 0")


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_every_query_of_the_dashboard_returns_figures(prometheus, panel):
    for target in panel["targets"]:
        samples = prometheus.query(for_prometheus(target["expr"], rate_s=RATE_S, range_s=LOAD_S))
        assert samples, target["expr"]
        assert not [sample for sample in samples if math.isnan(float(sample["value"][1]))], target["expr"]
        named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        assert all(named <= sample["metric"].keys() for sample in samples), target["legendFormat"]


def test_every_alert_is_evaluated_without_error(prometheus):
    prometheus.wait_until(lambda: all(rule["health"] != "unknown" for rule in prometheus.rules()), DEADLINE_S)
    rules = prometheus.rules()
    assert {rule["name"]: rule.get("lastError", "") for rule in rules if rule["health"] != "ok"} == {}
    assert rules
    for rule in rules:
        prometheus.query(rule["query"])


def test_only_the_alert_of_the_malformed_commands_fires(prometheus):
    firing = [alert for rule in prometheus.rules() for alert in rule["alerts"] if alert["state"] == "firing"]
    [alert] = firing
    assert alert["labels"] == {
        "alertname": "UserTaskDeadLetters",
        "error_type": "malformed-command",
        "severity": "warning",
    }
    assert alert["annotations"] == {
        "summary": "There are new dead letters: malformed-command.",
        "runbook_url": "docs/operating.md#alerts",
    }
