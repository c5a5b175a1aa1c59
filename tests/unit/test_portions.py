"""How much goes into a transaction, what is learnt when one fails, and which outcome is held responsible."""

import asyncio

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaConnectionError,
    MessageSizeTooLargeError,
    NotEnoughReplicasError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    TopicAuthorizationFailedError,
    UnknownError,
    UnknownTopicOrPartitionError,
)
from structlog.testing import capture_logs

from worker.encoder import OutgoingRecord
from worker.failures import Culprit, culprit_of
from worker.lessons import Attempt, Lessons
from worker.portions import OUTCOMES_MAX, Portions, Suspects
from worker.record_batches import SentBatch
from worker.reply_topics import ReplyTopics
from worker.session import Decided


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def batch(topic: str, failure: Exception | None = None, *, done: bool = True, records: int = 1) -> SentBatch:
    future = asyncio.get_running_loop().create_future()
    if failure:
        future.set_exception(failure)
    elif done:
        future.set_result(None)
    return SentBatch(TopicPartition(topic, 2), records, future)


# How much


def test_at_first_there_is_no_limit_and_a_failure_leaves_one_outcome():
    portions = Portions()
    assert portions.most == OUTCOMES_MAX
    assert portions.failed()
    assert portions.most == 1
    assert not portions.failed(), "less than one cannot be tried"


def test_each_quick_success_doubles_what_was_tried():
    portions = Portions()
    portions.failed()
    for expected in (2, 4, 8):
        portions.succeeded(portions.most, 0.1)
        assert portions.most == expected
    portions.succeeded(1, 0.1)
    assert portions.most == 8, "that one passes says nothing of sixteen"


def test_a_success_that_was_slow_halves_it_and_one_in_between_leaves_it():
    portions = Portions()
    portions.succeeded(400, 1.5)
    assert portions.most == OUTCOMES_MAX
    portions.succeeded(400, 2.1)
    assert portions.most == 200
    portions.succeeded(1, 7.9)
    assert portions.most == 1


def test_a_transaction_of_offsets_alone_teaches_nothing():
    portions = Portions()
    portions.succeeded(0, 7.9)
    assert portions.most == OUTCOMES_MAX


@pytest.mark.parametrize("rate", [1.0, 3.7, 50.0, 1000.0])
def test_it_settles_on_a_slow_path_without_a_further_failure(rate):
    portions = Portions()
    portions.failed()
    took_s = []
    for _ in range(100):
        took_s.append(portions.most / rate)
        portions.succeeded(portions.most, took_s[-1])
    assert max(took_s) < 3, "longer than a request waits for its answer"
    assert took_s[-1] >= min(1, OUTCOMES_MAX / rate)


# Who is responsible


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def suspects(clock):
    return Suspects(clock)


def test_what_a_broker_refuses_blocks_its_partition_at_once_and_for_longer_each_time(suspects, clock):
    assert suspects.blocked(3) is None
    for retry_s in (5, 10, 20, 40, 60, 60):
        suspects.failed(3, 17, "it is too large", is_certain=True)
        blocked = suspects.blocked(3)
        assert (blocked.cause, blocked.reason, blocked.retry_s) == ("unpublishable", "it is too large", retry_s)
        assert not blocked.is_refusal, "whether it passes can only be tried"
        clock.now_s += retry_s
        assert suspects.blocked(3) is None
        assert suspects.alone(3)
        assert suspects.was_blocked(3)
    assert not suspects.alone(4)


def test_silence_counts_at_the_second_time(suspects):
    suspects.failed(3, 17, "no answer", is_certain=False)
    assert suspects.blocked(3) is None
    assert suspects.alone(3)
    assert not suspects.was_blocked(3)
    suspects.failed(3, 17, "no answer", is_certain=False)
    assert suspects.blocked(3).retry_s == 5


def test_another_outcome_of_the_partition_begins_anew(suspects):
    suspects.failed(3, 17, "no answer", is_certain=False)
    suspects.failed(3, 18, "no answer", is_certain=False)
    assert suspects.blocked(3) is None
    suspects.failed(3, 18, "no answer", is_certain=False)
    suspects.failed(3, 19, "too large", is_certain=True)
    assert suspects.blocked(3).retry_s == 5


def test_what_was_published_is_no_longer_suspected_nor_what_is_somebody_elses(suspects):
    for partition in (1, 2, 3):
        suspects.failed(partition, 17, "too large", is_certain=True)
    suspects.passed([1, 7])
    assert [suspects.alone(partition) for partition in (1, 2, 3)] == [False, True, True]
    suspects.keep({1, 3})
    assert [suspects.alone(partition) for partition in (1, 2, 3)] == [False, False, True]


# Why


async def test_who_says_no_is_the_culprit_whoever_else_is_silent():
    sent = [batch("a"), batch("b", done=False), batch("c", UnknownError())]
    for time_is_up in (False, True):
        culprit = culprit_of(sent, time_is_up=time_is_up)
        assert (culprit.topic, culprit.partition, culprit.error, culprit.is_certain) == ("c", 2, UnknownError, True)
        assert str(culprit) == "c, partition 2 said UnknownError"
        assert "cleanup.policy" in culprit.advice


async def test_who_is_silent_is_one_if_the_time_is_up():
    sent = [batch("a"), batch("b", done=False)]
    assert culprit_of(sent, time_is_up=False) is None
    culprit = culprit_of(sent, time_is_up=True)
    assert (str(culprit), culprit.is_certain, culprit.cause) == (
        "b, partition 2 did not answer in time",
        False,
        "NoAnswer",
    )
    assert "leader" in culprit.advice


@pytest.mark.parametrize(
    "failure", [None, ProducerFenced(), OutOfOrderSequenceNumber(), KafkaConnectionError("gone")], ids=type
)
async def test_what_says_something_of_the_transaction_makes_no_topic_a_culprit(failure):
    assert culprit_of([batch("a", failure)], time_is_up=True) is None


@pytest.mark.parametrize(
    ("error", "is_certain"),
    [
        (TopicAuthorizationFailedError, True),
        (MessageSizeTooLargeError, True),
        (UnknownTopicOrPartitionError, False),
        (NotEnoughReplicasError, False),
    ],
)
def test_what_may_pass_by_itself_is_no_certain_no(error, is_certain):
    culprit = Culprit(topic="a", error=error)
    assert culprit.is_certain is is_certain
    assert str(culprit) == f"a said {error.__name__}"
    assert culprit.advice


# What is learnt


@pytest.fixture
def told():
    return []


@pytest.fixture
def lessons(told):
    return Lessons(ReplyTopics(), {}, 1_000_000, told.append)


async def test_a_timestamp_that_is_refused_is_replaced_by_the_present_once(lessons):
    attempt = Attempt(sent=[batch("a", InvalidTimestampError())])
    first = lessons.failed(InvalidTimestampError(), attempt, 5)
    assert first.is_mended
    assert lessons.timestamps.limits("a").before_ms == 0
    second = lessons.failed(InvalidTimestampError(), attempt, 1)
    assert not second.is_mended
    assert "is this machine's clock right?" in second.culprit.advice


async def test_batches_become_smaller_where_several_records_are_too_large_together(lessons):
    attempt = Attempt(sent=[batch("a", MessageSizeTooLargeError(), records=7)])
    assert lessons.failed(MessageSizeTooLargeError(), attempt, 7).is_mended
    assert lessons.batch_bytes == 500_000
    while lessons.failed(MessageSizeTooLargeError(), attempt, 7).is_mended:
        assert lessons.batch_bytes >= 16_384
    assert lessons.batch_bytes == 16_384


async def test_one_record_that_is_too_large_is_so_in_any_batch(lessons):
    attempt = Attempt(sent=[batch("a", MessageSizeTooLargeError())])
    assert not lessons.failed(MessageSizeTooLargeError(), attempt, 7).is_mended
    assert lessons.batch_bytes == 1_000_000


def test_a_fence_teaches_nothing_of_the_size(lessons):
    failure = lessons.failed(ProducerFenced(), Attempt(), 7)
    assert (failure.fenced, failure.is_worth_another, lessons.portions.most) == (True, False, OUTCOMES_MAX)


def test_nor_does_a_reply_that_is_left_out_the_next_time(lessons):
    failure = lessons.failed(TimeoutError(), Attempt(will_differ=True), 7)
    assert (failure.culprit, failure.is_worth_another, lessons.portions.most) == (None, True, OUTCOMES_MAX)


def test_what_was_more_than_one_outcome_is_worth_another_attempt(lessons):
    assert lessons.failed(TimeoutError(), Attempt(), 7).is_worth_another
    assert not lessons.failed(TimeoutError(), Attempt(), 1).is_worth_another


async def test_each_failure_is_counted_and_each_new_cause_logged(lessons, told):
    with capture_logs() as lines:
        for topic, error in (
            ("a", UnknownError),
            ("a", UnknownError),
            ("b", UnknownError),
            ("a", MessageSizeTooLargeError),
        ):
            lessons.failed(error(), Attempt(sent=[batch(topic, error())]), 1)
        lessons.failed(KafkaConnectionError("gone"), Attempt(), 3)
    assert told == ["UnknownError"] * 3 + ["MessageSizeTooLargeError", "KafkaConnectionError"]
    assert [(line["topic"], line["cause"]) for line in lines] == [
        ("a", "UnknownError"),
        ("b", "UnknownError"),
        ("a", "MessageSizeTooLargeError"),
        (None, "KafkaConnectionError"),
    ]


# What is cut


def outcome(partition: int, offset: int, size: int = 1) -> tuple[int, int, list[OutgoingRecord]]:
    return partition, offset + 1, [OutgoingRecord("events", None, b"x" * size, (), offset)]


def test_a_batch_is_cut_into_what_may_be_published_and_the_rest_with_all_offsets():
    outcomes = [outcome(0, 5), outcome(1, 3), outcome(0, 6), outcome(1, 4)]
    whole = Decided(outcomes=outcomes, offsets={0: 9, 1: 5, 2: 8}, timestamps_ms=[1, 2, 3, 4])
    first, rest = whole.cut(3)
    assert (list(first.outcomes), first.offsets, first.timestamps_ms) == (outcomes[:3], {0: 7, 1: 4}, ())
    assert (list(rest.outcomes), rest.offsets, rest.timestamps_ms) == (outcomes[3:], {0: 9, 1: 5, 2: 8}, [1, 2, 3, 4])
    assert [one.timestamp_ms for one in first.records + rest.records] == [5, 3, 6, 4]


def test_pieces_are_bounded_in_bytes_and_the_last_has_all_offsets():
    outcomes = [outcome(0, offset, 3_000_000) for offset in range(5)]
    pieces = Decided.split(outcomes, {0: 7})
    assert [len(piece.outcomes) for piece in pieces] == [2, 2, 1]
    assert [piece.offsets for piece in pieces] == [{0: 2}, {0: 4}, {0: 7}]
