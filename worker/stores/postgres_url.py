"""PostgreSQL's URL: what the driver takes of it, what libpq knows besides, and what is nobody's. Reads no file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")
SYSTEM_AUTHORITIES: Final = "system"
"""What libpq calls the certificates that the machine trusts."""

_PORT_MAX: Final = 65_535
_CONNECT_TIMEOUT_MAX_S: Final = 30

_TLS_VERSIONS: Final = "TLSv1|TLSv1.1|TLSv1.2|TLSv1.3"
_OF_THE_DRIVER: Final[Mapping[str, str]] = {
    **dict.fromkeys(("host", "port", "dbname", "database", "user", "password", "service", *FILES), ".+"),
    "sslmode": "disable|allow|prefer|require|verify-ca|verify-full",
    "sslpassword": ".*",
    "sslnegotiation": "postgres|direct",
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
    # a worker writes: the values that lead to a standby are of no use to it
    "target_session_attrs": "any|read-write|primary",
    "krbsrvname": ".+",
    "gsslib": "gssapi",
}
"""By parameter, the pattern of its values. The driver acts on them."""
_OF_THE_WORKER: Final[Mapping[str, str]] = {
    "connect_timeout": r"\d{1,9}",
    "application_name": ".+",
    "fallback_application_name": ".+",
    "options": ".+",
    "search_path": ".+",
}
"""The worker acts on these."""
_WITHOUT_EFFECT: Final[Mapping[str, str]] = {
    **dict.fromkeys(("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"), ".*"),
    "tcp_user_timeout": ".*",
    "load_balance_hosts": ".*",
    "max_protocol_version": ".*",
    "sslsni": "1",
    "sslcompression": ".*",
    "sslcertmode": "allow|disable",
    "gssencmode": "disable|prefer",
    "gssdelegation": "0",
    "channel_binding": "disable|prefer",
    "client_encoding": "(?i:utf-?8|unicode|auto)",
}
"""These may stand there, and change nothing: other values would be a promise that the driver cannot keep."""
_KNOWN: Final = {**_OF_THE_DRIVER, **_OF_THE_WORKER, **_WITHOUT_EFFECT}

_URL: Final = re.compile(
    r"postgres(?:ql)?://(?:(?P<login>[^/?#@]*)@)?(?P<hosts>[^/?#]*)(?:/(?P<database>[^?#]*))?(?:\?(?P<query>[^#]*))?"
)
_SHAPE: Final = "not postgresql://user:password@host/database; special characters need %-encoding"


class StoreUrlError(ValueError):
    """The URL cannot be used. The text names the parameter, and repeats no value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresUrl:
    """A URL that was understood."""

    dsn: str = field(repr=False)
    """What the driver knows of the URL, without the hosts: any other parameter it would send to the server."""
    hosts: tuple[tuple[str, int | None], ...]
    """Name, address or socket folder, and port where given. Empty leaves both to the driver and its environment."""
    parameters: Mapping[str, str] = field(repr=False)

    @property
    def connect_timeout_s(self) -> int | None:
        """Return for how long to wait for a host, or None where the URL does not say."""
        given = int(self.parameters.get("connect_timeout", "0"))
        return min(given, _CONNECT_TIMEOUT_MAX_S) or None

    @property
    def is_verified(self) -> bool:
        """Return whether the server has to prove who it is by a certificate."""
        return self.parameters.get("sslmode", "").startswith("verify-")

    @property
    def trusts_the_system(self) -> bool:
        """Return whether the machine's own authorities are to be trusted."""
        return self.parameters.get("sslrootcert") == SYSTEM_AUTHORITIES

    def start_up_settings(self, application_name: str) -> dict[str, str]:
        """Return what the server is told at the start of a session; poolers take the first of them."""
        given = self.parameters
        name = given.get("application_name") or given.get("fallback_application_name") or application_name
        return {"application_name": name} | {name: given[name] for name in ("options",) if name in given}


def parse_postgres_url(text: str) -> PostgresUrl:
    """Read a URL. Raise StoreUrlError."""
    whole = _URL.fullmatch(text)
    # where a "/", "?" or "#" of the password ended the host, what looks like a name may be a part of the password
    if whole is None or whole["hosts"].count("@") or (whole["login"] is None and "@" in text):
        raise StoreUrlError(_SHAPE)
    parameters = _parameters(whole["query"])
    if not whole["database"] and not parameters.keys() & {"dbname", "database", "service"}:
        raise StoreUrlError(_SHAPE)
    _check_parameters(parameters)
    hosts = _hosts(whole["hosts"], parameters)
    return PostgresUrl(dsn=_dsn(whole, parameters, has_hosts=bool(hosts)), hosts=hosts, parameters=parameters)


def _dsn(whole: re.Match[str], parameters: Mapping[str, str], *, has_hosts: bool) -> str:
    """Write the URL anew, without the hosts, since the driver is given one at a time."""
    left_out = {"host", "port"} if has_hosts else set()
    if parameters.get("sslrootcert") == SYSTEM_AUTHORITIES:
        left_out.add("sslrootcert")
    kept = {name: value for name, value in parameters.items() if name in _OF_THE_DRIVER.keys() - left_out}
    login = ":".join(quote(unquote(part), safe="") for part in (whole["login"] or "").split(":", 1))
    database = f"/{quote(unquote(whole['database']), safe='')}" if whole["database"] else ""
    return f"postgresql://{login}{'@' if login else ''}{database}?{urlencode(kept, quote_via=quote)}".rstrip("?")


def _parameters(query: str | None) -> dict[str, str]:
    try:
        return dict(parse_qsl(query or "", keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise StoreUrlError("what stands behind the ? cannot be read as name=value&name=value") from None


def _check_parameters(parameters: Mapping[str, str]) -> None:
    if parameters.get("sslrootcert") == SYSTEM_AUTHORITIES:
        _check_system_authorities(parameters)
    unknown = [name for name in parameters if name not in _KNOWN]
    if unknown:
        raise StoreUrlError(
            f"{_named(unknown)}: no parameter that PostgreSQL's driver takes; the server's own settings go into"
            " options=-c%20name%3Dvalue"
        )
    wrong = [name for name, value in parameters.items() if not re.fullmatch(_KNOWN[name], value, re.DOTALL)]
    if wrong:
        raise StoreUrlError(f"{_named(wrong)}: a value that the worker or its driver cannot do (docs/operating.md)")


def _named(names: list[str]) -> str:
    """Name parameters; what is no name at all may be anything, a part of a password too."""
    return ", ".join(name if re.fullmatch(r"[A-Za-z_.]{1,40}", name) else "a parameter" for name in names)


def _check_system_authorities(parameters: Mapping[str, str]) -> None:
    if parameters.get("sslmode") != "verify-full":
        raise StoreUrlError("sslrootcert=system needs sslmode=verify-full")
    together = [name for name in ("sslcert", "sslkey", "sslcrl") if name in parameters]
    if together:
        raise StoreUrlError(f"{_named(together)}: not together with sslrootcert=system; name a file of authorities")


def _hosts(listed: str, parameters: Mapping[str, str]) -> tuple[tuple[str, int | None], ...]:
    """List the hosts of the URL itself, which have their ports, or else of its parameters `host` and `port`."""
    if listed:
        return tuple(_host(unquote(spec)) for spec in listed.split(","))
    if "host" not in parameters:
        return ()
    hosts = [_host(spec) for spec in parameters["host"].split(",")]
    ports = parameters["port"].split(",") if "port" in parameters else []
    if not all(map(_is_port, ports)) or len(ports) not in {0, 1, len(hosts)}:
        raise StoreUrlError("port: not a number for each host, or one for all")
    every = ports * len(hosts) if len(ports) == 1 else ports
    return tuple((name, int(port)) for (name, _), port in zip(hosts, every, strict=True)) if every else tuple(hosts)


def _host(spec: str) -> tuple[str, int | None]:
    """Read `host`, `host:port`, `[address]:port`, a bare IPv6 address, or the folder of a socket."""
    bracketed = re.fullmatch(r"\[([^]]*)\](?::(.*))?", spec)
    if bracketed:
        host, port = bracketed[1], bracketed[2] or ""
        _check_ipv6(host)
    elif spec.count(":") > 1 and not spec.startswith("/"):
        host, port = spec, ""
        _check_ipv6(host)
    else:
        host, _, port = spec.partition(":")
    is_name = host.startswith("/") or re.fullmatch(r"[\w.:%-]+", host)
    if not is_name or not (port == "" or _is_port(port)):
        raise StoreUrlError("its host or port cannot be read; special characters need %-encoding")
    return host, int(port) if port else None


def _check_ipv6(address: str) -> None:
    try:
        IPv6Address(address)
    except ValueError:
        raise StoreUrlError("its host or port cannot be read: no IPv6 address") from None


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) <= _PORT_MAX
