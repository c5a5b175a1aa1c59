"""What the port promises, sentence by sentence, of every store."""

import asyncio

import pytest

from schemas.user_task import UserTaskState
from tests.contract.backends import (
    REFUSED_KEY,
    TOPIC,
    a_record,
    a_task,
    an_advance,
    an_outcome,
    save,
    take_over,
)
from worker.encoder import Reply
from worker.stores.port import (
    Adoption,
    Changes,
    First,
    PartitionRow,
    StoreError,
    StoreFencedError,
    StoreRefusedError,
    StoreUnavailableError,
    TooMuchRepeatedError,
    TopicIdentity,
)

INT64_MAX = 2**63 - 1
COMMAND = b"c" * 16


async def row_of(store, partition=0):
    return (await store.partitions(TOPIC, [partition]))[partition]


async def offsets_of(store, partition=0, first=0, end=INT64_MAX, limit=1000):
    return [offset for offset, _ in await store.recorded(TOPIC, partition, first, end, limit)]


async def test_an_open_store_answers(store):
    await store.ping()


async def test_a_partition_that_was_never_taken_over_is_missing(store):
    await store.claim(TOPIC, {1: 0}, "p")

    assert set(await store.partitions(TOPIC, [0, 1])) == {1}
    assert await store.partitions(TOPIC, []) == {}
    assert await store.partitions("other", [1]) == {}


async def test_a_claim_raises_the_count_and_names_the_publisher(store):
    assert await store.claim(TOPIC, {0: 0, 7: 0}, "one") == {0, 7}
    assert await row_of(store, 7) == PartitionRow(owner=1, publisher="one", applied=None, published=None)

    assert await store.claim(TOPIC, {0: 1}, "two") == {0}
    assert await row_of(store) == PartitionRow(owner=2, publisher="two", applied=None, published=None)


async def test_a_claim_wins_each_partition_whose_count_is_as_given_and_no_other(store):
    await store.claim(TOPIC, {0: 0, 1: 0}, "one")
    await store.claim(TOPIC, {1: 1}, "two")

    assert await store.claim(TOPIC, {0: 1, 1: 1, 2: 0, 3: 5}, "three") == {0, 2}
    assert await store.claim(TOPIC, {0: 0}, "four") == set()
    assert await store.claim(TOPIC, {}, "five") == set()
    owners = {number: row.owner for number, row in (await store.partitions(TOPIC, range(4))).items()}
    assert owners == {0: 2, 1: 2, 2: 1}


async def test_a_claim_leaves_progress_alone(store):
    await take_over(store, 0)
    await save(store, [an_advance(0, 5, published=2)])

    await store.claim(TOPIC, {0: 1}, "two")

    assert await row_of(store) == PartitionRow(owner=2, publisher="two", applied=5, published=2)


async def test_the_same_partition_of_another_topic_is_another(store):
    await take_over(store, 0)

    assert await store.claim("other", {0: 0}, "p") == {0}
    assert (await store.partitions("other", [0]))[0].applied is None


async def test_begin_sets_both_offsets(store):
    await store.claim(TOPIC, {0: 0}, "p")
    await store.begin(TOPIC, 0, 1, INT64_MAX)

    assert await row_of(store) == PartitionRow(owner=1, publisher="p", applied=INT64_MAX, published=INT64_MAX)


async def test_begin_is_for_the_present_owner_and_once(store):
    await store.claim(TOPIC, {0: 0}, "p")
    await store.claim(TOPIC, {0: 1}, "q")
    for partition, owner in ((0, 1), (0, 3), (1, 0)):
        with pytest.raises(StoreFencedError):
            await store.begin(TOPIC, partition, owner, 9)
    await store.begin(TOPIC, 0, 2, 5)
    with pytest.raises(StoreFencedError):
        await store.begin(TOPIC, 0, 2, 9)

    assert (await row_of(store)).applied == 5


async def test_apply_writes_progress_tasks_and_outcomes_and_returns_the_changes(store):
    await take_over(store, 0, 1)
    changes = Changes(tasks={1: a_task(1)}, outcomes=[an_outcome(0, COMMAND), an_outcome(3, partition=1)])

    returned = await store.apply(TOPIC, [an_advance(0, 1), an_advance(0, 4, partition=1)], [1], [], lambda _: changes)

    assert returned is changes
    assert await store.task(1) == a_task(1)
    assert [(await row_of(store, number)).applied for number in (0, 1)] == [1, 4]
    assert [await offsets_of(store, number) for number in (0, 1)] == [[0], [3]]


@pytest.mark.parametrize(
    "advance",
    [
        an_advance(0, 1, owner=0),
        an_advance(0, 1, owner=2),
        an_advance(1, 2),
        an_advance(-1, 0),
        an_advance(0, 1, partition=9),
    ],
    ids=["owner past", "owner to come", "applied ahead", "applied behind", "never taken over"],
)
async def test_a_single_advance_that_does_not_hold_fences_the_batch_and_nothing_is_written(store, advance):
    await take_over(store, 0, 1)

    with pytest.raises(StoreFencedError):
        await save(store, [an_advance(0, 1, partition=1), advance], [a_task(1)], [an_outcome(0, COMMAND, partition=1)])

    assert await store.task(1) is None
    assert await offsets_of(store, 1) == []
    assert {row.applied for row in (await store.partitions(TOPIC, [0, 1])).values()} == {0}


async def test_a_partition_that_has_not_begun_cannot_advance(store):
    await store.claim(TOPIC, {0: 0}, "p")

    with pytest.raises(StoreFencedError):
        await save(store, [an_advance(0, 1)])


async def test_an_exception_in_decide_comes_out_and_nothing_is_written(store):
    await take_over(store, 0)

    with pytest.raises(ZeroDivisionError):
        await store.apply(TOPIC, [an_advance(0, 1)], [1], [COMMAND], lambda _: 1 // 0)

    assert (await row_of(store)).applied == 0
    await save(store, [an_advance(0, 1)])


async def test_an_apply_that_is_cancelled_happens_as_a_whole_or_not_at_all(store):
    await take_over(store, 0)
    loop = asyncio.get_running_loop()

    def decide(_):
        loop.call_soon_threadsafe(work.cancel)
        return Changes(tasks={1: a_task(1)}, outcomes=[an_outcome(0, COMMAND)])

    work = asyncio.create_task(store.apply(TOPIC, [an_advance(0, 1)], [1], [COMMAND], decide))
    await asyncio.wait({work})

    applied = (await row_of(store)).applied
    assert [await store.task(1) is not None, await offsets_of(store)] == [bool(applied), [0] * applied]


async def test_apply_decides_on_what_earlier_batches_left(store):
    await take_over(store, 0)
    assert (await save(store, [an_advance(0, 1)], [a_task(1), a_task(2)], [an_outcome(0, COMMAND)])).tasks == {}
    changed = a_task(1, 2, state=UserTaskState.COMPLETED, variables={"a": 1}, ended_at_ms=2)
    await save(store, [an_advance(1, 2)], [changed])
    seen = []

    await store.apply(TOPIC, [an_advance(2, 3)], [1, 3], [COMMAND, b"d" * 16], lambda s: seen.append(s) or Changes())

    assert dict(seen[-1].tasks) == {1: changed}
    assert dict(seen[-1].fingerprints) == {COMMAND: b"f" * 16}
    assert await store.task(2) == a_task(2)


async def test_apply_may_load_and_change_nothing_and_still_advances(store):
    await take_over(store, 0)

    snapshot = await save(store, [an_advance(0, 1)])

    assert (snapshot.tasks, snapshot.fingerprints) == ({}, {})
    assert (await row_of(store)).applied == 1


async def test_any_number_of_outcomes_may_occupy_no_command_id(store):
    await take_over(store, 0)

    await save(store, [an_advance(0, 2)], outcomes=[an_outcome(0), an_outcome(1)])

    assert await offsets_of(store) == [0, 1]


async def test_a_command_id_is_occupied_once_in_the_whole_store(store):
    await take_over(store, 0, 1)
    await save(store, [an_advance(0, 1)], outcomes=[an_outcome(0, COMMAND)])

    with pytest.raises(StoreError):
        await save(store, [an_advance(0, 1, partition=1)], outcomes=[an_outcome(0, COMMAND, partition=1)])

    assert await offsets_of(store, 1) == []
    assert (await row_of(store, 1)).applied == 0


async def test_apply_notes_what_is_published_and_never_lowers_it(store):
    await take_over(store, 0)
    for step, (published, expected) in enumerate([(0, 0), (2, 2), (1, 2), (3, 3)]):
        await save(store, [an_advance(step, step + 1, published=published)])
        assert (await row_of(store)).published == expected


async def test_a_thousand_commands_of_many_tasks_fit_in_a_batch(store):
    await take_over(store, 0)
    keys = [number.to_bytes(16, "big") for number in range(1000, 0, -1)]

    await save(
        store, [an_advance(0, 1000)], [a_task(-key) for key in range(1000)], [an_outcome(*o) for o in enumerate(keys)]
    )

    seen = []
    decide = lambda snapshot: seen.append(snapshot) or Changes()  # noqa: E731 - as short as what it does
    await store.apply(TOPIC, [an_advance(1000, 1001)], range(-999, 1), keys, decide)
    assert (len(seen[-1].tasks), len(seen[-1].fingerprints)) == (1000, 1000)
    assert await offsets_of(store) == list(range(1000))


@pytest.mark.parametrize("key", [INT64_MAX, -INT64_MAX - 1, 0])
async def test_a_task_comes_back_as_it_was(store, key):
    variables = {
        "big": 10**3999,
        "order": {"z": 1, "a": [1.5, 1e-300, None, True, "ü\U0001f600\x7f"]},
        "": "",
        "1.0": 1.0,
    }
    ended = a_task(
        key, state=UserTaskState.CANCELED, attributes='{"name":"ß"}', variables=variables, ended_at_ms=INT64_MAX
    )
    await take_over(store, 0)
    await save(store, [an_advance(0, 1)], [ended])

    found = await store.task(key)

    assert found == ended
    assert list(found.variables) == list(variables)
    assert [type(value) for value in found.variables.values()] == [int, dict, str, float]


async def test_the_first_outcomes_of_those_that_ask_are_loaded_and_no_others(store):
    await take_over(store, 0)
    commands = [bytes([number]) * 16 for number in range(4)]
    outcomes = [an_outcome(offset, key, status=400 + offset) for offset, key in enumerate(commands[:3])]
    outcomes[1].records = (a_record(b"first", topic="rejections"), a_record(b"letter"))
    await save(store, [an_advance(0, 3)], outcomes=outcomes)

    snapshots = []

    def decide(snapshot):
        snapshots.append(snapshot)
        return Changes()

    await store.apply(TOPIC, [an_advance(3, 4)], [], commands, decide, [commands[1], commands[3]])
    await store.apply(TOPIC, [an_advance(4, 5)], [], commands, decide)

    assert snapshots[0].first == {commands[1]: First(401, a_record(b"first", topic="rejections"))}
    assert set(snapshots[0].fingerprints) == set(commands[:3])
    assert snapshots[1].first == {}


async def test_a_batch_may_load_very_many_first_outcomes(store):
    await take_over(store, 0)
    commands = [number.to_bytes(16) for number in range(12_000)]
    await save(store, [an_advance(0, 12_000)], outcomes=[an_outcome(at, key) for at, key in enumerate(commands)])
    found = []

    def decide(snapshot):
        found.append(snapshot.first.keys())
        return Changes()

    await store.apply(TOPIC, [an_advance(12_000, 12_001)], [], commands, decide, set(commands))

    assert found == [set(commands)]


async def test_first_outcomes_that_are_too_much_together_are_loaded_one_by_one_only(store):
    await take_over(store, 0)
    commands = [b"a" * 16, b"b" * 16]
    large = a_record(b"x" * 20 * 1024 * 1024)
    await save(
        store, [an_advance(0, 2)], outcomes=[an_outcome(at, key, records=(large,)) for at, key in enumerate(commands)]
    )
    found = []

    def decide(snapshot):
        found.append(snapshot.first)
        return Changes()

    with pytest.raises(TooMuchRepeatedError):
        await store.apply(TOPIC, [an_advance(2, 3)], [], commands, decide, commands)
    assert (found, (await row_of(store)).applied) == ([], 2)
    for applied, key in enumerate(commands, 2):
        await store.apply(TOPIC, [an_advance(applied, applied + 1)], [], commands, decide, [key])

    assert found == [{key: First(204, large)} for key in commands]


async def test_a_duplicates_reply_has_a_row_without_an_id_beside_the_first_outcomes(store):
    await take_over(store, 0)
    reply = Reply._make((*a_record()[:5], 1))
    rows = [an_outcome(0, COMMAND), an_outcome(1, command_id="id-0", records=(reply,))]
    await save(store, [an_advance(0, 2)], outcomes=rows)

    [(_, first), (_, second)] = await store.recorded(TOPIC, 0, 0, 2, 10)

    assert (first, second) == ([a_record()], [reply])
    assert [type(one) for one in (*first, *second)] == [type(a_record()), Reply]
    await store.note_published(TOPIC, {0: 1}, {0: 2})
    assert await store.prune(INT64_MAX, 10) == 2


async def test_what_deciding_raises_is_passed_on_and_nothing_is_written(store):
    await take_over(store, 0)

    def decide(_):
        raise TooMuchRepeatedError

    with pytest.raises(TooMuchRepeatedError):
        await store.apply(TOPIC, [an_advance(0, 1)], [], [], decide)

    assert (await row_of(store)).applied == 0
    await save(store, [an_advance(0, 1)])


async def test_a_task_that_is_not_there_is_none(store):
    assert await store.task(1) is None


async def test_outgoing_records_come_back_byte_for_byte(store):
    records = (
        a_record(bytes(range(256)) * 100, key=None, headers=(("a", None), ("a", b""), ("ü", b"\x00\xff")), partition=3),
        a_record(None, key=b"", headers=(), timestamp_ms=INT64_MAX),
        a_record(b""),
    )
    await take_over(store, 0)
    await save(store, [an_advance(0, 2)], outcomes=[an_outcome(0, records=records), an_outcome(1, records=())])

    assert await store.recorded(TOPIC, 0, 0, 2, 10) == [(0, list(records)), (1, [])]


async def test_recorded_gives_a_range_in_offset_order_up_to_the_limit(store):
    await take_over(store, 0, 1)
    outcomes = [an_outcome(offset, bytes([9 - offset]) * 16) for offset in (0, 2, 3, 5, 7)]
    await save(store, [an_advance(0, 8), an_advance(0, 5, partition=1)], outcomes=[*outcomes, an_outcome(4, None, 1)])

    assert await offsets_of(store) == [0, 2, 3, 5, 7]
    assert await offsets_of(store, first=2, end=7) == [2, 3, 5]
    assert await offsets_of(store, first=1, limit=2) == [2, 3]
    assert await offsets_of(store, first=8) == []
    assert await offsets_of(store, partition=1) == [4]
    assert await offsets_of(store, partition=2) == []


async def test_published_is_raised_and_never_lowered(store):
    await take_over(store, 0, 1)

    for published in ({0: 3, 1: 4}, {0: 2}, {}):
        await store.note_published(TOPIC, {0: 1, 1: 1}, published)

    assert [(await row_of(store, number)).published for number in (0, 1)] == [3, 4]
    assert (await row_of(store)).applied == 0


async def test_published_is_left_alone_where_another_owns_the_partition(store):
    await take_over(store, 0, 1)
    await store.claim(TOPIC, {0: 1}, "two")

    await store.note_published(TOPIC, {0: 1, 1: 1, 9: 1}, {0: 3, 1: 4, 9: 5})

    rows = await store.partitions(TOPIC, [0, 1, 9])
    assert {number: row.published for number, row in rows.items()} == {0: 0, 1: 4}


async def test_published_stays_none_where_nothing_has_begun(store):
    await store.claim(TOPIC, {0: 0}, "p")

    await store.note_published(TOPIC, {0: 1}, {0: 3})

    assert (await row_of(store)).published is None


async def outcomes_at(store, *decided_at_ms, partition=0):
    outcomes = [
        an_outcome(offset, bytes([offset, partition]) * 8, partition, decided_at_ms=instant)
        for offset, instant in enumerate(decided_at_ms)
    ]
    await save(store, [an_advance(0, len(outcomes), partition)], outcomes=outcomes)


async def test_prune_forgets_what_is_old_and_published_up_to_the_limit(store):
    await take_over(store, 0)
    await outcomes_at(store, 10, 20, 30, 40, 50)
    await store.note_published(TOPIC, {0: 1}, {0: 4})

    assert await store.prune(31, 2) == 2
    assert await offsets_of(store) == [2, 3, 4]
    assert await store.prune(31, 2) == 1
    assert await store.prune(31, 2) == 0
    assert await offsets_of(store) == [3, 4]


async def test_prune_never_forgets_an_unpublished_outcome_nor_one_decided_at_the_instant(store):
    await take_over(store, 0)
    await outcomes_at(store, 10, 20, 30)
    await store.note_published(TOPIC, {0: 1}, {0: 2})

    assert await store.prune(20, 100) == 1
    assert await store.prune(1000, 100) == 1
    assert await offsets_of(store) == [2]


async def test_a_partition_that_nobody_publishes_does_not_keep_the_others_from_being_pruned(store):
    await take_over(store, 0, 1)
    await outcomes_at(store, 10, 20, 30)
    await outcomes_at(store, 10, 20, 30, partition=1)
    await store.note_published(TOPIC, {1: 1}, {1: 3})

    assert await store.prune(1000, 2) == 2


async def test_a_forgotten_command_id_is_free_again(store):
    await take_over(store, 0)
    await save(store, [an_advance(0, 1)], outcomes=[an_outcome(0, COMMAND)])
    await store.note_published(TOPIC, {0: 1}, {0: 1})
    await store.prune(1000, 100)

    snapshot = await save(store, [an_advance(1, 2)], outcomes=[an_outcome(1, COMMAND)])

    assert snapshot.fingerprints == {}
    assert await offsets_of(store) == [1]


async def test_pruning_spares_the_tasks(store):
    await take_over(store, 0)
    await save(store, [an_advance(0, 1)], [a_task(1)], [an_outcome(0)])
    await store.note_published(TOPIC, {0: 1}, {0: 1})

    assert await store.prune(1000, 100) == 1
    assert await store.task(1) == a_task(1)


async def test_everything_is_there_after_reopening(backend):
    async with backend.opened() as store:
        await take_over(store, 0)
        await save(store, [an_advance(0, 1)], [a_task(1)], [an_outcome(0, COMMAND)])
        rows = await store.partitions(TOPIC, [0])

    async with backend.opened() as store:
        assert await store.partitions(TOPIC, [0]) == rows
        assert await store.task(1) == a_task(1)
        assert (await save(store, [an_advance(1, 2)], outcomes=[])).fingerprints == {}
        assert await store.recorded(TOPIC, 0, 0, 9, 9) == [(0, [a_record()])]
        seen = []
        await store.apply(TOPIC, [an_advance(2, 3)], [], [COMMAND], lambda s: seen.append(s) or Changes())
        assert set(seen[0].fingerprints) == {COMMAND}


async def test_rows_that_the_database_refuses_are_refused_and_the_rest_of_the_batch_can_still_be_written(
    backend, store
):
    await backend.refuse_one_key()
    await take_over(store, 0)

    with pytest.raises(StoreRefusedError) as refused:
        await save(store, [an_advance(0, 2)], [a_task(1), a_task(REFUSED_KEY)], [an_outcome(0, COMMAND)])

    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert await store.task(1) is None
    assert (await row_of(store)).applied == 0
    await save(store, [an_advance(0, 1)], [a_task(1)], [an_outcome(0, COMMAND)])


async def test_a_number_that_no_column_holds_is_refused(store):
    await take_over(store, 0)

    with pytest.raises(StoreRefusedError) as refused:
        await save(store, [an_advance(0, 1)], [a_task(1, created_at_ms=2**63)])

    assert str(2**63) not in str(refused.value)
    assert (await row_of(store)).applied == 0


@pytest.mark.parametrize("times", [0, 1, 2])
async def test_closing_never_raises_and_a_store_that_is_not_open_is_unavailable(backend, times):
    store = backend.make()
    if times:
        await store.open()
    for _ in range(times):
        await store.close()

    for ask in (
        store.ping(),
        store.task(1),
        store.partitions(TOPIC, [0]),
        store.claim(TOPIC, {0: 0}, "p"),
        store.begin(TOPIC, 0, 1, 0),
        save(store, [an_advance(0, 1)]),
        store.recorded(TOPIC, 0, 0, 1, 1),
        store.note_published(TOPIC, {0: 1}, {0: 1}),
        store.prune(1, 1),
        store.oldest_ms(),
    ):
        with pytest.raises(StoreUnavailableError):
            await ask
    await store.close()


# which topic it is, and what is blocked

HERE = TopicIdentity(cluster_id="cluster", topic_id="topic")
ANEW = TopicIdentity(cluster_id="cluster", topic_id="topic made anew")


async def test_the_owner_notes_which_topic_it_is_and_why_it_does_not_run_it(store):
    await take_over(store, 0, 1)
    await store.claim(TOPIC, {1: 1}, "another")

    await store.identify(TOPIC, {0: 1, 1: 1}, HERE)
    await store.note_blocked(TOPIC, {0: 1, 1: 1}, {0: "store_behind: …", 1: "no_leader: …"})

    rows = await store.partitions(TOPIC, [0, 1])
    assert (rows[0].identity, rows[0].blocked_because) == (HERE, "store_behind: …")
    assert (rows[1].identity, rows[1].blocked_because) == (None, None)
    await store.note_blocked(TOPIC, {0: 1}, {0: None})
    assert (await row_of(store)).blocked_because is None


async def test_where_records_were_found_to_be_lost_is_noted_once_and_by_the_owner(store):
    await take_over(store, 0, 1)
    await store.claim(TOPIC, {1: 1}, "another")

    for end in (7, 5, 9):
        await store.note_lost(TOPIC, {0: 1, 1: 1}, {0: end, 1: end})

    assert {number: row.lost_at for number, row in (await store.partitions(TOPIC, [0, 1])).items()} == {0: 7, 1: None}


def an_adoption(start, applied=5, known=None):
    return Adoption(applied=applied, known=known, start=start)


async def test_an_adopted_topic_begins_anew_under_a_new_owner_count_and_other_partitions_stay(store):
    await take_over(store, 0, 1, 2)
    await store.identify(TOPIC, {0: 1, 1: 1, 2: 1}, HERE)
    await store.note_lost(TOPIC, {0: 1}, {0: 3})
    await save(store, [an_advance(0, 5, number) for number in range(3)], outcomes=[an_outcome(3)])
    kept = await row_of(store, 2)

    await store.adopt(TOPIC, ANEW, {0: an_adoption(40, known=HERE), 1: an_adoption(None, known=HERE)})

    rows = await store.partitions(TOPIC, [0, 1, 2])
    assert rows == {
        0: PartitionRow(owner=2, publisher=kept.publisher, applied=40, published=40, identity=ANEW),
        2: kept,
    }
    assert await offsets_of(store) == []
    with pytest.raises(StoreFencedError):
        await save(store, [an_advance(5, 6)])


@pytest.mark.parametrize("adoption", [an_adoption(0, applied=4), an_adoption(0, known=HERE)])
async def test_nothing_is_adopted_if_a_row_is_not_what_the_caller_believes(store, adoption):
    await take_over(store, 0, 1)
    await save(store, [an_advance(0, 5, number) for number in range(2)])
    before = await store.partitions(TOPIC, [0, 1])

    with pytest.raises(StoreFencedError):
        await store.adopt(TOPIC, ANEW, {0: an_adoption(0), 1: adoption})

    assert await store.partitions(TOPIC, [0, 1]) == before


async def test_after_an_adoption_command_ids_stay_known_but_for_those_that_are_positions(store):
    named, by_position = b"n" * 16, b"p" * 16
    await take_over(store, 0)
    outcomes = [
        an_outcome(3, named, command_id="a command"),
        an_outcome(4, by_position, command_id=f"{TOPIC}/0/4"),
    ]
    await save(store, [an_advance(0, 5)], outcomes=outcomes)

    await store.adopt(TOPIC, ANEW, {0: an_adoption(0)})

    known = {}

    def look(snapshot):
        known.update(snapshot.fingerprints)
        return Changes()

    await store.apply(TOPIC, [an_advance(0, 1, owner=2)], [], [named, by_position], look)
    assert known.keys() == {named}


async def test_what_was_set_aside_is_forgotten_by_the_retention_and_may_be_adopted_again(store):
    await take_over(store, 0)
    await save(store, [an_advance(0, 5)], outcomes=[an_outcome(3)])
    await store.adopt(TOPIC, ANEW, {0: an_adoption(0)})
    await store.adopt(TOPIC, HERE, {0: an_adoption(7, applied=0, known=ANEW)})

    assert await store.prune(2**60, 10) == 1
    assert (await row_of(store)).applied == 7
