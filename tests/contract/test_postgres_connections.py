"""How PostgreSQL is reached, by all that a URL may say, and what is said where it cannot be."""

import asyncio
import os
import shutil
import socket
import time
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote, urlsplit
from uuid import uuid4

import asyncpg
import pytest

from tests.contract.backends import TOPIC, an_advance, execute, fresh_schema, postgres_backend, save, take_over
from tests.embedded_postgres import UNPRIVILEGED_USER, EmbeddedPostgres
from tests.integration.secured import certified
from tests.pgbouncer import PgBouncer
from worker.embedded import free_port
from worker.stores import postgres_schema
from worker.stores.migrations import migrations
from worker.stores.port import StoreNotReadyError, StoreUnavailableError
from worker.stores.postgres import PostgresStore, migrate
from worker.stores.postgres_lookup import PostgresLookup

ODD_PASSWORD = "a/b:c?d#e%f@g h"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A CA and what it has signed for 127.0.0.1, and a CA that nobody knows."""
    folder = tmp_path_factory.mktemp("certificates")
    ca = certified(folder, "ca")
    return ca, certified(folder, "server", ca), certified(folder, "stranger")


@pytest.fixture(scope="module")
def server():
    """A server with a socket, and IPv6."""
    with TemporaryDirectory(prefix="pg-", dir="/tmp") as name:  # a short path, for the socket's sake
        folder = Path(name)
        if os.geteuid() == 0:
            shutil.chown(folder, UNPRIVILEGED_USER)
        settings = {"listen_addresses": "127.0.0.1,::1", "unix_socket_directories": str(folder)}
        with EmbeddedPostgres(settings) as server:
            server.folder = folder
            yield server


@pytest.fixture
async def schema(server):
    """The URL of a schema that is migrated."""
    async with postgres_backend(server.url) as backend:
        yield backend.url


@pytest.fixture
def encrypted(schema, server, certificates):
    """The URL of the same through a pooler that speaks TLS, as the embedded server cannot."""
    _, own, _ = certificates
    tls = {"client_tls_sslmode": "allow", "client_tls_cert_file": own.certificate, "client_tls_key_file": own.key}
    with PgBouncer(server.url, **{name: str(value) for name, value in tls.items()}) as pooler:
        yield pooler.url_for(schema)


class Url:
    """The parts of a test's URL, to be put together otherwise."""

    def __init__(self, url: str) -> None:
        self.parts = urlsplit(url)
        self.login = self.parts.netloc.rpartition("@")[0]
        self.port = self.parts.port

    def at(self, hosts: str, **parameters: str) -> str:
        return self.of(self.login, hosts, **parameters)

    def of(self, login: str, hosts: str, **parameters: str) -> str:
        query = "".join(f"&{name}={quote(value, safe='')}" for name, value in parameters.items())
        return f"postgresql://{login}@{hosts}{self.parts.path}?{self.parts.query}{query}"

    def with_(self, **parameters: str) -> str:
        return self.at(f"127.0.0.1:{self.port}", **parameters)


async def works(url: str) -> None:
    """Write through a store, and read through a lookup."""
    store, lookup, topic = PostgresStore(url), PostgresLookup(url), f"topic-{uuid4().hex}"
    try:
        await store.open()
        await store.claim(topic, {0: 0}, "someone")
        await lookup.open()
        assert set(await lookup.partitions(topic)) == {0}
    finally:
        await lookup.close()
        await store.close()


async def refused(url: str) -> str:
    """Return what store, lookup and migration say; all of them the same, and nothing of the login."""
    said = set()
    for ask in (PostgresStore(url).open, PostgresLookup(url).open, lambda: migrate(url)):
        with pytest.raises(StoreNotReadyError) as refusal:
            await ask()
        said.add(str(refusal.value))
    [words] = said
    password = Url(url).login.partition(":")[2]
    assert not password or password not in words
    return words


# What the driver takes


async def test_hosts_are_tried_in_turn_until_one_answers(schema):
    url, dead = Url(schema), free_port()
    await works(url.at(f"127.0.0.1:{dead},127.0.0.1:{url.port}", target_session_attrs="read-write"))
    await works(url.of(url.login, "", host="127.0.0.1,localhost", port=f"{dead},{url.port}"))


async def test_a_host_that_accepts_and_is_silent_keeps_nobody_from_the_next(schema):
    url = Url(schema)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{url.port}"
        began = time.monotonic()
        await works(url.at(hosts, connect_timeout="1"))
        assert 2 <= time.monotonic() - began < 8  # a second for each connection


async def test_a_standby_is_passed_over_and_told(server, schema):
    url = Url(schema).with_(target_session_attrs="read-write")
    await works(url)
    await execute(server.url, "ALTER ROLE usertask SET default_transaction_read_only = on")
    try:
        with pytest.raises(StoreUnavailableError, match="target_session_attrs"):
            await PostgresStore(url).open()
    finally:
        await execute(server.url, "ALTER ROLE usertask RESET ALL")


async def test_an_ipv6_address_and_a_sockets_folder(server, schema):
    url = Url(schema)
    await works(url.at(f"[::1]:{url.port}"))
    await works(url.at(f"127.0.0.1:{free_port()},[::1]:{url.port}"))
    await works(url.at("", host=str(server.folder), port=str(url.port)))
    await works(url.at(f"{quote(str(server.folder), safe='')}:{url.port}"))


async def test_any_password_can_be_written(server, schema):
    await execute(server.url, f"CREATE ROLE odd SUPERUSER LOGIN PASSWORD '{ODD_PASSWORD}'")
    url = Url(schema)
    await works(url.of(f"odd:{quote(ODD_PASSWORD, safe='')}", f"127.0.0.1:{url.port}"))


async def test_a_password_may_stand_in_the_drivers_own_file(schema, tmp_path):
    url, passfile = Url(schema), tmp_path / "pgpass"
    user, _, password = url.login.partition(":")
    passfile.write_text(f"*:*:*:{user}:{password}\n")
    without = url.of(user, f"127.0.0.1:{url.port}", passfile=str(passfile))
    passfile.chmod(0o644)
    assert "chmod 600" in await refused(without)
    passfile.chmod(0o600)
    await works(without)


async def test_a_service_is_looked_up(schema, tmp_path, monkeypatch):
    url, services = Url(schema), tmp_path / "services"
    services.write_text(f"[tasks]\nhost=127.0.0.1\nport={url.port}\ndbname=postgres\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    await works(f"postgresql://{url.login}@?service=tasks&{url.parts.query}")
    assert "service" in await refused(f"postgresql://{url.login}@?service=other")


async def test_what_libpq_knows_besides_does_no_harm(schema):
    about = {"channel_binding": "prefer", "keepalives_idle": "30", "gssencmode": "disable", "sslcompression": "0"}
    await works(Url(schema).with_(connect_timeout="10", client_encoding="utf8", **about))


async def test_name_and_options_reach_the_server(schema):
    store = PostgresStore(Url(schema).with_(application_name="somebody", options="-c geqo=off -c lock_timeout=1h"))
    await store.open()
    assert await shown(store, "application_name", "geqo", "lock_timeout") == ["somebody", "off", "5s"]
    await store.close()


async def shown(store, *names):
    async def work(connection):
        return [await connection.fetchval("SELECT current_setting($1)", name) for name in names]

    return await store._transact(work)


@pytest.mark.parametrize("option", ["nonsense=1", "shared_buffers=1MB", "geqo=perhaps"])
async def test_options_that_the_server_refuses_are_told(schema, option):
    assert "options" in await refused(Url(schema).with_(options=f"-c {option}"))


# TLS


async def test_a_certificate_is_checked_as_the_url_says(encrypted, certificates):
    ca, _, stranger = certificates
    url = Url(encrypted)
    await works(url.with_(sslmode="require"))
    await works(url.with_(sslmode="verify-full", sslrootcert=str(ca.certificate)))
    await works(url.at(f"localhost:{url.port}", sslmode="verify-ca", sslrootcert=str(ca.certificate)))

    for one in (
        url.at(f"localhost:{url.port}", sslmode="verify-full", sslrootcert=str(ca.certificate)),
        url.with_(sslmode="verify-full", sslrootcert=str(stranger.certificate)),
        url.with_(sslmode="verify-full", sslrootcert="system"),
    ):
        assert "not trusted, or is for another host name" in await refused(one)


async def test_files_that_are_none_are_named(encrypted, certificates, tmp_path):
    ca, _, _ = certificates
    url, absent = Url(encrypted), str(tmp_path / "absent")
    for name in ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile"):
        words = await refused(url.with_(sslmode="verify-full", **{name: absent}))
        assert words == f"{name} in USERTASK_STORE_URL: {absent}: No such file or directory"
    text = tmp_path / "text"
    text.write_text("no certificate")
    assert "TLS" in await refused(url.with_(sslmode="require", sslrootcert=str(text)))
    assert "TLS" in await refused(
        url.with_(sslmode="require", sslrootcert=str(ca.certificate), sslcert=str(text), sslkey=str(text))
    )


async def test_a_certificate_that_is_no_longer_trusted_is_an_outage_and_no_commands_fault(
    encrypted, certificates, tmp_path
):
    ca, _, stranger = certificates
    trusted = tmp_path / "ca.crt"
    shutil.copy(ca.certificate, trusted)
    store = PostgresStore(Url(encrypted).with_(sslmode="verify-full", sslrootcert=str(trusted)))
    await store.open()
    await take_over(store, 0)
    shutil.copy(stranger.certificate, trusted)
    await store._pool.expire_connections()
    for content in (stranger.certificate.read_bytes(), None):
        trusted.write_bytes(content) if content else trusted.unlink()
        with pytest.raises(StoreUnavailableError):
            await save(store, [an_advance(0, 1)])
    shutil.copy(ca.certificate, trusted)
    await save(store, [an_advance(0, 1)])
    await store.close()


async def test_verifying_needs_somebody_to_trust(encrypted, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "sslrootcert" in await refused(Url(encrypted).with_(sslmode="verify-full"))


async def test_a_server_without_tls_is_told_in_words(schema):
    assert "does not speak TLS" in await refused(Url(schema).with_(sslmode="require"))


# Sessions and transactions


async def test_no_role_can_make_commits_less_than_durable(server, schema):
    await execute(server.url, "ALTER ROLE usertask SET synchronous_commit = off")
    try:
        store = PostgresStore(schema)
        await store.open()
        assert await shown(store, "synchronous_commit") == ["on"]
        await store.close()
    finally:
        await execute(server.url, "ALTER ROLE usertask RESET ALL")


@asynccontextmanager
async def forgetful_pooler(port: int):
    """Pass everything on to the server, but for what a transaction sets of its commits; give the port."""

    async def serve(reader, writer):
        from_server, to_server = await asyncio.open_connection("127.0.0.1", port)

        async def pump(source, sink):
            while data := await source.read(65_536):
                sink.write(data.replace(b"synchronous_commit = 'on'", b"synchronous_commit = off "))
            sink.close()

        await asyncio.gather(pump(reader, to_server), pump(from_server, writer), return_exceptions=True)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as pooler:
        yield pooler.sockets[0].getsockname()[1]


async def test_commits_that_would_not_be_durable_are_refused(schema):
    url = Url(schema)
    async with forgetful_pooler(url.port) as port:
        for door in (PostgresStore, PostgresLookup):
            with pytest.raises(StoreNotReadyError, match="synchronous_commit=off"):
                await door(url.at(f"127.0.0.1:{port}", sslmode="disable")).open()


async def test_a_straight_connection_keeps_its_statements(schema):
    store = PostgresStore(schema)
    await store.open()
    await take_over(store, 0)
    for offset in range(3):
        await save(store, [an_advance(offset, offset + 1)])

    async def work(connection):
        return await connection.fetchval(
            "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%next\\_applied%unnest%'"
        )

    assert await store._transact(work) == 1
    await store.close()


# A database that is not ready for a worker


async def test_a_schema_of_the_search_path_that_is_missing_is_told(server):
    with pytest.raises(StoreNotReadyError, match=r"search path.*3F000"):
        await migrate(f"{server.url}?search_path=absent")


async def test_a_table_of_somebody_elses_is_told_and_left_alone(server):
    async with fresh_schema(server.url) as url:
        await execute(url, "CREATE TABLE user_tasks (theirs INTEGER)")
        with pytest.raises(StoreNotReadyError, match=r"another program's.*42P07"):
            await migrate(url)
        assert await execute(url, "SELECT * FROM user_tasks") == []
        with pytest.raises(asyncpg.UndefinedTableError):  # as if nothing had been tried
            await execute(url, "SELECT * FROM schema_migrations")


@pytest.mark.parametrize(
    "made",
    [
        "CREATE TABLE schema_migrations (version VARCHAR PRIMARY KEY)",
        "CREATE TABLE schema_migrations (version BIGINT PRIMARY KEY, dirty BOOLEAN NOT NULL)",
        "CREATE TABLE schema_migrations (version BIGINT PRIMARY KEY, inserted_at TIMESTAMP)",
        "CREATE TABLE schema_migrations AS SELECT 20260101120000 AS version, now() AS applied_at",
        "CREATE TABLE schema_migrations AS SELECT '1' AS version, now() AS applied_at",
    ],
    ids=["rails", "golang-migrate", "ecto", "dated", "text"],
)
async def test_another_tools_schema_migrations_are_told_and_left_alone(server, made):
    async with fresh_schema(server.url) as url:
        await execute(url, made)
        before = await execute(url, "SELECT * FROM schema_migrations")
        words = await refused(url)
        assert "another tool's" in words
        assert "newer" not in words
        assert await execute(url, "SELECT * FROM schema_migrations") == before


async def test_a_migration_that_waits_for_a_lock_says_so(server, monkeypatch):
    monkeypatch.setattr(postgres_schema, "_MIGRATION_LOCK_TIMEOUT_S", 0.3)
    async with fresh_schema(server.url) as url:
        rival = await asyncpg.connect(url)
        await rival.execute("SELECT pg_advisory_lock($1)", postgres_schema._MIGRATION_LOCK)
        with pytest.raises(StoreNotReadyError, match=r"waited 0\.3 s"):
            await migrate(url)
        await rival.close()
        assert await migrate(url) == [migration.version for migration in migrations("postgres")]


async def test_a_name_that_does_not_resolve_is_told(schema):
    url = Url(schema)
    with pytest.raises(StoreUnavailableError, match="does not resolve"):
        await PostgresStore(url.at("nobody.invalid")).open()


async def test_a_topic_is_read_by_lookups_where_writing_is_forbidden(server, schema):
    """As on a standby that a failover has not made the primary yet."""
    await execute(server.url, "ALTER ROLE usertask SET default_transaction_read_only = on")
    try:
        lookup = PostgresLookup(schema)
        await lookup.open()
        assert await lookup.partitions(TOPIC) == {}
        await lookup.close()
    finally:
        await execute(server.url, "ALTER ROLE usertask RESET ALL")
