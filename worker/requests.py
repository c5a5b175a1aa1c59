"""Kafka requests in versions that aiokafka does not speak: OffsetFetch 7, Metadata 10, ApiVersions 4."""

from collections.abc import Collection
from io import BytesIO
from typing import Any, Final
from uuid import UUID

from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response, ResponseHeader_v0
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

TEXT: Final = CompactString("utf-8")
TAGS: Final = ("tags", TaggedFields)
_UUID_BYTES: Final = 16
NO_TAGS: Final[dict[int, bytes]] = {}


class _Uuid(AbstractType[UUID]):
    @classmethod
    def encode(cls, value: UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        return UUID(bytes=data.read(_UUID_BYTES))


class _OffsetFetchResponseV7(Response):
    API_KEY = 9
    API_VERSION = 7
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
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", TEXT),
                        ("error_code", Int16),
                        TAGS,
                    ),
                ),
                TAGS,
            ),
        ),
        ("error_code", Int16),
        TAGS,
    )


class _OffsetFetchRequestV7(RequestStruct):
    API_KEY = 9
    API_VERSION = 7
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _OffsetFetchResponseV7
    SCHEMA = Schema(
        ("group_id", TEXT),
        ("topics", CompactArray(("name", TEXT), ("partitions", CompactArray(Int32)), TAGS)),
        ("require_stable", Boolean),
        TAGS,
    )


class CommittedOffsets(Request[_OffsetFetchRequestV7]):
    """Ask for committed offsets (OffsetFetch).

    If they shall be stable, the broker answers UNSTABLE_OFFSET_COMMIT while a transaction may still change one. In the
    answer an error of the whole request stands in `error_code`, and there are no topics then.
    """

    API_KEY = 9

    def __init__(self, group_id: str, topic: str, partitions: Collection[int], *, stable: bool) -> None:
        self._group_id = group_id
        self._stable = stable
        self._topic = topic
        self.partitions = list(partitions)

    def build(self, request_struct_class: type[_OffsetFetchRequestV7]) -> _OffsetFetchRequestV7:
        """Return the request in the version given."""
        topics = [(self._topic, self.partitions, NO_TAGS)]
        return request_struct_class(self._group_id, topics, self._stable, NO_TAGS)


class _MetadataResponseV10(Response):
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", CompactArray(("node_id", Int32), ("host", TEXT), ("port", Int32), ("rack", TEXT), TAGS)),
        ("cluster_id", TEXT),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", TEXT),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        TAGS,
                    ),
                ),
                ("authorized_operations", Int32),
                TAGS,
            ),
        ),
        ("cluster_authorized_operations", Int32),
        TAGS,
    )


class _MetadataRequestV10(RequestStruct):
    API_KEY = 3
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _MetadataResponseV10
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("name", TEXT), TAGS)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        TAGS,
    )


class IdentifiedMetadata(Request[_MetadataRequestV10]):
    """Ask for a topic's metadata with the ids of topic and cluster. Never makes the topic."""

    API_KEY = 3

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def build(self, request_struct_class: type[_MetadataRequestV10]) -> _MetadataRequestV10:
        """Return the request in the version given."""
        flags: tuple[Any, ...] = (False, False, False)
        return request_struct_class([(UUID(int=0), self._topic, NO_TAGS)], *flags, NO_TAGS)


class _ApiVersionsResponseV3(Response):
    API_KEY = 18
    API_VERSION = 3
    SCHEMA = Schema(
        ("error_code", Int16),
        ("api_versions", CompactArray(("api_key", Int16), ("min_version", Int16), ("max_version", Int16), TAGS)),
        ("throttle_time_ms", Int32),
        TAGS,
    )


class _ApiVersionsRequestV3(RequestStruct):
    API_KEY = 18
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _ApiVersionsResponseV3
    SCHEMA = Schema(("client_software_name", TEXT), ("client_software_version", TEXT), TAGS)

    def parse_response_header(self, read_buffer: BytesIO | bytes) -> ResponseHeader_v0:
        """Read the oldest header there is: a client that asks for versions may not know any other."""
        header: ResponseHeader_v0 = ResponseHeader_v0.decode(read_buffer)
        return header


class _ApiVersionsResponseV4(_ApiVersionsResponseV3):
    API_VERSION = 4


class _ApiVersionsRequestV4(_ApiVersionsRequestV3):
    """In the version before, a broker leaves out features whose oldest version is 0 (KAFKA-17011)."""

    API_VERSION = 4
    RESPONSE_TYPE = _ApiVersionsResponseV4


class ApiVersions(Request[_ApiVersionsRequestV3 | _ApiVersionsRequestV4]):
    """Ask which versions of each request a broker speaks; and for its features, see `supported_features`."""

    API_KEY = 18

    def build(self, request_struct_class: type[_ApiVersionsRequestV3]) -> _ApiVersionsRequestV3:
        """Return the request in the version given."""
        return request_struct_class("user-task-worker", "1", NO_TAGS)


_FEATURES: Final = CompactArray(("name", TEXT), ("min_version", Int16), ("max_version", Int16), TAGS)


def supported_features(tags: dict[int, bytes]) -> frozenset[str]:
    """Return the names of the features that a broker knows (KIP-584), from the tags of its answer."""
    features = _FEATURES.decode(BytesIO(tags[0])) if 0 in tags else None
    return frozenset(name for name, *_ in features or ())
