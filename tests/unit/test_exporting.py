"""What OpenTelemetry's variables ask for, and that nothing that is wrong with them stops a worker."""

import signal
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from opentelemetry import trace
from structlog.testing import capture_logs

from worker.telemetry.exporting import FLUSH_TIMEOUT_S, _stop, exporters_named, spans_exported

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("environ", "exporters"),
    [
        ({}, []),
        ({"OTEL_SERVICE_NAME": "tasks", "OTEL_TRACES_SAMPLER": "always_on"}, []),
        ({"OTEL_TRACES_EXPORTER": ""}, []),
        ({"OTEL_TRACES_EXPORTER": "none"}, []),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, []),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "True"}, []),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "false"}, ["otlp_proto_http"]),
        (ENDPOINT, ["otlp_proto_http"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, ["otlp_proto_http"]),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ["otlp_proto_http"]),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ["console", "otlp_proto_http"]),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, ["otlp_proto_http"]),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ["otlp_proto_grpc"]),
        (
            ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
            ["otlp_proto_http"],
        ),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, ["http/json"]),
    ],
)
def test_spans_are_exported_where_an_endpoint_or_an_exporter_is_named_and_only_there(environ, exporters):
    assert exporters_named(environ) == exporters


def lines_of(environ: dict[str, str]) -> list[dict]:
    """Give what is logged around a worker's life."""
    with capture_logs() as lines, spans_exported(environ, "1"):
        assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    return lines


def test_what_nobody_asked_for_is_not_told_of():
    assert lines_of({}) == []


def test_without_the_extra_a_line_says_so(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("opentelemetry.sdk")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)

    [line] = lines_of(ENDPOINT)

    assert (line["event"], line["log_level"]) == ("tracing_not_started", "warning")
    assert "user-task-worker[otel]" in line["reason"]


def test_an_exporter_that_is_not_there_is_named():
    [line] = lines_of(ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})

    assert line["event"] == "tracing_not_started"
    assert "otlp_proto_grpc" in line["reason"]


def test_what_opentelemetry_does_not_take_is_told_of(monkeypatch):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")

    [line] = lines_of({"OTEL_TRACES_EXPORTER": "console"})

    assert line["event"] == "tracing_not_started"
    assert "max_queue_size" in line["reason"]


def test_the_last_spans_do_not_hold_up_the_end():
    collector_answers = threading.Event()
    started_s = time.monotonic()

    _stop(SimpleNamespace(shutdown=collector_answers.wait))

    assert FLUSH_TIMEOUT_S <= time.monotonic() - started_s < FLUSH_TIMEOUT_S + 5
    collector_answers.set()


def test_whoever_interrupts_again_does_not_wait_for_the_last_spans():
    collector_answers = threading.Event()
    started_s = time.monotonic()

    def interrupt_and_wait() -> None:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        collector_answers.wait()

    _stop(SimpleNamespace(shutdown=interrupt_and_wait))

    assert time.monotonic() - started_s < FLUSH_TIMEOUT_S
    collector_answers.set()
