"""What is read of a broker's answer, and what is said of the place at which it cannot be read."""

import struct
from dataclasses import replace

import pytest
from aiokafka import TopicPartition
from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.errors import (
    CorruptRecordException,
    KafkaError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
    UnsupportedCodecError,
)
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from worker.damage import Fetched, begins_at, is_damage, read
from worker.decoder import UndecodableRecord

TP = TopicPartition("commands", 1)
LENGTH_AT, VERSION_AT, CRC_AT, ATTRIBUTES_AT, LAST_DELTA_AT, PRODUCER_AT, COUNT_AT = 8, 16, 17, 21, 23, 43, 57
PAYLOAD_AT, CODED_FROM = 61, 12
ENCODERS = (bytes, gzip_encode, snappy_encode, lz4_encode, zstd_encode)
GZIP, SNAPPY, LZ4, ZSTD, UNKNOWN_CODEC = 1, 2, 3, 4, 7
PER_BATCH = 3
IMPOSSIBLE = "its length or its offsets are impossible"
BAD_HEADER = b"\xff\xfe-header-name"[:13]


def a_batch(
    base: int, count: int = PER_BATCH, codec: int = 0, *, producer: int = -1, poison: int | None = None
) -> bytes:
    """Write a batch; with `poison` the name of that record's header is not UTF-8."""
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=0, is_transactional=producer >= 0, producer_id=producer, producer_epoch=0,
        base_sequence=0, batch_size=1_000_000,
    )  # fmt: skip
    for number in range(count):
        name = "b-header-name" if number == poison else "a-header-name"
        builder.append(number, timestamp=0, key=b"1", value=b"{}" * 50, headers=[(name, b"x")])
    plain = bytes(builder.build()).replace(b"b-header-name", BAD_HEADER)
    batch = plain[:PAYLOAD_AT] + ENCODERS[codec](plain[PAYLOAD_AT:])
    attributes = struct.pack(">h", codec | plain[ATTRIBUTES_AT + 1])
    length = struct.pack(">i", len(batch) - CODED_FROM)
    return signed(struct.pack(">q", base) + length + changed(batch, ATTRIBUTES_AT, attributes)[CODED_FROM:])


def signed(batch: bytes) -> bytes:
    """Give a batch the checksum that fits it."""
    return batch[:CRC_AT] + struct.pack(">I", calc_crc32c(batch[ATTRIBUTES_AT:])) + batch[ATTRIBUTES_AT:]


def changed(batch: bytes, at: int, value: bytes) -> bytes:
    return batch[:at] + value + batch[at + len(value) :]


def answer(*batches: bytes, end: int = 9, aborted: tuple[tuple[int, int], ...] = ()) -> Fetched:
    return Fetched(b"".join(batches), aborted, end)


def offsets(reading) -> list[int]:
    return [record.offset for record in reading.records]


def around(batch: bytes, **how) -> Fetched:
    """Put a batch of the offsets 3 to 5 between two good ones."""
    return answer(a_batch(0), batch, a_batch(6), **how)


DAMAGED = {
    "payload": (changed(a_batch(3), 80, b"\xff"), 3, 5, "the batch's checksum is wrong"),
    "checksum": (changed(a_batch(3), CRC_AT, b"\0\0\0\0"), 3, 5, "the batch's checksum is wrong"),
    "producer": (changed(a_batch(3), PRODUCER_AT, b"\0"), 3, 5, "the batch's checksum is wrong"),
    "no gzip": (signed(changed(a_batch(3, codec=GZIP), PAYLOAD_AT, b"no gzip")), 3, 5, "gzip, BadGzipFile"),
    "no snappy": (signed(changed(a_batch(3, codec=SNAPPY), PAYLOAD_AT, b"\xff" * 40)), 3, 5, "snappy, Decompression"),
    "no lz4": (signed(changed(a_batch(3, codec=LZ4), PAYLOAD_AT, b"no lz4")), 3, 5, "lz4, DecompressionError"),
    "no zstd": (signed(changed(a_batch(3, codec=ZSTD), PAYLOAD_AT, b"no zstd")), 3, 5, "zstd, DecompressionError"),
    "unknown codec": (signed(changed(a_batch(3), ATTRIBUTES_AT + 1, b"\7")), 3, 5, "codec 7, UnsupportedCodecError"),
    "a lying count": (signed(changed(a_batch(3), COUNT_AT, b"\0\0\0\2")), 5, 5, "no compression, CorruptRecord"),
    "last offset": (changed(a_batch(3), LAST_DELTA_AT, b"\0\0\0\4"), 3, None, "the batch's checksum is wrong"),
    "length": (changed(a_batch(3), LENGTH_AT, b"\0\0\0\7"), 3, None, IMPOSSIBLE),
    "huge length": (changed(a_batch(3), LENGTH_AT, b"\x7f\0\0\0"), None, None, ""),
    "offset back": (changed(a_batch(3), 0, struct.pack(">q", 1)), 3, None, IMPOSSIBLE),
    "offset ahead": (changed(a_batch(3), 0, struct.pack(">q", 77)), 3, None, IMPOSSIBLE),
    "format": (changed(a_batch(3), VERSION_AT, b"\3"), 3, None, "the batch has the format version 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_before_the_damage_is_read_and_its_place_and_cause_are_named(name):
    batch, first, last, cause = DAMAGED[name]

    reading = read(TP, around(batch), 0)

    assert offsets(reading) == list(range(3 if first is None else first))
    assert reading.next_offset == len(reading.records)
    if first is None:  # the broker's answer ends there; the next one begins with it
        assert reading.damage is None
        return
    assert (reading.damage.first, reading.damage.known_last) == (first, last)
    assert cause in reading.damage.cause


def test_of_a_batch_that_claims_more_records_than_there_are_all_are_read_and_nothing_behind_it():
    reading = read(TP, around(signed(changed(a_batch(3), COUNT_AT, b"\0\0\0\x63"))), 0)

    assert (offsets(reading), reading.next_offset, reading.damage) == ([0, 1, 2, 3, 4, 5], 6, None)
    assert reading.is_cut


def test_a_batch_whose_length_is_beyond_the_answer_is_damaged_when_the_answer_begins_with_it():
    huge = changed(a_batch(3), LENGTH_AT, b"\x7f\0\0\0")

    reading = read(TP, answer(huge, a_batch(6)), 3)

    assert (offsets(reading), reading.damage.first, reading.damage.last) == ([], 3, None)


def test_nothing_where_something_should_stand_is_damage_and_nothing_at_the_end_is_none():
    assert "the broker has no whole batch" in read(TP, answer(end=9), 3).damage.cause
    assert read(TP, answer(end=9), 9).damage is None


@pytest.mark.parametrize(("end", "following", "known"), [(6, b"", 5), (9, b"", None), (9, a_batch(6), 5)])
def test_a_wrong_checksum_leaves_the_range_unknown_unless_what_follows_agrees(end, following, known):
    reading = read(TP, answer(a_batch(0), changed(a_batch(3), 80, b"\xff"), following, end=end), 0)

    assert (reading.damage.last, reading.damage.known_last) == (5, known)


def test_reading_begins_within_a_batch_and_names_only_what_is_left_of_a_damaged_one():
    assert offsets(read(TP, answer(a_batch(3), end=6), 4)) == [4, 5]
    assert offsets(read(TP, answer(a_batch(0), a_batch(3), end=6), 1)) == [1, 2, 3, 4, 5]

    reading = read(TP, answer(changed(a_batch(0), 80, b"\xff"), a_batch(3), end=6), 1)

    assert (reading.damage.first, reading.damage.known_last, reading.next_offset) == (1, 2, 1)


def test_aborted_transactions_and_gaps_are_passed_over_as_the_client_does():
    aborted = a_batch(3, producer=7)

    reading = read(TP, around(aborted, aborted=((7, 3),)), 0)
    beyond_a_gap = read(TP, answer(a_batch(0), a_batch(6)), 0)

    assert (offsets(reading), reading.next_offset) == ([0, 1, 2, 6, 7, 8], 9)
    assert (offsets(beyond_a_gap), beyond_a_gap.damage) == ([0, 1, 2, 6, 7, 8], None)


def test_a_damaged_payload_in_an_aborted_transaction_is_not_looked_into():
    aborted = signed(changed(a_batch(3, codec=GZIP, producer=7), PAYLOAD_AT, b"no gzip"))

    assert read(TP, around(aborted, aborted=((7, 3),)), 0).damage is None


@pytest.mark.parametrize("codec", [0, GZIP, SNAPPY, LZ4, ZSTD])
@pytest.mark.parametrize("position", [0, 4, 5])
def test_of_a_batch_with_a_header_name_that_is_not_utf_8_only_that_record_is_lost(codec, position):
    before = () if position else (a_batch(0),)

    reading = read(TP, answer(*before, a_batch(3, codec=codec, poison=1), a_batch(6)), position)

    assert offsets(reading) == list(range(position, 6))
    assert [one.offset for one in reading.records if isinstance(one, UndecodableRecord)] == [4][: position <= 4]
    assert (reading.next_offset, reading.damage, reading.is_cut) == (6, None, True)
    assert {one.value for one in reading.records if not isinstance(one, UndecodableRecord)} == {b"{}" * 50}


def test_a_cut_off_last_batch_is_left_for_the_next_answer():
    reading = read(TP, answer(a_batch(0), a_batch(3)[:-1], end=6), 0)

    assert (offsets(reading), reading.next_offset, reading.damage) == ([0, 1, 2], 3, None)


GOOD = around(a_batch(3, codec=GZIP))


@given(st.integers(0, len(GOOD.data) - 1), st.integers(1, 255), st.integers(0, 8))
def test_a_changed_byte_anywhere_is_damage_or_changes_nothing(at, mask, position):
    """But where no checksum covers it: a batch's offset and length, if they may still be right."""
    data = changed(GOOD.data, at, bytes([GOOD.data[at] ^ mask]))

    reading = read(TP, replace(GOOD, data=data), position)

    found = offsets(reading)
    assert found == sorted(set(found))
    assert all(position <= offset < GOOD.stable_end for offset in found)
    assert reading.damage is not None or reading.next_offset in {3, 6, 9}
    if reading.damage is not None:
        assert reading.next_offset <= reading.damage.first
        assert reading.damage.last is None or reading.damage.last < GOOD.stable_end


@given(st.binary(max_size=400), st.integers(0, 20))
def test_any_bytes_give_a_reading(data, position):
    read(TP, Fetched(data, (), 20), position)
    begins_at(data, position)


def test_only_what_the_client_could_not_read_counts_as_damage():
    for error in (CorruptRecordException(), UnsupportedCodecError(), RecordTooLargeError(), KafkaError(), OSError()):
        assert is_damage(error)
    for other in (OffsetOutOfRangeError({TP: 1}), TopicAuthorizationFailedError("commands"), KeyboardInterrupt()):
        assert not is_damage(other)
