"""Lines of a file to records: what is sendable, how it is sent, and where a line begins and ends."""

import dataclasses
import json
import os
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.commands import CommandType
from tests.unit.records import ARecord
from worker.cli.bulk import Form, Ready, Unsendable, read_line
from worker.cli.lines import Line, read_lines
from worker.decoder import Readable, decode

FORM = Form(command_type=CommandType.CANCEL, run="run", headers=())
ENVELOPE = {"specversion": "1.0", "id": "i", "source": "/s", "type": "user-task.create.v1"}


def ready(line: str | bytes, form: Form = FORM) -> Ready:
    command = read_line(line if isinstance(line, bytes) else line.encode(), 7, form)
    assert isinstance(command, Ready), command
    return command


def envelope(data: object, **attributes: object) -> str:
    return json.dumps(ENVELOPE | {"data": data} | attributes)


def test_members_are_sent_as_they_are_written_under_the_lines_number():
    command = ready('  {"userTaskKey": "007",  "unknown": 1.10}\r')

    assert command.value == b'{"userTaskKey": "007",  "unknown": 1.10}'
    assert command.key == b"7"
    assert dict(command.headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"run/7",
        "ce_source": b"/user-task-worker/cli",
        "ce_type": b"user-task.cancel.v1",
        "content-type": b"application/json",
    }
    assert command.wrong == "#/unknown extra_forbidden"


def test_a_cloud_event_is_sent_as_it_is_written_in_structured_mode():
    line = envelope({"userTaskKey": 5})
    command = ready(line)

    assert (command.key, command.value, command.wrong) == (b"5", line.encode(), None)
    assert command.headers == (("content-type", b"application/cloudevents+json"),)


@pytest.mark.parametrize(("key", "data"), [("a key", {"userTaskKey": "5"}), ("5", {}), ("05", {"userTaskKey": None})])
def test_the_partition_key_of_a_cloud_event_is_the_record_key(key, data):
    assert ready(envelope(data, partitionkey=key)).key == key.encode()


def test_the_lines_in_the_documentation_can_be_sent():
    page = (Path(__file__).resolve().parents[2] / "docs/operating.md").read_text(encoding="utf-8")
    lines = re.search(r"## Many commands at once\n.*?```\n(.*?)```", page, re.DOTALL)[1].splitlines()

    form = dataclasses.replace(FORM, command_type=CommandType.COMPLETE)
    assert [(ready(line, form).key, ready(line, form).wrong) for line in lines] == [
        (b"2251799813685249", None),
        (b"2251799813685250", None),
    ]


def test_only_a_member_of_the_line_itself_makes_it_a_cloud_event():
    command = ready('{"userTaskKey": "5", "variables": {"specversion": "1.0"}}')

    assert dict(command.headers)["content-type"] == b"application/json"


def test_headers_for_all_come_behind_a_lines_own():
    form = Form(command_type=CommandType.CANCEL, run="run", headers=(("ce_correlationid", b"import"),))

    assert ready('{"userTaskKey": "5"}', form).headers[-1] == ("ce_correlationid", b"import")
    assert ready(envelope({"userTaskKey": "5"}), form).headers[-1] == ("ce_correlationid", b"import")


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("secret", id="no JSON"),
        pytest.param('["secret"]', id="no object"),
        pytest.param('{"userTaskKey": "5", "a": "secret", "a": 2}', id="a member twice"),
        pytest.param('{"userTaskKey": "5"} {"a": "secret"}', id="two objects"),
        pytest.param(b'\xef\xbb\xbf{"userTaskKey": "5", "a": "secret"}', id="a BOM"),
        pytest.param(b'{"userTaskKey": "5", "a": "secret\xff"}', id="no UTF-8"),
        pytest.param('{"a": "secret"}', id="no key"),
        pytest.param('{"userTaskKey": null, "a": "secret"}', id="a key of null"),
        pytest.param('{"userTaskKey": "secret"}', id="a key that is none"),
        pytest.param('{"userTaskKey": 7.5, "a": "secret"}', id="a key with a fraction"),
        pytest.param(envelope("secret"), id="an envelope without an object"),
        pytest.param(envelope({"a": "secret"}), id="an envelope without a key"),
        pytest.param(envelope({"userTaskKey": "5"}, type="secret"), id="an envelope of another type"),
        pytest.param(envelope({"userTaskKey": "5"}, id="secret\n"), id="an envelope with a bad id"),
        pytest.param(
            envelope({"userTaskKey": "5", "a": "secret"}, partitionkey=5), id="a partition key that is no text"
        ),
        pytest.param(envelope({}, partitionkey="secret"), id="a partition key instead of a key"),
    ],
)
def test_what_is_no_command_is_not_sendable_and_the_reason_has_no_value(line):
    command = read_line(line if isinstance(line, bytes) else line.encode(), 7, FORM)

    assert isinstance(command, Unsendable)
    assert "secret" not in command.reason


json_text = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=3),
).map(lambda value: json.dumps(value).encode())
nearly = st.dictionaries(
    st.sampled_from(["userTaskKey", "specversion", "id", "source", "type", "data", "partitionkey"]),
    st.sampled_from(["1.0", "5", 5, None, {"userTaskKey": 5}, "user-task.create.v1"]),
).map(lambda value: json.dumps(value).encode())


@given(st.binary(max_size=40) | json_text | nearly)
def test_a_line_is_not_sendable_or_a_command_that_the_worker_reads(line):
    command = read_line(line, 1, FORM)

    if isinstance(command, Ready):
        received = decode(ARecord(command.value, key=command.key, headers=command.headers))
        assert isinstance(received, Readable)
        assert received.user_task_key is not None


# Lines


async def lines_of(text: bytes, max_line_bytes: int = 1_000_000) -> tuple[list[Line], int]:
    """Read through a pipe, as it is filled."""
    reading, writing = os.pipe()
    writer = threading.Thread(target=write_all, args=(writing, text))
    writer.start()
    read = []
    found = [line async for line in read_lines(reading, max_line_bytes, read.append)]
    writer.join()
    os.close(reading)
    return found, sum(read)


def write_all(descriptor: int, text: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", []),
        (b"\n", [b""]),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),
        (b"a\r\n\nb", [b"a\r", b"", b"b"]),
        (b"x" * 200_000 + b"\ny", [b"x" * 200_000, b"y"]),
    ],
    ids=["nothing", "an empty line", "no end", "an end", "an empty one between", "longer than what is read at once"],
)
async def test_lines_are_numbered_from_1_with_or_without_a_last_end(text, expected):
    found, read = await lines_of(text)

    assert found == [Line(number, raw) for number, raw in enumerate(expected, 1)]
    assert read == len(text)


@pytest.mark.parametrize("end", [b"", b"\n", b"\nlast"])
async def test_a_line_that_is_too_long_is_told_and_not_kept(end):
    found, _ = await lines_of(b"first\n" + b"x" * 1_000_000 + end, max_line_bytes=100_000)

    assert found[:2] == [Line(1, b"first"), Line(2, None)]
    assert found[2:] == ([Line(3, b"last")] if end == b"\nlast" else [])


async def test_a_file_on_a_disk_is_read_to_its_end(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b"a\nb\n" * 50_000)
    with path.open("rb") as file:
        found = [line async for line in read_lines(file.fileno(), 10, lambda _: None)]

    assert [line.raw for line in found] == [b"a", b"b"] * 50_000
