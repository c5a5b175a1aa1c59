"""SQLite's statements; those with `{}` take as many keys as there are."""

from typing import Final

from worker.stores.rows import PARTITION_COLUMNS

PARTITIONS: Final = f"SELECT {PARTITION_COLUMNS} FROM partitions WHERE topic = ?"  # noqa: S608 - a constant
SELECT_TASKS: Final = (
    "SELECT user_task_key, state, version, attributes, variables, created_at_ms, ended_at_ms"
    " FROM user_tasks WHERE user_task_key IN ({})"
)
SELECT_OUTCOMES: Final = "SELECT command_key, fingerprint FROM outcomes WHERE command_key IN ({})"
FIRST_BYTES: Final = "SELECT coalesce(sum(length(records)), 0) FROM outcomes WHERE command_key IN ({})"
SELECT_FIRST: Final = "SELECT command_key, status, records FROM outcomes WHERE command_key IN ({})"
ADVANCE: Final = (
    "UPDATE partitions SET applied = ?, published = max(published, ?)"
    " WHERE topic = ? AND partition = ? AND owner = ? AND applied = ? RETURNING id"
)
INSERT_TASK: Final = "INSERT INTO user_tasks VALUES (?, ?, ?, ?, ?, ?, ?)"
UPDATE_TASK: Final = (
    "UPDATE user_tasks SET state = ?, version = ?, variables = ?, ended_at_ms = ? WHERE user_task_key = ?"
)
SAVE_OUTCOME: Final = "INSERT INTO outcomes VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
CLAIM_NEW: Final = (
    "INSERT INTO partitions (topic, partition, owner, publisher) VALUES (?, ?, 1, ?) ON CONFLICT DO NOTHING"
)
CLAIM: Final = "UPDATE partitions SET owner = owner + 1, publisher = ? WHERE topic = ? AND partition = ? AND owner = ?"
BEGIN: Final = (
    "UPDATE partitions SET applied = ?, published = ?"
    " WHERE topic = ? AND partition = ? AND owner = ? AND applied IS NULL"
)
NOTE_PUBLISHED: Final = (
    "UPDATE partitions SET published = max(published, ?) WHERE topic = ? AND partition = ? AND owner = ?"
)
IDENTIFY: Final = "UPDATE partitions SET cluster_id = ?, topic_id = ? WHERE topic = ? AND partition = ? AND owner = ?"
NOTE_BLOCKED: Final = "UPDATE partitions SET blocked_because = ? WHERE topic = ? AND partition = ? AND owner = ?"
NOTE_LOST: Final = (
    "UPDATE partitions SET lost_at = ? WHERE topic = ? AND partition = ? AND owner = ? AND lost_at IS NULL"
)
RECORDED: Final = (
    'SELECT "offset", records FROM outcomes WHERE partition_id = (SELECT id FROM partitions WHERE topic = ?'
    ' AND partition = ?) AND "offset" >= ? AND "offset" < ? ORDER BY "offset" LIMIT ?'
)
PRUNE: Final = (
    "DELETE FROM outcomes WHERE id IN (SELECT id FROM (SELECT id, decided_at_ms FROM outcomes"
    ' WHERE partition_id = ? AND "offset" < ? ORDER BY "offset" LIMIT ?) WHERE decided_at_ms < ?)'
)
OLDEST: Final = (
    "SELECT min((SELECT decided_at_ms FROM outcomes WHERE partition_id = p.id"
    ' ORDER BY "offset" LIMIT 1)) FROM partitions p'
)
