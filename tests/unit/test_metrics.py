"""The worker's metrics, as a scrape shows them."""

import pytest
from prometheus_client import Histogram, generate_latest

from worker.telemetry.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def exposition(metrics: Metrics) -> list[str]:
    return generate_latest(metrics.registry).decode().splitlines()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("usertask_commands_total", "counter"),
        ("usertask_duplicates_total", "counter"),
        ("usertask_replies_ignored_total", "counter"),
        ("usertask_takeovers_total", "counter"),
        ("usertask_fenced_total", "counter"),
        ("usertask_dead_letters_total", "counter"),
        ("usertask_rejections_total", "counter"),
        ("usertask_consumer_lag", "gauge"),
        ("usertask_unpublished", "gauge"),
        ("usertask_assigned_partitions", "gauge"),
        ("usertask_consumer_paused", "gauge"),
        ("usertask_last_published_timestamp_seconds", "gauge"),
        ("usertask_command_latency_seconds", "histogram"),
        ("usertask_batch_records", "histogram"),
        ("usertask_loop_lag_seconds", "histogram"),
        ("usertask_commands_in_progress", "gauge"),
        ("usertask_rebalances_total", "counter"),
        ("usertask_retries_total", "counter"),
        ("usertask_store_transaction_seconds", "histogram"),
        ("usertask_kafka_transaction_seconds", "histogram"),
        ("usertask_build_info", "gauge"),
    ],
)
def test_each_metric_is_exposed_under_its_name(metrics: Metrics, name: str, kind: str) -> None:
    assert f"# TYPE {name} {kind}" in exposition(metrics)


@pytest.mark.parametrize(
    "series",
    [
        'usertask_commands_total{outcome="created",status="204"}',
        'usertask_commands_total{outcome="completed",status="204"}',
        'usertask_commands_total{outcome="canceled",status="204"}',
        'usertask_commands_total{outcome="rejected",status="400"}',
        'usertask_commands_total{outcome="rejected",status="404"}',
        'usertask_commands_total{outcome="rejected",status="409"}',
        'usertask_commands_total{outcome="rejected",status="500"}',
        'usertask_dead_letters_total{error_type="malformed-command"}',
        'usertask_dead_letters_total{error_type="internal"}',
        'usertask_rejections_total{error_type="command-id-reused"}',
        'usertask_fenced_total{by="store"}',
        'usertask_fenced_total{by="kafka"}',
        'usertask_consumer_paused{reason="refused"}',
        'usertask_retries_total{reason="store"}',
        "usertask_duplicates_total",
        "usertask_command_latency_seconds_count",
    ],
)
def test_series_known_beforehand_start_at_zero(metrics: Metrics, series: str) -> None:
    assert f"{series} 0.0" in exposition(metrics)


def test_a_command_is_counted_by_outcome_and_status(metrics: Metrics) -> None:
    metrics.commands_total.labels("rejected", "404").inc(2)
    metrics.commands_total.labels(outcome="rejected", status=404).inc()
    assert 'usertask_commands_total{outcome="rejected",status="404"} 3.0' in exposition(metrics)


def test_batches_are_measured_in_the_steps_agreed(metrics: Metrics) -> None:
    metrics.batch_records.observe(150)
    steps = [line.split('le="')[1].split('"')[0] for line in exposition(metrics) if "batch_records_bucket" in line]
    assert [float(step) for step in steps[:-1]] == [1, 2, 5, 10, 20, 50, 100, 200, 500, 999, 1000]
    assert 'usertask_batch_records_bucket{le="200.0"} 1.0' in exposition(metrics)


@pytest.mark.parametrize(
    ("largest", "steps"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (60, [1, 2, 5, 10, 20, 50, 59, 60])]
)
def test_a_full_batch_can_be_told_from_a_nearly_full_one(largest: int, steps: list[int]) -> None:
    metrics = Metrics(max_batch_records=largest)
    found = [line.split('le="')[1].split('"')[0] for line in exposition(metrics) if "batch_records_bucket" in line]
    assert [float(step) for step in found[:-1]] == steps


def test_the_latencies_of_a_batch_are_measured_at_once(metrics: Metrics) -> None:
    now_ms = 1_700_000_000_000.0
    metrics.command_latency_seconds.observe([], now_ms)
    metrics.command_latency_seconds.observe([int(now_ms) - 40, int(now_ms) + 5000, int(now_ms) - 50], now_ms)
    metrics.command_latency_seconds.observe([int(now_ms) - 2_000_000], now_ms)
    lines = [line.removeprefix("usertask_command_latency_seconds") for line in exposition(metrics)]
    assert '_bucket{le="0.005"} 1.0' in lines
    assert '_bucket{le="0.025"} 1.0' in lines
    assert '_bucket{le="0.05"} 3.0' in lines
    assert '_bucket{le="1800.0"} 3.0' in lines
    assert '_bucket{le="+Inf"} 4.0' in lines
    assert "_count 4.0" in lines
    assert "_sum 2000.09" in lines


@pytest.mark.parametrize(
    ("timestamp_ms", "reason"),
    [(-1, "none"), (0, "old"), (86_400_000, "old"), (1_700_000_060_000, "ahead"), (2**63 - 1, "ahead")],
)
def test_a_timestamp_that_says_nothing_of_a_latency_is_left_out_and_counted(
    metrics: Metrics, timestamp_ms: int, reason: str
) -> None:
    now_ms = 1_700_000_000_000.0
    metrics.command_latency_seconds.observe([timestamp_ms, int(now_ms) - 40, timestamp_ms], now_ms)
    lines = exposition(metrics)
    assert "usertask_command_latency_seconds_count 1.0" in lines
    assert "usertask_command_latency_seconds_sum 0.04" in lines
    assert 'usertask_command_latency_seconds_bucket{le="0.005"} 0.0' in lines
    counted = {"none": 0.0, "old": 0.0, "ahead": 0.0} | {reason: 2.0}
    for name, number in counted.items():
        assert f'usertask_latency_unmeasured_total{{reason="{name}"}} {number}' in lines


def test_a_machine_that_is_in_1970_itself_measures_what_it_can(metrics: Metrics) -> None:
    metrics.command_latency_seconds.observe([-1, 0, 5000, 1_700_000_000_000], 10_000.0)
    lines = exposition(metrics)
    assert "usertask_command_latency_seconds_sum 15.0" in lines
    assert 'usertask_latency_unmeasured_total{reason="none"} 1.0' in lines


def test_a_latency_of_a_month_is_one(metrics: Metrics) -> None:
    now_ms = 1_700_000_000_000.0
    metrics.command_latency_seconds.observe([int(now_ms) - 30 * 86_400_000], now_ms)
    assert "usertask_command_latency_seconds_sum 2.592e+06" in exposition(metrics)


def test_they_are_what_the_client_librarys_histogram_would_show(metrics: Metrics) -> None:
    now_ms = 1_700_000_000_000.0
    timestamps = [int(now_ms) - (index * index) % 70_000 for index in range(500)]
    reference = Histogram("reference", "Reference", buckets=metrics.command_latency_seconds._buckets_s, registry=None)
    for timestamp in timestamps:
        reference.observe((now_ms - timestamp) / 1000)
    metrics.command_latency_seconds.observe(timestamps, now_ms)
    [[expected], [measured]] = [list(one.collect()) for one in (reference, metrics.command_latency_seconds)]
    expected = {(one.name.removeprefix("reference"), *one.labels.values()): one.value for one in expected.samples}
    for sample in measured.samples:
        name = sample.name.removeprefix("usertask_command_latency_seconds")
        assert sample.value == pytest.approx(expected[name, *sample.labels.values()])


def test_the_series_of_a_lost_partition_disappear(metrics: Metrics) -> None:
    for partition in ("0", "1"):
        metrics.consumer_lag.labels("user-task.commands", partition).set(7)
        metrics.unpublished.labels("user-task.commands", partition).set(3)
    metrics.forget_partition("user-task.commands", 0)
    series = [line for line in exposition(metrics) if "user-task.commands" in line]
    assert series == [
        'usertask_consumer_lag{partition="1",topic="user-task.commands"} 7.0',
        'usertask_unpublished{partition="1",topic="user-task.commands"} 3.0',
    ]


def test_forgetting_a_partition_that_was_never_seen_is_no_error(metrics: Metrics) -> None:
    metrics.forget_partition("user-task.commands", 5)


def test_the_build_is_told(metrics: Metrics) -> None:
    [info] = [line for line in exposition(metrics) if line.startswith("usertask_build_info{")]
    assert 'version="' in info
    assert 'python="3.' in info
    assert info.endswith(" 1.0")


def test_two_workers_in_a_process_count_apart(metrics: Metrics) -> None:
    metrics.duplicates_total.inc()
    assert "usertask_duplicates_total 0.0" in exposition(Metrics())
