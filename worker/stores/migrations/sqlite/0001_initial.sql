-- The progress of each input partition (docs/exactly-once.md, State).
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    publisher TEXT NOT NULL,
    applied INTEGER,
    published INTEGER,
    UNIQUE (topic, partition)
) STRICT;

CREATE TABLE user_tasks (
    user_task_key INTEGER PRIMARY KEY,
    state TEXT NOT NULL,
    version INTEGER NOT NULL,
    attributes TEXT NOT NULL,
    variables TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    ended_at_ms INTEGER
) STRICT;

-- What became of each command, with its outgoing records as bytes.
CREATE TABLE outcomes (
    id INTEGER PRIMARY KEY,
    partition_id INTEGER NOT NULL REFERENCES partitions (id),
    "offset" INTEGER NOT NULL,
    command_key BLOB,
    fingerprint BLOB,
    command_id TEXT NOT NULL,
    user_task_key INTEGER,
    status INTEGER NOT NULL,
    decided_at_ms INTEGER NOT NULL,
    records BLOB NOT NULL,
    UNIQUE (partition_id, "offset")
) STRICT;

CREATE UNIQUE INDEX outcomes_command_key ON outcomes (command_key) WHERE command_key IS NOT NULL;
