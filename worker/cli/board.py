"""The demo's table: live on a terminal, aligned text elsewhere, the same rows in both."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

COLUMNS: Final = ("", "command", "user task", "answer", "outcome", "details")
_WIDTHS: Final = (2, 31, 16, 11, 20, 0)


class Board(Protocol):
    """Where rows are shown as they come."""

    def add(self, row: Sequence[str]) -> None:
        """Show one more row."""


@contextmanager
def showing() -> Iterator[Board]:
    """Give a board that fits standard output."""
    console = Console()
    if not console.is_terminal:
        board = _PlainBoard()
        board.add(COLUMNS)
        yield board
        return
    table = Table(*COLUMNS)
    with Live(table, console=console):
        yield _LiveBoard(table)


class _PlainBoard:
    def add(self, row: Sequence[str]) -> None:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, _WIDTHS, strict=True)).rstrip())


class _LiveBoard:
    def __init__(self, table: Table) -> None:
        self._table = table

    def add(self, row: Sequence[str]) -> None:
        style = {"event": "green", "rejection": "yellow", "dead letter": "red"}.get(row[3], "dim")
        self._table.add_row(*map(Text, row), style=style)  # as text: brackets would be markup
