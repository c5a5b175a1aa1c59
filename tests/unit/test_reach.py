"""How many offsets of a partition can be read and are not answered."""

import pytest

from worker.reach import Reach


def reach(handed_out: int, position: int, stable_end: int) -> Reach:
    return Reach(handed_out=handed_out, position=position, stable_end=stable_end, end=20, is_recent=True)


@pytest.mark.parametrize(
    ("reach", "published", "lag"),
    [
        pytest.param(reach(0, 0, 5), 0, 5, id="nothing is read yet"),
        pytest.param(reach(5, 5, 9), 3, 6, id="read and not answered"),
        pytest.param(reach(5, 5, 9), 5, 4, id="answered as far as it is read"),
        pytest.param(reach(5, 9, 9), 5, 0, id="only markers behind the answered ones"),
        pytest.param(reach(5, 9, 9), 4, 5, id="markers behind one that is not answered"),
        pytest.param(reach(0, 9, 9), 0, 0, id="nothing but aborted records"),
        pytest.param(reach(7, 3, 9), 7, 2, id="read beside the client"),
        pytest.param(reach(0, 5, 3), 5, 0, id="an answer from before"),
    ],
)
def test_lag_counts_what_can_be_read_and_is_not_answered(reach, published, lag):
    assert reach.lag(published) == lag
