"""When a store that took no batch counts as back."""

import pytest

from worker.saving import Saving
from worker.session import Held
from worker.stores.port import StoreUnavailableError
from worker.telemetry.health import Health


class Processor:
    """Moves partitions as it is told, and fails if it is told so."""

    def __init__(self) -> None:
        self.steps = []

    async def process(self, session, _commands):
        moves, failure = self.steps.pop(0)
        for partition, offset in moves.items():
            session.held[partition].applied = offset
        if failure is not None:
            raise failure


class Session:
    def __init__(self, **applied) -> None:
        self.held = held(**applied)
        self.lost = False


def held(**applied):
    return {int(name[1:]): Held(owner=1, applied=offset, published=0) for name, offset in applied.items()}


@pytest.fixture
def it():
    processor, health = Processor(), Health()
    saving = Saving(processor, health)
    saving.processor, saving.health = processor, health
    return saving


async def fail(it, session, moves=None):
    it.processor.steps = [(moves or {}, StoreUnavailableError("no"))]
    with pytest.raises(StoreUnavailableError):
        await it.save(session, [])


def unsaved(it) -> bool:
    return "batches_saved" in [check.name for check in it.health.ready()[1] if not check.ok]


async def test_it_fails_until_a_batch_is_saved_and_one_without_effect_is_none(it):
    session = Session(p0=5)
    await fail(it, session)
    assert it.fails
    assert unsaved(it)
    it.processor.steps = [({}, None), ({0: 6}, None), ({0: 7}, None)]
    assert [await it.save(session, []) for _ in range(3)] == [False, True, False]
    assert not it.fails
    assert not unsaved(it)


async def test_parts_that_were_saved_before_the_failure_do_not_end_it(it):
    await fail(it, Session(p0=5, p1=5), {0: 9})
    assert not it.is_over(held(p0=9, p1=5))
    assert it.is_over(held(p0=9, p1=6))


async def test_a_batch_whose_answer_was_lost_and_a_store_that_was_set_back_end_it(it):
    for applied in (6, 3):
        await fail(it, Session(p0=5))
        assert not it.is_over(held(p0=5))
        assert it.is_over(held(p0=applied))


async def test_what_fails_for_partitions_that_were_given_away_counts_for_nothing(it):
    session = Session(p0=5)
    session.lost = True
    await fail(it, session)
    assert not it.fails
    assert not unsaved(it)
