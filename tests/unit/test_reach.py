"""How many offsets of a partition can be read and are not answered."""

import pytest

from worker.reach import Reach


@pytest.mark.parametrize(
    ("reach", "published", "lag"),
    [
        pytest.param(Reach(handed_out=0, position=0, stable_end=5), 0, 5, id="nothing is read yet"),
        pytest.param(Reach(handed_out=5, position=5, stable_end=9), 3, 6, id="read and not answered"),
        pytest.param(Reach(handed_out=5, position=5, stable_end=9), 5, 4, id="answered as far as it is read"),
        pytest.param(Reach(handed_out=5, position=9, stable_end=9), 5, 0, id="only markers behind the answered ones"),
        pytest.param(Reach(handed_out=5, position=9, stable_end=9), 4, 5, id="markers behind one that is not answered"),
        pytest.param(Reach(handed_out=0, position=9, stable_end=9), 0, 0, id="nothing but aborted records"),
        pytest.param(Reach(handed_out=7, position=3, stable_end=9), 7, 2, id="read beside the client"),
        pytest.param(Reach(handed_out=0, position=5, stable_end=3), 5, 0, id="an answer from before"),
    ],
)
def test_lag_counts_what_can_be_read_and_is_not_answered(reach, published, lag):
    assert reach.lag(published) == lag
