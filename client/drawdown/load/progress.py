"""How a run is going, on stderr: one line that is rewritten on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final, TextIO

from drawdown.load.histogram import Histogram
from drawdown.load.recording import Outcome

if TYPE_CHECKING:
    from drawdown.load.recording import Recording

SPARSE_S: Final = 5.0
"""Between two lines where they stay: in a pipeline's log."""
REDRAW_S: Final = 0.1
_CLEAR: Final = "\r\x1b[2K"


class Quiet:
    """Says nothing but notes."""

    def phase(self, what: str, total: int) -> None:
        """Says nothing."""

    def advance(self) -> None:
        """Says nothing."""

    def tick(self, after_s: float, recent: Recording, in_flight: int) -> None:
        """Says nothing."""

    def note(self, text: str) -> None:
        """A line for people."""
        sys.stderr.write(f"{text}\n")

    def close(self) -> None:
        """Has nothing to end."""


class Lines:
    """For people and logs.

    Args:
        out: Where to write.
        duration_s: Of the measured time.
    """

    def __init__(self, out: TextIO, duration_s: float) -> None:
        self._out = out
        self._is_terminal = out.isatty()
        self._duration_s = duration_s
        self._what = ""
        self._done = 0
        self._total = 0
        self._written = float("-inf")

    def phase(self, what: str, total: int) -> None:
        """A new phase; on a terminal its line replaces the one before."""
        self._what, self._done, self._total = what, 0, total
        self._written = time.monotonic()
        if self._is_terminal:
            self._write(what)

    def advance(self) -> None:
        """One part more is done."""
        self._done += 1
        if self._is_due(REDRAW_S):
            self._write(f"{self._what} {self._done:,} of {self._total:,}")

    def tick(self, after_s: float, recent: Recording, in_flight: int) -> None:
        """Rate and percentiles of the calls that ended since the last tick."""
        if not self._is_due(0.0):
            return
        if after_s < 0:
            self._write(f"warming up, {-after_s:.0f} s to go, {in_flight:,} in flight")
            return
        if after_s >= self._duration_s + 1:  # the last second's calls are still shown
            self._write(f"waiting for answers, and settling what is open: {in_flight:,} in flight")
            return
        latency = Histogram()
        for histogram in recent.latency().values():
            latency.merge(histogram)
        ended = {outcome: recent.ended(outcome) for outcome in Outcome}
        times = "  ".join(f"p{p:g} {latency.percentile_ns(p) / 1e6:.2f}" for p in (50, 99, 99.9))
        self._write(
            f"{after_s:6.0f} of {self._duration_s:.0f} s  {latency.count:,} calls/s  {times}  "
            f"max {latency.max_ns / 1e6:.2f} ms  in flight {in_flight:,}  "
            f"denied {ended[Outcome.DENIED]:,}  failed {ended[Outcome.FAILED]:,}"
        )

    def note(self, text: str) -> None:
        """A line that stays."""
        self._out.write(f"{_CLEAR if self._is_terminal else ''}{text}\n")
        self._out.flush()

    def close(self) -> None:
        """Takes the line away that was being rewritten."""
        if self._is_terminal:
            self._out.write(_CLEAR)
            self._out.flush()

    def _is_due(self, redraw_s: float) -> bool:
        return time.monotonic() - self._written >= (redraw_s if self._is_terminal else SPARSE_S)

    def _write(self, text: str) -> None:
        self._written = time.monotonic()
        self._out.write(f"{_CLEAR}{text}" if self._is_terminal else f"{text}\n")
        self._out.flush()
