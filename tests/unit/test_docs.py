"""The documentation says what the code does: its tables are the code's, its links resolve, its examples are valid."""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from schemas.commands import CompleteUserTask
from schemas.events import UserTaskEvent
from schemas.problem import PROBLEMS, ProblemDetail
from worker.careful import CAUSE
from worker.cli.main import app
from worker.cli.story import tell
from worker.exit_codes import ExitCode
from worker.portions import UNPUBLISHABLE
from worker.settings import PREFIX, Settings
from worker.starting import CAUSES
from worker.telemetry.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
README, CONTRACT, OPERATING = ROOT / "README.md", ROOT / "docs/contract.md", ROOT / "docs/operating.md"
EXACTLY_ONCE = ROOT / "docs/exactly-once.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/**/*.md"))]
LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical"}
SUFFIXES = {"counter": "_total", "info": "_info"}


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def rows(page: Path, heading: str = "") -> list[list[str]]:
    """Give the table rows below a heading, or of the whole page, cell by cell."""
    text = text_of(page)
    if heading:
        text = re.split(r"^#{2,3} ", text.split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def first_names(page: Path, heading: str) -> list[str]:
    """Give what stands in backticks in the first cells of the tables below a heading."""
    return [row[0].strip("`") for row in rows(page, heading) if row[0].startswith("`")]


# The tables


def setting_row(name: str, field: FieldInfo) -> str:
    default = field.default
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    elif isinstance(default, bool):
        default = str(default).lower()
    shown = f"`{default}`" if field.default_factory is None and default is not None else ""
    return f"| `{PREFIX}{name.upper()}` | {shown} | {field.description} |"


def test_the_settings_table_is_the_models():
    expected = [setting_row(name, field) for name, field in Settings.model_fields.items()]

    table = [line for line in text_of(README).splitlines() if line.startswith(f"| `{PREFIX}")]

    assert table == expected, "The table has to be:\n" + "\n".join(expected)


def exposed(registry: CollectorRegistry) -> dict[str, tuple[str, list[str]]]:
    """Give the worker's metrics as Prometheus sees them: name, type and labels."""
    shown = {}
    for collector in registry._collector_to_names:
        for family in collector.collect():
            if family.name.startswith(("usertask_", "messaging_")):
                kind = "gauge" if family.type == "info" else family.type
                shown[family.name + SUFFIXES.get(family.type, "")] = kind, labels_of(collector, family.samples)
    return shown


def labels_of(collector: Collector, samples: list[Sample]) -> list[str]:
    """Give the names of a metric's labels; where they are fixed, its samples have them."""
    named = getattr(collector, "_labelnames", ()) or {name for one in samples for name in one.labels}
    return sorted(set(named) - {"le"})


def test_every_metric_is_documented_with_its_type_and_labels_and_no_other():
    documented = {
        row[0].strip("`"): (row[1], sorted(re.findall(r"`(\w+)`", row[2])))
        for row in rows(OPERATING, "Metrics")
        if row[0].startswith("`")
    }

    assert documented == exposed(Metrics().registry)


Line = tuple[str, str, frozenset[str]]
"""The event of a log line, its level and its fields."""


def logged() -> Iterator[Line]:
    """Give every line that the worker's own code logs."""
    for path in ROOT.glob("worker/**/*.py"):
        module = ast.parse(text_of(path))
        for function in ast.walk(module):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Call):
                        yield from logged_by(node, function, module)
                    elif isinstance(node, ast.Dict):  # the one line that is written without a logger
                        yield from written_as(node)


def logged_by(call: ast.Call, function: ast.AST, module: ast.Module) -> Iterator[Line]:
    match call:
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id="log" | "_log"), attr=level), args=[ast.Constant(value=event), *_]
        ) if level in LOG_METHODS:
            yield event, "error" if level == "exception" else level, fields_of(call, function, module)
        case ast.Call(func=ast.Name(id=helper), args=[ast.Constant(value=event), *_]) if helper.startswith("_log"):
            for inner in ast.walk(named(helper, module)):
                match inner:  # a helper that logs what it is told to
                    case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=level)):
                        yield event, level, fields_of(inner, named(helper, module), module)


def fields_of(call: ast.Call, function: ast.AST, module: ast.Module) -> frozenset[str]:
    """Give the names that a call passes, also those from a dict that is made in its function or by another one."""
    fields = {keyword.arg for keyword in call.keywords if keyword.arg}
    for keyword in call.keywords:
        match keyword:
            case ast.keyword(arg=None, value=ast.Name(id=name)):
                made = [one.value for one in ast.walk(function) if isinstance(one, ast.Assign)]
                fields |= {key for one in made if name in assigned(function, one) for key in keys_of(one)}
            case ast.keyword(arg=None, value=ast.Call(func=ast.Name(id=name))):
                fields |= {key for one in ast.walk(named(name, module)) for key in keys_of(one)}
    return frozenset(fields)


def assigned(function: ast.AST, value: ast.AST) -> set[str]:
    """Give the names to which a function assigns a value."""
    assignments = [one for one in ast.walk(function) if isinstance(one, ast.Assign) and one.value is value]
    return {target.id for one in assignments for target in one.targets if isinstance(target, ast.Name)}


def keys_of(node: ast.AST) -> set[str]:
    return {key.value for key in node.keys if isinstance(key, ast.Constant)} if isinstance(node, ast.Dict) else set()


def named(name: str, module: ast.Module) -> ast.AST:
    return next(node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == name)


def written_as(node: ast.Dict) -> Iterator[Line]:
    constants = {
        key.value: value.value
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and isinstance(value, ast.Constant)
    }
    if {"event", "level"} <= constants.keys():
        yield constants["event"], constants["level"], frozenset(keys_of(node) - {"event", "level", "logger"})


def test_every_log_event_is_documented_with_its_level_and_fields_and_no_other():
    documented = {
        row[0].strip("`"): (row[1], set(re.findall(r"`(\w+)`", row[2])))
        for row in rows(OPERATING, "Log")
        if row[0].startswith("`")
    }
    lines = list(logged())
    expected = {event: (level, set()) for event, level, _ in lines}
    for event, _, fields in lines:
        expected[event][1].update(fields)

    assert documented == expected
    assert len({(event, level) for event, level, _ in lines}) == len(expected), "an event has one level"


@pytest.mark.parametrize(("page", "heading"), [(README, "Running and scaling"), (OPERATING, "Exit codes")])
def test_every_exit_code_is_documented_and_no_other(page, heading):
    documented = [row[0] for row in rows(page, heading) if row[0].isdigit()]

    assert documented == [str(code.value) for code in ExitCode]


@pytest.mark.parametrize(("page", "heading"), [(README, "The contract on one page"), (CONTRACT, "Rejections")])
def test_every_problem_is_documented_with_status_and_title_and_no_other(page, heading):
    documented = [tuple(row[:3]) for row in rows(page, heading) if len(row) == 4 and row[1].isdigit()]

    assert documented == [(f"`{problem}`", str(status), title) for problem, (status, title) in PROBLEMS.items()]


def test_every_cause_of_a_blocked_partition_is_documented_and_no_other():
    assert set(first_names(OPERATING, "Blocked partitions")) == {*CAUSES, CAUSE, UNPUBLISHABLE}
    assert set(re.findall(r"(?:refused|blocked): `(\w+)`", text_of(EXACTLY_ONCE))) == set(CAUSES)


# The names


@cache
def test_names(path: Path) -> frozenset[str]:
    """Give the names of the tests in a file, or in all files below a folder."""
    files = [path] if path.is_file() else path.rglob("test_*.py")
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = (node for file in files for node in ast.walk(ast.parse(text_of(file))) if isinstance(node, functions))
    return frozenset(node.name for node in found if node.name.startswith("test_"))


test_names.__test__ = False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_is_named_is_there(page):
    named = re.findall(r"\[`(test_\w+)`\]\(([^)#]+)\)", text_of(page))

    assert [name for name, file in named if name not in test_names((page.parent / file).resolve())] == []
    assert set(re.findall(r"`(test_\w+)`", text_of(page))) <= test_names(ROOT / "tests")


def commands_named(page: Path) -> Iterator[list[str]]:
    """Give the words after the program's name, wherever a page tells to call it."""
    code = re.findall(r"```(?:sh)?\n(.*?)```", text_of(page), re.DOTALL) + re.findall(r"`([^`\n]+)`", text_of(page))
    for words in re.findall(r"(?:^|[\s/])user-task-worker ((?:[a-z][a-z-]* ?){1,2})", "\n".join(code), re.MULTILINE):
        yield words.split()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_named_is_there(page):
    root = typer.main.get_command(app)

    for words in commands_named(page):
        command = root.commands.get(words[0])
        assert command is not None, words
        assert not hasattr(command, "commands") or words[1] in command.commands, words


@cache
def places() -> frozenset[str]:
    """Give `Class`, `Class.member` and `function` for all the code."""
    found = set()
    for path in [*ROOT.glob("schemas/**/*.py"), *ROOT.glob("worker/**/*.py"), *ROOT.glob("tests/**/*.py")]:
        for node in ast.walk(ast.parse(text_of(path))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            if isinstance(node, ast.ClassDef):
                functions = [one.name for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
                fields = re.findall(r"self\.(\w+)\b", ast.unparse(node))
                found.update(f"{node.name}.{member}" for member in [*functions, *fields])
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_place_in_the_code_that_is_named_is_there(page):
    named = re.findall(r"`([A-Z][a-z]\w*\.[a-z_]\w*)`", text_of(page))
    linked = re.findall(r"`(\w+)` in\s+\[`[^`]+`\]\([^)#]+\.py\)", text_of(page))

    assert {name for name in [*named, *linked] if not name.isupper()} <= places()


# The links and the examples


def anchors(page: Path) -> set[str]:
    """Give the anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_resolves(page):
    for link in re.findall(r"\]\(([^)]+)\)", text_of(page)):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", [README, CONTRACT], ids=lambda page: page.name)
def test_the_examples_are_what_the_models_take(page):
    examples = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text_of(page), re.DOTALL)]

    models = {"state": UserTaskEvent, "status": ProblemDetail, "action": CompleteUserTask}
    for example in examples:
        model = next(model for member, model in models.items() if member in example)
        read = model.model_validate(example)
        assert json.loads(read.model_dump_json(by_alias=True, exclude_none=True)) == example
    assert len(examples) == len(models)


def test_the_output_of_the_demo_is_the_storys():
    output = re.search(r"<!-- the output of .*?-->\n```\n(.*?)```", text_of(README), re.DOTALL)[1].splitlines()

    told = [re.split(r" {2,}", line.strip()) for line in output[1:-1]]
    expected = []
    for number, step in enumerate(tell(), 1):
        first = [str(number), step.what, step.command.key.decode()]
        answers = [[answer.kind, answer.outcome] for answer in step.expected] or [["none"]]
        expected += [(first if index == 0 else []) + answer for index, answer in enumerate(answers)]
    assert [row[: len(wanted)] for row, wanted in zip(told, expected, strict=True)] == expected
