"""The demo: what it shows, and that it leaves nothing behind."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.harness import bare_environment, command_line

pytestmark = pytest.mark.timeout(300)

ROWS = [
    r"1 +create a task +2251799813685249 +event +CREATED +.*",
    r"2 +complete it with an action +2251799813685249 +event +COMPLETED +action \"approve\", .*",
    r"3 +the same command again, same id +2251799813685249 +none +.*",
    r"4 +complete it again, new id +2251799813685249 +rejection +409 INVALID_STATE +.*",
    r"5 +create another task +2251799813685250 +event +CREATED +.*",
    r"6 +complete it without an action +2251799813685250 +event +COMPLETED +action \"complete\", .*",
    r"7 +complete an unknown task +404404 +rejection +404 NOT_FOUND +.*",
    r"8 +a misspelt member, a wrong type +\S+ +rejection +400 \w+ +#/action string_type; #/varaibles extra_forbidden",
    r"9 +what is not JSON +2251799813685250 +rejection +400 INVALID_ARGUMENT +.*",
    r" +dead letter +malformed-command +.*approve it!",
]


@pytest.fixture
def env(tmp_path):
    """An environment whose temporary files are in the test's folder, and whose settings are for another cluster."""
    return bare_environment() | {
        "TMPDIR": str(tmp_path),
        "USERTASK_KAFKA_BOOTSTRAP_SERVERS": "elsewhere:9092",
        "USERTASK_COMMANDS_TOPIC": "elsewhere",
    }


def processes_in(folder: Path) -> list[str]:
    """Return the command lines of the processes that work in a folder or name it, as Linux tells them."""
    return [line for process in Path("/proc").glob("[0-9]*") if (line := _of(process, str(folder)))]


def _of(process: Path, folder: str) -> str:
    try:
        line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        environment = (process / "environ").read_bytes()
        works_there = str((process / "cwd").readlink()).startswith(folder)
    except OSError:  # it has ended, or belongs to somebody else
        return ""
    return line if works_there or f"TMPDIR={folder}".encode() in environment.split(b"\0") else ""


def test_the_demo_shows_the_story_and_leaves_nothing_behind(tmp_path, env):
    ended = subprocess.run(command_line("demo"), env=env, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    heading, *rows, summary = ended.stdout.splitlines()
    assert heading.split() == ["command", "user", "task", "answer", "outcome", "details"]
    assert len(rows) == len(ROWS), ended.stdout
    for row, expected in zip(rows, ROWS, strict=True):
        assert re.fullmatch(expected, row), row
    assert summary.startswith("9 commands in, 4 events and 4 rejections out, 1 repetition without effect, 1 dead")
    assert all(line.startswith("… ") for line in ended.stderr.splitlines()), ended.stderr
    assert processes_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_kept_it_can_be_talked_to_until_it_is_stopped(tmp_path, env, by):
    process = subprocess.Popen(command_line("demo", "--keep"), env=env, stdout=subprocess.PIPE, text=True)
    try:
        servers = told_servers(process)
        talking = env | {"USERTASK_KAFKA_BOOTSTRAP_SERVERS": servers, "USERTASK_COMMANDS_TOPIC": "user-task.commands"}
        for command in (["create", "8"], ["complete", "8", "--action", "approve"]):
            subprocess.run(command_line(*command, "--wait"), env=talking, capture_output=True, timeout=60, check=True)
        process.send_signal(by)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
    assert processes_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def told_servers(process: subprocess.Popen[str]) -> str:
    """Read up to the last line of the instructions, and return the broker that they name."""
    for line in process.stdout:
        if match := re.search(r"SERVERS=(\S+) user-task-worker complete 8", line):
            return match[1]
    raise AssertionError("it ended without instructions")


def test_without_its_extra_the_demo_says_what_to_install(tmp_path, env):
    script = (
        "import sys, worker.cli; sys.modules['jgo'] = None; sys.argv = ['user-task-worker', 'demo']; worker.cli.main()"
    )
    ended = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert 'pip install "user-task-worker[embedded]"' in ended.stderr


def test_a_demo_that_is_killed_takes_its_broker_and_its_worker_along(tmp_path, env):
    process = subprocess.Popen(command_line("demo", "--keep"), env=env, stdout=subprocess.PIPE, text=True)
    try:
        told_servers(process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    await_nobody(tmp_path)


def await_nobody(folder: Path, deadline_s: float = 60) -> None:
    """Return once no process works in the folder."""
    for process in Path("/proc").glob("[0-9]*"):
        if _of(process, str(folder)):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                await_end(int(process.name), deadline_s)
    assert processes_in(folder) == []


def await_end(pid: int, deadline_s: float) -> None:
    ended = os.pidfd_open(pid)
    try:
        readable, _, _ = select.select([ended], [], [], deadline_s)
    finally:
        os.close(ended)
    assert readable, f"process {pid} is left"
