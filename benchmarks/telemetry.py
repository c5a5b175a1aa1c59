"""What it costs that the worker tells of its work: its log, and its spans."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from benchmarks.comparison import Ratio
from benchmarks.scaling import Case, Result
from benchmarks.subjects import Subject
from benchmarks.workload import Workload

SILENT: Final = "no log"
LOG: Final = "log at level info"
SPANS: Final = "log and spans"
TRACED: Final = "log, commands with `traceparent`"
TRACED_SPANS: Final = "log and spans, commands with `traceparent`"
_AIM: Final = 1.05


class _Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def sink() -> Iterator[int]:
    """Take spans and drop them; gives the port of a collector that costs nothing."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def cases(commands: int, port: int) -> list[Case]:
    """Vary what is told, from nothing to lines and spans for whatever the limits allow."""
    exporting = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_BSP_SCHEDULE_DELAY": "500",  # not 5 s, which a run does not take: what is sent later is not measured
        "NO_PROXY": "127.0.0.1",
    }
    plain = Workload(tasks=commands, commands=commands)
    traced = Workload(tasks=commands, commands=commands, traced=True)
    return [
        Case(name=SILENT, subject=_worker({"USERTASK_LOG_LEVEL": "error"}), workload=plain),
        Case(name=LOG, subject=_worker({}), workload=plain),
        Case(name=SPANS, subject=_worker(exporting), workload=plain),
        Case(name=TRACED, subject=_worker({}), workload=traced),
        Case(name=TRACED_SPANS, subject=_worker(exporting), workload=traced),
    ]


def costs(results: Sequence[Result]) -> list[Ratio]:
    """Give the CPU of a command by that of the same command with less told, run by run."""
    cpu_us = {one.case: [run.cpu_us_per_command for run in one.runs] for one in results}
    pairs = ((LOG, SILENT), (SPANS, LOG), (TRACED_SPANS, TRACED))
    return [
        Ratio(more, less, [one / other for one, other in zip(cpu_us[more], cpu_us[less], strict=True)], _AIM)
        for more, less in pairs
    ]


def _worker(environment: dict[str, str]) -> Subject:
    return Subject(name="telling", store="postgres", environment=environment)
