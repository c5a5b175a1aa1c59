"""Record batches as no client would write them, and those of a broker's disk, to be damaged there."""

import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from tests.integration.harness import Header
from worker.embedded import EmbeddedKafka

CODED_FROM, LENGTH_AT, CRC_AT, ATTRIBUTES_AT, COUNT_AT, PAYLOAD_AT = 12, 8, 17, 21, 57, 61
PLAIN, GZIP, SNAPPY, LZ4, ZSTD = range(5)
_ENCODERS = (bytes, gzip_encode, snappy_encode, lz4_encode, zstd_encode)
NO_LEADER_YET = {3, 5, 6}
BROKEN_NAME = b"\xff\xfe-header-name"[:13]


@dataclass(frozen=True)
class Raw:
    """A record to be written; `is_broken` gives it a header whose name is not UTF-8."""

    value: bytes
    headers: Sequence[Header] = ()
    key: bytes = b"1"
    is_broken: bool = False


def batch_of(records: Sequence[Raw], codec: int = PLAIN) -> bytes:
    """Write a batch."""
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=0, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=10_000_000,
    )  # fmt: skip
    now_ms = time.time_ns() // 1_000_000  # what is old is deleted
    for number, record in enumerate(records):
        headers = [*record.headers, ("a-header-name", b"x")] if record.is_broken else list(record.headers)
        builder.append(number, timestamp=now_ms, key=record.key, value=record.value, headers=headers)
    plain = bytes(builder.build()).replace(b"a-header-name", BROKEN_NAME)
    batch = plain[:PAYLOAD_AT] + _ENCODERS[codec](plain[PAYLOAD_AT:])
    batch = changed(batch, ATTRIBUTES_AT, struct.pack(">h", codec))
    return signed(changed(batch, LENGTH_AT, struct.pack(">i", len(batch) - CODED_FROM)))


def changed(batch: bytes, at: int, value: bytes) -> bytes:
    return batch[:at] + value + batch[at + len(value) :]


def signed(batch: bytes) -> bytes:
    """Give a batch the checksum that fits it."""
    return changed(batch, CRC_AT, struct.pack(">I", calc_crc32c(batch[ATTRIBUTES_AT:])))


def produce_raw(bootstrap_servers: str, topic: str, partition: int, batch: bytes) -> int:
    """Send a Produce request (version 7) by hand, and return the first record's offset. A new topic is waited for."""
    deadline = time.monotonic() + 30
    while True:
        error, offset = _produced(bootstrap_servers, topic, partition, batch)
        if not error:
            return offset
        assert error in NO_LEADER_YET, error
        assert time.monotonic() < deadline, error
        time.sleep(0.05)


def _produced(bootstrap_servers: str, topic: str, partition: int, batch: bytes) -> tuple[int, int]:
    """Return the answer's error code and offset."""
    name = topic.encode()
    request = b"".join(
        [
            struct.pack(">hhih", 0, 7, 1, -1),
            struct.pack(">hhii", -1, -1, 30_000, 1),
            struct.pack(f">h{len(name)}si", len(name), name, 1),
            struct.pack(">ii", partition, len(batch)),
            batch,
        ]
    )
    host, port = bootstrap_servers.split(",", maxsplit=1)[0].rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as connection, connection.makefile("rb") as answers:
        connection.sendall(struct.pack(">i", len(request)) + request)
        answer = answers.read(struct.unpack(">i", answers.read(4))[0])
    _, error, offset = struct.unpack_from(">ihq", answer, 4 + 4 + 2 + len(name) + 4)
    return error, offset


class Disk:
    """The batches of one partition, in its first segment on the broker's disk."""

    def __init__(self, broker: EmbeddedKafka, topic: str, partition: int) -> None:
        (self._segment,) = Path(broker.data_dir, "records", f"{topic}-{partition}").glob("*.log")
        self._sound: dict[int, bytes] = {}

    def damage(self, offset: int, change: Callable[[bytes], bytes]) -> None:
        """Change the batch that begins at the offset, in place."""
        at, batch = self._find(offset)
        self._sound.setdefault(at, batch)
        self._write(at, change(batch))

    def heal(self) -> None:
        """Write back what was there."""
        for at, batch in self._sound.items():
            self._write(at, batch)

    def _write(self, at: int, batch: bytes) -> None:
        with self._segment.open("r+b") as file:
            file.seek(at)
            file.write(batch)

    def bases(self) -> Iterator[int]:
        """Return the offsets at which the batches begin, while they are all sound."""
        return (struct.unpack_from(">q", batch)[0] for _, batch in self._batches())

    def _find(self, offset: int) -> tuple[int, bytes]:
        return next(found for found in self._batches() if found[1].startswith(struct.pack(">q", offset)))

    def _batches(self) -> Iterator[tuple[int, bytes]]:
        data, at = self._segment.read_bytes(), 0
        while len(data) - at > PAYLOAD_AT:
            end = at + CODED_FROM + struct.unpack_from(">i", data, at + LENGTH_AT)[0]
            yield at, data[at:end]
            at = end
