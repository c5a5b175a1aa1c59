"""Results as Markdown tables."""

from collections.abc import Mapping, Sequence
from statistics import median

from benchmarks.charts import Bar, draw
from benchmarks.comparison import Ratio
from benchmarks.latency import Latency
from benchmarks.scaling import Result
from benchmarks.stages import Stage
from benchmarks.throughput import Run


def throughput_table(results: Mapping[str, Sequence[Run]]) -> str:
    """Write commands per second, CPU and memory of each subject."""
    rows = ["| | commands/s | lowest to highest | CPU, µs/command | memory, MiB |", "|---|---|---|---|---|"]
    for name, runs in results.items():
        speeds = [run.commands_per_s for run in runs]
        cpu_us = median(run.cpu_us_per_command for run in runs)
        memory_mib = max(run.memory_peak_mib for run in runs)
        spread = f"{min(speeds):,.0f} to {max(speeds):,.0f}"
        rows.append(f"| {name} | {median(speeds):,.0f} | {spread} | {cpu_us:.0f} | {memory_mib:.0f} |")
    return "\n".join(rows)


def ratio_table(ratios: Sequence[Ratio], of: str = "commands/s") -> str:
    """Write the ratios beside their aims."""
    rows = [f"| ratio of {of} | median | lowest to highest | aim |", "|---|---|---|---|"]
    for one in ratios:
        spread = f"{min(one.values):.2f} to {max(one.values):.2f}"
        rows.append(f"| {one.of} ÷ {one.to} | {one.median:.2f} | {spread} | {one.target:g} |")
    return "\n".join(rows)


def latency_table(latencies: Sequence[Latency]) -> str:
    """Write percentiles by rate: the median of the runs, and from where to where they went."""
    rows = ["| commands/s | p50, ms | p99, ms | longest, ms |", "|---|---|---|---|"]
    for per_s in sorted({one.per_s for one in latencies}):
        runs = [one for one in latencies if one.per_s == per_s]
        cells = (_spread([getattr(one, name) for one in runs]) for name in ("p50_ms", "p99_ms", "max_ms"))
        rows.append(f"| {per_s:,} | {' | '.join(cells)} |")
    return "\n".join(rows)


def profile_table(stages: Sequence[Stage]) -> str:
    """Write what each stage costs, and all together."""
    rows = ["| stage | µs of CPU |", "|---|---|"]
    rows += [f"| {one.name} | {one.cpu_us_per_command:.1f} |" for one in stages]
    rows.append(f"| together | {sum(one.cpu_us_per_command for one in stages):.1f} |")
    return "\n".join(rows)


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def scaling_table(results: Sequence[Result]) -> str:
    """Write what changed, and by how much."""
    rows = ["| | commands/s | lowest to highest | ratio | memory, MiB |", "|---|---|---|---|---|"]
    for one in results:
        speeds = [run.commands_per_s for run in one.runs]
        memory_mib = max(run.memory_peak_mib for run in one.runs)
        spread = f"{min(speeds):,.0f} to {max(speeds):,.0f}"
        rows.append(f"| {one.case} | {median(speeds):,.0f} | {spread} | {one.ratio:.2f} | {memory_mib:.0f} |")
    return "\n".join(rows)


def throughput_chart(results: Mapping[str, Sequence[Run]]) -> str:
    """Draw commands per second of each subject, as SVG."""
    bars = []
    for name, runs in results.items():
        speeds = [run.commands_per_s for run in runs]
        bars.append(Bar(name, min(speeds), median(speeds), max(speeds), name.startswith("this worker")))
    return draw("Commands per second, median and spread", bars)
