"""What people see while a run goes on."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import TYPE_CHECKING

from drawdown.load import progress
from drawdown.load.progress import Lines
from drawdown.load.recording import Call, Outcome
from unit.load_results import recording_of

if TYPE_CHECKING:
    import pytest


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_line_with_the_rate_and_percentiles_of_the_last_second() -> None:
    out = Terminal()
    lines = Lines(out, duration_s=30)
    lines.phase("sending", 0)
    recent = recording_of([2] * 99 + [40])
    recent.merge(recording_of([3], call=Call.COMMIT, outcome=Outcome.FAILED))
    lines.tick(-2.0, recent, 5)
    lines.tick(7.0, recent, 5)
    lines.tick(31.5, recent, 4)
    lines.close()
    shown = out.getvalue().split(progress._CLEAR)
    assert shown == [
        "",
        "sending",
        "warming up, 2 s to go, 5 in flight",
        "     7 of 30 s  101 calls/s  p50 2.00  p99 3.00  p99.9 40.00  max 40.00 ms  in flight 5  denied 0  failed 1",
        "waiting for answers, and settling what is open: 4 in flight",
        "",
    ]


def test_elsewhere_lines_stay_so_there_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    out = io.StringIO()
    lines = Lines(out, duration_s=30)
    lines.phase("sending", 0)
    for second in range(1, 13):
        now += 1
        lines.tick(float(second), recording_of([2]), 0)
    lines.note("stopping")
    assert [line.split(" s  ")[0].strip() for line in out.getvalue().splitlines()] == [
        "5 of 30",
        "10 of 30",
        "stopping",
    ]


def test_wallets_are_counted_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    out = io.StringIO()
    lines = Lines(out, duration_s=30)
    lines.phase("making wallets", 1_000)
    for _ in range(1_000):
        now += 0.01
        lines.advance()
    assert out.getvalue() == "making wallets 500 of 1,000\nmaking wallets 1,000 of 1,000\n"
