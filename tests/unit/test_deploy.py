"""What is deployed fits the worker: manifests, settings, probes, alerts, dashboard, and what the pages say of them."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from worker.settings import PREFIX, SECRETS, Settings, load_settings, unknown_variables
from worker.telemetry.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
BASE, KEDA = ROOT / "deploy/kubernetes/base", ROOT / "deploy/kubernetes/keda"
RULES = ROOT / "deploy/prometheus/rules/user-task-worker.yml"
RULE_TESTS = ROOT / "deploy/prometheus/tests/user-task-worker.yml"
DASHBOARD = ROOT / "deploy/grafana/dashboards/user-task-worker.json"
OPERATING = ROOT / "docs/operating.md"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
NAME = "app.kubernetes.io/name"
KUBERNETES = ("1.29", "1.33", kubernetes_validate.latest_version())
LEAVING_S = 10  # what a worker takes, above its drain, to leave Kafka and the store
PARTITIONS = 12  # what docs/operating.md has made
KEDA_TRIGGER = {
    "bootstrapServersFromEnv": "USERTASK_KAFKA_BOOTSTRAP_SERVERS",
    "consumerGroupFromEnv": "USERTASK_GROUP_ID",
    "topicFromEnv": "USERTASK_COMMANDS_TOPIC",
    "lagThreshold": "5000",
    "offsetResetPolicy": "earliest",
    "allowIdleConsumers": "false",
    "limitToPartitionsWithLag": "true",
    "excludePersistentLag": "true",
}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def resources(folder: Path) -> dict[str, dict[str, Any]]:
    """Give the resources that a kustomization lists itself, by kind."""
    listed = [folder / name for name in read(folder / "kustomization.yml")["resources"] if name.endswith(".yml")]
    found = [read(path) for path in listed]
    return {one["kind"]: one for one in found}


DEPLOYMENT = resources(BASE)["Deployment"]
POD = DEPLOYMENT["spec"]["template"]["spec"]
CONTAINERS = {one["name"]: one for one in [*POD["initContainers"], *POD["containers"]]}
WORKER = CONTAINERS["worker"]


def configured() -> dict[str, str]:
    """Give what the ConfigMap has."""
    [generator] = read(BASE / "kustomization.yml")["configMapGenerator"]
    return dict(literal.split("=", 1) for literal in generator["literals"])


# Kubernetes


@pytest.mark.parametrize("folder", [BASE, KEDA], ids=lambda folder: folder.name)
def test_every_manifest_is_listed_and_there(folder):
    listed = read(folder / "kustomization.yml")["resources"]
    assert all((folder / name).exists() for name in listed)
    assert {name for name in listed if name.endswith(".yml")} == {
        path.name for path in folder.iterdir() if path.name != "kustomization.yml"
    }


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("kind", sorted(resources(BASE)))
def test_every_manifest_is_one_of_kubernetes_own_with_no_unknown_field(kind, version):
    kubernetes_validate.validate(resources(BASE)[kind], version, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_found():
    wrong = {**resources(BASE)["PodDisruptionBudget"], "specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES[-1], strict=True)


def test_every_selector_selects_the_workers():
    found = resources(BASE)
    labels = {NAME: "user-task-worker"}
    assert DEPLOYMENT["spec"]["template"]["metadata"]["labels"] == labels
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    spread = [one["labelSelector"]["matchLabels"] for one in POD["topologySpreadConstraints"]]
    assert spread == [labels] * 2


def test_what_a_pod_refers_to_is_there():
    [generator] = read(BASE / "kustomization.yml")["configMapGenerator"]
    for container in CONTAINERS.values():
        assert container["envFrom"] == [{"configMapRef": {"name": generator["name"]}}]
        assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"] for volume in POD["volumes"]]
    assert POD["serviceAccountName"] == resources(BASE)["ServiceAccount"]["metadata"]["name"]


@pytest.mark.parametrize("name", sorted(CONTAINERS))
def test_the_settings_are_the_workers_and_it_takes_them(name, tmp_path):
    own = {one["name"]: one["value"] for one in CONTAINERS[name]["env"]}
    known = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    assert own.keys() | configured().keys() <= known | {f"{PREFIX}{secret.upper()}_FILE" for secret in SECRETS}
    [mount] = CONTAINERS[name]["volumeMounts"]
    assert Path(own["USERTASK_STORE_URL_FILE"]) == Path(mount["mountPath"], "store-url")
    url = tmp_path / "store-url"
    url.write_text("postgresql://worker:secret@postgres/tasks\n")
    settings = load_settings(configured() | own | {"USERTASK_STORE_URL_FILE": str(url)})
    assert settings.sqlite_path is None


def test_the_probes_ask_where_the_worker_answers():
    [port] = WORKER["ports"]
    own = {one["name"]: one["value"] for one in WORKER["env"]}
    assert {own["USERTASK_HTTP_PORT"], *re.findall(r"^EXPOSE (\d+)", DOCKERFILE, re.MULTILINE)} == {
        str(port["containerPort"])
    }
    assert own["USERTASK_HTTP_HOST"] == "::"
    assert re.search(r"USERTASK_HTTP_HOST=(\S+)", DOCKERFILE)[1] == "::"
    asked = {probe: WORKER[probe]["httpGet"] for probe in ("livenessProbe", "readinessProbe")}
    assert asked == {
        "livenessProbe": {"path": "/livez", "port": port["name"]},
        "readinessProbe": {"path": "/readyz", "port": port["name"]},
    }
    [service_port] = resources(BASE)["Service"]["spec"]["ports"]
    assert (service_port["port"], service_port["targetPort"]) == (port["containerPort"], port["name"])
    assert resources(BASE)["NetworkPolicy"]["spec"]["ingress"][0]["ports"][0]["port"] == port["name"]


def test_a_drain_is_not_cut_short():
    assert POD["terminationGracePeriodSeconds"] > float(configured()["USERTASK_DRAIN_TIMEOUT_S"]) + LEAVING_S


def test_one_worker_at_a_time_goes_and_none_is_in_surplus():
    assert DEPLOYMENT["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert resources(BASE)["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize("name", sorted(CONTAINERS))
def test_a_pod_fits_the_restricted_level_and_the_images_user(name):
    assert CONTAINERS[name]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    pod = POD["securityContext"]
    assert pod["runAsNonRoot"]
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert f"USER {pod['runAsUser']}:{pod['runAsGroup']}" in DOCKERFILE
    assert POD["automountServiceAccountToken"] is False
    assert resources(BASE)["ServiceAccount"]["automountServiceAccountToken"] is False


def test_the_image_is_of_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [image] = read(BASE / "kustomization.yml")["images"]
    assert {one["image"] for one in CONTAINERS.values()} == {image["name"]}
    assert image["newTag"] == project["version"]


# Compose


def test_no_container_needs_to_read_what_its_user_may_not():
    """After `umask 077` the files of this folder are their owner's, and the containers' users are others."""
    compose = read(ROOT / "docker-compose.yml")
    mounted = [volume for service in compose["services"].values() for volume in service.get("volumes", ())]
    assert {volume.partition(":")[0] for volume in mounted} == compose["volumes"].keys()
    assert not {"secrets", "configs"} & compose.keys()
    for name in ("prometheus", "grafana"):
        context = ROOT / compose["services"][name]["build"]
        steps = re.findall(r"^COPY (.*)$", (context / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
        copied = [re.fullmatch(r"--chown=\d+:\d+ (\S+) /\S+", step)[1] for step in steps]
        assert copied
        assert all((context / path).exists() for path in copied)


def test_the_workers_of_the_compose_file_take_their_settings_and_its_password(monkeypatch):
    compose = read(ROOT / "docker-compose.yml")
    for name in ("init", "worker"):
        given = compose["services"][name]["environment"]
        for variable, value in given.items():
            monkeypatch.setenv(variable, str(value).replace("${POSTGRES_PASSWORD:-development-only}", "changed"))
        assert not unknown_variables(given)
        assert load_settings().store_url.get_secret_value().startswith("postgresql://worker:changed@postgres:5432/")
    asked = compose["services"]["postgres"]["environment"]["POSTGRES_PASSWORD"]
    assert asked in compose["services"]["worker"]["environment"]["USERTASK_STORE_URL"]


# KEDA


def test_keda_scales_the_deployment_up_to_the_partitions():
    spec = resources(KEDA)["ScaledObject"]["spec"]
    assert spec["scaleTargetRef"] == {
        "name": DEPLOYMENT["metadata"]["name"],
        "envSourceContainerName": WORKER["name"],
    }
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (1, PARTITIONS)
    assert f"topics create --partitions {PARTITIONS} " in OPERATING.read_text(encoding="utf-8")


def test_keda_reads_the_lag_of_the_workers_group_from_where_the_worker_begins():
    [trigger] = resources(KEDA)["ScaledObject"]["spec"]["triggers"]
    assert trigger == {"type": "kafka", "metadata": KEDA_TRIGGER}
    assert {value for name, value in KEDA_TRIGGER.items() if name.endswith("FromEnv")} <= configured().keys()


def test_keda_alone_sets_the_number_of_workers():
    [patch] = read(KEDA / "kustomization.yml")["patches"]
    assert patch["target"] == {"kind": "Deployment", "name": DEPLOYMENT["metadata"]["name"]}
    assert yaml.safe_load(patch["patch"]) == [{"op": "remove", "path": "/spec/replicas"}]
    assert "replicas" in DEPLOYMENT["spec"]


# Alerts and dashboard


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for group in read(RULES)["groups"] for rule in group["rules"]}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def names_in(expression: str) -> set[str]:
    """Give the worker's metrics that an expression names."""
    return set(re.findall(r"\b(?:usertask|messaging)_[a-z_]+(?=[\[{) ]|$)", without_labels(expression)))


def without_labels(expression: str) -> str:
    return re.sub(r"\b(by|on|without) ?\([^)]*\)|\{[^}]*\}", " ", expression)


def series() -> dict[str, str]:
    """Give the names of all series that a worker shows, each with its metric's documented name."""
    return {name: family for family, names in families() for name in names}


def families() -> Iterator[tuple[str, set[str]]]:
    for family in Metrics().registry.collect():
        if family.name.startswith(("usertask_", "messaging_")):
            suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
            parts = ("_bucket", "_sum", "_count") if family.type == "histogram" else ("",)
            yield family.name + suffix, {f"{family.name}{suffix}{part}" for part in parts}


@pytest.mark.parametrize("expression", sorted({*(rule["expr"] for rule in alerts().values()), *queries()}))
def test_every_metric_that_is_asked_for_is_the_workers(expression):
    assert names_in(expression) <= series().keys()
    assert names_in(expression) or re.search(r"\b(process_|up\{)", expression)


def test_every_metric_is_on_the_dashboard():
    shown = {series()[name] for query in queries() for name in names_in(query)}
    assert shown == set(series().values())


def test_every_panel_has_an_id_a_place_and_a_title_of_its_own():
    every = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    assert len({panel["title"] for panel in every}) == len(every)
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in every)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) == 23


def test_every_alert_says_how_bad_it_is_and_where_to_read_on():
    for rule in alerts().values():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["runbook_url"] == "docs/operating.md#alerts"
        assert rule["annotations"]["summary"].endswith(".")


def test_every_alert_is_documented_with_its_severity_and_no_other():
    section = OPERATING.read_text(encoding="utf-8").split("\n## Alerts\n")[1].split("\n## ")[0]
    documented = re.findall(r"^\| `(\w+)` \| (\w+) \| [^|]+ \| [^|]+ \|$", section, re.MULTILINE)
    assert documented == [(name, rule["labels"]["severity"]) for name, rule in alerts().items()]


def test_every_alert_has_a_test_that_makes_it_fire():
    expected = [
        *re.findall(r'alertname="(\w+)"', RULE_TESTS.read_text(encoding="utf-8")),
        *re.findall(r"alertname: (\w+)", RULE_TESTS.read_text(encoding="utf-8")),
    ]
    assert set(expected) == alerts().keys()


def test_prometheus_of_the_compose_file_loads_the_rules_and_not_their_tests():
    config = read(ROOT / "deploy/prometheus/prometheus.yml")
    loaded = {path for pattern in config["rule_files"] for path in (ROOT / "deploy/prometheus").glob(pattern)}
    assert loaded == {RULES}
    assert [job["job_name"] for job in config["scrape_configs"]] == ["user-task-worker"]
