"""The goals of speed: each a number of some rows, and what it should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bench.table.samples import Round, Samples, Spread

MEMORY: Final = (("idle wallet", "wallet_bytes", 1_024), ("open hold", "hold_bytes", 400))
ENTRIES_PER_S: Final = 20_000
OLDEST_MS: Final = 100
Value = Callable[[Round], float]


@dataclass(frozen=True)
class Goal:
    """One goal.

    Args:
        name: What is compared.
        rows: That it needs.
        value: The number, from the samples of one round.
        bound: What it should be.
        is_least: At least, else at most.
        best: What it would be on this machine if our server did nothing but what gRPC and the store take; None: that
            is not known.
        note: What else to say.
    """

    name: str
    rows: tuple[str, ...]
    value: Value
    bound: float
    is_least: bool
    best: Value | None = None
    note: Callable[[Samples], str] | None = None

    def is_met(self, value: float) -> bool:
        """Whether a number is as it should be."""
        return value >= self.bound if self.is_least else value <= self.bound


@dataclass(frozen=True)
class Verdict:
    """What became of a goal."""

    goal: Goal
    value: Spread
    best: Spread | None
    note: str

    @property
    def text(self) -> str:
        """Empty: met."""
        if self.goal.is_met(self.value.median):
            return ""
        if self.best is not None and not self.goal.is_met(self.best.median):
            return "out of reach here"
        return "falls short"


def verdicts(samples: Samples) -> list[Verdict]:
    """Of the goals whose rows were measured."""
    measured = set(samples.rows)
    return [
        Verdict(
            goal,
            samples.spread(goal.value),
            None if goal.best is None else samples.spread(goal.best),
            "" if goal.note is None else goal.note(samples),
        )
        for goal in GOALS
        if measured.issuperset(goal.rows)
    ]


def _rate(row: str) -> Value:
    return lambda samples: samples[row].load.rate


def _p50(row: str) -> Value:
    return lambda samples: samples[row].load.p50_us


def _p99(row: str) -> Value:
    return lambda samples: samples[row].load.p99_us


def _used(row: str, counter: str) -> Value:
    return lambda samples: samples[row].used[counter]


def _ratio(name: str, of: Callable[[str], Value], row: str, other: str, bound: float, *, is_least: bool = True) -> Goal:
    """A number of one row as a multiple of another's."""
    return Goal(name, (row, other), lambda s: of(row)(s) / of(other)(s), bound, is_least)


def _streams_p50(samples: Round) -> float:
    """The Session of a server that takes no time, with the store alone behind it, as a share of the unary echo."""
    return (_p50("stream echo c1")(samples) + _p50("fcall c1")(samples)) / _p50("echo c1")(samples)


def _committed(samples: Samples) -> str:
    rate = samples.of_row("commits at 5,000/s", lambda sample: sample.load.rate).median
    return f"at {rate:,.0f} commits/s"


RIVALS: Final = (
    _ratio("Session, calls/s: of a row lock in Postgres", _rate, "session c32", "postgres row lock c32", 5.0),
    _ratio("Session, calls/s: of FastAPI, redis-py and Lua", _rate, "session c32", "fastapi c32", 2.0),
    *(
        _ratio(f"Session, {percentile}: of {rival}'s", of, "session c32", row, 1.0, is_least=False)
        for rival, row in (("the row lock", "postgres row lock c32"), ("FastAPI", "fastapi c32"))
        for percentile, of in (("p50", _p50), ("p99", _p99))
    ),
    _ratio("hold and settle, pairs/s: of the row lock", _rate, "session pairs c32", "postgres pairs c32", 1.0),
    _ratio(
        "the same on one hot wallet",
        _rate,
        "session pairs, one hot wallet c32",
        "postgres pairs, one hot wallet c32",
        1.0,
    ),
)
GOALS: Final = (
    _ratio("unary Authorize, calls/s: of the echo's, 32 at once", _rate, "authorize c32", "echo c32", 0.80),
    _ratio("the same, 128 at once", _rate, "authorize c128", "echo c128", 0.80),
    Goal(
        "unary p50 one at a time, beyond the echo's: of the FCALL's p50",
        ("authorize c1", "echo c1", "fcall c1"),
        lambda s: (_p50("authorize c1")(s) - _p50("echo c1")(s)) / _p50("fcall c1")(s),
        1.5,
        is_least=False,
    ),
    Goal(
        "Session p50 one at a time: of the unary echo's",
        ("session c1", "echo c1", "stream echo c1", "fcall c1"),
        lambda s: _p50("session c1")(s) / _p50("echo c1")(s),
        0.6,
        is_least=False,
        best=_streams_p50,
    ),
    _ratio("Session, calls/s: of unary's, 32 at once", _rate, "session c32", "authorize c32", 2.0),
    _ratio("the same, 128 at once", _rate, "session c128", "authorize c128", 2.0),
    _ratio("Batches of 32, four at once, calls/s: of the raw pipeline's", _rate, "batch of 32 c4", "fcall c128", 0.70),
    _ratio("the same, everysec", _rate, "batch of 32, everysec c4", "fcall, everysec c128", 0.70),
    _ratio("one at a time, of as many in flight on the raw pipeline", _rate, "batch of 32 c1", "fcall c32", 0.70),
    Goal("flusher, entries/s", ("flush, entries",), _rate("flush, entries"), ENTRIES_PER_S, is_least=True),
    Goal(
        "oldest event that waits for the ledger, ms",
        ("commits at 5,000/s",),
        _used("commits at 5,000/s", "oldest_ms"),
        OLDEST_MS,
        is_least=False,
        note=_committed,
    ),
    *(
        Goal(
            f"bytes per {what} of {assets} asset{'s' if assets > 1 else ''}",
            (f"memory, assets {assets}",),
            _used(f"memory, assets {assets}", counter),
            bound,
            is_least=False,
        )
        for what, counter, bound in MEMORY
        for assets in (1, 2)
    ),
    *RIVALS,
)
