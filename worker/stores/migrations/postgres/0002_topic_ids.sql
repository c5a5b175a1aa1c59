-- Which topic `applied` counts in: an id is never used again, a name may be. Null in rows from before, until the next
-- takeover that finds nothing wrong.
ALTER TABLE partitions ADD COLUMN cluster_id TEXT;
ALTER TABLE partitions ADD COLUMN topic_id TEXT;
-- Where the partition ended when it was found for good that it is shorter than what was applied. Set once.
ALTER TABLE partitions ADD COLUMN lost_at BIGINT;
-- Why the owner does not run the partition, for those who look at the store from outside.
ALTER TABLE partitions ADD COLUMN blocked_because TEXT;
