"""`health`, as a container's probe calls it."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.integration.harness import Topics, Worker, bare_environment, environment, free_port, make_topics, run_cli

NOWHERE = Topics("no.commands", "no.events", "no.rejections", "no.commands.dlq")
GIVEN_UP_S = 20


@pytest.fixture
def worker(kafka, tmp_path):
    with Worker(environment(kafka.bootstrap_servers, make_topics(kafka.bootstrap_servers)), tmp_path) as worker:
        yield worker


def probe(env: dict[str, str], cwd, *options: str) -> subprocess.CompletedProcess[str]:
    return run_cli("health", *options, env=env, cwd=cwd)


def test_a_worker_that_is_well_is_0_and_tells_its_checks(worker, tmp_path):
    for options, name in [
        ((), "consumer_loop_turns"),
        (("--live",), "consumer_loop_turns"),
        (("--ready",), "group_joined"),
    ]:
        ended = probe(worker.env, tmp_path, *options)
        assert (ended.returncode, ended.stderr) == (0, "")
        report = json.loads(ended.stdout)
        assert report["status"] == "ok"
        assert name in {check["name"] for check in report["checks"]}


def test_one_that_listens_everywhere_is_asked_on_this_machine(kafka, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    with Worker(environment(kafka.bootstrap_servers, topics, HTTP_HOST="0.0.0.0"), tmp_path) as worker:
        assert probe(worker.env, tmp_path, "--ready").returncode == 0


def test_one_that_has_no_broker_is_alive_and_not_ready(tmp_path):
    server, port = f"127.0.0.1:{free_port()}", str(free_port())
    env = environment(server, NOWHERE, HTTP_PORT=port, START_TIMEOUT_S="60")
    worker = Worker(env, tmp_path)
    worker.start()
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(worker.kill)
        deadline = time.monotonic() + GIVEN_UP_S
        while (alive := probe(env, tmp_path)).returncode != 0:
            assert time.monotonic() < deadline, alive.stderr
        ready = probe(env, tmp_path, "--ready")
        assert ready.returncode == 1
        assert json.loads(ready.stdout)["status"] == "fail"


def test_one_that_is_frozen_is_1_within_the_timeout(worker, tmp_path):
    worker.process.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    ended = probe(worker.env, tmp_path, "--timeout", "0.5")
    assert time.monotonic() - started < GIVEN_UP_S
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("no answer from 127.0.0.1:")


def test_none_at_all_is_1_in_words(tmp_path):
    port = free_port()
    ended = probe(environment("nowhere:1", NOWHERE, HTTP_PORT=str(port)), tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"no answer from 127.0.0.1:{port}/livez: ")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("answer", [b"nonsense\r\n\r\n", b"HTTP/1.1 404 Not Found\r\n\r\n[]"])
def test_an_endpoint_of_something_else_is_1(tmp_path, answer):
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer_once, args=(server, answer), daemon=True).start()
        env = environment("nowhere:1", NOWHERE, HTTP_PORT=str(server.getsockname()[1]))
        ended = probe(env, tmp_path)
    assert (ended.returncode, "Traceback" in ended.stderr) == (1, False), ended.stderr


def answer_once(server: socket.socket, answer: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(10_000)
        connection.sendall(answer)


@pytest.mark.parametrize("port", ["0", "-1"])
def test_a_port_that_cannot_be_known_is_a_wrong_setting(tmp_path, port):
    ended = probe(environment("nowhere:1", NOWHERE, HTTP_PORT=port), tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("USERTASK_HTTP_PORT: ")


def test_two_questions_at_once_are_a_usage_error(tmp_path):
    assert probe(environment("nowhere:1", NOWHERE), tmp_path, "--live", "--ready").returncode == 2


def test_a_probe_loads_no_client_of_kafka_or_of_the_store():
    script = "import sys, worker.cli.probing; print(sorted({'aiokafka', 'structlog', 'sqlite3'} & set(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", script], env=bare_environment(), capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"
