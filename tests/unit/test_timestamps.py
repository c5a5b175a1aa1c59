"""Which timestamp an outgoing record gets: the decision's where the topic takes it, else the present."""

import pytest

from worker.timestamps import NO_LIMITS, TimeLimits, Timestamps, fitting_ms, read_limits

NOW_MS = 1_796_137_445_123
HOUR_MS = 3_600_000
KAFKAS_OWN = {
    "message.timestamp.type": "CreateTime",
    "message.timestamp.before.max.ms": str(2**63 - 1),
    "message.timestamp.after.max.ms": str(HOUR_MS),
    "retention.ms": str(168 * HOUR_MS),
}


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize("decided_ms", [0, NOW_MS - HOUR_MS, NOW_MS, NOW_MS + HOUR_MS, NOW_MS * 1000])
def test_without_limits_it_is_the_decisions(decided_ms):
    assert fitting_ms(decided_ms, NOW_MS, NO_LIMITS) == decided_ms


@pytest.mark.parametrize(
    ("age_ms", "is_taken"),
    [
        (0, True),
        (59 * 60_000, True),
        (59 * 60_000 + 1, False),
        (2 * HOUR_MS, False),
        (NOW_MS, False),
        (-59 * 60_000, True),
        (-59 * 60_000 - 1, False),
        (-2 * HOUR_MS, False),
    ],
)
def test_what_is_near_a_limit_or_beyond_is_the_present(age_ms, is_taken):
    limits = TimeLimits(before_ms=HOUR_MS, after_ms=HOUR_MS)
    assert fitting_ms(NOW_MS - age_ms, NOW_MS, limits) == (NOW_MS - age_ms if is_taken else NOW_MS)


@pytest.mark.parametrize(("age_ms", "is_taken"), [(500, True), (501, False), (-500, True), (-501, False)])
def test_a_limit_smaller_than_the_margin_is_halved(age_ms, is_taken):
    limits = TimeLimits(before_ms=1000, after_ms=1000)
    assert (fitting_ms(NOW_MS - age_ms, NOW_MS, limits) == NOW_MS - age_ms) is is_taken


def test_the_limits_are_those_of_the_configuration_and_half_of_the_retention():
    assert read_limits(KAFKAS_OWN) == TimeLimits(before_ms=84 * HOUR_MS, after_ms=HOUR_MS)
    older = read_limits(KAFKAS_OWN | {"message.timestamp.before.max.ms": "5"})
    assert older == TimeLimits(before_ms=5, after_ms=HOUR_MS)
    assert read_limits(KAFKAS_OWN | {"retention.ms": "-1"}).before_ms > 2**62


@pytest.mark.parametrize(
    "config", [{}, dict.fromkeys(KAFKAS_OWN), KAFKAS_OWN | {"message.timestamp.type": "LogAppendTime"}]
)
def test_a_topic_that_sets_the_time_itself_or_that_nothing_is_known_of_has_no_limits(config):
    assert read_limits(config) == NO_LIMITS


def test_a_topic_that_has_refused_a_timestamp_gets_the_present_for_a_while():
    clock = Clock()
    timestamps = Timestamps({"events": TimeLimits(after_ms=HOUR_MS)}, clock)
    assert timestamps.refused("events")
    assert fitting_ms(NOW_MS - 1, NOW_MS, timestamps.limits("events")) == NOW_MS
    assert timestamps.limits("rejections") == NO_LIMITS
    assert not timestamps.refused("events"), "the present was refused: there is nothing else to try"
    clock.now_s += 600
    assert timestamps.limits("events") == TimeLimits(after_ms=HOUR_MS)
    assert timestamps.refused("events")


def test_a_reply_topics_own_limits_count():
    timestamps = Timestamps({})
    assert timestamps.limits("replies", TimeLimits(before_ms=7)) == TimeLimits(before_ms=7)
    timestamps.refused("replies")
    assert timestamps.limits("replies", TimeLimits(before_ms=7)) == TimeLimits(before_ms=0, after_ms=0)
