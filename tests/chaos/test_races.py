"""A commit against a takeover: whichever wins, the committed offset is final once the fence has returned."""

import asyncio
import os
import random
import uuid

from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.chaos.judge import outcomes
from tests.integration.harness import make_topics
from worker.encoder import OutgoingRecord
from worker.failures import PublishError
from worker.publisher import Publishers

RACES = int(os.environ.get("USERTASK_TEST_RACES", "60"))
SEED = 20261123
LONGEST_LEAD_S = 0.02


def a_record(topic: str, number: int) -> OutgoingRecord:
    headers = (("ce_causationid", str(number).encode()), ("ce_type", b"race"))
    return OutgoingRecord(topic, b"1", b"{}", headers, 1)


async def race(publishers: Publishers, consumer, records, tp, offset, lead_s: float) -> tuple[bool, list[int | None]]:
    """Commit `offset` and fence the committer meanwhile; return whether it committed, and K as read afterwards."""
    committer = await publishers.start()
    committing = asyncio.create_task(committer.publish(records, {tp: offset}))
    await asyncio.sleep(lead_s)
    await publishers.fence(committer.transactional_id)
    read = [await consumer.committed(tp) for _ in range(5)]
    try:
        await committing
    except PublishError:
        committed = False
    else:
        committed = True
    read.append(await consumer.committed(tp))
    await committer.discard()
    return committed, read


async def all_races(bootstrap_servers, topics) -> list[int]:
    """Race again and again; return the numbers of the races whose commit won."""
    group, tp, moments = f"races-{uuid.uuid4()}", TopicPartition(topics.commands, 0), random.Random(SEED)
    publishers = Publishers({"bootstrap_servers": bootstrap_servers}, group, 1_000_000)
    won: list[int] = []
    async with AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers, group_id=group, enable_auto_commit=False
    ) as consumer:
        consumer.assign([tp])
        for number in range(1, RACES + 1):
            before = won[-1] if won else None
            record = a_record(topics.events, number)
            lead_s = moments.uniform(0, LONGEST_LEAD_S)
            committed, read = await race(publishers, consumer, [record], tp, number, lead_s)
            assert len(set(read)) == 1, f"K moved after the fence: {read}"
            assert read[0] in {number, before}
            assert read[0] == number or not committed
            if read[0] == number:
                won.append(number)
    await publishers.close()
    return won


async def test_the_committed_offset_never_changes_after_the_fence(kafka):
    topics = make_topics(kafka.bootstrap_servers)

    won = await all_races(kafka.bootstrap_servers, topics)

    visible = [int(one.command_id) for one in await asyncio.to_thread(outcomes, kafka.bootstrap_servers, topics)]
    assert visible == won, "what is visible is what was committed"
    assert 0 < len(won) < RACES, "the races are no races: one side always wins"
