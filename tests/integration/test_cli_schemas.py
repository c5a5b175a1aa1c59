"""`schemas export` and `schemas diff` as they are called; no broker is needed."""

import json
import shutil

import pytest

from tests.integration.harness import ROOT, bare_environment, run_cli
from tests.integration.terminal import on_a_terminal
from worker.cli.exporting import generated

FOLDER = ROOT / "schemas/json"
COMPLETED = "user-task.completed.v1.schema.json"


@pytest.fixture
def cli(tmp_path):
    return lambda *arguments: run_cli("schemas", *arguments, env=bare_environment(), cwd=tmp_path)


@pytest.fixture
def older(tmp_path):
    """An export from which a listener could rely on a member that no longer comes."""
    folder = tmp_path / "older"
    shutil.copytree(FOLDER, folder)
    schema = json.loads((folder / COMPLETED).read_text(encoding="utf-8"))
    schema["properties"]["gone"] = {"type": "string"}
    (folder / COMPLETED).write_text(json.dumps(schema), encoding="utf-8")
    return folder


def test_an_export_is_what_the_project_ships(cli, tmp_path):
    ended = cli("export", "here/and/there")

    assert (ended.returncode, ended.stderr) == (0, "")
    written = {line.removeprefix("here/and/there/") for line in ended.stdout.splitlines()}
    assert written == set(generated())
    for name in written:
        assert (tmp_path / "here/and/there" / name).read_bytes() == (FOLDER / name).read_bytes()


def test_without_a_folder_it_goes_where_the_project_has_it(cli, tmp_path):
    assert cli("export").returncode == 0
    assert (tmp_path / "schemas/json/asyncapi.yaml").exists()


def test_a_folder_that_cannot_be_written_is_told(cli, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")

    ended = cli("export", "file/below")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "cannot be written" in ended.stderr


@pytest.mark.parametrize("which", ["", "asyncapi.yaml", COMPLETED])
def test_nothing_has_changed_since_today(cli, which):
    ended = cli("diff", str(FOLDER / which))

    assert (ended.returncode, json.loads(ended.stdout)) == (0, {"breaking": False, "changes": []})


@pytest.mark.parametrize("which", ["", COMPLETED])
def test_a_breaking_change_ends_with_1(cli, older, which):
    ended = cli("diff", str(older / which), "--json")

    assert ended.returncode == 1
    change = {"schema": "user-task.completed.v1", "where": "#/gone", "change": "member gone", "breaks": "listeners"}
    assert json.loads(ended.stdout) == {"breaking": True, "changes": [change]}


def test_people_are_shown_a_table(older, tmp_path):
    changed = on_a_terminal("schemas", "diff", str(older), env=bare_environment(), cwd=tmp_path)
    same = on_a_terminal("schemas", "diff", str(FOLDER), env=bare_environment(), cwd=tmp_path)

    assert changed.returncode == 1
    assert "member gone" in changed.stdout
    assert same.stdout.strip() == "No changes."


@pytest.mark.parametrize(
    ("name", "text"), [("empty", None), ("a.schema.json", "{"), ("a.schema.json", "[]"), ("a.yaml", "a: [")]
)
def test_what_is_no_export_is_a_usage_error(cli, tmp_path, name, text):
    if text is None:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text(text, encoding="utf-8")

    ended = cli("diff", name)
    assert (ended.returncode, ended.stdout) == (2, "")


def test_what_is_not_there_is_a_usage_error(cli):
    assert cli("diff", "nowhere").returncode == 2
