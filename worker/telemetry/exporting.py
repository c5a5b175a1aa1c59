"""Where spans go: OpenTelemetry's SDK, which is an extra, set up by its own standard environment variables alone."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import entry_points
from threading import Thread
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import structlog
from opentelemetry import trace

from worker.telemetry.defects import in_words

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

log = structlog.stdlib.get_logger(__name__)

FLUSH_TIMEOUT_S: Final = 1.0
"""How long the last spans may hold up the end of the process."""
SERVICE_NAME: Final = "user-task-worker"

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_OTLP: Final = {"": "otlp_proto_http", "http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
"""The SDK's names of its exporters, by protocol. The extra brings the first."""


def exporters_named(environ: Mapping[str, str]) -> list[str]:
    """Give the exporters that an environment asks for, as the SDK calls them; none unless an endpoint or one is named.

    OpenTelemetry's default is to export to port 4318 of this machine. That a worker does so unasked would surprise.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    default = "otlp" if any(environ.get(name) for name in _ENDPOINTS) else "none"
    named = environ.get("OTEL_TRACES_EXPORTER") or default
    protocol = next((environ[name].strip() for name in _PROTOCOLS if environ.get(name)), "")
    names = [name.strip() for name in named.split(",")]
    return [_OTLP.get(protocol, protocol) if name == "otlp" else name for name in names if name not in {"", "none"}]


@contextmanager
def spans_exported(environ: Mapping[str, str], version: str) -> Iterator[None]:
    """Export the spans made meanwhile, if the environment says where to. Whatever fails there is told, and no more."""
    provider = _start(exporters_named(environ), version)
    try:
        yield
    finally:
        if provider is not None:
            _stop(provider)


def _start(exporters: list[str], version: str) -> "TracerProvider | None":
    if not exporters or not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None  # nobody asked for it, or somebody has seen to it already, such as opentelemetry-instrument
    # it repeats headers that it cannot read, and those are secrets
    logging.getLogger("opentelemetry.util.re").setLevel(logging.CRITICAL)
    try:
        provider = _provider(exporters, version)
    except Exception as error:  # noqa: BLE001 - nobody's work depends on spans
        is_missing = isinstance(error, ModuleNotFoundError) and str(error.name).startswith("opentelemetry.sdk")
        reason = "it needs the extra: user-task-worker[otel]" if is_missing else in_words(error)
        log.warning("tracing_not_started", reason=reason)
        return None
    trace.set_tracer_provider(provider)
    log.info("tracing_started", exporters=exporters)
    return provider


def _provider(exporters: list[str], version: str) -> "TracerProvider":
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415 - an extra
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    ours = {"service.name": SERVICE_NAME, "service.version": version, "service.instance.id": str(uuid4())}
    theirs = OTELResourceDetector().detect().attributes  # what the environment names, and it wins
    # not at exit: that would wait for a collector that does not answer
    provider = TracerProvider(resource=Resource.create({**ours, **theirs}), shutdown_on_exit=False)
    for name in exporters:
        provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
    return provider


def _exporter(name: str) -> "SpanExporter":
    found = entry_points(group="opentelemetry_traces_exporter", name=name)
    if not found:
        raise LookupError(f"there is no exporter {name!r}")
    make: Callable[[], SpanExporter] = next(iter(found)).load()
    return make()


def _stop(provider: "TracerProvider") -> None:
    """Send what is left, within the limit: the SDK itself would wait for half a minute."""
    flushing = Thread(target=provider.shutdown, name="flush-spans", daemon=True)
    with suppress(KeyboardInterrupt):  # the work is done: whoever asks again does not want to wait for spans
        flushing.start()
        flushing.join(FLUSH_TIMEOUT_S)
