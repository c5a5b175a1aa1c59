"""A collector of spans: what listens where OTEL_EXPORTER_OTLP_ENDPOINT points, and decodes what comes."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

DEADLINE_S = 20


@dataclass(frozen=True)
class SeenSpan:
    """A span as it came over the wire; ids in hexadecimal."""

    span: Span
    attributes: dict[str, Any]
    resource: dict[str, Any]

    @property
    def context(self) -> tuple[str, str]:
        return self.span.trace_id.hex(), self.span.span_id.hex()

    @property
    def parent(self) -> tuple[str, str]:
        return self.span.trace_id.hex(), self.span.parent_span_id.hex()

    @property
    def links(self) -> list[tuple[str, str]]:
        return [(link.trace_id.hex(), link.span_id.hex()) for link in self.span.links]


class SpanCollector:
    """OTLP over HTTP, on a free port of this machine."""

    def __enter__(self) -> Self:
        self._spans: list[SeenSpan] = []
        self._news = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.path == "/v1/traces":
                    collector._take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(DEADLINE_S)

    @property
    def environment(self) -> dict[str, str]:
        """Give the environment of a worker that is to send its spans here."""
        return exporting_to(self._server.server_port)

    def spans(self) -> list[SeenSpan]:
        with self._news:
            return self._spans.copy()

    def wait_for(self, wanted: Callable[[SeenSpan], bool]) -> SeenSpan:
        """Return the first span that is wanted, once it is there."""
        deadline = time.monotonic() + DEADLINE_S
        with self._news:
            while not (found := [span for span in self._spans if wanted(span)]):
                assert time.monotonic() < deadline, [(one.span.name, one.attributes, one.links) for one in self._spans]
                self._news.wait(0.2)
            return found[0]

    def _take(self, request: ExportTraceServiceRequest) -> None:
        came = [
            SeenSpan(span, _values(span.attributes), _values(group.resource.attributes))
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]
        with self._news:
            self._spans += came
            self._news.notify_all()


def exporting_to(port: int) -> dict[str, str]:
    endpoint = f"http://127.0.0.1:{port}"
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100", "NO_PROXY": "127.0.0.1"}


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
