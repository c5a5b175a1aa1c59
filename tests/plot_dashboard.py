"""Draws docs/dashboard.svg: what the dashboard shows of two workers under load, one of which is killed.

Called as `python -m tests.plot_dashboard`. It takes two minutes; Prometheus has to be there, as for the tests.
"""

import contextlib
import json
import re
import sys
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.chaos.fleet import database
from tests.integration.harness import ROOT, Wire, Worker, environment, free_port, make_topics
from tests.integration.prometheus import Prometheus, every_kind, for_prometheus, panels
from tests.providers import kafka_provider, postgres_provider

CHART = ROOT / "docs/dashboard.svg"
TITLES = (
    "Decided, by outcome",
    "From command to outcome",
    "Partitions held, by worker",
    "Lag, by partition",
    "Transactions in the store",
    "Transactions in Kafka",
)
SECOND_STARTS_S, IS_KILLED_S, IS_BACK_S, END_S = 15, 45, 70, 90
TASKS_A_ROUND = 40
ROUNDS_APART_S = 0.2
WINDOW_S = 5
WIDTH, HEIGHT, COLUMNS = 430, 210, 2
LEFT, RIGHT, TOP, BOTTOM = 60, 12, 30, 54
COLOURS = ("#2b6cb0", "#dd6b20", "#2f855a", "#b83280", "#6b46c1", "#b7791f", "#4a5568", "#c53030")

Line = tuple[str, list[tuple[float, float]]]
"""A legend, and points of seconds and value."""


def watched() -> dict[str, list[Line]]:
    """Run the scenario; give the panels' lines by title."""
    with contextlib.ExitStack() as stack:
        kafka, postgres = stack.enter_context(kafka_provider()), stack.enter_context(postgres_provider())
        folder = Path(stack.enter_context(TemporaryDirectory()))
        topics = make_topics(kafka.bootstrap_servers)
        env = environment(kafka.bootstrap_servers, topics, STORE_URL=database(postgres.url))
        workers = [Worker(env | {"USERTASK_HTTP_PORT": str(free_port())}, folder) for _ in range(2)]
        for worker in workers:
            stack.callback(worker.kill)
        workers[0].start()
        workers[0].await_ready()
        server = stack.enter_context(Prometheus(folder, [worker.port for worker in workers]))
        wire = stack.enter_context(Wire(kafka.bootstrap_servers, topics))
        start = time.time()
        run(wire, workers)
        return {panel["title"]: lines(server, panel, start) for panel in panels() if panel["title"] in TITLES}


def run(wire: Wire, workers: list[Worker]) -> None:
    """Send commands all the time; start the second worker, kill it, and start it again."""
    events = [(SECOND_STARTS_S, workers[1].start), (IS_KILLED_S, workers[1].kill), (IS_BACK_S, workers[1].start)]
    start = time.monotonic()
    while (now := time.monotonic() - start) < END_S:
        while events and events[0][0] <= now:
            events.pop(0)[1]()
        wire.send_all(every_kind(TASKS_A_ROUND))
        time.sleep(ROUNDS_APART_S)


def lines(server: Prometheus, panel: dict, start: float) -> list[Line]:
    found = []
    for target in panel["targets"]:
        expression = for_prometheus(target["expr"], rate_s=WINDOW_S, range_s=END_S)
        for one in server.query_range(expression, start, start + END_S, 1):
            legend = re.sub(r"{{(\w+)}}", lambda label, one=one: one["metric"][label[1]], target["legendFormat"])
            points = [(moment - start, float(value)) for moment, value in one["values"] if value != "NaN"]
            found.append((legend, points))
    return found


def draw(shown: dict[str, list[Line]]) -> str:
    """Draw the panels side by side."""
    height = HEIGHT * -(-len(TITLES) // COLUMNS)
    size = f'width="{WIDTH * COLUMNS}" height="{height}" viewBox="0 0 {WIDTH * COLUMNS} {height}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">']
    parts.append(f'<rect width="{WIDTH * COLUMNS}" height="{height}" fill="white"/>')
    for number, title in enumerate(TITLES):
        row, column = divmod(number, COLUMNS)
        unit = next(one["fieldConfig"]["defaults"]["unit"] for one in panels() if one["title"] == title)
        parts.append(f'<g transform="translate({column * WIDTH} {row * HEIGHT})">')
        parts += [*frame(title), *curves(shown[title], unit), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def frame(title: str) -> Iterator[str]:
    """Draw a title, the axis of time, and when the second worker starts, is killed, and is back."""
    low, high = HEIGHT - BOTTOM, TOP
    yield f'<text x="{LEFT}" y="20" font-size="13" font-weight="bold">{escape(title)}</text>'
    yield f'<path d="M{LEFT} {high}V{low}H{WIDTH - RIGHT}" stroke="#718096" fill="none"/>'
    for second in (SECOND_STARTS_S, IS_KILLED_S, IS_BACK_S):
        yield f'<path d="M{across(second):.1f} {high}V{low}" stroke="#a0aec0" stroke-dasharray="3 3"/>'
    for second in (0, SECOND_STARTS_S, IS_KILLED_S, IS_BACK_S, END_S):
        yield f'<text x="{across(second):.1f}" y="{low + 14}" text-anchor="middle">{second} s</text>'


def curves(all_lines: list[Line], unit: str) -> Iterator[str]:
    """Draw the lines that are not always 0, their legend, and the axis of values."""
    there = [line for line in all_lines if any(value for _, value in line[1])]
    top = max((value for _, points in there for _, value in points), default=1)
    yield f'<text x="{LEFT - 6}" y="{TOP + 8}" text-anchor="end">{worded(top, unit)}</text>'
    yield f'<text x="{LEFT - 6}" y="{HEIGHT - BOTTOM}" text-anchor="end">0</text>'
    beside = (WIDTH - LEFT) // max(len(there), 1) if len(there) <= 4 else (WIDTH - LEFT) // 3
    for number, (legend, points) in enumerate(there):
        colour = COLOURS[number % len(COLOURS)]
        yield f'<path d="{path(points, top)}" stroke="{colour}" stroke-width="1.5" fill="none"/>'
        row, column = divmod(number, (WIDTH - LEFT) // beside)
        place = f'x="{LEFT + column * beside}" y="{HEIGHT - BOTTOM + 29 + 12 * row}"'
        yield f'<text {place} fill="{colour}">{escape(legend)}</text>'


def path(points: list[tuple[float, float]], top: float) -> str:
    """Join points that follow one another; a gap stays one."""
    steps, before = [], None
    for second, value in points:
        height = HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top
        joined = before is not None and second - before < 1.5
        steps.append(f"{'L' if joined else 'M'}{across(second):.1f} {height:.1f}")
        before = second
    return "".join(steps)


def across(second: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * second / END_S


def worded(value: float, unit: str) -> str:
    """Write a figure with its unit."""
    if unit == "s":
        return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
    return f"{value:,.0f}" + ("/s" if unit == "cps" else "")


if __name__ == "__main__":
    shown = watched()
    CHART.write_text(draw(shown), encoding="utf-8")
    peaks = {title: {name: max(value for _, value in points) for name, points in shown[title]} for title in shown}
    sys.stdout.write(json.dumps(peaks, indent=2) + "\n")
