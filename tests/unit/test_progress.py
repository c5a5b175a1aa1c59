"""What stands still for too long although there is something for it to do, and what does not."""

import pytest

from worker.telemetry.progress import Progress, Step


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock: Clock) -> Progress:
    return Progress(10, clock)


def looks(progress: Progress, clock: Clock, *steps: Step, apart_s: float = 6) -> list[dict[str, float]]:
    found = []
    for step in steps:
        found.append(progress.look({"it": step}))
        clock.now_s += apart_s
    return found


def test_what_waits_and_does_not_move_is_found_after_the_limit(progress: Progress, clock: Clock) -> None:
    assert looks(progress, clock, *[Step((5,), waiting=True)] * 4) == [{}, {}, {"it": 12}, {"it": 18}]


def test_what_moves_is_not_found(progress: Progress, clock: Clock) -> None:
    assert not any(looks(progress, clock, *[Step((reached,), waiting=True) for reached in range(9)]))


def test_what_has_nothing_to_do_is_not_found(progress: Progress, clock: Clock) -> None:
    assert not any(looks(progress, clock, *[Step((5,), waiting=False)] * 5))


def test_the_time_starts_when_there_is_something_to_do(progress: Progress, clock: Clock) -> None:
    idle, busy = Step((5,), waiting=False), Step((5,), waiting=True)
    assert looks(progress, clock, idle, idle, idle, busy, busy, busy) == [{}, {}, {}, {}, {"it": 12}, {"it": 18}]


def test_what_begins_anew_further_on_has_moved(progress: Progress, clock: Clock) -> None:
    steps = [Step(reached, waiting=True) for reached in ((1, 900), (2, 300), (2, 310), (2, 320), (3, 100))]
    assert not any(looks(progress, clock, *steps))


def test_going_back_and_forth_is_no_progress(progress: Progress, clock: Clock) -> None:
    steps = [Step((reached,), waiting=True) for reached in (5, 3, 5, 4, 5)]
    assert looks(progress, clock, *steps)[-1] == {"it": 24}


def test_what_moves_again_is_well_again(progress: Progress, clock: Clock) -> None:
    assert looks(progress, clock, *[Step((5,), waiting=True)] * 3, Step((6,), waiting=True)) == [{}, {}, {"it": 12}, {}]


def test_nothing_seen_is_nothing_known(progress: Progress, clock: Clock) -> None:
    looks(progress, clock, *[Step((5,), waiting=True)] * 2)
    progress.forget()
    assert looks(progress, clock, *[Step((5,), waiting=True)] * 3) == [{}, {}, {"it": 12}]


def test_what_went_away_starts_anew(progress: Progress, clock: Clock) -> None:
    looks(progress, clock, *[Step((5,), waiting=True)] * 2)
    progress.look({})
    assert looks(progress, clock, *[Step((5,), waiting=True)] * 2) == [{}, {}]


def test_each_thing_has_a_time_of_its_own(progress: Progress, clock: Clock) -> None:
    for reached in range(4):
        found = progress.look({"stuck": Step((1,), waiting=True), "sound": Step((reached,), waiting=True)})
        clock.now_s += 6
    assert list(found) == ["stuck"]
