"""Where a takeover starts, by what store and Kafka say."""

import pytest

from worker.stores.port import PartitionRow
from worker.takeover import Offsets, Refused, Start, find_start


def a_row(applied, published):
    return PartitionRow(owner=1, publisher="p", applied=applied, published=published)


@pytest.mark.parametrize(
    ("applied", "published", "committed", "beginning", "end", "start"),
    [
        pytest.param(None, None, None, 0, 9, Start(replay=0, apply=0), id="very first start"),
        pytest.param(None, None, None, 5, 9, Start(replay=5, apply=5), id="first start after retention"),
        pytest.param(None, None, 0, 0, 9, Start(replay=0, apply=0), id="first start of a group at its beginning"),
        pytest.param(7, 7, 7, 0, 9, Start(replay=7, apply=7), id="all published"),
        pytest.param(7, 3, 5, 0, 9, Start(replay=5, apply=7), id="decided but not visible"),
        pytest.param(7, 3, None, 0, 9, Start(replay=3, apply=7), id="K lost"),
        pytest.param(7, 7, 7, 8, 9, Start(replay=7, apply=7), id="commands deleted before they were read"),
        pytest.param(9, 9, 9, 0, 9, Start(replay=9, apply=9), id="at the end"),
    ],
)
def test_it_replays_from_k_and_applies_from_applied(applied, published, committed, beginning, end, start):
    offsets = Offsets(committed=committed, beginning=beginning, end=end)

    assert find_start(a_row(applied, published), offsets) == start


@pytest.mark.parametrize(
    ("applied", "published", "committed", "end", "cause"),
    [
        pytest.param(None, None, 4, 9, "another_store", id="new store, old group"),
        pytest.param(3, 3, 4, 9, "store_behind", id="store restored from a backup"),
        pytest.param(7, 7, 5, 9, "offset_reset", id="somebody reset the group"),
        pytest.param(7, 7, 7, 6, "topic_recreated", id="topic recreated"),
        pytest.param(7, 7, None, 6, "topic_recreated", id="topic and group recreated"),
    ],
)
def test_it_refuses_what_would_lose_or_double_outcomes(applied, published, committed, end, cause):
    refused = find_start(a_row(applied, published), Offsets(committed=committed, beginning=0, end=end))

    assert isinstance(refused, Refused)
    assert refused.cause == cause
    assert str(end if cause == "topic_recreated" else committed) in refused.reason
