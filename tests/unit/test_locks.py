"""What is installed, tested and shipped is the same."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def pins(name: str) -> dict[str, str]:
    found = re.findall(r"^([a-z0-9._-]+)==([^ ;]+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    return dict(found)


def test_the_image_runs_what_was_tested():
    tested, shipped = pins("requirements.lock"), pins("requirements-runtime.lock")

    assert {"aiokafka", "asyncpg", "opentelemetry-sdk", "pydantic"} <= set(shipped)
    assert shipped.items() <= tested.items()
    assert "pytest" not in shipped


def test_the_package_is_built_by_what_is_pinned():
    for name in pins("requirements-build.lock"):
        assert name in (ROOT / "pyproject.toml").read_text(encoding="utf-8").replace("_", "-")
    assert "--hash=sha256:" in (ROOT / "requirements-build.lock").read_text(encoding="utf-8")
