"""Brokers that send their clients to an address where nobody answers: that address is named, not the good one."""

import dataclasses
import json
import socket

import pytest

from tests.integration.harness import Worker, environment, free_port, make_topics, run_cli
from worker.brokers import deadline_of, first_answer, silent_brokers
from worker.embedded import HOST, EmbeddedKafka
from worker.settings import load_settings

START_TIMEOUT_S = 4
UNRESOLVED = "kafka.invalid:9092"


@pytest.fixture(scope="module")
def silent():
    """An address that takes connections and answers nothing."""
    with socket.create_server((HOST, 0)) as server:
        yield f"{HOST}:{server.getsockname()[1]}"


@pytest.fixture(scope="module")
def broker(silent):
    """A broker with a listener for each kind of wrong address, and one that is right."""
    plain, controller = free_port(), free_port()
    advertised = {"UNRESOLVED": UNRESOLVED, "SILENT": silent, "SHUT": f"{HOST}:{free_port()}"}
    ports = {name: free_port() for name in advertised}
    listeners = {"PLAINTEXT": f"{HOST}:{plain}"} | {name: f"{HOST}:{port}" for name, port in ports.items()}
    overrides = {
        "listeners": _listed(listeners | {"CONTROLLER": f"{HOST}:{controller}"}),
        "advertised.listeners": _listed(listeners | advertised),
        "controller.quorum.voters": f"1@{HOST}:{controller}",
        "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in [*listeners, "CONTROLLER"]),
    }
    with EmbeddedKafka(port=plain, overrides=overrides) as broker:
        broker.bootstrap = {name: f"{HOST}:{port}" for name, port in ports.items()}
        broker.advertised = advertised
        yield broker


def _listed(addresses: dict[str, str]) -> str:
    return ",".join(f"{name}://{address}" for name, address in addresses.items())


@pytest.fixture
def env(broker, tmp_path):
    topics = make_topics(broker.bootstrap_servers)

    def make(listener: str) -> dict[str, str]:
        store, timeout_s = tmp_path / "tasks.db", str(START_TIMEOUT_S)
        return environment(broker.bootstrap[listener], topics, store, START_TIMEOUT_S=timeout_s)

    return make


@pytest.mark.parametrize(
    ("listener", "words"),
    [
        pytest.param("UNRESOLVED", "the name does not resolve", id="a name that does not resolve"),
        pytest.param("SILENT", "no answer in time", id="an address that does not answer"),
        pytest.param("SHUT", "ConnectionRefusedError", id="an address where nobody listens"),
    ],
)
def test_the_advertised_address_is_named(broker, env, tmp_path, listener, words):
    named = f"broker 1 advertises {broker.advertised[listener]}: {words}"
    hint = "see its advertised.listeners"

    checked = run_cli("check", env=env(listener), cwd=tmp_path)
    assert checked.returncode == 3, checked.stdout
    [red] = [one for one in json.loads(checked.stdout)["checks"] if one["result"] == "red"]
    assert (red["name"], named in red["detail"], hint in red["detail"]) == ("broker", True, True), red

    listed = run_cli("lag", env=env(listener), cwd=tmp_path)
    assert (listed.returncode, named in listed.stderr, hint in listed.stderr) == (3, True, True), listed.stderr

    worker = Worker(env(listener), tmp_path)
    worker.start()
    try:
        assert worker.has_ended(within_s=START_TIMEOUT_S + 20)
    finally:
        worker.kill()
    assert worker.process.returncode == 3
    told = {line["event"]: line for line in map(json.loads, worker.stderr().splitlines())}
    for event in ("broker_awaited", "worker_not_started"):
        assert named in told[event]["reason"], told[event]
        assert hint in told[event]["reason"]


async def test_one_of_several_that_does_not_answer_is_named_and_the_others_are_not(broker, env, monkeypatch):
    for name, value in (env("UNRESOLVED") | {"USERTASK_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers}).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    answer = await first_answer(settings, deadline_of(settings))
    several = dataclasses.replace(answer, advertised={**answer.advertised, 2: ("kafka.invalid", 9092)})
    [words] = await silent_brokers(settings, several, deadline_of(settings))
    assert words.startswith(f"broker 2 advertises {UNRESOLVED}: the name does not resolve")
