"""How far a partition can be read and has been read, by the client's last answer about it. Asks no broker."""

from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Offsets of one partition. Those of transaction markers and of aborted records are among them."""

    handed_out: int
    """The offset behind the last record that was handed out; 0 if there was none since positions last changed."""
    position: int
    """Where the client reads on: it has passed markers and aborted records, which it hands out to nobody."""
    stable_end: int
    """The last stable offset: records from there on cannot be read yet."""

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
    return Reach(handed_out=handed_out, position=await consumer.position(tp), stable_end=stable_end)
