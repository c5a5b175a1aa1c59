"""Where outgoing records go: the hash that every Kafka client agrees on."""

import pytest
from aiokafka.partitioner import murmur2 as the_clients
from hypothesis import given
from hypothesis import strategies as st

from worker.murmur2 import murmur2


@given(st.binary(max_size=100))
def test_it_gives_what_the_kafka_client_gives(data):
    assert murmur2(data) == the_clients(data)


@pytest.mark.parametrize(
    ("data", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_it_gives_what_kafkas_own_tests_expect(data, signed):
    assert murmur2(data) == signed % 2**32
