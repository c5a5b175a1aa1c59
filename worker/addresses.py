"""Addresses as people write them: brokers, the endpoints' host, and the store. Reads them only, and asks nobody."""

import re
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final

from worker.stores.postgres_url import parse_postgres_url

_PORT_MAX: Final = 65_535
_PORT: Final = "9092"
_SQLITE: Final = "sqlite:///"
_SCHEMES: Final = {"KAFKA": None, "KAFKA+SSL": "SSL"}
"""Beside the protocols themselves; by scheme, the protocol that it stands for, if any."""


def read_brokers(listed: str, protocol: str | None, protocols: tuple[str, ...]) -> str:
    """Return `host:port`, separated by commas, without the schemes that configurations of Java and others carry.

    `protocol` is the security protocol, None if it is wrong itself. Raise ValueError.
    """
    return ",".join(_read_broker(broker.strip(), protocol, protocols) for broker in listed.split(","))


def _read_broker(broker: str, protocol: str | None, protocols: tuple[str, ...]) -> str:
    scheme, _, address = broker.rpartition("://")
    if scheme:
        known = _SCHEMES | {one: one for one in protocols}
        if scheme.upper() not in known:
            raise ValueError(f"{scheme}:// is no protocol of Kafka's: write host:port, separated by commas")
        meant = known[scheme.upper()]
        if protocol is not None and meant not in {None, protocol}:
            raise ValueError(f"{scheme}:// needs USERTASK_KAFKA_SECURITY_PROTOCOL={meant}, which is {protocol}")
    host, port = _split(address)
    if not host or not _is_port(port):
        raise ValueError("not host:port, separated by commas")
    check_host(host)
    return address


def _split(address: str) -> tuple[str, str]:
    """Part host and port; an IPv6 address with a port has brackets."""
    bracketed = re.fullmatch(r"\[([^]]*)\](?::(.*))?", address)
    if bracketed:
        return bracketed[1], bracketed[2] if bracketed[2] is not None else _PORT
    if address.count(":") > 1:
        return address, _PORT
    host, colon, port = address.partition(":")
    return host, port if colon else _PORT


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) <= _PORT_MAX


def check_host(host: str) -> None:
    """Raise ValueError for a name or an address that cannot be one."""
    if ":" in host:
        try:
            IPv6Address(host)
        except ValueError:
            raise ValueError("an IPv6 address that cannot be read; one with a port needs brackets") from None
        return
    if not re.fullmatch(r"[\w.-]+", host):
        raise ValueError("a host name with characters that no name has")
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError("a host name with a part that is empty or too long") from None


def read_listening_host(host: str) -> str:
    """Return the name or address to listen on: all interfaces are `::`, as `*` says elsewhere. Raise ValueError."""
    address = re.sub(r"^\[(.*)\]$", r"\1", host.strip())
    if address == "*":
        return "::"
    check_host(address)
    return address


def check_store(url: str) -> None:
    """Raise ValueError, which never repeats a password, for what is no store's address."""
    if url.startswith(_SQLITE):
        _check_file(url.removeprefix(_SQLITE))
    elif url.startswith(("postgresql://", "postgres://")):
        parse_postgres_url(url)
    else:
        raise ValueError("neither sqlite:///FILE nor postgresql://user:password@host/database")


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite URL, or None if the URL is another's."""
    return Path(url.removeprefix(_SQLITE)) if url.startswith(_SQLITE) else None


def _check_file(path: str) -> None:
    """Refuse what this worker and other programs would take for different files.

    The path is taken as it is written, as SQLAlchemy does; SQLite's own addresses have %20 and parameters.
    """
    if path == ":memory:" or path.startswith("file:"):
        raise ValueError("name a file: a store in memory would be empty after each start")
    if "?" in path or "#" in path:
        raise ValueError("sqlite:///FILE takes no parameters, and the file's name no ? or #")
    if re.search("%[0-9A-Fa-f]{2}", path):
        raise ValueError("the file is taken as it is written: write a blank for %20")
    if not path or path.endswith("/") or path.startswith("~"):
        raise ValueError("sqlite:///FILE needs a file; ~ is not replaced, and four slashes lead to the root")
