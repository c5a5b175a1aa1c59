"""Retention as a background task: it forgets what is old and published, and outlives whatever goes wrong."""

import asyncio
import re
import time
from contextlib import asynccontextmanager, suppress

import pytest
from structlog.testing import capture_logs

from tests.contract.backends import TOPIC, an_advance, an_outcome, postgres_backend, save, sqlite_backend, take_over
from worker.cli.store import _now_ms
from worker.clocks import Clocks
from worker.retention import STEP_OUTCOMES, Retention
from worker.telemetry.metrics import Metrics

DAY_MS = 86_400_000
OUTCOMES = STEP_OUTCOMES + 10


def clocks(ahead_ms: int = 0) -> Clocks:
    """Give clocks of a worker that has just worked off a command; its own is ahead of all others by so much."""
    both = Clocks(lambda: time.time_ns() // 1_000_000 + ahead_ms)
    both.commands_said([time.time_ns() // 1_000_000])
    return both


@asynccontextmanager
async def pruned_for_ever(store, metrics=None, rounds=0):
    """Prune what is older than a day, again and again, at least for so many rounds."""
    pruning = asyncio.create_task(Retention(store, 1, metrics or Metrics(), clocks()).run(interval_s=0.01))
    try:
        await asyncio.sleep(rounds * 0.1)
        assert not pruning.done()
        yield
    finally:
        pruning.cancel()
        with suppress(asyncio.CancelledError):
            await pruning


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

    assert await Retention(store, 1, Metrics(), clocks()).prune() == OUTCOMES - 1
    assert await left(store) == 1


async def test_it_forgets_nothing_that_is_not_published(store):
    await some_outcomes(store, published=3)

    assert await Retention(store, 1, Metrics(), clocks()).prune() == 3
    assert await left(store) == OUTCOMES - 3


async def test_it_goes_on_after_an_outage_of_the_store(backend):
    async with backend.opened() as store:
        await some_outcomes(store, published=OUTCOMES)
        await store.close()
        async with pruned_for_ever(store, rounds=1):  # against a closed store
            await store.open()
            async with asyncio.timeout(30):
                while await left(store) > 1:  # noqa: ASYNC110 - a database tells nobody
                    await asyncio.sleep(0.02)


async def test_what_is_forgotten_is_counted_and_the_oldest_outcome_that_is_left_has_an_age(store):
    metrics = Metrics()
    await some_outcomes(store, published=3)

    await Retention(store, 1, metrics, clocks()).prune()

    assert metrics.registry.get_sample_value("usertask_outcomes_pruned_total") == 3
    assert metrics.registry.get_sample_value("usertask_retention_seconds") == 86_400
    age_s = metrics.registry.get_sample_value("usertask_oldest_outcome_age_seconds")
    assert 2 * 86_400 <= age_s < 2 * 86_400 + 600


async def test_a_store_without_outcomes_has_no_oldest(store):
    assert await store.oldest_ms() is None
    await take_over(store, 0)
    assert await store.oldest_ms() is None


async def test_a_clock_that_is_eight_days_ahead_forgets_nothing_and_both_clocks_are_told_once(store):
    metrics = Metrics()
    await some_outcomes(store, published=OUTCOMES)
    wrong = Retention(store, 7, metrics, clocks(8 * DAY_MS))

    with capture_logs() as lines:
        assert await wrong.prune() == await wrong.prune() == 0

    assert await left(store) == OUTCOMES
    [told] = lines
    assert (told["event"], told["log_level"]) == ("clocks_differ", "warning")
    assert told["ahead_s"] == pytest.approx(8 * 86_400, abs=60)
    assert re.fullmatch(r"this machine's clock says \S+Z, and the (store|newest command)'s says \S+Z", told["reason"])
    assert metrics.registry.get_sample_value("usertask_clock_ahead_seconds") == pytest.approx(8 * 86_400, abs=60)
    assert await Retention(store, 1, metrics, clocks(8 * DAY_MS)).prune() == OUTCOMES - 1  # as the other clock has it


async def test_a_clock_that_is_behind_forgets_nothing_too_early_either(store):
    await some_outcomes(store, published=OUTCOMES)

    assert await Retention(store, 1, Metrics(), clocks(-8 * DAY_MS)).prune() == 0


async def test_a_store_without_a_clock_forgets_nothing_before_a_command_has_told_the_time(tmp_path):
    async with sqlite_backend(tmp_path).opened() as store:
        await some_outcomes(store, published=OUTCOMES)
        both = Clocks()
        assert await Retention(store, 1, Metrics(), both).prune() == 0

        both.commands_said([-1])
        assert await Retention(store, 1, Metrics(), both).prune() == 0
        both.commands_said([time.time_ns() // 1_000_000])
        assert await Retention(store, 1, Metrics(), both).prune() == OUTCOMES - 1


async def test_the_command_line_goes_by_the_databases_clock_where_this_machines_is_ahead(postgres, monkeypatch, capsys):
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns + 8 * DAY_MS * 1_000_000)
    async with postgres_backend(postgres.url) as backend, backend.opened() as opened:
        assert await _now_ms(opened) == pytest.approx(now_ns // 1_000_000, abs=60_000)
    assert "nothing is forgotten that is not old by both" in capsys.readouterr().err
