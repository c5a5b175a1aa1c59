"""A batch that is damaged in one of three replicas: another one is sound, so that nothing is lost and all goes on."""

import pytest

from tests.chaos.leaders import Leaders, Place
from tests.embedded_cluster import EmbeddedCluster
from tests.integration.harness import Wire, Worker, bench, environment, fresh_key, make_topics
from tests.integration.raw_batches import Disk, produce_raw
from tests.integration.test_damaged_batches import (
    DAMAGED,
    PER_BATCH,
    await_blocked,
    await_created,
    created,
    creations,
    flipped,
    unready,
)

HEALTHY_WITHIN_S = 60
MOVED_WITHIN_S = 20
RACKS = "org.apache.kafka.common.replica.RackAwareReplicaSelector"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = EmbeddedCluster()
    for number, node in cluster.nodes.items():
        node._overrides = {**node._overrides, "broker.rack": f"rack-{number}", "replica.selector.class": RACKS}
    with cluster:
        with bench(cluster.bootstrap_servers, tmp_path_factory.mktemp("first")) as first:
            first.wire.created()  # a new cluster makes topics of its own at the first transaction
        yield cluster


class Replicas:
    """Three batches in a partition with three replicas, all in sync."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self.topics = make_topics(cluster.bootstrap_servers)
        self.leaders = Leaders(cluster)
        self.place = Place(self.topics.commands, DAMAGED)
        self.leader = self.leaders.leader(self.place)
        self.follower = self.leaders.others(self.leader)[0]
        self.keys = [[fresh_key() for _ in range(PER_BATCH)] for _ in range(3)]
        written = [
            produce_raw(self.leader.bootstrap_servers, self.topics.commands, DAMAGED, creations(keys))
            for keys in self.keys
        ]
        self.leaders.await_healthy(HEALTHY_WITHIN_S)
        self.first = written[1]

    def damage(self, node) -> None:
        Disk(node, self.topics.commands, DAMAGED).damage(self.first, flipped)

    @property
    def all_keys(self) -> list[str]:
        return [key for keys in self.keys for key in keys]


def test_a_blocked_partition_goes_on_by_itself_when_a_sound_replica_becomes_its_leader(cluster, tmp_path):
    replicas = Replicas(cluster)
    replicas.damage(replicas.leader)
    env = environment(cluster.bootstrap_servers, replicas.topics, tmp_path / "tasks.db")
    with unready(env, tmp_path) as worker, Wire(cluster.bootstrap_servers, replicas.topics, worker.watch) as wire:
        await_created(wire, replicas.keys[0])
        await_blocked(worker)

        replicas.leaders.move(replicas.place, replicas.follower.node_id)

        await_created(wire, replicas.all_keys, MOVED_WITHIN_S)
        worker.await_ready()
        assert len(wire.events()) == len(created(wire))


def test_what_is_damaged_in_the_replica_of_the_workers_rack_is_read_from_the_leader(cluster, tmp_path):
    replicas = Replicas(cluster)
    replicas.damage(replicas.follower)
    rack = f"rack-{replicas.follower.node_id}"
    env = environment(cluster.bootstrap_servers, replicas.topics, tmp_path / "tasks.db", KAFKA_CLIENT_RACK=rack)
    with Worker(env, tmp_path) as worker, Wire(cluster.bootstrap_servers, replicas.topics, worker.watch) as wire:
        await_created(wire, replicas.all_keys, MOVED_WITHIN_S)

        assert worker.is_ready()
        assert "unreadable_batch_met" in worker.stderr()
        assert "partition_blocked" not in worker.stderr()
        assert len(wire.events()) == len(created(wire))
        assert not wire.dead_letters()
