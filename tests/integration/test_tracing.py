"""Traces through a worker: trace headers in, linked spans at a collector, and the headers out again unchanged."""

import contextlib
import json
import re
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import version

import pytest

from tests.chaos.fleet import DoomedWorker
from tests.integration.collector import SpanCollector, exporting_to
from tests.integration.harness import (
    CREATE,
    Header,
    Topics,
    Wire,
    Worker,
    bare_environment,
    cloud_event,
    encoded,
    environment,
    free_port,
    fresh_id,
    fresh_key,
    make_topics,
    run_cli,
)
from worker.telemetry.exporting import FLUSH_TIMEOUT_S

POSITION = ("messaging.destination.partition.id", "messaging.kafka.offset")
TRACESTATE = b"vendor=1, not a=valid\xff one"


class Sender:
    """A span of another service, in which it sends a command."""

    def __init__(self, flags: str = "01") -> None:
        self.context = (secrets.token_hex(16), secrets.token_hex(8))
        self.traceparent = f"00-{self.context[0]}-{self.context[1]}-{flags}".encode()

    @property
    def headers(self) -> list[Header]:
        return [("traceparent", self.traceparent), ("tracestate", TRACESTATE)]


@pytest.fixture(scope="module")
def collector() -> Iterator[SpanCollector]:
    with SpanCollector() as collector:
        yield collector


@pytest.fixture(scope="module")
def topics(kafka) -> Topics:
    return make_topics(kafka.bootstrap_servers)


@pytest.fixture(scope="module")
def wire(kafka, topics, collector, tmp_path_factory) -> Iterator[Wire]:
    """A worker that is traced, and its topics."""
    folder = tmp_path_factory.mktemp("traced")
    env = environment(kafka.bootstrap_servers, topics, folder / "tasks.db") | collector.environment
    with Worker(env, folder) as worker, Wire(kafka.bootstrap_servers, topics, worker.watch) as wire:
        yield wire


def test_the_senders_trace_has_a_span_of_the_worker_and_the_headers_go_on_unchanged(wire, collector):
    sender = Sender()

    event = wire.create(headers=sender.headers)

    span = collector.wait_for(lambda one: one.parent == sender.context)
    assert span.span.name == f"process {wire.topics.commands}"
    assert span.attributes["usertask.status"] == 204
    assert (event.headers["traceparent"], event.headers["tracestate"]) == (sender.traceparent, TRACESTATE)


def test_the_batch_is_linked_with_the_sender_and_its_trace_ends_with_the_kafka_transaction(wire, collector):
    sender = Sender()

    wire.create(headers=sender.headers)

    batch = collector.wait_for(lambda one: sender.context in one.links)
    assert (batch.span.name, batch.parent[1]) == (f"process {wire.topics.commands}", "")
    sent = collector.wait_for(lambda one: one.parent == batch.context)
    assert (sent.span.name, sent.attributes["messaging.destination.name"]) == ("send", wire.topics.events)
    own = collector.wait_for(lambda one: one.parent == sender.context)
    assert own.links == [batch.context]


def test_a_refused_command_has_its_status_and_its_rejection_the_headers(wire, collector):
    sender = Sender()

    rejection = wire.rejected(encoded({"userTaskKey": fresh_key()}), headers=sender.headers)

    span = collector.wait_for(lambda one: one.parent == sender.context)
    assert span.attributes["usertask.status"] == rejection.body["status"] == 404
    position = (wire.topics.commands, *(span.attributes[name] for name in POSITION))
    assert rejection.body["instance"] == "/{}/{}/{}".format(*position)
    assert (rejection.headers["traceparent"], rejection.headers["tracestate"]) == (sender.traceparent, TRACESTATE)


@pytest.mark.parametrize(
    "traceparent",
    [
        pytest.param(Sender("00").traceparent, id="not sampled"),
        pytest.param(b"00-a-b-01", id="not valid"),
        pytest.param(b"\xff" * 55, id="not text"),
    ],
)
def test_a_header_that_is_not_sampled_or_not_valid_goes_on_unchanged_and_has_no_span(traceparent, wire, collector):
    event = wire.create(headers=[("traceparent", traceparent)])

    after = Sender()
    wire.create(headers=after.headers)
    collector.wait_for(lambda one: one.parent == after.context)
    assert event.headers["traceparent"] == traceparent
    traced = traceparent[3:35].decode(errors="replace")
    assert not [one for one in collector.spans() if one.context[0] == traced or traced in dict(one.links)]


def test_spans_name_the_worker_as_their_service(wire, collector):
    sender = Sender()

    wire.create(headers=sender.headers)

    resource = collector.wait_for(lambda one: one.parent == sender.context).resource
    assert (resource["service.name"], resource["service.version"]) == ("user-task-worker", version("user-task-worker"))
    assert re.fullmatch(r"[0-9a-f-]{36}", resource["service.instance.id"])


def test_the_environment_names_the_service_otherwise_and_a_stop_sends_what_is_left(kafka, collector, tmp_path):
    topics, sender = make_topics(kafka.bootstrap_servers), Sender()
    env = environment(kafka.bootstrap_servers, topics, tmp_path / "tasks.db") | collector.environment
    env |= {
        "OTEL_BSP_SCHEDULE_DELAY": "3600000",
        "OTEL_SERVICE_NAME": "tasks",
        "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=pod-7,deployment.environment.name=test",
    }
    with Worker(env, tmp_path) as worker, Wire(kafka.bootstrap_servers, topics, worker.watch) as wire:
        wire.create(headers=sender.headers)
        assert worker.terminate() == 0, worker.stderr()

    resource = collector.wait_for(lambda one: one.parent == sender.context).resource
    named = ("service.name", "service.instance.id", "deployment.environment.name")
    assert tuple(resource[name] for name in named) == ("tasks", "pod-7", "test")
    assert '"event": "tracing_started"' in worker.stderr()


def test_an_event_that_is_republished_after_a_crash_has_the_headers_and_its_publishing_a_link(
    kafka, collector, tmp_path
):
    topics, sender = make_topics(kafka.bootstrap_servers), Sender()
    env = environment(kafka.bootstrap_servers, topics, tmp_path / "tasks.db", SESSION_TIMEOUT_S="3")
    env |= collector.environment
    fault = {"USERTASK_TEST_MOMENT": "after-store-commit", "USERTASK_TEST_SIGNAL": "KILL", "USERTASK_TEST_COUNT": "1"}
    key, command_id = fresh_key(), fresh_id()
    headers = [*cloud_event(CREATE, command_id), *sender.headers]
    with Wire(kafka.bootstrap_servers, topics) as wire:
        with DoomedWorker(env | fault, tmp_path) as doomed:
            wire.send(encoded({"userTaskKey": key}), key=key.encode(), headers=headers)
            assert doomed.has_ended(within_s=60), doomed.stderr()
            assert doomed.process.returncode == -signal.SIGKILL
        assert wire.events() == []
        with Worker(env, tmp_path):
            event = wire.event(command_id)

            sent = collector.wait_for(lambda one: sender.context in one.links)

    assert (event.headers["traceparent"], event.headers["tracestate"]) == (sender.traceparent, TRACESTATE)
    assert (sent.span.name, sent.attributes["messaging.destination.name"]) == ("send", topics.events)


@contextlib.contextmanager
def a_port(*, listens: bool) -> Iterator[int]:
    """A port where nobody is, or one where somebody takes connections and never answers."""
    if not listens:
        yield free_port()
        return
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield silent.getsockname()[1]


@pytest.mark.parametrize("listens", [False, True], ids=["refuses", "is silent"])
def test_a_collector_that(listens, kafka, tmp_path):
    """Neither holds up commands nor, by more than its second, the end; and the log is not full of it."""
    topics, sender = make_topics(kafka.bootstrap_servers), Sender()
    with a_port(listens=listens) as port:
        env = environment(kafka.bootstrap_servers, topics, tmp_path / "tasks.db") | exporting_to(port)
        with Worker(env, tmp_path) as worker, Wire(kafka.bootstrap_servers, topics, worker.watch) as wire:
            for _ in range(20):
                event = wire.create(headers=sender.headers)
                assert event.headers["traceparent"] == sender.traceparent
            if not listens:
                wire.wait_until(lambda: "opentelemetry" in worker.stderr())
            assert worker.is_ready()

            assert worker.terminate() == 0, worker.stderr()
            ended_s = time.time()

    lines = [json.loads(line) for line in worker.stderr().splitlines()]
    [stopped] = [line for line in lines if line["event"] == "worker_stopped"]
    assert ended_s - datetime.fromisoformat(stopped["timestamp"]).timestamp() < FLUSH_TIMEOUT_S + 2
    assert len([line for line in lines if line["logger"].startswith(("opentelemetry", "urllib3"))]) <= 5


def test_headers_for_the_collector_that_cannot_be_read_are_in_no_log(tmp_path):
    nowhere = f"127.0.0.1:{free_port()}"
    env = bare_environment() | {
        "USERTASK_KAFKA_BOOTSTRAP_SERVERS": nowhere,
        "USERTASK_START_TIMEOUT_S": "1",
        "USERTASK_HTTP_PORT": "-1",
        "USERTASK_LOG_LEVEL": "debug",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{nowhere}",
        "OTEL_EXPORTER_OTLP_HEADERS": "api key:4711-secret",
    }

    ended = run_cli("run", env=env, cwd=tmp_path)

    assert "tracing_started" in ended.stderr
    assert "4711-secret" not in ended.stderr + ended.stdout
