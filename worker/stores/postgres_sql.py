"""PostgreSQL's statements: each takes a whole batch as arrays, and locks its rows in the order of their keys."""

from typing import Final

from worker.stores.rows import PARTITION_COLUMNS

PARTITIONS: Final = f"""
SELECT {PARTITION_COLUMNS} FROM partitions WHERE topic = $1 AND partition = ANY($2::int[])
"""  # noqa: S608 - a constant

CLAIM_NEW: Final = """
INSERT INTO partitions (topic, partition, owner, publisher)
SELECT $1, partition, 1, $3 FROM unnest($2::int[]) AS wanted (partition) ORDER BY partition
ON CONFLICT DO NOTHING RETURNING partition
"""

# In these three, the inner SELECT locks rows in one order for all workers, which an UPDATE alone would not; it waits
# for whoever holds a row, and then looks at the row as they left it.
CLAIM: Final = """
WITH held AS (
    SELECT p.id FROM partitions p
    JOIN unnest($2::int[], $3::bigint[]) AS wanted (partition, owner)
      ON wanted.partition = p.partition AND wanted.owner = p.owner
    WHERE p.topic = $1 ORDER BY p.partition FOR UPDATE OF p
)
UPDATE partitions p SET owner = p.owner + 1, publisher = $4 FROM held WHERE p.id = held.id RETURNING p.partition
"""

ADVANCE: Final = """
WITH held AS (
    SELECT p.id, wanted.next_applied, wanted.published FROM partitions p
    JOIN unnest($2::int[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
      AS wanted (partition, owner, applied, next_applied, published)
      ON wanted.partition = p.partition AND wanted.owner = p.owner AND wanted.applied = p.applied
    WHERE p.topic = $1 ORDER BY p.partition FOR UPDATE OF p
)
UPDATE partitions p SET applied = held.next_applied, published = greatest(p.published, held.published)
FROM held WHERE p.id = held.id RETURNING p.partition, p.id
"""

NOTE_PUBLISHED: Final = """
WITH held AS (
    SELECT p.id, wanted.published FROM partitions p
    JOIN unnest($2::int[], $3::bigint[], $4::bigint[]) AS wanted (partition, owner, published)
      ON wanted.partition = p.partition AND wanted.owner = p.owner
    WHERE p.topic = $1 ORDER BY p.partition FOR UPDATE OF p
)
UPDATE partitions p SET published = held.published FROM held WHERE p.id = held.id AND p.published < held.published
"""

BEGIN: Final = """
UPDATE partitions SET applied = $4, published = $4
WHERE topic = $1 AND partition = $2 AND owner = $3 AND applied IS NULL RETURNING id
"""

# These three are executed once for each partition, in the order of partitions.
IDENTIFY: Final = """
UPDATE partitions SET cluster_id = $4, topic_id = $5 WHERE topic = $1 AND partition = $2 AND owner = $3
"""
NOTE_LOST: Final = """
UPDATE partitions SET lost_at = $4 WHERE topic = $1 AND partition = $2 AND owner = $3 AND lost_at IS NULL
"""
NOTE_BLOCKED: Final = "UPDATE partitions SET blocked_because = $4 WHERE topic = $1 AND partition = $2 AND owner = $3"

TO_ADOPT: Final = f"""
SELECT id, {PARTITION_COLUMNS} FROM partitions
WHERE topic = $1 AND partition = ANY($2::int[]) ORDER BY partition FOR UPDATE
"""  # noqa: S608 - a constant
SET_ASIDE: Final = """
UPDATE partitions SET topic = topic || '@' || coalesce(topic_id, '') || '#' || id, published = applied WHERE id = $1
"""
FORGET_POSITIONS: Final = """
UPDATE outcomes SET command_key = NULL, fingerprint = NULL
WHERE partition_id = $1 AND command_id = $2 || '/' || $3::int || '/' || "offset"
"""
BEGIN_ANEW: Final = """
INSERT INTO partitions (topic, partition, owner, publisher, applied, published, cluster_id, topic_id)
VALUES ($1, $2, $3, $4, $5, $5, $6, $7)
"""

TASK: Final = """
SELECT user_task_key, state, version, attributes, variables, created_at_ms, ended_at_ms
FROM user_tasks WHERE user_task_key = $1
"""

LOAD_TASKS: Final = """
SELECT user_task_key, state, version, attributes, variables, created_at_ms, ended_at_ms
FROM user_tasks WHERE user_task_key = ANY($1::bigint[]) ORDER BY user_task_key FOR UPDATE
"""

LOAD_OUTCOMES: Final = "SELECT command_key, fingerprint FROM outcomes WHERE command_key = ANY($1::bytea[])"

# Counts what is stored without reading it.
FIRST_BYTES: Final = "SELECT coalesce(sum(octet_length(records)), 0) FROM outcomes WHERE command_key = ANY($1::bytea[])"

LOAD_FIRST: Final = "SELECT command_key, status, records FROM outcomes WHERE command_key = ANY($1::bytea[])"

# Not an upsert: a task that was not there when the batch was decided may be there now, by another worker. It must not
# be overwritten; the insert fails instead, and the batch is decided again.
INSERT_TASKS: Final = """
INSERT INTO user_tasks (user_task_key, state, version, attributes, variables, created_at_ms, ended_at_ms)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::bigint[])
"""

UPDATE_TASKS: Final = """
UPDATE user_tasks t
SET state = changed.state, version = changed.version, variables = changed.variables, ended_at_ms = changed.ended_at_ms
FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[])
  AS changed (state, version, variables, ended_at_ms, user_task_key)
WHERE t.user_task_key = changed.user_task_key
"""

OUTCOME_COLUMNS: Final = (
    *("partition_id", "offset", "command_key", "fingerprint", "command_id", "user_task_key", "status"),
    *("decided_at_ms", "records"),
)
"""For COPY, which costs a third less than an INSERT of arrays."""

RECORDED: Final = """
SELECT "offset", records FROM outcomes
WHERE partition_id = (SELECT id FROM partitions WHERE topic = $1 AND partition = $2)
  AND "offset" >= $3 AND "offset" < $4
ORDER BY "offset" LIMIT $5
"""

CLOCK: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"

# One row, if the server takes writes. Simple, since a ping runs in no transaction: a pooler may change the session
# between the two halves of a prepared statement.
TAKES_WRITES: Final = "SELECT 1 WHERE NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off'"
