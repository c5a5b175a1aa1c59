"""Asks a worker's own HTTP endpoint. Loads no Kafka client: a probe runs every few seconds."""

import http.client
import json
from contextlib import closing
from http import HTTPStatus
from typing import Any, Final

import typer

from worker.cli.tables import for_people, print_table
from worker.exit_codes import ExitCode
from worker.settings import Settings, SettingsError, load_settings

_EVERYWHERE: Final = dict.fromkeys(("0.0.0.0", "::", ""), "127.0.0.1")  # noqa: S104 - what is listened on, not ours
_ANSWER_BYTES_MAX: Final = 1_000_000


def probe(path: str, timeout_s: float, *, as_json: bool) -> ExitCode:
    """Ask, and print the answer as it came. Raise SettingsError where the port cannot be known."""
    settings = load_settings()
    try:
        status, body = _ask(settings, f"{path}?verbose", timeout_s)
    except (OSError, http.client.HTTPException) as error:
        words = str(error) or type(error).__name__
        typer.echo(f"no answer from {settings.http_host}:{settings.http_port}{path}: {words}", err=True)
        return ExitCode.FAILED
    _print(body, as_json=as_json)
    return ExitCode.DONE if status == HTTPStatus.OK else ExitCode.FAILED


def _ask(settings: Settings, path: str, timeout_s: float) -> tuple[int, str]:
    if settings.http_port <= 0:
        raise SettingsError("USERTASK_HTTP_PORT: a probe needs the port; 0 picks any, -1 switches the endpoints off")
    host = _EVERYWHERE.get(settings.http_host, settings.http_host)
    with closing(http.client.HTTPConnection(host, settings.http_port, timeout=timeout_s)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(_ANSWER_BYTES_MAX).decode(errors="replace").strip()


def _print(body: str, *, as_json: bool) -> None:
    report = _read(body)
    if report is None or not for_people(as_json=as_json):
        typer.echo(body)
        return
    rows = [(one.get("name"), "ok" if one.get("ok") else "red", one.get("detail")) for one in report]
    print_table(("check", "result", "detail"), rows, styled_by=1)


def _read(body: str) -> list[dict[str, Any]] | None:
    """Give the checks that the endpoint tells, if it tells them."""
    try:
        checks = json.loads(body)["checks"]
    except (ValueError, TypeError, KeyError):
        return None
    return checks if isinstance(checks, list) and all(isinstance(one, dict) for one in checks) else None
