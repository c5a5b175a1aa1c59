"""Beginning anew with another topic of the same name, in a SQLite file: see `Store.adopt`."""

import sqlite3
from collections.abc import Mapping
from typing import Final

from worker.stores.port import Adoption, TopicIdentity
from worker.stores.rows import PARTITION_COLUMNS, partitions_from_rows, raise_if_changed

_TO_ADOPT: Final = f"SELECT id, {PARTITION_COLUMNS} FROM partitions WHERE topic = ?"  # noqa: S608 - a constant
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
    connection: sqlite3.Connection,
    topic: str,
    identity: TopicIdentity | None,
    adoptions: Mapping[int, Adoption],
) -> None:
    """Adopt the partitions given, within the transaction that is open."""
    found = connection.execute(_TO_ADOPT, (topic,)).fetchall()
    ids = {row[1]: row[0] for row in found}
    rows = partitions_from_rows(row[1:] for row in found)
    for partition, adoption in adoptions.items():
        row = rows[partition]
        raise_if_changed(row, adoption)
        connection.execute(_SET_ASIDE, (ids[partition],))
        connection.execute(_FORGET_POSITIONS, (ids[partition], topic, partition))
        if adoption.start is not None:
            progress = (adoption.start, adoption.start)
            known = (identity and identity.cluster_id, identity and identity.topic_id)
            connection.execute(_BEGIN_ANEW, (topic, partition, row.owner + 1, row.publisher, *progress, *known))
