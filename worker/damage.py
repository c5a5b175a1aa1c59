"""What a broker answered about one partition, read batch by batch: its records, and where and why it cannot be read."""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from aiokafka import TopicPartition
from aiokafka.codec import gzip_decode, lz4_decode, snappy_decode, zstd_decode
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.errors import CorruptRecordException, KafkaError, RecordTooLargeError, UnsupportedCodecError
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c, decode_varint

from worker.decoder import Record, UndecodableRecord

_PREFIX: Final = struct.Struct(">qi")
"""Base offset, and how many bytes follow."""
_HEADER: Final = struct.Struct(">qiibIhi")
"""As far as it is read: base offset, length, leader epoch, format version, checksum, attributes, last offset delta."""
_HEADER_BYTES: Final = 61
_CRC_AT: Final = 17
_ATTRIBUTES_AT: Final = 21
_COUNT_AT: Final = 57
_CODEC_MASK: Final = 0x07
_FORMAT: Final = 2
_DECODERS: Final[tuple[Callable[[bytes], bytes], ...]] = (bytes, gzip_decode, snappy_decode, lz4_decode, zstd_decode)
_CODECS: Final = ("no compression", "gzip", "snappy", "lz4", "zstd")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A broker's answer about one partition."""

    data: bytes
    """Record batches, one behind the other. The last one may be cut off."""
    aborted: Sequence[tuple[int, int]]
    """Producer id and first offset of the aborted transactions in it."""
    stable_end: int
    """The last stable offset: there is nothing to read from there on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A place at which a partition cannot be read."""

    first: int
    """The first offset that cannot be read."""
    last: int | None = None
    """The last one, as the batch's own header says. None if it says nothing."""
    is_sure: bool = False
    """Whether something else than a damaged header says that `last` is right."""
    cause: str
    """In words, without a value of a record."""

    @property
    def known_last(self) -> int | None:
        """Return the last offset that cannot be read, if that is known."""
        return self.last if self.is_sure else None

    def __str__(self) -> str:
        many = self.known_last is not None and self.known_last != self.first
        return f"{f'offsets {self.first} to {self.last}' if many else f'offset {self.first}'}: {self.cause}"


@dataclass(frozen=True, slots=True)
class Reading:
    """What could be read of an answer, from a position on."""

    records: Sequence[Record]
    next_offset: int
    """Where to read on."""
    damage: Damage | None = None
    is_cut: bool = False
    """Whether it ends early, behind a batch at which the client fails, though nothing is lost there."""

    @property
    def is_in_trouble(self) -> bool:
        """Return whether there is something that the client cannot read."""
        return self.damage is not None or self.is_cut


class _Counted:
    """Batches for the client's parser, which does not say at which one it fails."""

    def __init__(self, data: bytes) -> None:
        self._records = MemoryRecords(data)
        self.count = 0

    def has_next(self) -> bool:
        return self._records.has_next()

    def next_batch(self) -> Any:
        self.count += 1
        return self._records.next_batch()


class _Batch(NamedTuple):
    start: int
    end: int
    first: int
    last: int


def is_damage(error: BaseException) -> bool:
    """Return whether the client may have raised this since it could not read what it had fetched."""
    if isinstance(error, KafkaError):
        kinds = (CorruptRecordException, UnsupportedCodecError, RecordTooLargeError)
        return isinstance(error, kinds) or type(error) is KafkaError
    return isinstance(error, Exception)  # a codec's own, or a parser's that was led astray


def read(tp: TopicPartition, fetched: Fetched, position: int) -> Reading:
    """Read an answer from `position` on, as the client would, up to the first place that cannot be read.

    Pure. What the client reads without noticing is found as well: offsets that go back, or lie beyond the end.
    """
    batches, wrong = _walk(fetched, position)
    readable = fetched.data[: batches[-1].end] if batches else b""
    aborted: list[Any] = list(fetched.aborted)
    counted = _Counted(readable)
    parsed = PartitionRecords(tp, counted, aborted, position, None, None, True, READ_COMMITTED)  # noqa: FBT003
    records: list[Record] = []
    try:
        for record in parsed:
            records.append(record)  # noqa: PERF402 - those before the failure count
    except Exception as error:  # noqa: BLE001 - a codec may raise anything
        batch = batches[counted.count - 1]
        if isinstance(error, UnicodeDecodeError):
            return _read_singly(tp, fetched, batch, records, position)
        if parsed.next_fetch_offset > batch.last:  # it claims more records than there are, and all its offsets are read
            return Reading(records, batch.last + 1, is_cut=True)
        return Reading(records, parsed.next_fetch_offset, _damage(fetched, batch, parsed.next_fetch_offset, error))
    if wrong is not None:
        return Reading(records, parsed.next_fetch_offset, Damage(first=parsed.next_fetch_offset, cause=wrong))
    return Reading(records, parsed.next_fetch_offset)


def begins_at(data: bytes, offset: int) -> bool:
    """Return whether the first batch begins at this very offset."""
    return len(data) >= _PREFIX.size and _PREFIX.unpack_from(data)[0] == offset


def _walk(fetched: Fetched, position: int) -> tuple[list[_Batch], str | None]:
    """Return the whole batches up to the first with an impossible header, and what is wrong with that one."""
    batches: list[_Batch] = []
    data, start, at_least = fetched.data, 0, position
    while len(data) - start >= _HEADER_BYTES:
        first, length, _, version, _, _, delta = _HEADER.unpack_from(data, start)
        batch = _Batch(start, start + _PREFIX.size + length, first, first + delta)
        if version != _FORMAT:
            return batches, f"the batch has the format version {version}, and only {_FORMAT} is known"
        is_possible = length >= _HEADER_BYTES - _PREFIX.size and delta >= 0
        is_in_order = batch.last >= at_least if not batches else first >= at_least
        if not is_possible or not is_in_order or batch.last >= fetched.stable_end:
            return batches, "the batch's header is wrong: its length or its offsets are impossible"
        if batch.end > len(data):
            break
        batches.append(batch)
        start, at_least = batch.end, batch.last + 1
    if not batches and position < fetched.stable_end:
        end = fetched.stable_end
        return [], f"the broker has no whole batch for this offset, though the partition ends at {end}"
    return batches, None


def _damage(fetched: Fetched, batch: _Batch, position: int, error: Exception) -> Damage:
    data = fetched.data[batch.start : batch.end]
    is_whole = DefaultRecordBatch(data).validate_crc()
    codec = _HEADER.unpack_from(data)[5] & _CODEC_MASK
    name = _CODECS[codec] if codec < len(_CODECS) else f"codec {codec}"
    after = batch.last + 1
    # the checksum covers the last offset; else the next batch has to begin behind it, or the partition to end there
    is_followed = after == fetched.stable_end or begins_at(fetched.data[batch.end :], after)
    sound = f"the batch's checksum is right, but its records cannot be read ({name}, {type(error).__name__})"
    return Damage(
        first=max(position, batch.first),
        last=batch.last,
        is_sure=is_whole or is_followed,
        cause=sound if is_whole else "the batch's checksum is wrong",
    )


def _read_singly(tp: TopicPartition, fetched: Fetched, batch: _Batch, before: list[Record], position: int) -> Reading:
    """Read the records of a batch one by one: the client gives a whole batch up for a header name that is not UTF-8."""
    records = [record for record in before if record.offset < batch.first]
    try:
        for offset, single in _singles(fetched.data[batch.start : batch.end]):
            if offset >= position:
                records.append(_read_single(tp, offset, single))
    except Exception as error:  # noqa: BLE001 - it is damaged as well
        reached = records[-1].offset + 1 if records else position
        return Reading(records, reached, _damage(fetched, batch, reached, error))
    return Reading(records, batch.last + 1, is_cut=True)


def _read_single(tp: TopicPartition, offset: int, batch: bytes) -> Record:
    try:
        [record] = PartitionRecords(tp, MemoryRecords(batch), [], offset, None, None, True, READ_COMMITTED)  # noqa: FBT003
    except UnicodeDecodeError:
        return UndecodableRecord(tp.topic, tp.partition, offset)
    result: Record = record
    return result


def _singles(batch: bytes) -> Iterator[tuple[int, bytes]]:
    """Return each record of a sound batch, by its offset, as a batch of its own without compression."""
    base_offset, attributes = _HEADER.unpack_from(batch)[0], _HEADER.unpack_from(batch)[5]
    payload = bytearray(_DECODERS[attributes & _CODEC_MASK](batch[_HEADER_BYTES:]))
    at = 0
    while at < len(payload):
        length, start = decode_varint(payload, at)
        _, after_timestamp = decode_varint(payload, start + 1)  # behind a byte of attributes
        offset_delta, _ = decode_varint(payload, after_timestamp)
        single = bytearray(batch[:_HEADER_BYTES] + payload[at : start + length])
        struct.pack_into(">i", single, _PREFIX.size - 4, len(single) - _PREFIX.size)
        struct.pack_into(">h", single, _ATTRIBUTES_AT, attributes & ~_CODEC_MASK)
        struct.pack_into(">i", single, _COUNT_AT, 1)
        struct.pack_into(">I", single, _CRC_AT, calc_crc32c(bytes(single[_ATTRIBUTES_AT:])))
        yield base_offset + offset_delta, bytes(single)
        at = start + length
