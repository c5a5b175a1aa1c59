"""Retention as a background task: it forgets what is old and published, and outlives whatever goes wrong."""

import asyncio
import time

from tests.contract.backends import TOPIC, an_advance, an_outcome, save, take_over
from worker.retention import STEP_OUTCOMES, prune_for_ever, prune_once

DAY_MS = 86_400_000
OUTCOMES = STEP_OUTCOMES + 10


async def some_outcomes(store, *, published: int):
    """Save many outcomes, the last of which was decided just now and all others two days ago."""
    now_ms = time.time_ns() // 1_000_000
    ages_ms = [2 * DAY_MS] * (OUTCOMES - 1) + [0]
    outcomes = [
        an_outcome(offset, offset.to_bytes(16), decided_at_ms=now_ms - age_ms) for offset, age_ms in enumerate(ages_ms)
    ]
    await take_over(store, 0)
    await save(store, [an_advance(0, OUTCOMES)], outcomes=outcomes)
    await store.note_published(TOPIC, {0: 1}, {0: published})


async def left(store) -> int:
    return len(await store.recorded(TOPIC, 0, 0, OUTCOMES, OUTCOMES))


async def test_it_forgets_step_by_step_what_is_older_than_the_retention(store):
    await some_outcomes(store, published=OUTCOMES)

    assert await prune_once(store, 1) == OUTCOMES - 1
    assert await left(store) == 1


async def test_it_forgets_nothing_that_is_not_published(store):
    await some_outcomes(store, published=3)

    assert await prune_once(store, 1) == 3
    assert await left(store) == OUTCOMES - 3


async def test_it_goes_on_after_an_outage_of_the_store(backend):
    async with backend.opened() as store:
        await some_outcomes(store, published=OUTCOMES)
        await store.close()
        pruning = asyncio.create_task(prune_for_ever(store, 1, interval_s=0.01))
        try:
            await asyncio.sleep(0.1)  # some rounds against a closed store
            assert not pruning.done()
            await store.open()
            async with asyncio.timeout(30):
                while await left(store) > 1:  # noqa: ASYNC110 - a database tells nobody
                    await asyncio.sleep(0.02)
        finally:
            pruning.cancel()
