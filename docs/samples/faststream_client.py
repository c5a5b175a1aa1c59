"""Complete user tasks with FastStream, and get each answer in one typed handler: an event or a rejection.

    python faststream_client.py BOOTSTRAP_SERVERS REPLY_TOPIC USER_TASK_KEY...

FastStream decodes a value only where its content type is application/json. That of a rejection is
application/problem+json, so without the decoder below a typed handler would never see one.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from faststream import FastStream
from faststream.kafka import KafkaBroker, KafkaMessage

from schemas.events import UserTaskEvent
from schemas.problem import ProblemDetail

Answer = UserTaskEvent | ProblemDetail

COMMANDS_TOPIC = "user-task.commands"
ANSWER_TIMEOUT_S = 30


async def decode(message: KafkaMessage, original: Callable[[KafkaMessage], Awaitable[Any]]) -> Any:
    """Decode what is JSON by a `+json` content type, too."""
    media_type = (message.content_type or "").partition(";")[0].strip()
    return json.loads(message.body) if media_type.endswith("+json") else await original(message)


class UserTasks:
    """Sends commands and waits for their answers.

    Args:
        broker: where the commands are sent.
        reply_topic: one that `USERTASK_REPLY_TOPICS` allows, and that is there.
        group_id: of this instance alone, so that it gets all answers. Those to others are passed over.
        commands_topic: where the worker reads.

    """

    def __init__(
        self, broker: KafkaBroker, reply_topic: str, group_id: str, commands_topic: str = COMMANDS_TOPIC
    ) -> None:
        self._broker, self._reply_topic, self._commands_topic = broker, reply_topic, commands_topic
        self._waiting: dict[str, asyncio.Future[Answer]] = {}

        @broker.subscriber(
            reply_topic,
            group_id=group_id,
            decoder=decode,
            isolation_level="read_committed",
            auto_offset_reset="earliest",  # the first answer may be there before the group has an offset
        )
        async def answered(answer: UserTaskEvent | ProblemDetail, message: KafkaMessage) -> None:
            waiting = self._waiting.pop(message.correlation_id or "", None)
            if waiting and not waiting.done():
                waiting.set_result(answer)

    async def complete(self, user_task_key: str, action: str | None = None) -> Answer:
        """Complete a user task. Raise TimeoutError if no answer comes; sent again under one id, it gets the first."""
        command_id = str(uuid4())
        waiting = self._waiting[command_id] = asyncio.get_running_loop().create_future()
        await self._broker.publish(
            {"userTaskKey": user_task_key, "action": action},
            self._commands_topic,
            key=user_task_key.encode(),
            headers={"idempotency-key": command_id},
            correlation_id=command_id,
            reply_to=self._reply_topic,
        )
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await waiting
        finally:
            self._waiting.pop(command_id, None)


async def main(servers: str, reply_topic: str, *keys: str) -> None:
    """Complete user tasks, and print what became of each."""
    broker = KafkaBroker(servers, logger=None)
    user_tasks = UserTasks(broker, reply_topic, group_id=f"faststream-{uuid4()}")
    app = FastStream(broker, logger=None)

    @app.after_startup
    async def run() -> None:
        for key in keys:
            answer = await user_tasks.complete(key)
            words = answer.detail if isinstance(answer, ProblemDetail) else answer.state
            print(f"{key}: {words}")
        app.exit()

    await app.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
