"""Who leads what in a cluster, asked of each node by itself, and orderly moves of a leader to another node.

Raw requests: a client library would ask whom it likes, believe its cache, and wait for a frozen node.
"""

import random
import socket
import time
from collections.abc import Callable, Mapping
from io import BytesIO
from itertools import cycle
from typing import Any, Final, NamedTuple

from aiokafka.protocol.api import RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v1
from aiokafka.protocol.types import Array, CompactArray, CompactString, Int16, Int32, Schema, String, TaggedFields

from tests.embedded_cluster import BROKERS, EmbeddedCluster, Node
from worker.embedded import HOST

OFFSETS: Final = "__consumer_offsets"
TRANSACTIONS: Final = "__transaction_state"
ANSWER_DEADLINE_S: Final = 10
MOVE_DEADLINE_S: Final = 30
POLL_INTERVAL_S: Final = 0.05
ELECTION_NOT_NEEDED: Final = 84
TAGS: Final = ("tags", TaggedFields)


class AlterPartitionReassignmentsResponse(Response):
    API_KEY = 45
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("error_message", CompactString("utf-8")),
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32), ("error_code", Int16), ("error_message", CompactString("utf-8")), TAGS
                    ),
                ),
                TAGS,
            ),
        ),
        TAGS,
    )


class AlterPartitionReassignmentsRequest(RequestStruct):
    API_KEY = 45
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = AlterPartitionReassignmentsResponse
    SCHEMA = Schema(
        ("timeout_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                ("partitions", CompactArray(("partition", Int32), ("replicas", CompactArray(Int32)), TAGS)),
                TAGS,
            ),
        ),
        TAGS,
    )


class ElectLeadersResponse(Response):
    API_KEY = 43
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            Array(
                ("name", String("utf-8")),
                (
                    "partitions",
                    Array(("partition", Int32), ("error_code", Int16), ("error_message", String("utf-8"))),
                ),
            ),
        ),
    )


class ElectLeadersRequest(RequestStruct):
    """In this version always for the preferred leaders, the first of the replicas."""

    API_KEY = 43
    API_VERSION = 0
    RESPONSE_TYPE = ElectLeadersResponse
    SCHEMA = Schema(
        ("topics", Array(("name", String("utf-8")), ("partitions", Array(Int32)))),
        ("timeout_ms", Int32),
    )


class Place(NamedTuple):
    """A partition that somebody leads."""

    topic: str
    partition: int


class Led(NamedTuple):
    """What a node says of a partition: node ids; the leader is -1 if there is none."""

    leader: int
    replicas: list[int]
    in_sync: list[int]


def ask(node: Node, request: RequestStruct) -> Any:
    """Send one request to this node, over a connection of its own. Raise OSError if it does not answer in time."""
    host, _, port = node.bootstrap_servers.partition(":")
    with socket.create_connection((host, int(port)), timeout=ANSWER_DEADLINE_S) as connection:
        message = request.build_request_header(1, "tests").encode() + request.encode()
        connection.sendall(len(message).to_bytes(4) + message)
        size_bytes = int.from_bytes(connection.recv(4, socket.MSG_WAITALL))
        answer = BytesIO(connection.recv(size_bytes, socket.MSG_WAITALL))
    if len(answer.getvalue()) < size_bytes or not size_bytes:
        raise ConnectionResetError(f"{HOST}:{port} hung up")
    request.parse_response_header(answer)
    return request.RESPONSE_TYPE.decode(answer)


def java_hash(text: str) -> int:
    """Return `String.hashCode`, of ASCII, made positive as Kafka does."""
    value = 0
    for byte in text.encode("ascii"):
        value = (31 * value + byte) & 0xFFFFFFFF
    signed = value - (1 << 32) if value >= 1 << 31 else value
    return 0 if signed == -(1 << 31) else abs(signed)


class Leaders:
    """Who leads what, and orderly moves."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self._cluster = cluster

    # who leads

    def view(self, node: Node | None = None) -> Mapping[Place, Led]:
        """Return what a node, by default any that runs, believes of all partitions. Raise OSError."""
        answer = ask(node or self._running(), MetadataRequest_v1(None))
        return {
            Place(topic, partition): Led(leader, replicas, in_sync)
            for _, topic, _, partitions in answer.topics
            for _, partition, leader, replicas, in_sync in partitions
        }

    def group_place(self, group: str) -> Place:
        """Return the partition whose leader coordinates the group."""
        return self._place(OFFSETS, group)

    def transaction_place(self, transactional_id: str) -> Place:
        """Return the partition whose leader coordinates the transactions of this id."""
        return self._place(TRANSACTIONS, transactional_id)

    def leader(self, place: Place) -> Node:
        """Return the node that leads; waits while there is none."""
        found: list[int] = []

        def is_led() -> bool:
            found[:] = [self.view()[place].leader]
            return found[0] in self._cluster.nodes

        await_true(is_led, MOVE_DEADLINE_S, f"nobody leads {place}")
        return self._cluster.nodes[found[0]]

    def await_leader(self, place: Place, is_wanted: Callable[[int], bool], deadline_s: float = MOVE_DEADLINE_S) -> None:
        """Wait until all nodes that run agree on a leader that is wanted."""
        await_true(
            lambda: all(is_wanted(self.view(node)[place].leader) for node in self._all_running()),
            deadline_s,
            f"{place} is not led as wanted",
        )

    def await_healthy(self, deadline_s: float) -> None:
        """Wait until all nodes run, and agree that all replicas of all partitions are in sync and led."""
        await_true(self.are_healthy, deadline_s, "the cluster does not become healthy")

    def are_healthy(self) -> bool:
        """Tell whether all nodes agree that everything is led, and in sync everywhere."""
        nodes = self._all_running()
        views = [self.view(node) for node in nodes]
        return len(nodes) == BROKERS and all(
            view == views[0] and all(led.leader > 0 and len(led.in_sync) == len(led.replicas) for led in view.values())
            for view in views
        )

    # moves

    def move(self, place: Place, to: int) -> None:
        """Let another node, which must be in sync, lead, in an orderly way: the first of the replicas, then elected."""
        self.move_all({place: to})

    def move_all(self, moves: Mapping[Place, int]) -> None:
        """Let other nodes lead all these partitions at once."""
        view = self.view()
        orders = {
            place: [to, *(node_id for node_id in view[place].replicas if node_id != to)] for place, to in moves.items()
        }
        reassigned = [(topic, [(partition, order, {})], {}) for (topic, partition), order in orders.items()]
        answer = ask(self._running(), AlterPartitionReassignmentsRequest(10_000, reassigned, {}))
        assert not answer.error_code, answer
        for place, order in orders.items():
            await_true(lambda: self.view()[place].replicas == order, MOVE_DEADLINE_S, f"{place} is not reassigned")  # noqa: B023
        self.elect_preferred(*moves)
        for place, to in moves.items():
            self.await_leader(place, lambda leader: leader == to)  # noqa: B023

    def leave_only(self, place: Place, node: Node) -> None:
        """Let others lead all that this node leads, but for one partition."""
        others = cycle(other.node_id for other in self.others(node))
        led = [one for one, state in self.view().items() if state.leader == node.node_id and one != place]
        self.move_all({one: next(others) for one in led})

    def elect_preferred(self, *places: Place) -> None:
        """Let the first of the replicas lead, of these partitions or of all."""
        asked = [(place.topic, [place.partition]) for place in places] or None
        answer = ask(self._running(), ElectLeadersRequest(asked, 10_000))
        errors = {error for _, partitions in answer.topics for _, error, _ in partitions}
        assert errors <= {0, ELECTION_NOT_NEEDED}, answer

    def others(self, node: Node) -> list[Node]:
        """Return the other nodes."""
        return [one for one in self._cluster.nodes.values() if one is not node]

    def _place(self, topic: str, name: str) -> Place:
        count = 0

        def is_known() -> bool:
            nonlocal count  # of the same view: another node may not know the topic yet
            count = sum(place.topic == topic for place in self.view())
            return count > 0

        await_true(is_known, MOVE_DEADLINE_S, f"there is no {topic}")
        return Place(topic, java_hash(name) % count)

    def _all_running(self) -> list[Node]:
        return [node for node in self._cluster.nodes.values() if node.runs]

    def _running(self) -> Node:
        return random.choice(self._all_running())


def await_true(is_so: Callable[[], bool], deadline_s: float, otherwise: str) -> None:
    """Poll; a node that does not answer just then is no reason to give up."""
    deadline = time.monotonic() + deadline_s
    while True:
        try:
            if is_so():
                return
            seen: object = "not so"
        except (OSError, KeyError) as error:
            seen = error
        assert time.monotonic() < deadline, f"{otherwise} after {deadline_s} s: {seen!r}"
        time.sleep(POLL_INTERVAL_S)
