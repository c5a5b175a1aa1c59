"""What people at a terminal are given besides: completion by the shell, and a bar for long work."""

import re
import subprocess
import sys

import pytest

from tests.integration.harness import bare_environment, bench, make_topics, run_cli
from tests.integration.terminal import on_a_terminal

START = "import sys; sys.argv[0] = 'user-task-worker'; from worker.cli import main; main()"


def installed(*arguments: str, **variables: str) -> str:
    """Run the command line under its own name, as its script does."""
    ended = subprocess.run(
        [sys.executable, "-c", START, *arguments],
        env=bare_environment() | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("user-task-worker he", ["health"]),
        ("user-task-worker dlq re", ["redrive"]),
        ("user-task-worker show command --se", ["--search"]),
    ],
)
def test_the_shell_completes_commands_and_options(words, expected):
    count = str(words.count(" "))
    shown = installed(_USER_TASK_WORKER_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=count)
    assert shown.split() == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_installed(tmp_path, shell):
    disabled = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # there is none above a test
    said = installed("--install-completion", shell, HOME=str(tmp_path), **disabled)
    assert f"{shell} completion installed" in said
    assert any("user-task-worker" in file.read_text() for file in tmp_path.rglob("*") if file.is_file())


def test_pruning_shows_a_bar_on_a_terminal_and_none_elsewhere(kafka, tmp_path):
    with bench(kafka.bootstrap_servers, tmp_path) as it:
        for _ in range(3):
            it.wire.created()
        assert it.worker.terminate() == 0
        arguments = ("store", "prune", "--older-than-days", "0")
        shown = on_a_terminal(*arguments, env=it.worker.env, cwd=tmp_path, errors_too=True)
        again = run_cli(*arguments, env=it.worker.env, cwd=tmp_path)
    assert "Forgot 3 outcomes." in shown.stdout
    assert re.search(r"forgetting\W.*3/", shown.stdout)
    assert (again.stdout, again.stderr) == ("Forgot 0 outcomes.\n", "")


def test_redriving_shows_a_bar_on_a_terminal(kafka, tmp_path):
    topics = make_topics(kafka.bootstrap_servers)
    with bench(kafka.bootstrap_servers, tmp_path, topics) as it:
        letter = it.wire.dead_letter(it.wire.send(b"no json"))
        shown = on_a_terminal(
            "dlq", "redrive", f"{letter.partition}/{letter.offset}", env=it.worker.env, cwd=tmp_path, errors_too=True
        )
    assert shown.returncode == 0
    assert re.search(r"redriving\W.*1/1", shown.stdout)
