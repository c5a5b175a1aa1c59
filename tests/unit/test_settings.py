"""What settings take, and what they refuse by name before anything is started. None of it asks a server."""

import os
import socket

import pytest
from aiokafka.conn import collect_hosts

from worker.addresses import read_listening_host
from worker.kafka import client_options
from worker.settings import SettingsError, load_settings, unknown_variables
from worker.stores.postgres_url import parse_postgres_url

SECRET = "hunter2"


@pytest.fixture
def load(monkeypatch):
    """Return the settings of an environment that has these and no others."""
    for name in [name for name in os.environ if name.startswith("USERTASK_")]:
        monkeypatch.delenv(name)

    def loaded(**given: str):
        for name, value in given.items():
            monkeypatch.setenv(f"USERTASK_{name}", value)
        return load_settings()

    return loaded


@pytest.fixture
def refused(load):
    """Return what is said of settings that are refused; never a secret."""

    def refuse(**given: str) -> str:
        with pytest.raises(SettingsError) as refusal:
            load(**given)
        assert SECRET not in str(refusal.value)
        return str(refusal.value)

    return refuse


# PostgreSQL's URL


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u:p@db/tasks", [("db", None)]),
        ("postgres://u:p@db:5433/tasks", [("db", 5433)]),
        ("postgresql://u:p@one:5432,two:5433/tasks?target_session_attrs=read-write", [("one", 5432), ("two", 5433)]),
        ("postgresql://u:p@one,two/tasks?target_session_attrs=primary", [("one", None), ("two", None)]),
        ("postgresql://u:p@[::1]/tasks", [("::1", None)]),
        ("postgresql://u:p@[::1]:5433,[fd00::2]:5434,db:5435/tasks", [("::1", 5433), ("fd00::2", 5434), ("db", 5435)]),
        ("postgresql:///tasks?host=/var/run/postgresql&user=u", [("/var/run/postgresql", None)]),
        ("postgresql://%2Fvar%2Frun%2Fpostgresql/tasks", [("/var/run/postgresql", None)]),
        ("postgresql://u@/tasks?host=one,two&port=1,2", [("one", 1), ("two", 2)]),
        ("postgresql://u@/tasks?host=one,two&port=7", [("one", 7), ("two", 7)]),
        ("postgresql://u@/tasks?host=fd00::2", [("fd00::2", None)]),
        ("postgresql:///tasks?service=tasks", []),
        ("postgresql://u:p@db?dbname=tasks", [("db", None)]),
    ],
)
def test_hosts_are_taken_as_the_driver_and_libpq_take_them(load, url, hosts):
    assert load(STORE_URL=url).sqlite_path is None
    assert list(parse_postgres_url(url).hosts) == hosts


def test_logins_keep_every_character():
    url = parse_postgres_url(
        "postgresql://a%40b:p%2Fa%3As%3Fs%23w%25%20@db/my%20tasks?sslmode=require&connect_timeout=3"
    )
    assert url.dsn == "postgresql://a%40b:p%2Fa%3As%3Fs%23w%25%20@/my%20tasks?sslmode=require"


@pytest.mark.parametrize(
    ("parameters", "dsn"),
    [
        ("sslmode=verify-full&sslrootcert=/etc/ca%20s.pem", "?sslmode=verify-full&sslrootcert=%2Fetc%2Fca%20s.pem"),
        ("sslmode=verify-full&sslrootcert=system", "?sslmode=verify-full"),
        ("channel_binding=prefer&gssencmode=prefer&sslcompression=0&keepalives=1&keepalives_idle=30", ""),
        ("client_encoding=utf8&tcp_user_timeout=1000&sslsni=1&load_balance_hosts=disable", ""),
        ("application_name=us&options=-c%20geqo%3Doff&search_path=tasks", ""),
    ],
)
def test_the_driver_is_told_what_it_knows_and_nothing_else(parameters, dsn):
    assert parse_postgres_url(f"postgresql://db/tasks?{parameters}").dsn == f"postgresql:///tasks{dsn}"


@pytest.mark.parametrize(
    ("parameters", "started"),
    [
        ("", {"application_name": "ours"}),
        ("?application_name=theirs&fallback_application_name=other", {"application_name": "theirs"}),
        ("?fallback_application_name=other", {"application_name": "other"}),
        ("?options=-c%20geqo%3Doff", {"application_name": "ours", "options": "-c geqo=off"}),
    ],
)
def test_a_session_has_the_name_and_the_options_that_are_given(parameters, started):
    assert parse_postgres_url(f"postgresql://db/tasks{parameters}").start_up_settings("ours") == started


@pytest.mark.parametrize(("given", "taken"), [("", None), ("?connect_timeout=0", None), ("?connect_timeout=10", 10)])
def test_a_host_is_waited_for_as_long_as_is_said(given, taken):
    assert parse_postgres_url(f"postgresql://db/tasks{given}").connect_timeout_s == taken


@pytest.mark.parametrize(
    "parameter",
    [
        "sslmod=require",
        "sslmode=yes",
        "channel_binding=require",
        "gssencmode=require",
        "require_auth=scram-sha-256",
        "requirepeer=postgres",
        "hostaddr=10.0.0.1",
        "sslcertmode=require",
        "client_encoding=latin1",
        "connect_timeout=soon",
        "target_session_attrs=standby",
        "target_session_attrs=primray",
        "sslnegotiation=later",
        "ssl_min_protocol_version=TLSv9",
        "pgbouncer=true",
        "schema=public",
        "connection_limit=5",
        "statement_timeout=5",
        "sslmode=",
    ],
)
def test_a_parameter_that_cannot_be_kept_is_refused_by_its_name(refused, parameter):
    words = refused(STORE_URL=f"postgresql://db/tasks?{parameter}")
    assert words.startswith("USERTASK_STORE_URL: ")
    assert parameter.partition("=")[0] in words


@pytest.mark.parametrize("ports", ["1,2", "none", "0", "1,2,3,"])
def test_ports_that_do_not_fit_the_hosts_are_refused(refused, ports):
    assert "port" in refused(STORE_URL=f"postgresql:///tasks?host=one,two,three&port={ports}")


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{SECRET}/x@db/tasks",
        f"postgresql://u:1?{SECRET}=x@db/tasks",
        f"postgresql://u:1/a?{SECRET}=x@db/tasks",
        f"postgresql://u:p#{SECRET}@db/tasks",
        f"postgresql://u:p@{SECRET}@db/tasks",
        f"postgresql://u:{SECRET}@db:none/tasks",
        f"postgresql://u:{SECRET}@db:0/tasks",
        f"postgresql://u:{SECRET}@one,,two/tasks",
        f"postgresql://u:{SECRET}@[::1/tasks",
        f"postgresql://u:{SECRET}@[one]:1/tasks",
        f"postgresql://u:{SECRET}@db",
        f"postgresql://u:{SECRET}@db/tasks?sslmode",
        f"postgresql://u:{SECRET}@db/tasks?{SECRET}+=1",
        "postgresql://db/tasks?sslmode=require&sslrootcert=system",
        "postgresql://db/tasks?sslmode=verify-full&sslrootcert=system&sslcert=c.pem",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_and_not_repeated(refused, url):
    assert refused(STORE_URL=url).startswith("USERTASK_STORE_URL: ")


# SQLite's file


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///tasks.db", "tasks.db"),
        ("sqlite:////data/my tasks.db", "/data/my tasks.db"),
        ("sqlite:///100%.db", "100%.db"),
    ],
)
def test_a_file_is_taken_as_it_is_written(load, url, path):
    assert str(load(STORE_URL=url).sqlite_path) == path


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (":memory:", "in memory"),
        ("file:tasks.db", "in memory"),
        ("tasks.db?mode=ro", "no parameters"),
        ("tasks.db#1", "no parameters"),
        ("my%20tasks.db", "as it is written"),
        ("~/tasks.db", "~"),
        ("folder/", "needs a file"),
        ("", "needs a file"),
    ],
)
def test_a_path_that_others_would_read_otherwise_is_refused(refused, path, words):
    assert words in refused(STORE_URL=f"sqlite:///{path}")


# Kafka's addresses


@pytest.mark.parametrize(
    ("servers", "protocol", "taken"),
    [
        ("broker:9092", "SSL", "broker:9092"),
        ("SASL_PLAINTEXT://one:9093, SASL_PLAINTEXT://two:9094", "SASL_PLAINTEXT", "one:9093,two:9094"),
        ("plaintext://broker:9092", "PLAINTEXT", "broker:9092"),
        ("kafka://broker:9092,kafka://[::1]:9093", "SSL", "broker:9092,[::1]:9093"),
        ("kafka+ssl://broker:9092", "SSL", "broker:9092"),
        ("[fd00::1]:9093,[fd00::2],::1,broker", "PLAINTEXT", "[fd00::1]:9093,[fd00::2],::1,broker"),
    ],
)
def test_brokers_are_taken_without_their_scheme_where_it_is_the_protocol(load, servers, protocol, taken):
    login = {"KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SASL_USERNAME": "u", "KAFKA_SASL_PASSWORD": "p"}
    settings = load(KAFKA_BOOTSTRAP_SERVERS=servers, KAFKA_SECURITY_PROTOCOL=protocol, **login)
    assert settings.kafka_bootstrap_servers == taken
    assert len(collect_hosts(client_options(settings)["bootstrap_servers"])) == taken.count(",") + 1


def test_the_client_reads_an_address_of_ipv6_as_we_do():
    assert collect_hosts("[fd00::1]:9093") == [("fd00::1", 9093, socket.AF_INET6)]


@pytest.mark.parametrize(
    ("servers", "words"),
    [
        ("SASL_SSL://broker:9092", "needs USERTASK_KAFKA_SECURITY_PROTOCOL=SASL_SSL, which is PLAINTEXT"),
        ("PLAINTEXT://one:9092,SSL://two:9092", "needs USERTASK_KAFKA_SECURITY_PROTOCOL=SSL"),
        ("https://broker:9092", "no protocol"),
        ("INSIDE://broker:9092", "no protocol"),
        ("PLAINTEXT://", "host:port"),
        ("broker:", "host:port"),
        ("broker:port", "host:port"),
        ("one:9092,", "host:port"),
        ("[::1]:0", "host:port"),
        ("fd00::1::9092", "IPv6"),
        ("[broker:9092", "no name has"),
        ("broker:9092/", "host:port"),
    ],
)
def test_brokers_that_cannot_be_meant_are_refused_by_the_variable(refused, servers, words):
    said = refused(KAFKA_BOOTSTRAP_SERVERS=servers)
    assert said.startswith("USERTASK_KAFKA_BOOTSTRAP_SERVERS: ")
    assert words in said


OAUTH = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": "OAUTHBEARER", "KAFKA_SASL_TOKEN_FILE": "t"}


def test_extensions_go_with_the_token(load):
    settings = load(KAFKA_SASL_EXTENSIONS="logicalCluster=lkc-1, identityPoolId=pool-a/b=c", **OAUTH)
    provider = client_options(settings)["sasl_oauth_token_provider"]
    assert provider.extensions() == {"logicalCluster": "lkc-1", "identityPoolId": "pool-a/b=c"}


@pytest.mark.parametrize("extensions", ["lkc-1", "auth=x", "a1=x", "a=", "a=x,,b=y", "a=\x01b=c"])
def test_extensions_that_the_protocol_has_not_are_refused(refused, extensions):
    assert "USERTASK_KAFKA_SASL_EXTENSIONS" in refused(KAFKA_SASL_EXTENSIONS=extensions, **OAUTH)


# The endpoints' host


@pytest.mark.parametrize(
    ("given", "taken"), [("[::]", "::"), ("::", "::"), ("*", "::"), ("[::1]", "::1"), ("0.0.0.0", "0.0.0.0")]
)
def test_the_endpoints_host_is_taken_as_others_write_it(load, given, taken):
    assert load(HTTP_HOST=given).http_host == read_listening_host(given) == taken


@pytest.mark.parametrize("host", ["a" * 70, "::1::", "127.0.0.1:8080:1", "a..b"])
def test_an_impossible_host_of_the_endpoints_is_refused_by_its_variable(refused, host):
    assert refused(HTTP_HOST=host).startswith("USERTASK_HTTP_HOST: ")


# Secrets in files


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"secret", "secret"),
        (b"secret\n", "secret"),
        (b"secret\r\n", "secret"),
        (b" secret \n", " secret "),
        (b"secret\n\n", "secret\n"),
        (b"secret\t", "secret\t"),
        ("gehe\u00efm\n".encode(), "gehe\u00efm"),
    ],
)
def test_only_the_last_line_break_of_a_secrets_file_goes(load, tmp_path, content, secret):
    (tmp_path / "secret").write_bytes(content)
    settings = load(KAFKA_SASL_PASSWORD_FILE=str(tmp_path / "secret"))
    assert settings.kafka_sasl_password.get_secret_value() == secret


def test_blanks_around_a_url_are_none_of_it(load, tmp_path):
    (tmp_path / "url").write_text(" postgresql://u:p@db/tasks \n\n")
    settings = load(STORE_URL_FILE=str(tmp_path / "url"))
    assert settings.store_url.get_secret_value() == "postgresql://u:p@db/tasks"


def test_a_file_that_cannot_be_read_is_named_with_the_reason(refused, tmp_path):
    absent, folder, latin, empty = (tmp_path / name for name in ("absent", "folder", "latin", "empty"))
    folder.mkdir()
    latin.write_bytes(b"\xff")
    empty.write_text("\n")
    for path, reason in (
        (absent, "cannot be read: No such file or directory"),
        (folder, "cannot be read: Is a directory"),
        (latin, "is not UTF-8"),
        (empty, "is empty"),
    ):
        assert refused(STORE_URL_FILE=str(path)) == f"USERTASK_STORE_URL_FILE: {path} {reason}"


def test_a_secret_in_the_place_of_its_file_is_not_repeated(refused):
    assert "cannot be read" in refused(STORE_URL_FILE=f"postgresql://u:{SECRET}@db/tasks")


# Names that are no setting's


def test_a_name_that_is_no_settings_is_found_with_the_one_that_is_meant():
    environment = {
        "USERTASK_RETENTON_DAYS": "30",
        "usertask_group": "g",
        "USERTASK_XYZZY": "1",
        "USERTASK_GROUP_ID": "g",
        "usertask_http_port": "1",
        "USERTASK_STORE_URL_FILE": "f",
        "USER_TASK": "1",
    }
    assert unknown_variables(environment) == {
        "USERTASK_RETENTON_DAYS": "USERTASK_RETENTION_DAYS",
        "USERTASK_XYZZY": None,
        "usertask_group": "USERTASK_GROUP_ID",
    }
