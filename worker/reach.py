"""How far a partition can be read and has been read, by the client's last answer about it. Asks no broker."""

import time
from dataclasses import dataclass
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition

_RECENT_S: Final = 5
"""The client asks again within a second, unless it has enough to hand out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Offsets of one partition. Those of transaction markers and of aborted records are among them."""

    handed_out: int
    """The offset behind the last record that was handed out; 0 if there was none since positions last changed."""
    position: int
    """Where the client reads on: it has passed markers and aborted records, which it hands out to nobody."""
    stable_end: int
    """The last stable offset: records from there on cannot be read yet."""
    end: int
    """Where the partition ends. Beyond the stable end if a transaction is open, or ends in this moment."""
    is_recent: bool
    """Whether a broker has said so within the last 5 s."""

    @property
    def is_held(self) -> bool:
        """Return whether records stand where nobody can read them yet."""
        return self.stable_end < self.end

    def lag(self, published: int) -> int:
        """Return how many offsets can be read and are not answered, given the next offset to publish."""
        is_answered = self.handed_out <= published
        answered = max(self.position, published) if is_answered else published
        return max(0, self.stable_end - answered)


async def reach_of(consumer: AIOKafkaConsumer, tp: TopicPartition, handed_out: int) -> Reach | None:
    """Return how far an assigned partition is; None if no broker has answered about it yet."""
    stable_end = consumer.last_stable_offset(tp) if tp in consumer.assignment() else None
    if stable_end is None:
        return None
    return Reach(
        handed_out=handed_out,
        position=await consumer.position(tp),
        stable_end=stable_end,
        end=consumer.highwater(tp),
        is_recent=time.time() - consumer.last_poll_timestamp(tp) / 1000 < _RECENT_S,
    )
