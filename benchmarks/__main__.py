"""The command line of the benchmarks: each measures on a private broker and a private database, and ends by itself."""

from pathlib import Path
from typing import Annotated, Final

import typer

from benchmarks import comparison, latency, report, scaling, stages, telemetry
from benchmarks.ground import machine, private_ground
from benchmarks.throughput import measure
from benchmarks.workload import Workload
from worker.cli.launching import tune_garbage_collection

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

_RATES: Final = (100, 1000, 5000)
_PARTITIONS: Final = 12

Runs = Annotated[int, typer.Option(help="How often each is measured, in turn.", min=1)]
Commands = Annotated[int, typer.Option(help="Measured commands of a run.", min=1000)]


@app.command()
def compare(
    runs: Runs = 5,
    commands: Commands = 60_000,
    only: Annotated[list[str] | None, typer.Option(help="Subjects whose names have this; all if not given.")] = None,
    chart: Annotated[Path | None, typer.Option(help="Where to draw the chart, as SVG.")] = None,
) -> None:
    """Compare the worker with Kafka Streams, FastStream and a bare copy."""
    subjects = [one for one in comparison.SUBJECTS if not only or any(part in one.name for part in only)]
    with private_ground() as ground:
        results = comparison.compare(ground, subjects, runs, commands, _PARTITIONS, _tell)
    typer.echo(f"{machine()}\n\n{report.throughput_table(results)}\n")
    if ratios := comparison.ratios(results):
        typer.echo(report.ratio_table(ratios))
    if chart is not None:
        chart.write_text(report.throughput_chart(results))


@app.command()
def open_loop(
    runs: Runs = 5, seconds: Annotated[int, typer.Option(help="For how long at each rate.", min=5)] = 20
) -> None:
    """Measure latency while commands come at a fixed rate, on PostgreSQL."""
    with private_ground() as ground:
        measured = [
            latency.measure(comparison.POSTGRES, ground, rate, seconds, _PARTITIONS)
            for _ in range(runs)
            for rate in _RATES
        ]
    typer.echo(f"{machine()}\n\n{report.latency_table(measured)}")


@app.command()
def scale(
    table: Annotated[str, typer.Argument(help=f"One of {', '.join(scaling.TABLES)}.")],
    runs: Runs = 3,
    commands: Commands = 60_000,
) -> None:
    """Measure how throughput changes with one thing, on PostgreSQL."""
    if table not in scaling.TABLES:
        raise typer.BadParameter(f"there is no table {table}")
    with private_ground() as ground:
        results = scaling.scale(ground, scaling.TABLES[table](commands), runs, _tell)
    typer.echo(f"{machine()}\n\n{report.scaling_table(results)}")


@app.command()
def telling(runs: Runs = 5, commands: Commands = 60_000) -> None:
    """Measure what log and spans cost, on PostgreSQL."""
    with private_ground() as ground, telemetry.sink() as port:
        results = scaling.scale(ground, telemetry.cases(commands, port), runs, _tell)
    typer.echo(f"{machine()}\n\n{report.throughput_table({one.case: one.runs for one in results})}\n")
    typer.echo(report.ratio_table(telemetry.costs(results), of="CPU"))


@app.command()
def backlog(commands: Commands = 1_000_000) -> None:
    """Measure the worker's peak of memory while very many commands wait, on PostgreSQL."""
    workload = Workload(tasks=commands // 10, commands=commands, stored_tasks=commands)
    with private_ground() as ground:
        run = measure(comparison.POSTGRES, ground, workload, _PARTITIONS)
    typer.echo(f"{machine()}\n\n{run.memory_peak_mib:.0f} MiB at most, {run.commands_per_s:,.0f} commands/s")


@app.command()
def profile(runs: Annotated[int, typer.Option(help="How often a batch goes through.", min=1)] = 50) -> None:
    """Measure where a command's CPU goes in the worker's own code."""
    tune_garbage_collection()
    typer.echo(f"{machine()}\n\n{report.profile_table(stages.measure(runs))}")


def _tell(line: str) -> None:
    typer.echo(line, err=True)


if __name__ == "__main__":
    app()
