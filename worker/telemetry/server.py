"""The small HTTP server that tells health and metrics to Kubernetes and Prometheus."""

import io
import json
import socket
import socketserver
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from http import HTTPStatus
from threading import Lock, Thread
from typing import Any, Final
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app

from worker.telemetry.health import Check, Health

_MAX_CONNECTIONS: Final = 32
_POLL_INTERVAL_S: Final = 0.1
_EVERYWHERE: Final = "::"
_EVERYWHERE_OF_IPV4: Final = "0.0.0.0"  # noqa: S104 - for one who has asked for all

_log = structlog.stdlib.get_logger(__name__)


class HealthServer:
    """Serves `/livez`, `/readyz` and `/metrics` from a thread, so that a blocked event loop still gets its red answer.

    The probes answer 200 or 503 in plain text, or in JSON if the query says `verbose`.

    Args:
        host: name or address to listen on, IPv4 or IPv6; `::` is all of both.
        port: TCP port; 0 picks a free one.
        health: what the probes tell.
        registry: what `/metrics` tells.
        request_timeout_s: after so many seconds a connection is cut, idle or not.

    """

    def __init__(
        self, host: str, port: int, health: Health, registry: CollectorRegistry, *, request_timeout_s: float = 5.0
    ) -> None:
        self._host = host
        self._port = port
        self._request_timeout_s = request_timeout_s
        self._endpoints = _Endpoints(health, registry)
        self._server: _Server | None = None
        self._thread: Thread | None = None

    @property
    def port(self) -> int:
        """The port listened on; before the start, and after the end, the one that was asked for."""
        return self._port if self._server is None else self._server.server_port

    def start(self) -> None:
        """Listen and serve; to be called once.

        Raises:
            OSError: the address cannot be listened on, since it is taken, forbidden or unknown.

        """
        self._server = _Server(self._host, self._port, self._endpoints, self._request_timeout_s)
        self._thread = Thread(target=self._server.serve_forever, args=(_POLL_INTERVAL_S,), name="health", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Listen no more; takes up to a tenth of a second. A server that does not run is left as it is."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = self._thread = None


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "text/plain; charset=utf-8"),)


class _Endpoints:
    """The WSGI application."""

    def __init__(self, health: Health, registry: CollectorRegistry) -> None:
        self._prometheus = make_wsgi_app(registry)
        self._routes: dict[str, Callable[[WSGIEnvironment], _Answer]] = {
            "/livez": lambda environ: _probe_answer(environ, *health.live()),
            "/readyz": lambda environ: _probe_answer(environ, *health.ready()),
            "/metrics": self._metrics_answer,
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        answer = self._answer(environ)
        status = f"{answer.status.value} {answer.status.phrase}"
        length = str(len(answer.body))
        start_response(status, [*answer.headers, ("Cache-Control", "no-store"), ("Content-Length", length)])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]

    def _answer(self, environ: WSGIEnvironment) -> _Answer:
        route = self._routes.get(environ["PATH_INFO"])
        if route is None:
            return _plain(HTTPStatus.NOT_FOUND)
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED, ("Allow", "GET, HEAD"))
        try:
            return route(environ)
        except Exception:  # noqa: BLE001 (a probe is answered, whatever happens)
            _log.exception("http_request_failed", path=environ["PATH_INFO"])
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _metrics_answer(self, environ: WSGIEnvironment) -> _Answer:
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]]) -> None:
            started.append((status, headers))

        # prometheus_client knows no HEAD: it is asked with GET, and the body is left out afterwards.
        body = b"".join(self._prometheus({**environ, "REQUEST_METHOD": "GET"}, start_response))
        [(status, headers)] = started
        return _Answer(HTTPStatus(int(status[:3])), body, tuple(headers))


class _Handler(WSGIRequestHandler):
    def get_stderr(self) -> Any:
        """Keep wsgiref's tracebacks of clients that went away out of the log."""
        return io.StringIO()

    def log_message(self, *_: object) -> None:
        """Log no requests: probes come every few seconds."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """One thread a connection, with a limit of connections and of each one's time."""

    daemon_threads = True
    allow_reuse_port = False  # newer Pythons would let two workers share one port, each hiding the other
    request_queue_size = 128  # of the kernel's: connections that wait for their thread

    def __init__(self, host: str, port: int, endpoints: _Endpoints, request_timeout_s: float) -> None:
        self._request_timeout_s = request_timeout_s
        if host == _EVERYWHERE and not socket.has_dualstack_ipv6():
            host = _EVERYWHERE_OF_IPV4  # a machine without IPv6 has no other
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._opened: dict[socket.socket, float] = {}  # in the order of opening
        self._lock = Lock()
        super().__init__((host, port), _Handler)
        self.set_app(endpoints)

    def server_bind(self) -> None:
        """Bind without the reverse look-up of the host's name that the base class does, which may take seconds."""
        if self.address_family == socket.AF_INET6:  # of IPv4, too, whatever the system's default is
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection; above the limit the oldest one makes room, so that no idle client locks probes out."""
        with self._lock:
            self._opened[request] = time.monotonic()
            surplus = list(self._opened)[:-_MAX_CONNECTIONS]
        for oldest in surplus:
            _cut(oldest)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        """Close a connection and forget it."""
        with self._lock:
            self._opened.pop(request, None)
        super().close_request(request)

    def service_actions(self) -> None:
        """Cut connections whose time is up, also of clients that drip bytes; called on each turn of the loop."""
        oldest_allowed = time.monotonic() - self._request_timeout_s
        with self._lock:
            overdue = [one for one, opened_at in self._opened.items() if opened_at < oldest_allowed]
        for one in overdue:
            _cut(one)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 (typeshed's own)
        """Log defects; a client that went away or was too slow is none."""
        if not isinstance(sys.exc_info()[1], OSError):
            _log.exception("http_request_failed")


def _cut(connection: socket.socket) -> None:
    """End a connection from outside; its thread then finds it at its end and closes it."""
    with suppress(OSError):  # it was closed in the meantime
        connection.shutdown(socket.SHUT_RDWR)


def _probe_answer(environ: WSGIEnvironment, ok: bool, checks: list[Check]) -> _Answer:  # noqa: FBT001 (a verdict)
    status = HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE
    if "verbose" in parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True):
        report = {"status": "ok" if ok else "fail", "checks": [asdict(check) for check in checks]}
        return _Answer(status, json.dumps(report).encode() + b"\n", (("Content-Type", "application/json"),))
    failing = [f"{check.name}: {check.detail}" for check in checks if not check.ok]
    return _Answer(status, "\n".join([*failing, ""] if failing else ["ok", ""]).encode())


def _plain(status: HTTPStatus, *headers: tuple[str, str]) -> _Answer:
    body = f"{status.phrase}\n".encode()
    return _Answer(status, body, (("Content-Type", "text/plain; charset=utf-8"), *headers))
