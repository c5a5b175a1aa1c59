"""A worker that completes user tasks from Kafka commands, exactly once through a SQL store."""
