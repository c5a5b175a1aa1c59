"""Which kinds of brokers give what exactly once needs, by what they say of themselves."""

import asyncio

import pytest

from worker.brokers import Answer, until_reached
from worker.kafka import BrokerUnreachableError
from worker.settings import Settings

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


# Waiting


class Attempts:
    """Attempts that fail one after the other, in the end by the deadline."""

    def __init__(self, *failures: str) -> None:
        self._failures = list(failures)
        self.told: list[str] = []

    async def attempt(self, deadline_s: float) -> str:
        if not self._failures:
            await asyncio.sleep(max(0, deadline_s - asyncio.get_running_loop().time()))
            raise BrokerUnreachableError("no answer in time")
        if failure := self._failures.pop(0):
            raise BrokerUnreachableError(failure)
        return "reached"

    async def until_reached(self, timeout_s: float = 1.2) -> str:
        settings = Settings(start_timeout_s=timeout_s)
        return await until_reached(settings, self.attempt, lambda error: self.told.append(str(error)))


async def test_an_attempt_that_succeeds_ends_the_wait_and_only_the_first_failure_is_told():
    it = Attempts("refused", "the login failed", "")
    assert await it.until_reached(5) == "reached"
    assert it.told == ["refused"]


async def test_what_an_attempt_has_said_is_not_hidden_by_one_that_was_cut_short():
    it = Attempts("refused", "the login failed")
    with pytest.raises(BrokerUnreachableError, match=r"^the login failed$"):
        await it.until_reached()
    assert it.told == ["refused"]


async def test_the_last_failure_counts_if_there_is_no_other():
    it = Attempts()
    with pytest.raises(BrokerUnreachableError, match=r"^no answer in time$"):
        await it.until_reached()
    assert it.told == ["no answer in time"]
