"""What was measured: one sample of each row in each round."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from bench.load.generator import Result

BUSY: Final = 0.85
"""Of a core: a process that is this busy is what limits the row."""
CORES: Final = os.cpu_count() or 1
CPU: Final = "_cpu_s"


@dataclass(frozen=True)
class Sample:
    """One run.

    Args:
        result: What the generator found out; None: nothing was called.
        used: Of the processes and stores until everything was done, by counter; and other numbers.
        busy: Processor time of each process by its name, as a share of the run's time.
    """

    result: Result | None
    used: Mapping[str, float] = field(default_factory=dict)
    busy: Mapping[str, float] = field(default_factory=dict)

    @property
    def load(self) -> Result:
        """The result of a row that calls something."""
        assert self.result is not None
        return self.result

    @property
    def limit(self) -> str:
        """The process that was busy all the time, or all cores together; ``-``: nothing was."""
        side = max(self.busy, key=lambda name: self.busy[name], default="-")
        if self.busy.get(side, 0.0) >= BUSY:
            return side
        return "cores" if sum(self.busy.values()) >= BUSY * CORES else "-"

    def us_per_call(self, process: str) -> float:
        """Microseconds of a process per call; 0 if the row does not use it."""
        return self.used.get(f"{process}{CPU}", 0.0) / self.load.calls * 1e6


def busy(result: Result, used: Mapping[str, float]) -> dict[str, float]:
    """How busy each process was while a run went on."""
    times = {name.removesuffix(CPU): value for name, value in used.items() if name.endswith(CPU)}
    return {name: value / result.seconds for name, value in (times | {"generator": result.cpu_seconds}).items()}


Round = Mapping[str, Sample]
"""One sample of each row."""


@dataclass(frozen=True)
class Spread:
    """The middle of some numbers."""

    median: float
    half_range: float
    """Half the distance between their quartiles."""

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Of one number or more."""
        low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
        return cls(median, (high - low) / 2)


class Samples:
    """All rounds."""

    def __init__(self) -> None:
        self.rounds: list[dict[str, Sample]] = []

    @property
    def rows(self) -> list[str]:
        """Their names, in the order of the rounds."""
        return list(self.rounds[0]) if self.rounds else []

    def leave_out(self, rows: Iterable[str]) -> None:
        """Forget rows: those that have no sample in some round."""
        dropped = set(rows)
        self.rounds = [{row: sample for row, sample in each.items() if row not in dropped} for each in self.rounds]

    def spread(self, value: Callable[[Round], float]) -> Spread:
        """Of a number of each round: what a busy machine does to all rows of a round, a ratio of two does not show."""
        return Spread.of([value(each) for each in self.rounds])

    def of_row(self, row: str, value: Callable[[Sample], float]) -> Spread:
        """Of a number of each sample of a row."""
        return self.spread(lambda each: value(each[row]))

    def limit(self, row: str) -> str:
        """What limited a row in most rounds."""
        return statistics.mode(each[row].limit for each in self.rounds)
