"""Beginning anew with another topic of the same name, in PostgreSQL: see `Store.adopt`."""

from collections.abc import Mapping
from typing import Any, Final

from worker.stores import postgres_sql as sql
from worker.stores.port import Adoption, TopicIdentity
from worker.stores.rows import partitions_from_rows, raise_if_changed

_TIMEOUT_S: Final = 3600
"""Since all outcomes of a partition may have to be looked at."""


async def adopt(connection: Any, topic: str, identity: TopicIdentity | None, adoptions: Mapping[int, Adoption]) -> None:
    """Adopt the partitions given, within the transaction that is open."""
    await connection.execute("SET LOCAL statement_timeout = 0")
    found = await connection.fetch(sql.TO_ADOPT, topic, list(adoptions))
    ids = {row[1]: row[0] for row in found}
    rows = partitions_from_rows(tuple(row)[1:] for row in found)
    for partition, adoption in sorted(adoptions.items()):
        row = rows[partition]
        raise_if_changed(row, adoption)
        await connection.execute(sql.SET_ASIDE, ids[partition])
        await connection.execute(sql.FORGET_POSITIONS, ids[partition], topic, partition, timeout=_TIMEOUT_S)
        if adoption.start is not None:
            known = (identity and identity.cluster_id, identity and identity.topic_id)
            new = (topic, partition, row.owner + 1, row.publisher, adoption.start, *known)
            await connection.execute(sql.BEGIN_ANEW, *new)
