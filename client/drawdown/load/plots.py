"""Plots as SVG, by hand: lines over time and over percentiles. Colours and fonts are the page's (``page.html``)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WIDTH: Final = 960
HEIGHT: Final = 280
LEFT: Final = 64
RIGHT: Final = 28
"""Half of a label beyond the last tick."""
TOP: Final = 12
BOTTOM: Final = 40
TICKS_MAX: Final = 9
"""On an axis: more than this run into each other on a phone."""
DECADES_WITH_STEPS: Final = 2.2
"""A log axis of fewer decades also has ticks at 2 and 5."""
PERCENT_TICKS: Final = (0.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99)
PERCENTILE_POINTS: Final = 240
SECOND_MS: Final = 1_000
NINES_MAX: Final = 4.0
"""p99.99."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line."""

    name: str
    color: str
    """A variable of the page's style: ``--blue``."""
    points: Sequence[tuple[float, float | None]]
    """None is a gap: nothing was measured there."""
    is_thin: bool = False


class Axis(Protocol):
    """From values to 0 .. 1."""

    title: str

    def at(self, value: float) -> float:
        """Where a value stands."""

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Values to mark, and their texts."""


class Linear:
    """Even steps from 0 or ``least`` to ``most``."""

    def __init__(self, title: str, least: float, most: float) -> None:
        self.title = title
        self._least = least
        self._step = _step((most - least) or 1.0)
        self._most = max(most, least + self._step)

    def at(self, value: float) -> float:
        """Where a value stands."""
        return (value - self._least) / (self._most - self._least)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Round numbers."""
        number = math.ceil(self._least / self._step - 1e-9)
        while number * self._step <= self._most * (1 + 1e-9):
            yield number * self._step, f"{number * self._step:,.10g}"
            number += 1


class LogTime:
    """Times in milliseconds, each decade as high as the next."""

    def __init__(self, title: str, values: Sequence[float]) -> None:
        self.title = title
        above = [value for value in values if value > 0] or [1.0]
        low, high = math.log10(min(above)), math.log10(max(above))
        has_steps = high - low < DECADES_WITH_STEPS
        self._steps = (1, 2, 5) if has_steps else (1,)
        marks = [step * 10.0**decade for decade in range(-6, 9) for step in self._steps]
        self._least = max((mark for mark in marks if mark <= min(above) * 1.001), default=marks[0])
        self._most = min((mark for mark in marks if mark >= max(above) / 1.001), default=marks[-1])
        if self._most <= self._least:
            self._most = self._least * 10
        self._marks = [mark for mark in marks if self._least <= mark <= self._most]

    def at(self, value: float) -> float:
        """Where a value stands; what is too small stands at the bottom."""
        return math.log10(max(value, self._least) / self._least) / math.log10(self._most / self._least)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """1, 10, 100, with 2 and 5 between when there is room."""
        for mark in self._marks:
            yield mark, time_text(mark)


class Percentiles:
    """Each nine as wide as the one before: p90, p99, p99.9."""

    def __init__(self, title: str, count: int) -> None:
        self.title = title
        self._most = max(1.0, min(NINES_MAX, math.log10(max(count, 1))))

    def at(self, value: float) -> float:
        """Where a percentile stands."""
        return -math.log10(max(1e-12, 1 - value / 100)) / self._most

    def ticks(self) -> Iterator[tuple[float, str]]:
        """The usual ones, as far as there are enough values for them."""
        for percent in PERCENT_TICKS:
            if self.at(percent) <= 1 + 1e-9:
                yield percent, f"p{percent:g}"

    def points(self) -> list[float]:
        """Percentiles at even distances on the axis."""
        return [100 * (1 - 10 ** (-self._most * n / PERCENTILE_POINTS)) for n in range(PERCENTILE_POINTS + 1)]


def time_text(value_ms: float) -> str:
    """``50 µs``, ``2 ms``, ``1.5 s``."""
    if value_ms < 1:
        return f"{value_ms * 1e3:.3g} µs"
    return f"{value_ms:.3g} ms" if value_ms < SECOND_MS else f"{value_ms / SECOND_MS:.3g} s"


def plot(title: str, series: Sequence[Series], x: Axis, y: Axis, tips: Sequence[tuple[float, str]]) -> str:
    """A plot with its legend.

    Args:
        title: Above it.
        series: Lines; later ones are drawn over earlier ones.
        x: The axis below.
        y: The axis at the left.
        tips: Text to show where the pointer is, by x, rising.
    """
    legend = "".join(
        f'<span class="key"><i style="background:var({one.color})"></i>{escape(one.name)}</span>' for one in series
    )
    return (
        f"<figure><figcaption><b>{escape(title)}</b>{legend}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(_grid(x, y))}"
        f"{''.join(_path(one, x, y) for one in series)}"
        f"{''.join(_tips(tips, x))}"
        "</svg></figure>"
    )


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _grid(x: Axis, y: Axis) -> Iterator[str]:
    for value, text in y.ticks():
        at = _y(y.at(value))
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield f'<text class="tick" x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{escape(text)}</text>'
    for value, text in x.ticks():
        at = _x(x.at(value))
        yield f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}"/>'
        yield f'<text class="tick" x="{at:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{escape(text)}</text>'
    yield f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>'
    yield (
        f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">'
        f"{escape(x.title)}</text>"
    )


def _path(series: Series, x: Axis, y: Axis) -> str:
    drawn: list[str] = []
    dots: list[str] = []
    points = series.points
    for index, (at, value) in enumerate(points):
        if value is None:
            continue
        is_first = index == 0 or points[index - 1][1] is None
        is_last = index == len(points) - 1 or points[index + 1][1] is None
        px, py = f"{_x(x.at(at)):.1f}", f"{_y(min(1.0, y.at(value))):.1f}"
        if is_first and is_last:  # a line of one point would not be seen
            dots.append(f'<circle cx="{px}" cy="{py}" r="2" style="fill:var({series.color})"/>')
        else:
            drawn.append(f"{'M' if is_first else 'L'}{px} {py}")
    thin = " thin" if series.is_thin else ""
    return f'<path class="line{thin}" style="stroke:var({series.color})" d="{"".join(drawn)}"/>{"".join(dots)}'


def _tips(tips: Sequence[tuple[float, str]], x: Axis) -> Iterator[str]:
    places = [_x(x.at(at)) for at, _ in tips]
    for index, ((_, text), place) in enumerate(zip(tips, places, strict=True)):
        left = (places[index - 1] + place) / 2 if index else max(LEFT, place - 4)
        right = (places[index + 1] + place) / 2 if index + 1 < len(places) else min(WIDTH - RIGHT, place + 4)
        yield (
            f'<rect class="tip" x="{left:.1f}" y="{TOP}" width="{max(0.5, right - left):.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"><title>{escape(text)}</title></rect>'
        )


def _step(span: float) -> float:
    """A round step with which the span has at most so many ticks."""
    rough = span / (TICKS_MAX - 1)
    decade = 10.0 ** math.floor(math.log10(rough))
    return next(step * decade for step in (1, 2, 5, 10) if step * decade >= rough * (1 - 1e-9))
