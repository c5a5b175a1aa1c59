"""Addresses as others write them, on a real broker that listens on IPv6, and a variable that nobody reads."""

import json
import re
import socket
import urllib.request

import pytest

from tests.integration.harness import Topics, Wire, Worker, environment, free_port, make_topics, run_cli
from worker.app import _consumer
from worker.embedded import HOST, EmbeddedKafka
from worker.kafka import client_options
from worker.settings import load_settings

NOWHERE = Topics("no.commands", "no.events", "no.rejections", "no.commands.dlq")


@pytest.fixture(scope="module")
def broker():
    """A broker with a listener on ::1, which is all that the worker is told of."""
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("IPV6 IS NOT TESTED: this machine has no ::1")
        port = probe.getsockname()[1]
    plain, controller = free_port(), free_port()
    listeners = {"PLAINTEXT": f"{HOST}:{plain}", "CONTROLLER": f"{HOST}:{controller}", "SIX": f"[::1]:{port}"}
    overrides = {
        "listeners": ",".join(f"{name}://{address}" for name, address in listeners.items()),
        "controller.quorum.voters": f"1@{HOST}:{controller}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SIX:PLAINTEXT",
    }
    with EmbeddedKafka(port=plain, overrides=overrides) as broker:
        broker.six = f"[::1]:{port}"
        yield broker


@pytest.fixture
def topics(broker):
    return make_topics(broker.bootstrap_servers)


def test_a_worker_reaches_its_broker_and_is_reached_by_ipv6(broker, topics, tmp_path):
    servers = f"PLAINTEXT://{broker.six},plaintext://[::1]:{free_port()}"
    env = environment(servers, topics, tmp_path / "tasks.db", HTTP_HOST="[::]", KAFKA_CLIENT_RACK="zone-a")
    with Worker(env, tmp_path) as worker, Wire(broker.bootstrap_servers, topics) as wire:
        wire.complete(wire.created())
        for host in ("[::1]", "127.0.0.1"):
            with urllib.request.urlopen(f"http://{host}:{worker.port}/livez", timeout=10) as answer:
                assert answer.read() == b"ok\n"
        for name in ("[::]", "*", "::", "[::1]"):
            asked = run_cli("health", "--ready", env=worker.env | {"USERTASK_HTTP_HOST": name}, cwd=tmp_path)
            assert asked.returncode == 0, asked.stderr
        assert run_cli("check", env=worker.env, cwd=tmp_path).returncode == 0
        assert worker.terminate() == 0
        assert "client_rack" not in worker.stderr()  # the client's own complaint of a broker that knows no racks


async def test_the_rack_is_the_consumers(broker, topics, monkeypatch):
    for name, value in environment(broker.six, topics, KAFKA_CLIENT_RACK="zone-a").items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    async with _consumer(settings, client_options(settings)) as consumer:
        assert consumer._client_rack == "zone-a"


@pytest.mark.parametrize(
    ("host", "words"),
    [("nobody.invalid", "USERTASK_HTTP_HOST nobody.invalid"), ("192.0.2.1", "USERTASK_HTTP_HOST 192.0.2.1")],
)
def test_a_host_that_cannot_be_listened_on_is_not_blamed_on_the_port(tmp_path, host, words):
    ended = run_cli("run", env=environment(f"127.0.0.1:{free_port()}", NOWHERE, HTTP_HOST=host), cwd=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert words in ended.stderr
    assert "USERTASK_HTTP_PORT" not in ended.stderr


def test_a_variable_that_sets_nothing_is_told_by_run_and_check(broker, topics, tmp_path):
    env = environment(broker.bootstrap_servers, topics, tmp_path / "tasks.db") | {"USERTASK_RETENTON_DAYS": "30"}
    with Worker(env, tmp_path) as worker:
        lines = [json.loads(line) for line in worker.stderr().splitlines()]
    [line] = [line for line in lines if line["event"] == "setting_unknown"]
    told = {name: line[name] for name in ("level", "variable", "nearest")}
    assert told == {"level": "warning", "variable": "USERTASK_RETENTON_DAYS", "nearest": "USERTASK_RETENTION_DAYS"}

    checked = run_cli("check", env=env, cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout
    [found] = [one for one in json.loads(checked.stdout)["checks"] if one["name"] == "variables"]
    assert found["result"] == "warning"
    assert re.search(r"USERTASK_RETENTON_DAYS \(perhaps USERTASK_RETENTION_DAYS\)", found["detail"])
