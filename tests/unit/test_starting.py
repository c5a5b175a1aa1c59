"""Where a takeover starts, by what store and Kafka say."""

import asyncio

import pytest

from worker.blocked import Blocked, BlockedPartitions
from worker.sightings import Sightings
from worker.starting import CAUSES, Found, Start, find_start, lost_at
from worker.stores.port import PartitionRow, TopicIdentity
from worker.survey import Extent

HERE = TopicIdentity(cluster_id="cluster", topic_id="topic")
ANEW = TopicIdentity(cluster_id="cluster", topic_id="topic made anew")
ELSEWHERE = TopicIdentity(cluster_id="other cluster", topic_id="topic there")


def found(  # noqa: PLR0913 - each test names what it cares about
    applied, published, committed, end=9, *, beginning=0, known=HERE, now=HERE, lost_at=None, behind_s=0.0
):
    row = PartitionRow(owner=1, publisher="p", applied=applied, published=published, identity=known, lost_at=lost_at)
    extent = None if end is None else Extent(beginning, end)
    return Found(row=row, committed=committed, extent=extent, identity=now, behind_s=behind_s)


@pytest.mark.parametrize(
    ("applied", "published", "committed", "beginning", "start"),
    [
        pytest.param(None, None, None, 0, Start(replay=0, apply=0), id="very first start"),
        pytest.param(None, None, None, 5, Start(replay=5, apply=5), id="first start after retention"),
        pytest.param(None, None, 0, 0, Start(replay=0, apply=0), id="first start of a group at its beginning"),
        pytest.param(None, None, 0, 5, Start(replay=5, apply=5), id="the same after retention"),
        pytest.param(7, 7, 7, 0, Start(replay=7, apply=7), id="all published"),
        pytest.param(7, 3, 5, 0, Start(replay=5, apply=7), id="decided but not visible"),
        pytest.param(7, 3, None, 0, Start(replay=3, apply=7), id="K lost"),
        pytest.param(7, 7, 7, 8, Start(replay=7, apply=7), id="commands deleted before they were read"),
        pytest.param(9, 9, 9, 0, Start(replay=9, apply=9), id="at the end"),
    ],
)
@pytest.mark.parametrize("known", [HERE, None], ids=["the topic is known", "a store from before"])
def test_it_replays_from_k_and_applies_from_applied(applied, published, committed, beginning, start, known):
    assert find_start(found(applied, published, committed, beginning=beginning, known=known)) == start


REFUSED = {
    "new store, old group": ("another_store", found(None, None, 4)),
    "new store, old group, and nothing left in the topic": ("another_store", found(None, None, 9, beginning=9)),
    "new store, old group, and newer commands only": ("another_store", found(None, None, 4, beginning=6)),
    "store restored from a backup": ("store_behind", found(3, 3, 4)),
    "somebody reset the group": ("offset_reset", found(7, 7, 5)),
    "topic recreated": ("topic_recreated", found(7, 7, 7, end=6, now=ANEW)),
    "topic and group recreated": ("topic_recreated", found(7, 7, None, end=6, now=ANEW)),
    "topic recreated, and longer by now": ("topic_recreated", found(7, 7, None, end=70, now=ANEW)),
    "topic recreated, with an offset that fits": ("topic_recreated", found(7, 7, 7, now=ANEW)),
    "another cluster": ("another_cluster", found(7, 7, 7, now=ELSEWHERE)),
    "an end that may lag": ("end_behind", found(7, 7, 7, end=6)),
    "an end that does not lag": ("records_lost", found(7, 7, 7, end=6, behind_s=31)),
    "records lost, and others in their place": ("records_lost", found(7, 7, 7, end=70, lost_at=6)),
    "a store from before, an end that may lag": ("end_behind", found(7, 7, 7, end=6, known=None)),
    "a store from before, recreated": ("topic_recreated", found(7, 7, 7, end=6, known=None, behind_s=31)),
    "a store from before, recreated and longer by now": (
        "topic_recreated",
        found(7, 7, 7, end=70, known=None, lost_at=6),
    ),
    "no leader": ("no_leader", found(7, 7, 7, end=None)),
    "no leader at the very first start": ("no_leader", found(None, None, None, end=None)),
    "records lost, and no leader": ("records_lost", found(7, 7, 7, end=None, lost_at=6)),
    "another topic, and no leader": ("topic_recreated", found(7, 7, 7, end=None, now=ANEW)),
}


@pytest.mark.parametrize(("cause", "one"), REFUSED.values(), ids=REFUSED)
def test_it_does_not_run_what_would_lose_or_double_outcomes(cause, one):
    blocked = find_start(one)

    assert isinstance(blocked, Blocked)
    assert blocked.cause == cause
    assert "None" not in blocked.reason
    assert "unknown" not in blocked.reason or None in (one.row.identity, one.extent)


def test_every_cause_is_met_here():
    assert {cause for cause, _ in REFUSED.values()} == set(CAUSES)


def test_where_a_broker_has_no_ids_the_offsets_alone_decide():
    assert find_start(found(7, 7, 7, now=None)) == Start(replay=7, apply=7)


@pytest.mark.parametrize(
    ("one", "end"),
    [
        (found(7, 7, 7, end=6, behind_s=31), 6),
        (found(7, 7, 7, end=6, behind_s=31, known=None), 6),
        (found(7, 7, 7, end=6, behind_s=29), None),
        (found(7, 7, 7, end=7, behind_s=31), None),
        (found(7, 7, 7, end=6, behind_s=31, now=ANEW), None),
        (found(None, None, None, end=6, behind_s=31), None),
        (found(7, 7, 7, end=None, behind_s=31), None),
    ],
)
def test_records_are_lost_if_the_same_topic_has_been_too_short_for_long(one, end):
    assert lost_at(one) == end


def test_sightings_count_from_the_first_of_a_row_without_a_gap():
    now_s = 100.0
    sightings = Sightings(clock=lambda: now_s)

    def seen(at_s: float, *, is_so: bool = True) -> float:
        nonlocal now_s
        now_s = at_s
        return sightings.seen(1, is_so=is_so)

    assert [seen(100), seen(102), seen(109)] == [0, 2, 9]
    assert seen(120) == 0, "after a gap it may be another one"
    assert [seen(122), seen(123, is_so=False), seen(124), seen(125)] == [2, 0, 0, 1]
    sightings.keep({2})
    assert seen(126) == 0, "it has been somebody else's"


async def test_blocked_partitions_are_looked_at_again_when_their_time_has_come():
    now_s, looks = 100.0, []

    async def has_changed(due):
        looks.append(due)
        return len(looks) == 2

    blocked = BlockedPartitions(has_changed, clock=lambda: now_s)
    soon = Blocked(cause="end_behind", reason="…", retry_s=2)
    later = Blocked(cause="store_behind", reason="…", retry_s=30)
    blocked.set({1: soon, 2: later})

    async def went_on() -> bool:
        answers = []
        for _ in range(3):
            answers.append(blocked.need_takeover())
            await asyncio.sleep(0)
        return any(answers)

    assert not await went_on()
    assert looks == []
    now_s = 102.0
    assert not await went_on()
    assert looks == [{1: soon}]
    now_s = 130.0
    assert await went_on()
    assert looks == [{1: soon}, {1: soon, 2: later}]
    blocked.set({})
    now_s = 139.0
    assert not await went_on()
    assert len(looks) == 2
    now_s = 140.0
    assert not await went_on()
    assert looks[2:] == [{}], "whether the topic is still the same is asked also if nothing is blocked"
