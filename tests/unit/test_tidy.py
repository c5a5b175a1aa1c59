"""The house's rules that a machine can see."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted([*ROOT.glob("schemas/**/*.py"), *ROOT.glob("worker/**/*.py")])
LINES_MAX = 320
FUNCTION_LINES_MAX = 50


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_is_and_stays_small(path):
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)

    assert ast.get_docstring(tree)
    assert source.count("\n") <= LINES_MAX
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [node.name for node in functions if node.end_lineno - node.lineno >= FUNCTION_LINES_MAX]
    assert not long


def test_offsets_are_neither_asked_nor_set_by_an_admin_client():
    """librdkafka's dies of a coordinator that is not there yet (confluentinc/librdkafka#5040), or loses the request."""
    asking = [
        str(path.relative_to(ROOT))
        for folder in ("tests", "benchmarks")
        for path in ROOT.glob(f"{folder}/**/*.py")
        if re.search(r"\.(list|alter)_consumer_group_offsets\(", path.read_text(encoding="utf-8"))
    ]
    assert not asking
