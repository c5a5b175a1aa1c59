"""Standard streams that are closed, full or broken: the exit code is still that of what happened."""

import json
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.harness import START_DEADLINE_S, Topics, Worker, bench, command_line, environment, free_port

NOWHERE = Topics("no.commands", "no.events", "no.rejections", "no.commands.dlq")
WITHOUT = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-", "all": "<&- >&- 2>&-", "full stderr": "2>/dev/full"}


def ended(redirected: str, *arguments: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command line to its end, with its streams redirected in a shell's way."""
    server = f"127.0.0.1:{free_port()}"
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirected}', "bash", *command_line(*arguments)],
        env=environment(server, NOWHERE, START_TIMEOUT_S="1") | settings,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=START_DEADLINE_S,
        check=False,
    )


@pytest.mark.parametrize("redirected", WITHOUT.values(), ids=WITHOUT)
@pytest.mark.parametrize(
    ("arguments", "code"),
    [("run", 3), ("lag", 3), ("config", 0), ("nonsense", 2), ("show task 1", 4)],
)
def test_a_stream_that_is_closed_or_full_changes_no_exit_code(tmp_path, redirected, arguments, code):
    found = ended(redirected, *arguments.split(), cwd=tmp_path)
    assert found.returncode == code, found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("arguments", ["config", "config --json", "--help", "check --json"])
def test_a_full_stdout_is_1_and_says_so(tmp_path, arguments, unbuffered):
    found = ended(">/dev/full", *arguments.split(), cwd=tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert found.returncode == 1, found.stderr
    assert found.stderr.endswith(("[Errno 28] No space left on device\n", "stdout could not be written\n"))
    assert "Traceback" not in found.stderr


def test_a_broken_pipe_is_1_and_no_traceback(tmp_path):
    found = ended("| true; exit ${PIPESTATUS[0]}", "config", "--json", cwd=tmp_path)
    assert (found.returncode, found.stderr) == (1, "")


@pytest.mark.parametrize("redirected", WITHOUT.values(), ids=WITHOUT)
def test_a_worker_without_a_stream_works_and_drains(kafka, tmp_path, redirected, monkeypatch):
    monkeypatch.setattr(Worker, "command", ("bash", "-c", f'exec "$@" {redirected}', "bash", *command_line("run")))
    with bench(kafka.bootstrap_servers, tmp_path) as it:
        it.wire.created()
        streams = [str(Path(f"/proc/{it.worker.process.pid}/fd/{number}").readlink()) for number in range(3)]
        assert not [one for one in streams if one.startswith(("socket:", "anon_inode:")) or "tasks.db" in one], streams
        assert it.worker.terminate() == 0


def test_a_hangup_that_is_ignored_from_the_start_stays_ignored(kafka, tmp_path, monkeypatch):
    monkeypatch.setattr(Worker, "command", ("nohup", *command_line("run")))
    with bench(kafka.bootstrap_servers, tmp_path) as it:
        it.worker.process.send_signal(signal.SIGHUP)
        it.wire.created()
        it.worker.watch()
        assert it.worker.terminate() == 0


def test_a_worker_that_did_not_start_says_how_long_it_has_really_waited(kafka, tmp_path):
    with bench(kafka.bootstrap_servers, tmp_path) as it:
        assert it.worker.terminate() == 0
        with closing(sqlite3.connect(tmp_path / "user-tasks.db")) as store:
            store.execute("ALTER TABLE partitions RENAME TO gone")
        found = ended("", "run", cwd=tmp_path, **it.worker.env | {"USERTASK_START_TIMEOUT_S": "2"})
    assert found.returncode == 3, found.stderr
    [told] = [line for line in map(json.loads, found.stderr.splitlines()) if line["event"] == "worker_not_started"]
    assert told["waited_s"] > 1  # and it may take longer than the limit, which is what it said once
