"""A record as the decoder takes it, for commands that do not come from a consumer."""

from dataclasses import dataclass

from schemas.cloudevents import Header


@dataclass(frozen=True, slots=True)
class BareRecord:
    """What matters of a record; the timestamp is in ms."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
