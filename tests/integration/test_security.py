"""TLS, logins and rights on a broker that denies by default, secrets that nobody sees, and hostile commands."""

import json
import os
import pty
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka.admin import NewTopic

from tests.integration.harness import (
    COMPLETE,
    CREATE,
    PARTITIONS,
    STRUCTURED,
    Bench,
    Collector,
    Unsent,
    Wire,
    Worker,
    bare_environment,
    cloud_event,
    command_line,
    create_topics,
    encoded,
    environment,
    free_port,
    fresh_key,
    make_topics,
    run_cli,
)
from tests.integration.secured import (
    PASSWORD,
    SCRAM,
    Acl,
    Secured,
    certified,
    documented_acls,
    secured_kafka,
    token,
)
from worker.kafka import client_options
from worker.settings import SettingsError, load_settings

ACLS = documented_acls()
SHORT_START_S = 2
DEFECT = "from worker.cli import main, probing; probing._ask = lambda *_: 1 / 0; main()"
SECRETS = [PASSWORD, "wrong-password"]
"""What must never be seen; the tests add the tokens and keys that they make."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with secured_kafka(tmp_path_factory.mktemp("secured")) as secured:
        SECRETS.extend(
            line for pair in (secured.ca, secured.client) for line in pair.key.read_text().splitlines()[1:-1]
        )
        yield secured


@pytest.fixture
def topics(broker):
    return make_topics(broker.admin)


def secret_file(folder: Path, secret: str, name: str = "secret") -> Path:
    SECRETS.extend(secret.split())
    path = folder / name
    path.write_text(f"{secret}\n")
    return path


def clean(*outputs: str) -> str:
    """Return what a process has written, in which no secret may stand."""
    text = "\n".join(outputs)
    assert [secret for secret in set(SECRETS) if secret in text] == []
    return text


def logged(worker: Worker) -> list[dict[str, str]]:
    return [json.loads(line) for line in clean(worker.stderr()).splitlines()]


def reasons(worker: Worker, event: str) -> str:
    """Return what the lines of this name say."""
    return " ".join(str(line) for line in logged(worker) if line["event"] == event)


def login(broker: Secured, folder: Path, mechanism: str) -> dict[str, str]:
    """Return the settings of a login that works."""
    if mechanism == "certificate":
        return broker.certificate(broker.client)
    if mechanism == "OAUTHBEARER":
        return broker.bearing(secret_file(folder, token()))
    return broker.login(mechanism, secret_file(folder, PASSWORD))


@dataclass
class Case:
    """A worker's settings and its folder."""

    env: dict[str, str]
    folder: Path

    def checked(self, code: int) -> dict[str, str]:
        """Return the red lines of `check`."""
        ended = run_cli("check", env=self.env, cwd=self.folder)
        clean(ended.stdout, ended.stderr)
        assert ended.returncode == code, ended.stdout + ended.stderr
        checks = json.loads(ended.stdout)["checks"]
        return {check["name"]: check["detail"] for check in checks if check["result"] == "red"}


@pytest.fixture
def case(broker, topics, tmp_path):
    """Return a maker of cases; by default the login is one by SCRAM, and all documented rights are there."""

    def make(settings: dict[str, str] | None = None, acls: list[Acl] = ACLS, **more: str) -> Case:
        how = settings or login(broker, tmp_path, "SCRAM-SHA-512")
        ports = {"HTTP_PORT": str(free_port())}
        env = environment(broker.admin, topics, tmp_path / "tasks.db", **(ports | how | more))
        broker.allow(env, acls)
        return Case(env, tmp_path)

    return make


def works(wire: Wire) -> None:
    """Let a command of each outcome pass: an event, a rejection and a dead letter."""
    wire.complete(wire.created())
    wire.malformed(b"no json")
    wire.wait_until(wire.dead_letters)


# The documented rights


def test_the_documented_rights_are_those_of_the_four_topics_the_group_and_its_transactions():
    assert len(ACLS) == len(set(ACLS)) == 10


@pytest.mark.parametrize("mechanism", [*SCRAM, "certificate", "OAUTHBEARER"])
def test_with_the_documented_rights_alone_all_works(broker, topics, tmp_path, case, mechanism):
    it = case(login(broker, tmp_path, mechanism), LOG_LEVEL="debug")
    assert it.checked(0) == {}
    with Worker(it.env, tmp_path) as worker, Wire(broker.admin, topics, worker.watch) as wire:
        works(wire)
        assert worker.terminate() == 0
    assert reasons(worker, "poll_failed") + reasons(worker, "consumer_paused") == ""
    assert {line["level"] for line in logged(worker)} >= {"debug", "info"}


def test_extensions_of_the_login_and_the_protocol_as_a_scheme_are_taken(broker, tmp_path, case):
    how = login(broker, tmp_path, "OAUTHBEARER")
    how["KAFKA_BOOTSTRAP_SERVERS"] = f"SASL_SSL://{how['KAFKA_BOOTSTRAP_SERVERS']}"
    it = case(how | {"KAFKA_SASL_EXTENSIONS": "logicalCluster=lkc-1,identityPoolId=pool-1"})
    assert it.checked(0) == {}


def without(missing: Acl) -> list[Acl]:
    return [acl for acl in ACLS if acl != missing]


def named(acl: Acl) -> str:
    return f"{acl.operation}-{acl.setting.lower()}-{acl.kind}"


def some(kind: str, *operations: str) -> pytest.MarkDecorator:
    found = [acl for acl in ACLS if acl.kind == kind and acl.operation in operations]
    return pytest.mark.parametrize("acl", found, ids=named)


@some("Topic", "Read", "Write")
def test_without_a_right_to_a_topic_nothing_is_started_and_the_topic_named(case, acl):
    it = case(acls=without(acl))
    topic = it.env[f"USERTASK_{acl.setting}"]
    assert list(it.checked(4)) == [f"topic {topic}"]
    worker = ended(it, 4)
    assert f"missing topics: {topic};" in reasons(worker, "worker_not_started")
    assert "the right to them is missing" in reasons(worker, "worker_not_started")


@some("Topic", "DescribeConfigs")
def test_without_the_right_to_a_topics_configuration_a_default_is_assumed_and_said(case, acl):
    it = case(acls=without(acl))
    topic = it.env[f"USERTASK_{acl.setting}"]
    [(line, detail)] = it.checked(4).items()
    assert (line, detail) == (f"topic {topic}", "its configuration may not be read: TopicAuthorizationFailedError")
    if acl.setting == "DEAD_LETTERS_TOPIC":  # Kafka's default is too small for it
        worker = ended(it, 4)
        assert f"{topic} has max.message.bytes" in reasons(worker, "worker_not_started")
    else:
        with Worker(it.env, it.folder) as worker:
            assert worker.terminate() == 0
    assert topic in reasons(worker, "topic_config_unreadable")


@some("Group", "Read")
def test_without_the_right_to_the_group_it_is_not_joined_until_it_may_be(broker, case, acl):
    it = case(acls=without(acl))
    assert list(it.checked(4)) == ["right to see the group"]
    stands_still_until_allowed(broker, it, acl, "poll_failed")


@some("TransactionalId", "Write")
def test_without_the_right_to_transactional_ids_nothing_is_taken_over_until_it_may_be(broker, case, acl):
    it = case(acls=without(acl))
    assert list(it.checked(4)) == ["right to transactional ids"]
    stands_still_until_allowed(broker, it, acl, "consumer_paused")


def stands_still_until_allowed(broker: Secured, it: Case, acl: Acl, event: str) -> None:
    """See the worker alive and not ready, with one line that names what is denied, and at work once it is allowed."""
    with running(it) as worker:
        worker_says(worker, event, it.env[f"USERTASK_{acl.setting}"])
        assert (worker.get("/livez")[0], worker.get("/readyz")[0]) == (200, 503)
        broker.allow(it.env, [acl])
        worker.await_ready()
        assert worker.terminate() == 0


@pytest.mark.parametrize(
    ("setting", "operation", "line", "event"),
    [
        ("COMMANDS_TOPIC", "Read", "right to read commands", "consumer_paused"),
        ("EVENTS_TOPIC", "Write", "right to write {}", "consumer_paused"),
    ],
)
def test_a_right_that_is_taken_away_stops_the_worker_and_loses_nothing(
    broker, topics, case, setting, operation, line, event
):
    [acl] = [acl for acl in ACLS if (acl.setting, acl.operation) == (setting, operation)]
    it = case(acls=[*without(acl), acl._replace(operation="Describe")])
    topic = it.env[f"USERTASK_{setting}"]
    assert list(it.checked(4)) == [line.format(topic)]
    with running(it) as worker, Wire(broker.admin, topics, worker.watch) as wire:
        command = cloud_event(CREATE, "waits")
        position = wire.send(encoded({"userTaskKey": fresh_key()}), headers=command)
        worker_says(worker, event, topic)
        assert wire.events() == []
        assert (worker.get("/livez")[0], worker.get("/readyz")[0]) == (200, 503)
        broker.allow(it.env, [acl])
        worker.await_ready()
        assert len(wire.outcomes(position, "waits")) == 1
        assert worker.terminate() == 0


# Reply topics


def allow_on(broker: Secured, topic: str, *operations: str) -> None:
    broker.allow({"USERTASK_TOPIC": topic}, [Acl("Topic", "TOPIC", "literal", operation) for operation in operations])


@pytest.fixture
def reply_topics(broker):
    """Return three topics, on which the worker may do all it needs, see them only, and nothing."""
    names = tuple(f"user-task.replies.{fresh_key()}" for _ in range(3))
    create_topics(broker.admin, *(NewTopic(name, PARTITIONS, 1) for name in names))
    allow_on(broker, names[0], "Write", "DescribeConfigs")
    allow_on(broker, names[1], "Describe")
    return names


def test_a_reply_topic_that_may_not_be_written_to_is_left_out(broker, topics, case, reply_topics):
    allowed, seen, hidden = reply_topics
    it = case()
    with (
        Worker(it.env, it.folder) as worker,
        Wire(broker.admin, topics, worker.watch) as wire,
        closing(Collector(broker.admin, reply_topics)) as listener,
    ):

        def asks(*names: str) -> None:
            headers = zip(("reply_to", "REPLY_TOPIC", "kafka_replyTopic"), map(str.encode, names), strict=False)
            wire.complete(wire.created(), headers=list(headers))

        asks(allowed)
        asks(hidden)
        assert reasons(worker, "consumer_paused") == ""
        asks(allowed, seen, hidden)
        asks(seen, allowed)
        asks(allowed)
        wire.wait_until(lambda: "usertask_replies_ignored_total 4.0" in worker.get("/metrics")[1])
        listener.catch_up(worker.watch, 20)
        assert [len(listener.records(name)) for name in reply_topics] == [4, 0, 0]
        assert len(wire.events()) == 10
        assert worker.terminate() == 0
    [refused] = [line for line in logged(worker) if line["event"] == "reply_topic_refused"]
    assert (refused["topic"], refused["reason"]) == (seen, "TopicAuthorizationFailedError")
    assert [line["event"] for line in logged(worker)].count("consumer_paused") == 1
    assert f"{hidden}: forbidden" in reasons(worker, "replies_left_out")


def test_beside_one_that_may_not_be_written_to_no_other_is_refused_also_where_there_are_replies_only(
    broker, topics, case, reply_topics
):
    allowed, seen, _ = reply_topics
    it = case()
    with (
        Worker(it.env, it.folder) as worker,
        Wire(broker.admin, topics, worker.watch) as wire,
        closing(Collector(broker.admin, reply_topics)) as listener,
    ):
        command = cloud_event(CREATE), encoded({"userTaskKey": fresh_key()})
        event = wire.accepted(command[1], headers=command[0])
        asked = [("reply_to", allowed.encode()), ("REPLY_TOPIC", seen.encode())]
        wire.settle(wire.send(command[1], headers=[*command[0], *asked]))
        wire.wait_until(lambda: "usertask_replies_ignored_total 1.0" in worker.get("/metrics")[1])
        listener.catch_up(worker.watch, 20)
        assert [one.value for one in listener.records(allowed)] == [event.value]
        assert worker.terminate() == 0
    refused = [line["topic"] for line in logged(worker) if line["event"] == "reply_topic_refused"]
    assert refused == [seen]


def test_more_replies_than_a_batch_to_a_topic_that_may_not_be_written_to_are_left_out(
    broker, topics, case, reply_topics
):
    _, seen, _ = reply_topics
    it = case()
    with Worker(it.env, it.folder) as worker, Wire(broker.admin, topics, worker.watch) as wire:
        value = encoded({"userTaskKey": fresh_key(), "candidateUsers": ["x" * 255] * 1000})
        headers = [*cloud_event(CREATE), ("reply_to", seen.encode())]
        wire.settle(wire.send_all([Unsent(value, b"1", headers)] * 20)[-1])
        wire.wait_until(lambda: "usertask_replies_ignored_total 20.0" in worker.get("/metrics")[1])
        assert len(wire.events()) == 1
        assert worker.terminate() == 0


def test_a_reply_topic_whose_limit_may_not_be_read_fails_once_and_is_left_out(broker, topics, case):
    small = f"user-task.replies.{fresh_key()}"
    create_topics(broker.admin, NewTopic(small, PARTITIONS, 1, config={"max.message.bytes": "500"}))
    allow_on(broker, small, "Write")
    it = case()
    with Worker(it.env, it.folder) as worker, Wire(broker.admin, topics, worker.watch) as wire:
        for _ in range(2):
            wire.complete(wire.created(), headers=[("reply_to", small.encode())])
        wire.wait_until(lambda: "usertask_replies_ignored_total 2.0" in worker.get("/metrics")[1])
        assert len(wire.events()) == 4
        assert worker.terminate() == 0
    [refused] = [line for line in logged(worker) if line["event"] == "reply_topic_refused"]
    assert (refused["topic"], refused["reason"]) == (small, "MessageSizeTooLargeError")


# Logins that fail


def ended(it: Case, code: int, within_s: float = 20) -> Worker:
    """Return a worker that did not start and ended with this code."""
    with running(it) as worker:
        assert worker.has_ended(within_s), f"still there:\n{worker.stderr()}"
    assert worker.process.returncode == code, worker.stderr()
    return worker


@contextmanager
def running(it: Case) -> Iterator[Worker]:
    """Start a worker and do not wait for it."""
    worker = Worker(it.env, it.folder)
    worker.start()
    try:
        yield worker
    finally:
        worker.kill()


def worker_says(worker: Worker, event: str, words: str, within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while words not in reasons(worker, event):
        worker.watch()
        assert time.monotonic() < deadline, f"no {event} with {words}:\n{worker.stderr()}"
        time.sleep(0.1)


def wrong_password(broker: Secured, folder: Path) -> dict[str, str]:
    return broker.login("SCRAM-SHA-512", secret_file(folder, "wrong-password"))


def wrong_password_256(broker: Secured, folder: Path) -> dict[str, str]:
    return broker.login("SCRAM-SHA-256", secret_file(folder, "wrong-password"))


def unknown_user(broker: Secured, folder: Path) -> dict[str, str]:
    return login(broker, folder, "SCRAM-SHA-512") | {"KAFKA_SASL_USERNAME": "nobody"}


def mechanism_not_offered(broker: Secured, folder: Path) -> dict[str, str]:
    return login(broker, folder, "SCRAM-SHA-512") | {"KAFKA_SASL_MECHANISM": "PLAIN"}


def wrong_ca(broker: Secured, folder: Path) -> dict[str, str]:
    other = certified(folder, "another-ca")
    return login(broker, folder, "SCRAM-SHA-512") | {"KAFKA_SSL_CAFILE": str(other.certificate)}


def systems_cas(broker: Secured, folder: Path) -> dict[str, str]:
    return login(broker, folder, "SCRAM-SHA-512") | {"KAFKA_SSL_CAFILE": ""}


def another_host(broker: Secured, folder: Path) -> dict[str, str]:
    address = broker.scram.replace("127.0.0.1", "localhost")
    return login(broker, folder, "SCRAM-SHA-512") | {"KAFKA_BOOTSTRAP_SERVERS": address}


def certificate_of_another_ca(broker: Secured, folder: Path) -> dict[str, str]:
    return broker.certificate(certified(folder, "worker", certified(folder, "another-ca")))


def no_certificate(broker: Secured, folder: Path) -> dict[str, str]:
    return broker.certificate(broker.client) | {"KAFKA_SSL_CERTFILE": "", "KAFKA_SSL_KEYFILE": ""}


def no_tls(broker: Secured, folder: Path) -> dict[str, str]:
    return login(broker, folder, "SCRAM-SHA-512") | {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT"}


def expired_token(broker: Secured, folder: Path) -> dict[str, str]:
    return broker.bearing(secret_file(folder, token(valid_s=-60)))


def no_token(broker: Secured, folder: Path) -> dict[str, str]:
    return broker.bearing(secret_file(folder, " "))


def no_token_file(broker: Secured, folder: Path) -> dict[str, str]:
    return broker.bearing(folder / "absent")


CLOSED = "do USERTASK_KAFKA_SECURITY_PROTOCOL and the certificate or token fit?"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (wrong_password, "SaslAuthenticationFailed: Authentication failed during authentication due to invalid cred"),
        (wrong_ca, "certificate verify failed: unable to get local issuer certificate"),
        (certificate_of_another_ca, CLOSED),
        (expired_token, CLOSED),
    ],
)
def test_a_login_that_fails_ends_the_start_with_3_and_its_cause(broker, tmp_path, case, settings, words):
    it = case(settings(broker, tmp_path), acls=[], START_TIMEOUT_S=str(SHORT_START_S))
    [(line, detail)] = it.checked(3).items()
    assert (line, words in detail) == ("broker", True), detail
    worker = ended(it, 3, within_s=SHORT_START_S + 8)
    assert words in reasons(worker, "broker_awaited")
    assert words in reasons(worker, "worker_not_started")


def test_a_login_that_fails_is_told_though_another_address_is_silent(broker, tmp_path, case):
    words = "SaslAuthenticationFailed"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        how = wrong_password(broker, tmp_path)
        how["KAFKA_BOOTSTRAP_SERVERS"] += f",127.0.0.1:{silent.getsockname()[1]}"
        it = case(how, acls=[], START_TIMEOUT_S=str(SHORT_START_S))
        assert words in it.checked(3)["broker"]
        worker = ended(it, 3, within_s=SHORT_START_S + 8)
    assert words in reasons(worker, "worker_not_started")


def test_a_login_that_fails_is_told_by_other_commands_too(broker, tmp_path, case):
    it = case(wrong_password(broker, tmp_path), acls=[], START_TIMEOUT_S=str(SHORT_START_S))
    asked = run_cli("lag", env=it.env, cwd=it.folder)
    assert (asked.returncode, "SaslAuthenticationFailed" in clean(asked.stderr)) == (3, True), asked.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (wrong_password_256, "SaslAuthenticationFailed"),
        (unknown_user, "SaslAuthenticationFailed"),
        (mechanism_not_offered, "UnsupportedSaslMechanismError"),
        (systems_cas, "certificate verify failed"),
        (another_host, "certificate is not valid for 'localhost'"),
        (no_certificate, CLOSED),
        (no_tls, CLOSED),
        (no_token, "/secret has no token"),
        (no_token_file, "/absent cannot be read: No such file or directory"),
    ],
)
def test_the_cause_is_told_whatever_it_is(broker, tmp_path, case, settings, words):
    [(line, detail)] = case(settings(broker, tmp_path), acls=[]).checked(3).items()
    assert (line, words in detail) == ("broker", True), detail


# Settings that cannot be used


@pytest.fixture
def refused(monkeypatch):
    """Return what is said of settings that cannot be used."""

    def refuse(**settings: object) -> str:
        for name, value in settings.items():
            monkeypatch.setenv(f"USERTASK_{name}", str(value))
        with pytest.raises(SettingsError) as refusal:
            client_options(load_settings())
        return clean(str(refusal.value))

    return refuse


def test_oauthbearer_needs_a_file_with_the_token(refused):
    words = refused(KAFKA_SECURITY_PROTOCOL="SASL_SSL", KAFKA_SASL_MECHANISM="OAUTHBEARER")
    assert words == "USERTASK_KAFKA_SASL_MECHANISM: OAUTHBEARER needs USERTASK_KAFKA_SASL_TOKEN_FILE"


def test_a_key_needs_a_certificate(refused):
    assert "USERTASK_KAFKA_SSL_CERTFILE" in refused(KAFKA_SECURITY_PROTOCOL="SSL", KAFKA_SSL_KEYFILE="any.key")


@pytest.mark.parametrize("name", ["KAFKA_SSL_CAFILE", "KAFKA_SSL_CERTFILE"])
def test_a_certificate_that_is_not_there_is_named(refused, tmp_path, name):
    words = refused(KAFKA_SECURITY_PROTOCOL="SSL", **{name: tmp_path / "absent"})
    assert words == f"USERTASK_{name}: {tmp_path / 'absent'} cannot be read: No such file or directory"


@pytest.mark.parametrize("name", ["KAFKA_SSL_CAFILE", "KAFKA_SSL_CERTFILE"])
def test_a_key_for_a_certificate_is_refused(refused, tmp_path, name):
    key = certified(tmp_path, "one").key
    words = refused(KAFKA_SECURITY_PROTOCOL="SSL", **{name: key})
    assert words.startswith(f"USERTASK_{name}: {key} has no certificate: ")


def test_the_key_of_another_certificate_is_refused(refused, tmp_path):
    one, other = certified(tmp_path, "one"), certified(tmp_path, "other")
    words = refused(KAFKA_SECURITY_PROTOCOL="SSL", KAFKA_SSL_CERTFILE=one.certificate, KAFKA_SSL_KEYFILE=other.key)
    assert words.startswith(f"USERTASK_KAFKA_SSL_KEYFILE: {other.key} is not the key of {one.certificate}, ")
    assert "KEY_VALUES_MISMATCH" in words


def test_a_certificate_without_a_key_is_refused(refused, tmp_path):
    one = certified(tmp_path, "one")
    words = refused(KAFKA_SECURITY_PROTOCOL="SSL", KAFKA_SSL_CERTFILE=one.certificate)
    assert words.startswith(f"USERTASK_KAFKA_SSL_CERTFILE: {one.certificate} has no key; ")
    assert "USERTASK_KAFKA_SSL_KEYFILE" in words


def test_what_is_no_path_is_not_shown(refused, tmp_path):
    content = certified(tmp_path, "one").key.read_text()
    SECRETS.extend(content.splitlines()[1:-1])
    words = refused(KAFKA_SECURITY_PROTOCOL="SSL", KAFKA_SSL_CERTFILE=content)
    assert words.startswith("USERTASK_KAFKA_SSL_CERTFILE: what it names cannot be read: ")


def test_nobody_is_asked_for_the_password_of_an_encrypted_key(tmp_path):
    pair, locked = certified(tmp_path, "locked"), tmp_path / "encrypted.key"
    command = ["openssl", "pkcs8", "-topk8", "-in", pair.key, "-out", locked, "-passout", "pass:sesame"]
    subprocess.run(command, check=True, capture_output=True)
    env = bare_environment() | {
        "USERTASK_KAFKA_SECURITY_PROTOCOL": "SSL",
        "USERTASK_KAFKA_SSL_CERTFILE": str(pair.certificate),
        "USERTASK_KAFKA_SSL_KEYFILE": str(locked),
    }
    controller, terminal = pty.openpty()  # OpenSSL would ask there
    ended = subprocess.run(
        command_line("run"), env=env, cwd=tmp_path, stdin=terminal, capture_output=True, timeout=30, check=False
    )
    os.close(terminal)
    os.close(controller)
    words = f"USERTASK_KAFKA_SSL_KEYFILE: {locked} is not the key of {pair.certificate}, or is encrypted".encode()
    assert (ended.returncode, words in ended.stderr) == (2, True), ended.stderr


# OAUTHBEARER


def test_a_token_is_read_anew_at_each_login(broker, topics, tmp_path, case):
    """A login ends with its token: the broker then closes the connection, and the next login needs a newer one."""
    expires_at = time.monotonic() + 6
    it = case(broker.bearing(secret_file(tmp_path, token(valid_s=6))))
    with Worker(it.env, tmp_path) as worker, Wire(broker.admin, topics, worker.watch) as wire:
        key = wire.created()
        secret_file(tmp_path, token())
        time.sleep(max(0, expires_at - time.monotonic()) + 1)
        assert wire.complete(key).body["version"] == 2
        assert len(wire.events()) == 2
        assert worker.terminate() == 0
    clean(worker.stderr(), worker.stdout())


# Secrets


def test_no_secret_is_seen_by_whoever_asks_for_everything(broker, topics, tmp_path, case):
    it = case(LOG_LEVEL="debug", LOG_FORMAT="console")
    with Worker(it.env, tmp_path) as worker, Wire(broker.admin, topics, worker.watch) as wire:
        works(wire)
        for words in (["config"], ["config", "--json"], ["check"], ["lag"], ["health", "--ready"]):
            shown = run_cli(*words, env=worker.env, cwd=tmp_path)
            assert shown.returncode == 0, shown.stderr
            clean(shown.stdout, shown.stderr)
        clean(*(worker.get(path)[1] for path in ("/metrics", "/livez?verbose", "/readyz?verbose")))
        assert worker.terminate() == 0
    clean(worker.stdout(), worker.stderr())


def test_no_secret_is_in_a_traceback(broker, tmp_path, case):
    it = case(acls=[], KAFKA_SASL_PASSWORD=PASSWORD, KAFKA_SASL_PASSWORD_FILE="")
    words = [sys.executable, "-c", DEFECT, "health"]
    shown = subprocess.run(words, env=it.env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert "ZeroDivisionError" in clean(shown.stdout, shown.stderr)


# Hostile commands: refused, within the usual time, and the next one of the partition is worked off


@pytest.fixture(scope="module")
def it(broker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    topics = make_topics(broker.admin)
    env = environment(broker.admin, topics, folder / "tasks.db", **login(broker, folder, "SCRAM-SHA-512"))
    broker.allow(env, ACLS)
    with Worker(env, folder) as worker, Wire(broker.admin, topics, worker.watch) as wire:
        yield Bench(worker, wire)


NEARLY_ALL = 990_000
"""Nearly as much as a record may have, in bytes."""


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"[" * NEARLY_ALL, id="a million brackets"),
        pytest.param(b'{"variables":' * (NEARLY_ALL // 13), id="objects without end"),
        pytest.param(b'{"variables": {"a": %s}}' % (b"7" * NEARLY_ALL), id="a million digits"),
        pytest.param(b'{"variables": {"a": 1e%s}}' % (b"9" * NEARLY_ALL), id="a million digits of exponent"),
        pytest.param(b'{"action": "%s"}' % (b"\\ud800" * (NEARLY_ALL // 6)), id="lone surrogates"),
        pytest.param(b'{"a": 1, ' * (NEARLY_ALL // 9) + b'"b": 1', id="one member again and again"),
    ],
)
def test_a_hostile_value_is_malformed(it, value):
    assert len(it.wire.malformed(value, partition=1).value) < 2000
    it.wire.settle(it.wire.send(b"{}", partition=1))


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        pytest.param([("", None)] * 200_000, b"1", id="very many headers"),
        pytest.param([(f"ce_{number}", b"x") for number in range(70_000)], b"1", id="very many attributes"),
        pytest.param([("n" * 900_000, b"x")], b"1", id="a header with a long name"),
        pytest.param([("x", b"\xff" * 900_000)], b"1", id="a large header"),
        pytest.param([], b"\xff" * 900_000, id="a large record key"),
    ],
)
def test_hostile_headers_and_keys_do_not_hold_up_a_command(it, headers, key):
    task = it.wire.created()
    named = [*cloud_event(COMPLETE), *headers]
    event = it.wire.accepted(encoded({"userTaskKey": task}), key=key, headers=named, partition=2)
    assert sum(len(name) + len(value or b"") for name, value in event.raw_headers) < 2000
    it.wire.malformed(b"no json", key=key, headers=headers, partition=2)


def test_a_command_id_without_end_is_malformed(it):
    it.wire.malformed(b"{}", headers=cloud_event(COMPLETE, "x" * 900_000))
    it.wire.malformed(b'{"id": "%s"}' % (b"x" * 900_000), headers=STRUCTURED)


def test_members_without_end_are_invalid_and_counted(it):
    many = {f"m{number}": 0 for number in range(60_000)}
    refusal = it.wire.invalid(encoded({"userTaskKey": fresh_key()} | many))
    assert (len(refusal.body["errors"]), refusal.body["errorCount"]) == (100, 60_000)


def test_variables_without_end_are_variables(it):
    many = {f"v{number}": [] for number in range(50_000)}
    assert len(it.wire.complete(it.wire.created(), variables=many).body["variables"]) == 50_000


def test_hostile_commands_have_harmed_nothing(it):
    works(it.wire)
    assert it.worker.get("/livez")[0] == it.worker.get("/readyz")[0] == 200
    assert "worker_failed" not in clean(it.worker.stderr())
