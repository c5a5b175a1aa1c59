"""What is told of batches and of changes of state: counts, lines and health."""

import time
from collections import Counter
from types import SimpleNamespace

import pytest
from aiokafka.errors import KafkaError
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from schemas.problem import PROBLEMS, Problem
from schemas.user_task import UserTaskState
from tests.unit.records import ARecord
from worker.batch import Report, broken, decode_all
from worker.blocked import Blocked
from worker.decoder import UndecodableRecord
from worker.lifecycle import LIFE_CYCLE, STATE_AFTER, Refusal, StoredTask, Transition
from worker.reach import Reach
from worker.reporting import Reporter
from worker.session import Decided, Held, SessionLostError
from worker.stores.port import StoreUnavailableError
from worker.telemetry.health import Health
from worker.telemetry.metrics import Metrics
from worker.telemetry.sampling import Allowance
from worker.telemetry.tracing import Tracing

LINES_A_SECOND = 200
BLOCKED = Blocked(cause="store_behind", reason="Use the right store.", retry_s=30)


class Bench:
    def __init__(self) -> None:
        self.metrics, self.health = Metrics(), Health()
        self.reporter = Reporter("commands", "group", self.metrics, self.health, Tracing("commands", "group"))

    def sample(self, series: str) -> float:
        lines = generate_latest(self.metrics.registry).decode().splitlines()
        return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.rsplit(" ", 1)[0] == series)

    def has(self, text: str) -> bool:
        return text in generate_latest(self.metrics.registry).decode()

    def refuse(self, problem: Problem, times: int = 1) -> None:
        refusal = Refusal(problem=problem, detail="No.")
        refusals = [(broken(ARecord(offset=offset)).received, refusal) for offset in range(times)]
        self.reporter.saved(times, Report(refusals=refusals), 0.01)


@pytest.fixture
def it() -> Bench:
    return Bench()


def transition(state: UserTaskState) -> Transition:
    [event_type] = {event for event in LIFE_CYCLE.values() if STATE_AFTER[event] == state}
    task = StoredTask(user_task_key=1, state=state, version=1, attributes="{}", variables={}, created_at_ms=1)
    return Transition(event_type=event_type, task=task, action="create", variables={})


def test_replies_that_the_decision_left_out_are_counted_and_logged_with_topic_and_reason(it: Bench) -> None:
    left_out = Counter({("a", "not allowed"): 2, ("b?", "no topic's name"): 1})
    with capture_logs() as lines:
        it.reporter.saved(3, Report(left_out=left_out), 0.01)
        it.reporter.saved(3, Report(), 0.01)

    assert it.sample("usertask_replies_ignored_total") == 3
    [line] = [line for line in lines if line["event"] == "replies_left_out"]
    assert (line["replies"], line["by"]) == (3, {"a: not allowed": 2, "b?: no topic's name": 1})


def test_a_damaged_batch_that_is_skipped_is_a_dead_letter_and_a_line_and_no_rejection(it: Bench) -> None:
    [skipped] = decode_all([UndecodableRecord("commands", 0, 9, first=4, detail="It is lost.")])
    with capture_logs() as lines:
        it.reporter.saved(1, Report(stepped_over=[skipped]), 0.01)

    assert it.sample('usertask_dead_letters_total{error_type="damaged-batch"}') == 1
    assert it.sample('usertask_commands_total{outcome="rejected",status="500"}') == 0
    [line] = [line for line in lines if line["event"] == "damaged_batch_skipped"]
    assert (line["position"], line["detail"]) == ("commands/0/9", "It is lost.")


def test_a_batch_is_counted_by_outcome(it: Bench) -> None:
    states = [UserTaskState.CREATED] * 3 + [UserTaskState.CANCELED]
    it.reporter.saved(6, Report(transitions=[transition(state) for state in states], duplicates=2), 0.01)
    assert it.sample('usertask_commands_total{outcome="created",status="204"}') == 3
    assert it.sample('usertask_commands_total{outcome="canceled",status="204"}') == 1
    assert it.sample("usertask_duplicates_total") == 2
    assert it.sample("usertask_commands_in_progress") == 6


@pytest.mark.parametrize("problem", Problem)
def test_a_refusal_is_counted_by_status_and_problem_in_series_that_were_there_before(problem: Problem) -> None:
    it = Bench()
    series = f'usertask_commands_total{{outcome="rejected",status="{PROBLEMS[problem].status}"}}'
    assert it.sample(series) == it.sample(f'usertask_rejections_total{{error_type="{problem}"}}') == 0
    it.refuse(problem, 2)
    assert it.sample(series) == it.sample(f'usertask_rejections_total{{error_type="{problem}"}}') == 2


def test_a_rejection_is_a_line_with_position_id_and_problem_and_nothing_else(it: Bench) -> None:
    with capture_logs() as lines:
        it.refuse(Problem.NOT_FOUND)
    [line] = [line for line in lines if line["log_level"] != "debug"]
    assert line == {
        "event": "command_rejected",
        "log_level": "info",
        "position": "commands/0/0",
        "command_id": "commands/0/0",
        "problem": "not-found",
    }


@pytest.mark.parametrize(
    ("problem", "event", "summary"),
    [
        (Problem.NOT_FOUND, "command_rejected", "rejections_not_logged"),
        (Problem.MALFORMED_COMMAND, "command_dead_lettered", "dead_letters_not_logged"),
    ],
)
def test_a_flood_is_logged_in_part_and_counted_in_full(it: Bench, problem: Problem, event: str, summary: str) -> None:
    with capture_logs() as lines:
        it.refuse(problem, 150)
        it.refuse(problem, 1000)
        it.reporter.tell_withheld(at_once=True)
        it.reporter.tell_withheld(at_once=True)
    assert Counter(line["event"] for line in lines)[event] == LINES_A_SECOND
    assert [line["commands"] for line in lines if line["event"] == summary] == [950]
    assert it.sample(f'usertask_rejections_total{{error_type="{problem}"}}') == 1150


def test_rejections_leave_room_for_dead_letters(it: Bench) -> None:
    with capture_logs() as lines:
        it.refuse(Problem.NOT_FOUND, 1000)
        it.refuse(Problem.INTERNAL)
    assert Counter(line["event"] for line in lines)["command_dead_lettered"] == 1


def test_telling_of_a_flood_costs_little(it: Bench) -> None:
    """Under a microsecond a command; a command as a whole costs some fifty."""
    refusals = [(broken(ARecord()).received, Refusal(problem=Problem.NOT_FOUND, detail="No."))] * 1000
    it.refuse(Problem.NOT_FOUND, LINES_A_SECOND)
    report = Report(refusals=refusals, transitions=[transition(UserTaskState.CREATED)] * 1000)
    costs_s = []
    for _ in range(20):
        started_s = time.process_time()
        it.reporter.saved(2000, report, 0.01)
        costs_s.append(time.process_time() - started_s)
    assert sorted(costs_s)[10] < 0.002


def test_the_allowance_is_renewed_each_second_and_tells_once_what_it_withheld() -> None:
    now = [100.0]
    allowance = Allowance(3, clock=lambda: now[0])
    assert (allowance.take(2), allowance.take(2), allowance.take(2)) == (2, 1, 0)
    assert allowance.withheld() == 0
    now[0] = 101.0
    assert (allowance.withheld(), allowance.withheld()) == (3, 0)
    assert allowance.take(5) == 3
    assert allowance.withheld(at_once=True) == 2


def test_what_is_published_is_measured_and_no_longer_in_progress(it: Bench) -> None:
    it.reporter.saved(3, Report(duplicates=3), 0.01)
    now_ms = int(time.time() * 1000)
    records = [SimpleNamespace(topic="events"), SimpleNamespace(topic="events"), SimpleNamespace(topic="rejections")]
    it.reporter.published(
        Decided(outcomes=[(0, 2, records)], offsets={0: 2}, timestamps_ms=[now_ms, now_ms - 7000]), 0.2
    )
    assert it.sample("usertask_commands_in_progress") == 1
    assert it.sample('usertask_command_latency_seconds_bucket{le="10.0"}') == 2
    assert it.sample('usertask_command_latency_seconds_bucket{le="5.0"}') == 1
    sent = 'messaging_operation_name="send",messaging_system="kafka"'
    topic = 'messaging_destination_name="events"'
    assert it.sample(f"messaging_client_sent_messages_total{{{topic},{sent}}}") == 2


def test_a_pause_has_a_reason_and_an_end(it: Bench) -> None:
    with capture_logs() as lines:
        it.reporter.failed(StoreUnavailableError("away"), first=True)
        it.reporter.failed(StoreUnavailableError("away"), first=False)
        assert it.sample('usertask_consumer_paused{reason="store"}') == 1
        assert not it.health.ready()[0]
        it.reporter.taken_over([1, 0], "publisher-1", {})
        assert it.sample('usertask_consumer_paused{reason="store"}') == 1
        it.reporter.resumed()
        it.reporter.taken_over([1, 0], "publisher-2", {})
        it.reporter.resumed()
    assert it.sample('usertask_consumer_paused{reason="store"}') == 0
    assert it.sample('usertask_retries_total{reason="store"}') == 2
    assert [line["event"] for line in lines] == [
        "consumer_paused",
        "partitions_taken_over",
        "consumer_resumed",
        "partitions_taken_over",
    ]


def test_nothing_resumes_where_every_partition_is_refused(it: Bench) -> None:
    it.reporter.failed(StoreUnavailableError("away"), first=True)
    with capture_logs() as lines:
        it.reporter.taken_over([], "publisher-1", {1: BLOCKED})
        it.reporter.resumed()
        assert [line["event"] for line in lines] == ["partition_refused"]
        it.reporter.taken_over([1], "publisher-2", {})
        it.reporter.resumed()
    assert [line["event"] for line in lines[1:]] == [
        "partition_unblocked",
        "partitions_taken_over",
        "consumer_resumed",
    ]


def test_a_worker_without_partitions_is_not_paused_for_ever(it: Bench) -> None:
    it.reporter.failed(SessionLostError("lost"), first=True)
    assert it.sample('usertask_consumer_paused{reason="kafka"}') == 1
    it.reporter.standing_by()
    assert it.sample('usertask_consumer_paused{reason="kafka"}') == 0


def test_a_fetch_that_fails_makes_it_unready_and_shows_as_a_pause_beside_any_other(it: Bench) -> None:
    it.reporter.assigned([])
    it.reporter.taken_over([0], "publisher", {1: BLOCKED})
    it.reporter.resumed()
    with capture_logs() as lines:
        for first in (True, False, False):
            it.reporter.poll_failed(KafkaError("no"), first=first)
        assert "commands_fetched" in [check.name for check in it.health.ready()[1] if not check.ok]
        assert it.sample('usertask_consumer_paused{reason="kafka"}') == 1
        assert it.sample('usertask_consumer_paused{reason="refused"}') == 1
        it.reporter.poll_resumed()
    assert [line["event"] for line in lines] == ["poll_failed", "poll_resumed"]
    assert "commands_fetched" not in [check.name for check in it.health.ready()[1] if not check.ok]
    assert it.sample('usertask_consumer_paused{reason="kafka"}') == 0
    assert it.sample('usertask_consumer_paused{reason="refused"}') == 1


def test_a_blocked_partition_is_told_once_and_shown_for_as_long_as_it_lasts(it: Bench) -> None:
    series = 'usertask_partition_blocked{cause="store_behind",partition="1",topic="commands"}'
    with capture_logs() as lines:
        it.reporter.taken_over([0], "publisher", {1: BLOCKED})
        it.reporter.taken_over([0], "publisher", {1: BLOCKED})
        it.reporter.resumed()
        assert it.sample('usertask_consumer_paused{reason="refused"}') == it.sample(series) == 1
        [check] = [check for check in it.health.ready()[1] if check.name == "partitions_unblocked"]
        assert (check.ok, check.detail) == (False, "partition 1: store_behind: Use the right store.")
        it.reporter.taken_over([0, 1], "publisher", {})
        it.reporter.resumed()
    assert it.sample('usertask_consumer_paused{reason="refused"}') == 0
    unblocked = 'usertask_partition_blocked{cause="none",partition="1",topic="commands"}'
    assert it.sample(unblocked) == 0
    assert not it.has(series)
    it.reporter.lost({0: None, 1: None}, None)
    assert not it.has("usertask_partition_blocked{")
    assert [line["event"] for line in lines if "taken_over" not in line["event"]] == [
        "partition_refused",
        "partition_unblocked",
    ]


def test_a_worker_that_has_lost_its_blocked_partition_shows_none(it: Bench) -> None:
    it.reporter.taken_over([], "publisher", {1: BLOCKED})
    it.reporter.standing_by()
    assert not it.has("usertask_partition_blocked{")
    assert "partitions_unblocked" not in [check.name for check in it.health.ready()[1] if not check.ok]


def test_the_series_of_lost_partitions_go_and_the_fence_is_counted(it: Bench) -> None:
    held = {0: Held(owner=1, applied=7, published=5), 1: Held(owner=1, applied=0, published=0)}
    it.reporter.taken_over(held, "publisher", {})
    it.reporter.saved(2, Report(), 0.01)
    it.reporter.stands(held, {0: Reach(handed_out=7, position=7, stable_end=9, end=9, is_recent=True)})
    assert it.sample('usertask_consumer_lag{partition="0",topic="commands"}') == 4
    assert it.sample('usertask_unpublished{partition="0",topic="commands"}') == 2
    it.reporter.lost(held, "store")
    assert not it.has("usertask_consumer_lag{")
    assert not it.has("usertask_unpublished{")
    assert it.sample("usertask_assigned_partitions") == it.sample("usertask_commands_in_progress") == 0
    assert it.sample('usertask_fenced_total{by="store"}') == 1


def test_an_allowance_may_begin_with_more_than_it_lasts_for() -> None:
    now = [100.0]
    allowance = Allowance(20, 3, clock=lambda: now[0])
    taken = []
    for now[0] in (100.0, 101.0, 102.0, 104.0, 200.0, 201.0):
        taken.append(allowance.take(50))
    assert taken == [20, 3, 3, 6, 20, 3]
