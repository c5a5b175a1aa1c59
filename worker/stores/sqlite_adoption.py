"""Beginning anew with another topic of the same name, in a SQLite file: see `Store.adopt`."""

import sqlite3
from collections.abc import Mapping
from typing import Final

from worker.stores.port import TopicIdentity

_TO_ADOPT: Final = "SELECT id, partition, owner, publisher FROM partitions WHERE topic = ?"
_SET_ASIDE: Final = """
UPDATE partitions SET topic = topic || '@' || coalesce(topic_id, '') || '#' || id, published = applied WHERE id = ?
"""
_FORGET_POSITIONS: Final = """
UPDATE outcomes SET command_key = NULL, fingerprint = NULL
WHERE partition_id = ? AND command_id = ? || '/' || ? || '/' || "offset"
"""
_BEGIN_ANEW: Final = """
INSERT INTO partitions (topic, partition, owner, publisher, applied, published, cluster_id, topic_id)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""


def adopt(
    connection: sqlite3.Connection, topic: str, identity: TopicIdentity, starts: Mapping[int, int | None]
) -> None:
    """Adopt the partitions given, within the transaction that is open."""
    rows = connection.execute(_TO_ADOPT, (topic,)).fetchall()
    for partition_id, partition, owner, publisher in (row for row in rows if row[1] in starts):
        connection.execute(_SET_ASIDE, (partition_id,))
        connection.execute(_FORGET_POSITIONS, (partition_id, topic, partition))
        start = starts[partition]
        if start is not None:
            ids = (identity.cluster_id, identity.topic_id)
            connection.execute(_BEGIN_ANEW, (topic, partition, owner + 1, publisher, start, start, *ids))
