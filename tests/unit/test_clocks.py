"""Two clocks, one of which is wrong."""

import pytest

from worker.clocks import Clocks

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000


class Machine:
    """A machine whose clocks a test sets."""

    def __init__(self) -> None:
        self.wall_ms, self.monotonic_s = NOW_MS, 5000.0
        self.clocks = Clocks(lambda: self.wall_ms, lambda: self.monotonic_s)

    def pass_(self, seconds: float) -> None:
        self.wall_ms += int(seconds * 1000)
        self.monotonic_s += seconds


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_alone_a_clock_says_nothing(machine):
    assert machine.clocks.times() is None
    assert machine.clocks.behind_store_ms() == 0


def test_the_other_clock_goes_on_between_two_looks(machine):
    machine.clocks.store_said(NOW_MS + 40)
    machine.pass_(90)

    times = machine.clocks.times()
    assert (times.earlier_ms, times.ahead_ms, times.differ) == (NOW_MS + 90_000, -40, False)


def test_a_clock_that_jumps_is_found_by_one_that_does_not(machine):
    machine.clocks.commands_said([NOW_MS - 300, NOW_MS - 20])
    machine.pass_(3600)
    machine.wall_ms += 8 * DAY_MS

    times = machine.clocks.times()
    assert times.differ
    assert times.earlier_ms == NOW_MS + 3_600_000 - 20
    assert str(times) == (
        "this machine's clock says 2027-01-23T09:00:00.000Z, and the newest command's says 2027-01-15T08:59:59.980Z"
    )


def test_commands_that_have_waited_do_not_set_their_clock_back(machine):
    machine.clocks.commands_said([NOW_MS])
    machine.clocks.commands_said([NOW_MS - 5 * DAY_MS])

    assert machine.clocks.times().ahead_ms == 0


@pytest.mark.parametrize("timestamps", [[], [-1], [2**63 - 1], [5, 2**63 - 1]])
def test_what_cannot_be_a_time_is_none(machine, timestamps):
    machine.clocks.commands_said(timestamps)

    assert machine.clocks.times() is None


def test_the_stores_clock_goes_before_the_commands(machine):
    machine.clocks.commands_said([NOW_MS + DAY_MS])
    machine.clocks.store_said(NOW_MS)

    assert machine.clocks.times().other_ms == NOW_MS


@pytest.mark.parametrize(("ahead_ms", "behind_ms"), [(DAY_MS, DAY_MS), (61_000, 61_000), (59_000, 0), (-DAY_MS, 0)])
def test_only_a_clock_that_is_clearly_behind_the_stores_is(machine, ahead_ms, behind_ms):
    machine.clocks.store_said(NOW_MS + ahead_ms)

    assert machine.clocks.behind_store_ms() == behind_ms
