"""Bars as SVG, without a library: the charts of docs/performance.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_ROW_PX: Final = 34
_LABEL_PX: Final = 290
_BAR_PX: Final = 430
_NUMBER_PX: Final = 120
_OURS: Final = "#2b6cb0"
_THEIRS: Final = "#a0aec0"


@dataclass(frozen=True, slots=True)
class Bar:
    """One row: the middle value, and from where to where the values went."""

    name: str
    low: float
    middle: float
    high: float
    is_ours: bool


def draw(title: str, bars: Sequence[Bar]) -> str:
    """Draw a bar for each, with its spread as a line, as long as its value is."""
    longest = max(bar.high for bar in bars)
    width, height = _LABEL_PX + _BAR_PX + _NUMBER_PX, _ROW_PX * (len(bars) + 1) + 10
    rows = [_row(bar, number, _BAR_PX / longest) for number, bar in enumerate(bars)]
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
                f' viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="14">'
            ),
            f'<rect width="{width}" height="{height}" fill="white"/>',
            f'<text x="8" y="22" font-weight="bold">{escape(title)}</text>',
            *rows,
            "</svg>",
            "",
        ]
    )


def _row(bar: Bar, number: int, px_per_unit: float) -> str:
    top = _ROW_PX * (number + 1)
    low, middle, high = (_LABEL_PX + value * px_per_unit for value in (bar.low, bar.middle, bar.high))
    colour = _OURS if bar.is_ours else _THEIRS
    return "\n".join(
        [
            f'<text x="{_LABEL_PX - 8}" y="{top + 19}" text-anchor="end">{escape(bar.name)}</text>',
            (
                f'<rect x="{_LABEL_PX}" y="{top + 4}" width="{middle - _LABEL_PX:.1f}" height="{_ROW_PX - 12}"'
                f' fill="{colour}"/>'
            ),
            f'<path d="M{low:.1f} {top + 15}H{high:.1f}" stroke="black"/>',
            f'<text x="{high + 8:.1f}" y="{top + 19}">{bar.middle:,.0f}/s</text>',
        ]
    )
