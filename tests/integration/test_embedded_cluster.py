"""The embedded cluster is a real one: a node may go, freeze or be moved away from, and what was acknowledged stays."""

import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.chaos.leaders import Leaders, Place, java_hash
from tests.embedded_cluster import SESSION_TIMEOUT_S, EmbeddedCluster, Node
from worker.embedded import EmbeddedKafkaError

DEADLINE_S = 30
TOPIC = "things"
GROUP = "readers"


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster() as cluster:
        with AdminClient({"bootstrap.servers": cluster.bootstrap_servers}) as admin:
            admin.create_topics([NewTopic(TOPIC, 3)])[TOPIC].result()
        read(cluster, None)
        yield cluster


@pytest.fixture
def leaders(cluster: EmbeddedCluster) -> Leaders:
    leaders = Leaders(cluster)
    leaders.await_healthy(DEADLINE_S)
    return leaders


def write(cluster: EmbeddedCluster, value: bytes) -> None:
    with Producer({"bootstrap.servers": cluster.bootstrap_servers, "acks": "all", "socket.timeout.ms": 3000}) as one:
        one.produce(TOPIC, value, partition=0)
        assert one.flush(DEADLINE_S) == 0


def read(cluster: EmbeddedCluster, wanted: bytes | None) -> None:
    """Read from the beginning as a member of a group; to be one is enough where nothing is wanted."""
    settings = {
        "bootstrap.servers": cluster.bootstrap_servers,
        "group.id": GROUP,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }
    found: set[bytes | None] = {None}
    deadline = time.monotonic() + DEADLINE_S
    with Consumer(settings) as consumer:
        consumer.subscribe([TOPIC])
        while not consumer.assignment() or wanted not in found:
            record = consumer.poll(0.1)
            if record is not None and record.error() is None:
                found.add(record.value())
            assert time.monotonic() < deadline, found


def coordinator(cluster: EmbeddedCluster) -> int:
    """Return the node id of the group's coordinator as a client finds it; a new one loads the group first."""
    deadline = time.monotonic() + DEADLINE_S
    with AdminClient({"bootstrap.servers": cluster.bootstrap_servers}) as admin:
        while True:
            try:
                return admin.describe_consumer_groups([GROUP])[GROUP].result().coordinator.id
            except KafkaException as error:
                if error.args[0].code() != KafkaError.COORDINATOR_LOAD_IN_PROGRESS or time.monotonic() > deadline:
                    raise


def test_every_topic_has_three_replicas_and_needs_two(cluster, leaders) -> None:
    assert {(len(led.replicas), len(led.in_sync)) for led in leaders.view().values()} == {(3, 3)}
    assert {place.topic for place in leaders.view()} >= {TOPIC, "__consumer_offsets"}


def test_a_coordinator_is_found_where_the_client_finds_it(cluster, leaders) -> None:
    assert leaders.leader(leaders.group_place(GROUP)).node_id == coordinator(cluster)
    assert java_hash("polygenelubricants") == 0  # Java's least integer has no positive counterpart
    assert java_hash("hello") == 99162322


def test_a_coordinator_moves_in_an_orderly_way_to_each_node(cluster, leaders) -> None:
    place = leaders.group_place(GROUP)
    for node in leaders.others(leaders.leader(place)):
        leaders.move(place, node.node_id)
        assert leaders.leader(place) is node
        assert coordinator(cluster) == node.node_id


@pytest.mark.parametrize("end", [Node.kill, Node.terminate])
def test_one_that_ends_is_succeeded_and_comes_back(end, cluster, leaders) -> None:
    place = Place(TOPIC, 0)
    leader = leaders.leader(place)
    end(leader)
    leaders.await_leader(place, lambda now: now not in (-1, leader.node_id))
    write(cluster, end.__name__.encode())
    assert leader.pid is None
    leader.restart()
    leaders.await_healthy(DEADLINE_S)
    leaders.move(place, leader.node_id)
    read(cluster, end.__name__.encode())


def test_one_that_is_frozen_past_its_session_is_succeeded_and_learns_of_it_when_it_thaws(cluster, leaders) -> None:
    place = Place(TOPIC, 0)
    leader = leaders.leader(place)
    began = time.monotonic()
    leader.freeze()
    leaders.await_leader(place, lambda now: now not in (-1, leader.node_id))
    assert time.monotonic() - began > SESSION_TIMEOUT_S / 2
    write(cluster, b"frozen")
    leader.thaw()
    leaders.await_healthy(DEADLINE_S)
    assert leaders.view(leader)[place].leader != leader.node_id


def test_without_two_of_three_nothing_is_written_and_with_them_all_is_there(cluster, leaders) -> None:
    alone, *others = cluster.nodes.values()
    for node in others:
        node.kill()
    with Producer({"bootstrap.servers": alone.bootstrap_servers, "acks": "all"}) as producer:
        producer.produce(TOPIC, b"two away", partition=0)
        assert producer.flush(3) == 1
        cluster.restart()
        leaders.await_healthy(DEADLINE_S)
        assert producer.flush(DEADLINE_S) == 0
    read(cluster, b"two away")


def test_it_leaves_nothing_behind_and_says_why_it_could_not_start() -> None:
    cluster = EmbeddedCluster()
    cluster.nodes[2]._overrides |= {"log.retention.hours": "none"}
    with pytest.raises(EmbeddedKafkaError, match=r"log\.retention\.hours"):
        cluster.start()
    assert {node.pid for node in cluster.nodes.values()} == {None}
    assert not any(node.data_dir.exists() for node in cluster.nodes.values())
