"""What one writes with FastStream and asyncpg: a handler, a database transaction and an answer for each message.

Arguments: bootstrap servers, group, commands topic, events topic, rejections topic, PostgreSQL URL. At least once: an
event may come twice after a crash, and after one at the wrong moment it may be missing.
"""

import asyncio
import json
import sys
from typing import Any, Final

import asyncpg
from faststream import FastStream
from faststream.kafka import KafkaBroker, KafkaMessage
from faststream.middlewares import AckPolicy

_TABLES: Final = """
CREATE TABLE peer_tasks (user_task_key BIGINT PRIMARY KEY, state TEXT NOT NULL, variables JSONB NOT NULL);
CREATE TABLE peer_commands (command_id TEXT PRIMARY KEY);
"""
_SEEN: Final = "INSERT INTO peer_commands VALUES ($1) ON CONFLICT DO NOTHING RETURNING command_id"
_FIND: Final = "SELECT state FROM peer_tasks WHERE user_task_key = $1 FOR UPDATE"
_CREATE: Final = "INSERT INTO peer_tasks VALUES ($1, 'CREATED', $2) ON CONFLICT DO NOTHING"
_COMPLETE: Final = (
    "UPDATE peer_tasks SET state = 'COMPLETED', variables = variables || $2::jsonb WHERE user_task_key = $1"
)


async def decide(connection: Any, key: int, command_type: str, command: dict[str, Any]) -> tuple[int, str]:
    """Apply a command; give the status and the state."""
    variables = json.dumps(command.get("variables") or {})
    if command_type == "user-task.create.v1":
        await connection.execute(_CREATE, key, variables)
        return 204, "CREATED"
    state = await connection.fetchval(_FIND, key)
    if state is None:
        return 404, ""
    if state != "CREATED":
        return 409, state
    await connection.execute(_COMPLETE, key, variables)
    return 204, "COMPLETED"


def make_app(servers: str, group: str, commands: str, events: str, rejections: str, url: str) -> FastStream:
    """Make the application."""
    broker = KafkaBroker(servers, acks="all", logger=None)
    app = FastStream(broker, logger=None)
    pool: Any = None

    @app.on_startup
    async def connect() -> None:
        nonlocal pool
        pool = await asyncpg.create_pool(url, min_size=1, max_size=4)
        await pool.execute(_TABLES)

    @broker.subscriber(commands, group_id=group, auto_offset_reset="earliest", ack_policy=AckPolicy.ACK)
    async def handle(command: dict[str, Any], message: KafkaMessage) -> None:
        headers = message.headers
        raw: Any = message.raw_message
        key = int(raw.key)
        async with pool.acquire() as connection, connection.transaction():
            if await connection.fetchval(_SEEN, headers["ce_id"]) is None:
                return
            status, state = await decide(connection, key, headers["ce_type"], command)
        answer = {"userTaskKey": str(key), "commandId": headers["ce_id"], "state": state, "status": status}
        if status == 204:  # noqa: PLR2004 - accepted
            answer |= {"action": command.get("action", "complete"), "variables": command.get("variables") or {}}
        about = {"ce_specversion": "1.0", "ce_id": f"answer-{headers['ce_id']}", "ce_source": "/peer"}
        await broker.publish(answer, events if status == 204 else rejections, key=raw.key, headers=about)  # noqa: PLR2004

    return app


if __name__ == "__main__":
    asyncio.run(make_app(*sys.argv[1:]).run())
