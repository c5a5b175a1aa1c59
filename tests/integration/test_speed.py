"""A guard against gross loss of speed, as a ratio within one run; docs/performance.md has what was measured."""

from typing import Final

from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.comparison import COPY, POSTGRES, compare
from benchmarks.ground import private_ground

RECORDED: Final = 0.25
"""This worker on PostgreSQL by a bare transactional copy, in commands per second."""
RUNS: Final = 3
COMMANDS: Final = 40_000
PARTITIONS: Final = 12


def test_the_profile_has_every_stage():
    shown = CliRunner().invoke(app, ["profile", "--runs", "1"])

    assert shown.exit_code == 0, shown.exception
    assert shown.stdout.count("| put it into a batch |") == shown.stdout.count("| together |") == 1


def test_the_worker_has_not_lost_half_of_its_speed():
    lines: list[str] = []
    with private_ground() as ground:
        results = compare(ground, [POSTGRES, COPY], RUNS, COMMANDS, PARTITIONS, lines.append)

    # the best of each: what else the machine has to do can only take away
    worker, copy = (max(run.commands_per_s for run in results[one.name]) for one in (POSTGRES, COPY))
    assert worker / copy > RECORDED / 2, lines
