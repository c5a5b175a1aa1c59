-- The progress of each input partition (docs/exactly-once.md, State). A row is updated with each batch and none of its
-- indexed columns ever: with room on the page the new version stays there, and no index grows (a HOT update).
CREATE TABLE partitions (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    owner BIGINT NOT NULL,
    publisher TEXT NOT NULL,
    applied BIGINT,
    published BIGINT,
    UNIQUE (topic, partition)
) WITH (fillfactor = 20);

-- JSON is kept as text: jsonb would rewrite numbers and the order of members.
CREATE TABLE user_tasks (
    user_task_key BIGINT PRIMARY KEY,
    state TEXT NOT NULL,
    version BIGINT NOT NULL,
    attributes TEXT NOT NULL,
    variables TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    ended_at_ms BIGINT
);

-- What became of each command, with its outgoing records as bytes. Two indexes, since each costs every command: the
-- primary key serves replay and pruning, a partition's outcomes being in the order of time. No foreign key: only a
-- statement that has just locked the partition's row inserts here, and checking again costs a query for each command.
CREATE TABLE outcomes (
    partition_id BIGINT NOT NULL,
    "offset" BIGINT NOT NULL,
    command_key BYTEA,
    fingerprint BYTEA,
    command_id TEXT NOT NULL,
    user_task_key BIGINT,
    status SMALLINT NOT NULL,
    decided_at_ms BIGINT NOT NULL,
    records BYTEA NOT NULL,
    PRIMARY KEY (partition_id, "offset")
);

CREATE UNIQUE INDEX outcomes_command_key ON outcomes (command_key) WHERE command_key IS NOT NULL;
