"""`store backup` and `store restore` beside a real worker: what they do, refuse, and end with."""

import json
import re
import shlex
import shutil
import subprocess

import pytest

from tests.chaos.judge import await_committed
from tests.integration.harness import Topics, Worker, environment, run_cli
from tests.integration.test_guards import DEADLINE_S, Bench, await_words

NOWHERE = Topics("no.commands", "no.events", "no.rejections", "no.commands.dlq")
POSTGRES = "postgresql://u:hunter2@127.0.0.1:1/d"


@pytest.fixture
def bench(kafka, tmp_path):
    return Bench(kafka.bootstrap_servers, tmp_path)


def ended(bench: Bench, *arguments: str, code: int = 0) -> str:
    """Run a command line, and return what it said."""
    done = run_cli(*arguments, env=bench.env, cwd=bench.folder)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def red(bench: Bench) -> dict[str, str]:
    done = run_cli("check", env=bench.env, cwd=bench.folder)
    return {one["name"]: one["detail"] for one in json.loads(done.stdout)["checks"] if one["result"] == "red"}


def test_a_backup_beside_a_worker_is_restored_once_it_has_stopped_and_the_check_says_what_it_means(bench):
    bench.work_off(20)
    with Worker(bench.env, bench.folder) as worker:
        assert "bytes, checked" in ended(bench, "store", "backup", "copy.db")
        assert "in use by another worker" in ended(bench, "store", "restore", "copy.db", code=4)
        bench.send(20)
        await_committed(bench.bootstrap_servers, bench.topics.commands, bench.group, DEADLINE_S)
        worker.kill()

    assert f"{bench.store}.replaced" in ended(bench, "store", "restore", "copy.db")

    assert any(detail.startswith("store_behind") for detail in red(bench).values())
    ended(bench, "store", "restore", f"{bench.store}.replaced")
    assert red(bench) == {}
    bench.work_off(20)
    assert bench.verdict().is_clean


@pytest.mark.parametrize("lose", ["deleted", "replaced"])
def test_a_file_that_is_gone_under_a_worker_is_rescued_by_what_the_worker_says(bench, lose):
    bench.work_off(20)
    ended(bench, "store", "backup", "copy.db")
    with Worker(bench.env, bench.folder) as worker:
        bench.send(20)
        await_committed(bench.bootstrap_servers, bench.topics.commands, bench.group, DEADLINE_S)
        bench.store.unlink()
        if lose == "replaced":
            shutil.copy(bench.folder / "copy.db", bench.store)
        bench.send(20)
        await_words("while it was open", worker)
        assert worker.get("/readyz")[0] == 503
        assert worker.get("/livez")[0] == 200
        assert bench.store.exists() == (lose == "replaced"), "the worker makes no new file"

        words = re.search(r"Copy it first: `([^`]+)`", worker.stderr())[1]
        for command in words.split(" && "):
            subprocess.run(shlex.split(command), cwd=bench.folder, check=True)
        assert worker.terminate() == 0, worker.stderr()

    ended(bench, "store", "restore", "COPY")
    bench.work_off(20)
    assert bench.verdict().is_clean


@pytest.mark.parametrize("arguments", [("backup", "copy.db"), ("restore", "copy.db")])
def test_postgresql_has_means_of_its_own(tmp_path, arguments):
    (tmp_path / "copy.db").touch()
    done = run_cli("store", *arguments, env=environment("nowhere:1", NOWHERE, STORE_URL=POSTGRES), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pg_" in done.stderr
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("backup", "there.db"), 2),
        (("backup", "copy.db"), 4),
        (("restore", "missing.db"), 2),
        (("restore", "there.db"), 4),
    ],
    ids=["a file that is there", "no store yet", "no backup", "no store in it"],
)
def test_what_cannot_be_done_says_so(tmp_path, arguments, code):
    (tmp_path / "there.db").write_text("no database, but long enough to be looked at" * 100)
    done = run_cli("store", *arguments, env=environment("nowhere:1", NOWHERE), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr
    assert not (tmp_path / "user-tasks.db").exists()
