"""Kafka requests about transactions that aiokafka does not speak: DescribeProducers 0, ListTransactions 0."""

from collections.abc import Collection

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, Int16, Int32, Int64, Schema

from worker.requests import NO_TAGS, TAGS, TEXT


class _DescribeProducersResponseV0(Response):
    API_KEY = 61
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("error_message", TEXT),
                        (
                            "producers",
                            CompactArray(
                                ("producer_id", Int64),
                                ("producer_epoch", Int32),
                                ("last_sequence", Int32),
                                ("last_timestamp_ms", Int64),
                                ("coordinator_epoch", Int32),
                                ("transaction_start", Int64),
                                TAGS,
                            ),
                        ),
                        TAGS,
                    ),
                ),
                TAGS,
            ),
        ),
        TAGS,
    )


class _DescribeProducersRequestV0(RequestStruct):
    API_KEY = 61
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _DescribeProducersResponseV0
    SCHEMA = Schema(("topics", CompactArray(("name", TEXT), ("partitions", CompactArray(Int32)), TAGS)), TAGS)


class DescribeProducers(Request[_DescribeProducersRequestV0]):
    """Ask a leader who writes to partitions, and at which offset the open transaction of each one begins, or -1."""

    API_KEY = 61

    def __init__(self, topic: str, partitions: Collection[int]) -> None:
        self._topic = topic
        self._partitions = list(partitions)

    def build(self, request_struct_class: type[_DescribeProducersRequestV0]) -> _DescribeProducersRequestV0:
        """Return the request in the version given."""
        return request_struct_class([(self._topic, self._partitions, NO_TAGS)], NO_TAGS)


class _ListTransactionsResponseV0(Response):
    API_KEY = 66
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("unknown_states", CompactArray(TEXT)),
        (
            "transactions",
            CompactArray(("transactional_id", TEXT), ("producer_id", Int64), ("state", TEXT), TAGS),
        ),
        TAGS,
    )


class _ListTransactionsRequestV0(RequestStruct):
    API_KEY = 66
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _ListTransactionsResponseV0
    SCHEMA = Schema(("states", CompactArray(TEXT)), ("producer_ids", CompactArray(Int64)), TAGS)


class ListTransactions(Request[_ListTransactionsRequestV0]):
    """Ask a broker for the transactional ids of producers; it knows those that it coordinates and may tell."""

    API_KEY = 66

    def __init__(self, producer_ids: Collection[int]) -> None:
        self._producer_ids = list(producer_ids)

    def build(self, request_struct_class: type[_ListTransactionsRequestV0]) -> _ListTransactionsRequestV0:
        """Return the request in the version given."""
        return request_struct_class([], self._producer_ids, NO_TAGS)
