"""How the load goes over time: a rate or a number of gateways, constant or rising and falling in straight lines.

As text: ``500``, ``100..2000`` for a straight line, ``100..2000:60s,2000:5m`` for one part after the other.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

LEVEL_MAX: Final = 1_000_000
"""Requests per second, or gateways: more than any machine of today can send."""
PART_S_MAX: Final = 7 * 86_400
"""A week: a longer soak test is several."""

_PART: Final = re.compile(
    r"(?P<begin>[0-9]{1,9}(?:\.[0-9]{1,6})?)(?:\.\.(?P<end>[0-9]{1,9}(?:\.[0-9]{1,6})?))?(?::(?P<seconds>[0-9.]+[smh]))?",
    re.ASCII,
)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600}
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h)", re.ASCII)


class ShapeError(ValueError):
    """The text is no shape; the message says why."""


@dataclass(frozen=True, slots=True)
class Part:
    """One straight line."""

    begin: float
    end: float
    seconds: float

    @property
    def area(self) -> float:
        """Level times seconds: the number of arrivals, when the level is a rate."""
        return (self.begin + self.end) / 2 * self.seconds

    def time_of_area(self, area: float) -> float:
        """When so much of the area is behind, in seconds from the part's beginning; ``0 <= area <= self.area``."""
        slope = (self.end - self.begin) / self.seconds
        # begin * t + slope / 2 * t^2 = area, in the form that stays exact as the slope goes to zero.
        root = math.sqrt(max(0.0, self.begin**2 + 2 * slope * area))
        return min(self.seconds, 2 * area / (self.begin + root)) if area > 0 else 0.0

    def level(self, after_s: float) -> float:
        """The level so many seconds after the part's beginning."""
        return self.begin + (self.end - self.begin) * after_s / self.seconds


@dataclass(frozen=True, slots=True)
class Shape:
    """Parts, one after the other."""

    parts: tuple[Part, ...]

    @property
    def seconds(self) -> float:
        """How long it takes in all."""
        return sum(part.seconds for part in self.parts)

    @property
    def area(self) -> float:
        """All arrivals, when the level is a rate."""
        return sum(part.area for part in self.parts)

    @property
    def peak(self) -> float:
        """The highest level."""
        return max(max(part.begin, part.end) for part in self.parts)

    def time_of_area(self, area: float) -> float | None:
        """When so much of the area is behind, in seconds; None when there is not so much."""
        before_s = 0.0
        for part in self.parts:
            if 0 < area <= part.area or (area == 0 and part.area > 0):
                return before_s + part.time_of_area(area)
            area -= part.area
            before_s += part.seconds
        return None

    def next_above(self, level: float, after_s: float) -> float | None:
        """The first time from ``after_s`` on at which the level is above the given one; None when there is none."""
        before_s = 0.0
        for part in self.parts:
            inside_s = max(0.0, after_s - before_s)
            if inside_s < part.seconds:
                if part.level(inside_s) > level:
                    return max(before_s, after_s)
                if part.end > level:
                    crossing_s = (level - part.begin) / (part.end - part.begin) * part.seconds
                    return max(after_s, before_s + crossing_s)  # not earlier by a rounding error
            before_s += part.seconds
        return None

    def warmed_up(self, seconds: float) -> Shape:
        """The same with a warm-up before it: half of it to rise from nothing to the first level, half to stay there."""
        if seconds <= 0:
            return self
        first = self.parts[0].begin or self.parts[0].end
        return Shape((Part(0.0, first, seconds / 2), Part(first, first, seconds / 2), *self.parts))

    def in_words(self, unit: str) -> str:
        """``100..2000 requests/s for 60 s, then 2000 requests/s for 300 s``."""
        return ", then ".join(
            f"{part.begin:g}{'' if part.end == part.begin else f'..{part.end:g}'} {unit} for {part.seconds:g} s"
            for part in self.parts
        )

    def __str__(self) -> str:
        return ",".join(
            f"{part.begin:g}{'' if part.end == part.begin else f'..{part.end:g}'}:{part.seconds:g}s"
            for part in self.parts
        )


def parse_shape(text: str, duration_s: float) -> Shape:
    """The shape of a text.

    Args:
        text: ``500``, ``100..2000``, ``100..2000:60s,2000:5m``.
        duration_s: Seconds of a part that names none.

    Raises:
        ShapeError: It is none; the message names the part.
    """
    parts = []
    for word in text.split(","):
        match = _PART.fullmatch(word.strip())
        if match is None:
            raise ShapeError(f"{word!r} is no load such as 500, 100..2000 or 100..2000:60s")
        begin = float(match["begin"])
        end = begin if match["end"] is None else float(match["end"])
        seconds = duration_s if match["seconds"] is None else parse_seconds(match["seconds"])
        if max(begin, end) > LEVEL_MAX:
            raise ShapeError(f"{word!r} is above {LEVEL_MAX:,}")
        if max(begin, end) == 0:
            raise ShapeError(f"{word!r} sends nothing")
        if not 0 < seconds <= PART_S_MAX:
            raise ShapeError(f"{word!r} takes {seconds:g} s, and a part takes above 0 s, at most a week")
        parts.append(Part(begin, end, seconds))
    return Shape(tuple(parts))


def parse_seconds(text: str) -> float:
    """Seconds of ``250ms``, ``90s``, ``5m`` or ``2h``.

    Raises:
        ShapeError: It is no such time.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ShapeError(f"{text!r} is no time such as 250ms, 90s, 5m or 2h")
    return float(match[1]) * (0.001 if match[2] == "ms" else _SECONDS[match[2]])
