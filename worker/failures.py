"""Why a Kafka transaction failed, as far as its records tell: which topic said no, or said nothing."""

from dataclasses import dataclass
from typing import Final

from aiokafka.errors import (
    BrokerResponseError,
    ConcurrentTransactions,
    GroupAuthorizationFailedError,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTimestampError,
    InvalidTxnState,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    PolicyViolationError,
    ProducerFenced,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    TransactionCoordinatorFenced,
    UnknownError,
    UnknownProducerId,
    UnknownTopicOrPartitionError,
)

from worker.record_batches import Sent

OF_THE_TRANSACTION: Final = (
    ConcurrentTransactions,
    GroupAuthorizationFailedError,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTxnState,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    TransactionalIdAuthorizationFailed,
    TransactionCoordinatorFenced,
    UnknownProducerId,
)
"""These say something of the transaction, not of the topic: another topic of it may be why."""
TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)

_ADVICE: Final[dict[type[BaseException], str]] = {
    **dict.fromkeys(TOO_LARGE, "the record is larger than the topic takes: raise its max.message.bytes"),
    InvalidTimestampError: "it does not take the present: is this machine's clock right? Else raise its"
    " message.timestamp.before.max.ms and message.timestamp.after.max.ms",
    TopicAuthorizationFailedError: "give the worker the right to write to it",
    UnknownTopicOrPartitionError: "make the topic again with `user-task-worker topics create`, or give the worker the"
    " right to write to it",
    UnknownError: "it does not take this record. A compacted topic takes none without key: set its cleanup.policy to"
    " delete. The broker's log says more",
    PolicyViolationError: "a policy of the cluster forbids the record: the broker's log says more",
}
_SILENCE: Final = "look at the partition's leader, and whether min.insync.replicas replicas are in sync"


@dataclass(frozen=True, slots=True, kw_only=True)
class Culprit:
    """The topic that did not take its records."""

    topic: str
    partition: int | None = None
    error: type[BaseException] | None = None
    """What it said; None if nothing."""
    records: int = 1
    """How many it was given at once."""

    @property
    def is_certain(self) -> bool:
        """Return whether a broker has said no. What a client may try again is a kind of silence."""
        return self.error is not None and not getattr(self.error, "retriable", False)

    @property
    def cause(self) -> str:
        """Return the error's name, for a label."""
        return "NoAnswer" if self.error is None else self.error.__name__

    def __str__(self) -> str:
        where = self.topic if self.partition is None else f"{self.topic}, partition {self.partition}"
        said = "did not answer in time" if self.error is None else f"said {self.error.__name__}"
        return f"{where} {said}"

    @property
    def advice(self) -> str:
        """Return what to do."""
        return _ADVICE.get(self.error, _SILENCE) if self.error else _SILENCE


class PublishError(Exception):
    """A Kafka transaction failed, or nobody knows whether it did. The producer must not be used again."""

    spent = False
    """True if no transaction failed, but a commit took so long that it may have been sent twice."""

    fenced = False
    """True if another InitProducerId, or the broker after a timeout, has ended the producer."""

    culprit: Culprit | None = None
    """The topic that did not take its records, if it was one."""

    is_mended = False
    """True if the next attempt leaves out or writes otherwise what has failed."""

    is_worth_another = False
    """True if the next attempt is another one, mended or smaller, so that there is nothing to wait for."""


def culprit_of(sent: Sent, *, time_is_up: bool) -> Culprit | None:
    """Return who said no first, or else, if the time is up, who did not answer; None if the topics are not why."""
    for one in sent:
        error = one.future.exception() if one.future.done() and not one.future.cancelled() else None
        if isinstance(error, BrokerResponseError) and not isinstance(error, OF_THE_TRANSACTION):
            return Culprit(topic=one.tp.topic, partition=one.tp.partition, error=type(error), records=one.records)
    silent = next((one.tp for one in sent if time_is_up and not one.future.done()), None)
    return None if silent is None else Culprit(topic=silent.topic, partition=silent.partition)
