"""The worker's health and the server that tells it."""

import gzip
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message

import pytest
from prometheus_client import CollectorRegistry, Counter

from worker.telemetry.health import Check, Health
from worker.telemetry.server import HealthServer


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(stall_limit_s=60, clock=clock)


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("tries", "Tries", registry=registry).inc(3)
    return registry


@pytest.fixture
def server(health: Health, registry: CollectorRegistry) -> Iterator[HealthServer]:
    server = HealthServer("127.0.0.1", 0, health, registry)
    server.start()
    yield server
    server.stop()


def make_ready(health: Health) -> None:
    health.set_joined(True)
    health.set_taken_over(True)
    health.set_store_reachable(True)


def fetch(
    server: HealthServer, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, bytes, Message]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read(), response.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


def failing(verdict: tuple[bool, list]) -> list[str]:
    return [check.name for check in verdict[1] if not check.ok]


def was_closed_by_peer(connection: socket.socket, deadline_s: float = 10) -> bool:
    connection.settimeout(deadline_s)
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_a_new_worker_is_alive_but_not_ready(health: Health) -> None:
    assert health.live()[0]
    assert failing(health.ready()) == ["group_joined", "partitions_taken_over", "store_reachable"]


def test_a_worker_that_joined_and_took_over_and_reaches_its_store_is_ready(health: Health) -> None:
    make_ready(health)
    assert health.ready()[0]


def test_a_loop_that_does_not_turn_makes_it_unready_long_before_it_counts_as_dead(health: Health, clock: Clock) -> None:
    make_ready(health)
    clock.now_s += 10.1
    assert failing(health.ready()) == ["loop_turns"]
    assert health.live()[0]
    health.tick()
    assert health.ready()[0]


@pytest.mark.parametrize(
    ("fail", "name"),
    [
        (lambda health: health.set_joined(False), "group_joined"),
        (lambda health: health.set_taken_over(False), "partitions_taken_over"),
        (lambda health: health.set_store_reachable(False), "store_reachable"),
        (lambda health: health.set_unsaved("a full disk"), "batches_saved"),
        (lambda health: health.set_fetching(False), "commands_fetched"),
        (lambda health: health.set_blocked({3: "store_behind"}), "partitions_unblocked"),
        (lambda health: health.set_stopping(), "not_stopping"),
    ],
)
def test_each_condition_alone_makes_it_unready_and_leaves_it_alive(
    health: Health, fail: Callable[[Health], None], name: str
) -> None:
    make_ready(health)
    fail(health)
    assert failing(health.ready()) == [name]
    assert health.live()[0]


def test_a_loop_that_is_silent_for_longer_than_the_limit_is_dead_until_it_ticks(health: Health, clock: Clock) -> None:
    clock.now_s += 60
    assert health.live()[0]
    clock.now_s += 0.1
    assert failing(health.live()) == ["consumer_loop_turns"]
    health.tick()
    assert health.live()[0]


def test_a_pause_is_told_and_is_no_failure(health: Health) -> None:
    make_ready(health)
    health.set_paused("the store does not answer")
    live, [check] = health.live()
    assert live
    assert "paused: the store does not answer" in check.detail
    assert health.ready()[0]
    health.set_paused(None)
    assert "paused" not in health.live()[1][0].detail


def test_the_probes_answer_ok_in_plain_text(server: HealthServer, health: Health) -> None:
    make_ready(health)
    for path in ("/livez", "/readyz"):
        status, body, headers = fetch(server, path)
        assert (status, body) == (200, b"ok\n")
        assert headers["Content-Type"] == "text/plain; charset=utf-8"
        assert headers["Cache-Control"] == "no-store"


def test_a_failing_probe_answers_503_and_lists_what_fails(server: HealthServer, health: Health) -> None:
    make_ready(health)
    health.set_store_reachable(False)
    assert fetch(server, "/readyz")[:2] == (503, b"store_reachable: the store does not answer, or takes no writes\n")


def test_a_stalled_loop_gets_its_red_answer(server: HealthServer, clock: Clock) -> None:
    clock.now_s += 61
    status, body, _ = fetch(server, "/livez")
    assert status == 503
    assert body.startswith(b"consumer_loop_turns: ")


def test_a_verbose_probe_answers_every_check_in_json(server: HealthServer, health: Health) -> None:
    status, body, headers = fetch(server, "/readyz?verbose")
    report = json.loads(body)
    assert status == 503
    assert headers["Content-Type"] == "application/json"
    assert report["status"] == "fail"
    assert {check["name"]: check["ok"] for check in report["checks"]} == {
        "loop_turns": True,
        "group_joined": False,
        "partitions_taken_over": False,
        "store_reachable": False,
        "batches_saved": True,
        "commands_fetched": True,
        "partitions_unblocked": True,
        "not_stopping": True,
    }
    make_ready(health)
    assert json.loads(fetch(server, "/readyz?verbose=1")[1])["status"] == "ok"


def test_metrics_are_served_in_the_form_that_is_asked_for(server: HealthServer) -> None:
    status, body, headers = fetch(server, "/metrics")
    assert status == 200
    assert b"tries_total 3.0" in body
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert headers["Cache-Control"] == "no-store"
    _, body, headers = fetch(server, "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_metrics_are_compressed_for_those_who_take_it(server: HealthServer) -> None:
    _, body, headers = fetch(server, "/metrics", headers={"Accept-Encoding": "gzip"})
    assert headers["Content-Encoding"] == "gzip"
    assert b"tries_total 3.0" in gzip.decompress(body)


@pytest.mark.parametrize("path", ["/livez", "/metrics"])
def test_head_answers_what_get_would_without_its_body(server: HealthServer, path: str) -> None:
    status, body, headers = fetch(server, path, method="HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) == len(fetch(server, path)[1]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_not_allowed(server: HealthServer, method: str) -> None:
    for path in ("/livez", "/metrics"):
        status, _, headers = fetch(server, path, method=method)
        assert status == 405
        assert headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/", "/livez/", "/favicon.ico", "/metrics/x"])
def test_other_paths_are_not_found(server: HealthServer, path: str) -> None:
    assert fetch(server, path)[0] == 404


def test_requests_leave_no_trace_on_standard_error(server: HealthServer, capfd: pytest.CaptureFixture[str]) -> None:
    fetch(server, "/livez")
    fetch(server, "/nowhere")
    assert capfd.readouterr().err == ""


def test_an_idle_client_is_cut_off(health: Health, registry: CollectorRegistry) -> None:
    server = HealthServer("127.0.0.1", 0, health, registry, request_timeout_s=0.2)
    server.start()
    with socket.create_connection(("127.0.0.1", server.port)) as idle:
        assert was_closed_by_peer(idle)
    server.stop()


def test_a_client_that_drips_bytes_is_cut_off(health: Health, registry: CollectorRegistry) -> None:
    server = HealthServer("127.0.0.1", 0, health, registry, request_timeout_s=0.2)
    server.start()
    deadline = time.monotonic() + 10
    with socket.create_connection(("127.0.0.1", server.port)) as dripping:
        dripping.settimeout(0.05)
        dripping.sendall(b"GET /livez HTTP/1.0\r\n")
        cut = False
        while not cut and time.monotonic() < deadline:
            try:
                dripping.sendall(b"x")
                cut = dripping.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                cut = True
    server.stop()
    assert cut


def test_the_oldest_idle_clients_make_room_for_a_probe(health: Health, registry: CollectorRegistry) -> None:
    server = HealthServer("127.0.0.1", 0, health, registry, request_timeout_s=3600)
    server.start()
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(40)]
    assert fetch(server, "/livez")[0] == 200
    assert all(was_closed_by_peer(connection) for connection in idle[:8])
    for connection in idle:
        connection.close()
    server.stop()


def test_a_client_that_goes_away_does_no_harm(server: HealthServer, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(10):
        with socket.create_connection(("127.0.0.1", server.port)) as hasty:
            hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # close with a reset
            hasty.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
    assert fetch(server, "/livez")[0] == 200
    assert capfd.readouterr().err == ""


def test_a_registry_that_fails_answers_500_and_the_probes_go_on(health: Health) -> None:
    class Failing(CollectorRegistry):
        def collect(self) -> Iterator:
            raise RuntimeError("no figures today")

    server = HealthServer("127.0.0.1", 0, health, Failing())
    server.start()
    assert fetch(server, "/metrics")[:2] == (500, b"Internal Server Error\n")
    assert fetch(server, "/livez")[0] == 200
    server.stop()


def test_a_port_in_use_is_an_os_error(server: HealthServer, health: Health, registry: CollectorRegistry) -> None:
    second = HealthServer("127.0.0.1", server.port, health, registry)
    with pytest.raises(OSError, match="in use"):
        second.start()
    second.stop()


def test_a_stopped_server_frees_its_port_and_may_be_stopped_again(health: Health, registry: CollectorRegistry) -> None:
    server = HealthServer("127.0.0.1", 0, health, registry)
    server.start()
    port = server.port
    server.stop()
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert server.port == 0


@pytest.mark.parametrize(("host", "asked"), [("::1", ["[::1]"]), ("::", ["[::1]", "127.0.0.1"])])
def test_an_ipv6_address_can_be_listened_on_and_all_of_both_kinds(
    health: Health, registry: CollectorRegistry, host: str, asked: list[str]
) -> None:
    server = HealthServer(host, 0, health, registry)
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("IPV6 IS NOT TESTED: this machine has no ::1")
    server.start()
    for one in asked:
        with urllib.request.urlopen(f"http://{one}:{server.port}/livez", timeout=10) as response:
            assert response.read() == b"ok\n"
    server.stop()


def test_where_there_is_no_ipv6_all_is_all_of_ipv4(
    health: Health, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    server = HealthServer("::", 0, health, registry)
    server.start()
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/livez", timeout=10) as response:
        assert response.read() == b"ok\n"
    server.stop()


def test_a_further_check_makes_it_dead_until_it_is_good_again(health: Health) -> None:
    health.set_check(Check("moves", ok=True, detail="fine"))
    assert health.live()[0]
    health.set_check(Check("moves", ok=False, detail="partition 1 is not read for 61 s"))
    assert failing(health.live()) == ["moves"]
    assert "moves" not in failing(health.ready())
    health.set_check(Check("moves", ok=True, detail="fine"))
    assert health.live()[0]
