"""Which kinds of brokers give what exactly once needs, by what they say of themselves."""

import pytest

from worker.brokers import Answer

FETCH, METADATA, OFFSET_FETCH = 1, 3, 9
KAFKA_4 = {FETCH: (4, 18), METADATA: (0, 13), OFFSET_FETCH: (1, 10)}
KAFKA_3_9 = KAFKA_4 | {FETCH: (0, 17)}
FEATURES = frozenset({"metadata.version", "group.version", "transaction.version"})


def an_answer(versions, features=FEATURES):
    return Answer(address="broker:9092", versions=versions, features=features)


def test_kafka_4_lacks_nothing():
    assert an_answer(KAFKA_4).lacks is None


@pytest.mark.parametrize(
    ("versions", "features", "words"),
    [
        pytest.param(KAFKA_3_9, FEATURES, "older than 4.0", id="Kafka 3.9, which knows the feature"),
        pytest.param(KAFKA_4, frozenset(), "not known to have", id="another product with the version ranges of 4.0"),
        pytest.param(KAFKA_4, {"metadata.version"}, "not known to have", id="without the feature of the coordinator"),
    ],
)
def test_what_is_not_known_to_be_kafka_4_may_double_outcomes(versions, features, words):
    answer = an_answer(versions, frozenset(features))

    assert words in answer.lacks
    assert "twice" in answer.lacks
    assert not answer.is_too_old


@pytest.mark.parametrize("versions", [{}, KAFKA_4 | {METADATA: (0, 8)}, KAFKA_4 | {OFFSET_FETCH: (1, 5)}])
def test_without_the_requests_that_a_takeover_makes_nothing_goes(versions):
    answer = an_answer(versions)

    assert answer.is_too_old
    assert "no worker can run" in answer.lacks
