"""How operators' commands print: a table on a terminal, JSON for everything else; a bar on stderr for long work."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

_STYLES: Final[Mapping[str, str]] = {"ok": "green", "warning": "yellow", "red": "red", "skipped": "dim"}


def for_people(*, as_json: bool) -> bool:
    """Tell whether standard output is a terminal, and JSON was not asked for."""
    return sys.stdout.isatty() and not as_json


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, styled_by: int | None = None) -> None:
    """Print rows as text; None is an empty cell. The cell of one column may set its row's colour."""
    table = Table(*columns)
    for row in rows:
        style = _STYLES.get(str(row[styled_by])) if styled_by is not None else None
        table.add_row(*(Text(printable(cell)) for cell in row), style=style)  # as text: it might be markup
    Console().print(table)


def printable(cell: object) -> str:
    """Write out what would steer the terminal: others have written it."""
    text = "" if cell is None else str(cell)
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


@contextmanager
def progressing(what: str, total: int | None, *, in_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    """Show how far long work is, if stderr is a terminal; the function that is given adds to what is done."""
    console = Console(stderr=True)
    done = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), done, TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)
