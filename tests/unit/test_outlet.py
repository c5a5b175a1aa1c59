"""A log whose reader stops costs lines, and never time."""

import json
import os

import pytest

from worker.telemetry.outlet import Outlet

LINES = 3_000
LINE = "x" * 299 + "\n"


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as reading, os.fdopen(writer, "w") as writing:
        os.set_blocking(reader, False)
        yield reading, writing


def read_all(reading) -> list[str]:
    chunks = iter(lambda: reading.read(1 << 20), None)
    return b"".join(chunks).decode().splitlines()


@pytest.mark.timeout(20)
def test_a_reader_that_stops_holds_up_nobody_and_is_told_how_much_it_missed(pipe):
    reading, writing = pipe
    outlet = Outlet(writing)
    for _ in range(LINES):
        outlet.write(LINE)
    seen = read_all(reading)
    assert 0 < outlet.dropped == LINES - len(seen)

    outlet.write("again\n")

    told, again = read_all(reading)
    assert json.loads(told)["event"] == "log_lines_dropped"
    assert json.loads(told)["lines"] == outlet.dropped
    assert again == "again"


@pytest.mark.timeout(20)
def test_a_line_that_was_cut_off_spoils_no_other(pipe):
    reading, writing = pipe
    outlet = Outlet(writing)
    outlet.write("y" * 1_000_000 + "\n")
    outlet.write("next\n")
    assert outlet.dropped == 2
    assert set("".join(read_all(reading))) == {"y"}

    outlet.write("again\n")

    *_, told, again = read_all(reading)
    assert json.loads(told)["lines"] == 2
    assert again == "again"


def test_a_reader_that_keeps_up_misses_nothing(pipe):
    reading, writing = pipe
    outlet = Outlet(writing)
    seen = []
    for at in range(LINES):
        outlet.write(f"{at} {LINE}")
        seen += read_all(reading)
    assert [int(line.split()[0]) for line in seen] == list(range(LINES))
    assert outlet.dropped == 0


def test_a_stream_that_is_no_file_and_a_file_take_everything(tmp_path):
    with (tmp_path / "log").open("w") as file:
        outlet = Outlet(file)
        for _ in range(LINES):
            outlet.write(LINE)
    assert (tmp_path / "log").stat().st_size == LINES * len(LINE)


@pytest.mark.timeout(20)
def test_a_terminal_that_nobody_reads_holds_up_nobody():
    master, slave = os.openpty()
    with os.fdopen(master, "rb", buffering=0), os.fdopen(slave, "w") as writing:
        outlet = Outlet(writing)
        for _ in range(LINES):
            outlet.write(LINE)
    assert outlet.dropped > 0
