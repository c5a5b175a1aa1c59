"""Records of the commands topic, made for tests; each says only what the test cares about."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.cloudevents import Header
from worker.batch import Batch, Limits, decode_all
from worker.decoder import Record
from worker.encoder import Destinations, Encoder
from worker.stores.port import Changes, Snapshot

DESTINATIONS = Destinations(
    events_topic="events",
    rejections_topic="rejections",
    dead_letters_topic="dlq",
    dead_letters_partitions=1,
    event_source="/user-task-worker",
    problem_type_base="urn:problem-type:user-task:",
    group_id="group",
    reply_topics=re.compile(r"^replies(\..+)?$"),
)
LIMITS = Limits(event_bytes=1_000_000, rejection_bytes=1_000_000, dead_letter_bytes=1_000_000)


@dataclass(frozen=True)
class ARecord:
    value: bytes | None = b"{}"
    key: bytes | None = b"1"
    headers: Sequence[Header] = ()
    offset: int = 0
    topic: str = "commands"
    partition: int = 0
    timestamp: int = 1_700_000_000_000


def a_command(kind: str, members: dict, command_id: str | None = None, offset: int = 0) -> ARecord:
    named = [("ce_specversion", b"1.0"), ("ce_source", b"/s"), ("ce_id", (command_id or f"id-{offset}").encode())]
    headers = [*named, ("ce_type", f"user-task.{kind}.v1".encode())]
    return ARecord(json.dumps(members).encode(), headers=headers, offset=offset)


def decided(records: Sequence[Record], snapshot: Snapshot | None = None, limits: Limits = LIMITS) -> Changes:
    batch = Batch(decode_all(records), Encoder(DESTINATIONS), limits)
    return batch.decide(snapshot or Snapshot(tasks={}, fingerprints={}), 1_700_000_000_000)
