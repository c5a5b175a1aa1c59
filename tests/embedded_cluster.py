"""A real Apache Kafka of three brokers without Docker: each can be ended, frozen and started again by itself."""

import os
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Self

import psutil

from worker.embedded import EmbeddedKafka

BROKERS: Final = 3
SESSION_TIMEOUT_S: Final = 9
"""Kafka's own `broker.session.timeout.ms`: a broker that is silent for so long loses what it leads."""

CLUSTER_NODE: Final = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
    "broker.session.timeout.ms": str(SESSION_TIMEOUT_S * 1000),
    "auto.leader.rebalance.enable": "false",  # the tests decide who leads
}


class Node(EmbeddedKafka):
    """One broker and controller of several. Of its own it can be started only while most of them run."""

    def __init__(self, node_id: int) -> None:
        super().__init__()
        self.node_id = node_id

    @property
    def voter(self) -> str:
        """What the others have to know of its controller."""
        return self._controller.replace("CONTROLLER://", f"{self.node_id}@")

    @property
    def is_frozen(self) -> bool:
        """Tell whether its process stands still."""
        return self.pid is not None and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

    @property
    def runs(self) -> bool:
        """Tell whether it has been started and could answer."""
        return self.pid is not None and not self.is_frozen

    def join(self, cluster_id: str, voters: str, overrides: Mapping[str, str]) -> None:
        """Learn of the cluster, before the start."""
        self._cluster_id = cluster_id
        itself = {"node.id": str(self.node_id), "controller.quorum.voters": voters}
        self._overrides = {**CLUSTER_NODE, **itself, **overrides}

    def freeze(self) -> None:
        """Stop its process, as a long garbage collection or a paused machine would: its connections stay open."""
        assert self.pid is not None, "does not run"
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let its process go on where it was."""
        assert self.pid is not None, "does not run"
        os.kill(self.pid, signal.SIGCONT)

    def _recover(self, timeout_s: float) -> None:
        """Do nothing: the other brokers lead what a killed one has led, and no controller of three is elected alone.

        One that comes back before its session has run out is not let in (DUPLICATE_BROKER_REGISTRATION) until then.
        """


class EmbeddedCluster:
    """Three Kafka nodes, each broker and controller, as child processes; a context manager that starts and stops them.

    `nodes` are by node id, from 1 on. Topics have three replicas unless told otherwise, and two must be in sync.
    `overrides` are broker settings that win over the defaults here.
    """

    def __init__(self, overrides: Mapping[str, str] | None = None) -> None:
        self.nodes = {node_id: Node(node_id) for node_id in range(1, BROKERS + 1)}
        self.bootstrap_servers = ",".join(node.bootstrap_servers for node in self.nodes.values())
        voters = ",".join(node.voter for node in self.nodes.values())
        for node in self.nodes.values():
            node.join(self.nodes[1]._cluster_id, voters, overrides or {})

    def start(self) -> None:
        """Start all nodes at once: none answers before it has another. Raise EmbeddedKafkaError."""
        try:
            self._each(EmbeddedKafka.start)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all nodes and remove their data. Safe to repeat.

        Not in an orderly way: the last ones would wait for a controller in vain.
        """
        for node in self.nodes.values():
            node.kill()
            node.stop()

    def restart(self) -> None:
        """Start the nodes that do not run."""
        self._each(EmbeddedKafka.restart, *(node for node in self.nodes.values() if node.pid is None))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _each(self, do, *nodes: Node) -> None:
        with ThreadPoolExecutor(BROKERS) as pool:
            list(pool.map(do, nodes or self.nodes.values()))
