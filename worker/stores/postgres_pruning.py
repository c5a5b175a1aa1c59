"""Forgetting in PostgreSQL, in small steps from each partition's oldest outcome on.

As long as an older snapshot is open, such as pg_dump's, what was deleted stays in the index. So each step begins where
the last one ended; it would walk over everything that was deleted before otherwise.
"""

import time
from collections.abc import Callable, Iterable
from typing import Final

_REMEMBERED_S: Final = 3600
"""Then partitions are looked at from their beginning again: what was too young to go may have been passed."""

# One row for each partition that has an outcome.
OLDEST: Final = """
SELECT p.id, oldest."offset", oldest.decided_at_ms FROM partitions p
LEFT JOIN unnest($1::bigint[], $2::bigint[]) AS place (id, "offset") ON place.id = p.id
CROSS JOIN LATERAL (
    SELECT "offset", decided_at_ms FROM outcomes
    WHERE partition_id = p.id AND "offset" >= coalesce(place."offset", 0) ORDER BY "offset" LIMIT 1
) oldest
"""

# Looks at the oldest outcomes of each partition only, and at one where even that is too young: a search through all
# of them, again and again for nothing, would be the worker's heaviest query. Returns where each partition goes on.
PRUNE: Final = """
WITH due AS (
    SELECT old.partition_id, old."offset" FROM partitions p
    LEFT JOIN unnest($3::bigint[], $4::bigint[]) AS place (id, "offset") ON place.id = p.id
    JOIN LATERAL (
        SELECT "offset", decided_at_ms FROM outcomes
        WHERE partition_id = p.id AND "offset" >= coalesce(place."offset", 0) ORDER BY "offset" LIMIT 1
    ) first ON first.decided_at_ms < $1
    CROSS JOIN LATERAL (
        SELECT partition_id, "offset", decided_at_ms FROM outcomes
        WHERE partition_id = p.id AND "offset" >= first."offset" AND "offset" < p.published ORDER BY "offset" LIMIT $2
    ) old
    WHERE old.decided_at_ms < $1 LIMIT $2
), gone AS (
    DELETE FROM outcomes o USING due WHERE o.partition_id = due.partition_id AND o."offset" = due."offset"
    RETURNING o.partition_id, o."offset"
)
SELECT partition_id, max("offset") + 1, count(*) FROM gone GROUP BY partition_id
"""


class Places:
    """Where to look for each partition's oldest outcome, by the id of its row.

    Args:
        clock: seconds that never go back.

    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._offsets: dict[int, int] = {}
        self._until_s = 0.0

    def columns(self) -> tuple[list[int], list[int]]:
        """Return ids and offsets, as the statements above take them."""
        if self._clock() >= self._until_s:
            self._offsets, self._until_s = {}, self._clock() + _REMEMBERED_S
        return list(self._offsets), list(self._offsets.values())

    def note(self, found: Iterable[tuple[int, int]]) -> None:
        """Remember ids and offsets, once their transaction has been committed."""
        self._offsets.update(found)
