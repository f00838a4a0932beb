"""Runs that never ran, for tests of what is made from a run's results."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from drawdown.load.connection import Connection
from drawdown.load.mix import parse_mix
from drawdown.load.plan import Loop, Plan
from drawdown.load.recording import Call, Outcome, Recording
from drawdown.load.result import Books, Result
from drawdown.load.shape import parse_shape
from drawdown.load.wallets import Sums

MS = 1_000_000
SECOND_NS = 1_000 * MS
ZERO_NS = 5 * SECOND_NS


def plan_of(**others: object) -> Plan:
    """A plan of ten seconds at 100/s."""
    settings: dict[str, object] = {
        "run_id": "load-1",
        "loop": Loop.OPEN,
        "shape": parse_shape("100", 10),
        "duration_s": 10.0,
        "wallets": ["w-1", "w-2"],
        "skew": 1.0,
        "mix": parse_mix("commit=90,release=10"),
        "held": {"USD": 1_000},
        "used_percent": (20, 100),
        "think_s": 0.0,
        "ttl_s": None,
        "in_flight_max": 100,
        "processes": 1,
        "seed": 7,
        "settle_s": 10.0,
    }
    return Plan(**(settings | others))  # type: ignore[arg-type]


def recording_of(
    milliseconds: list[int], *, call: Call = Call.AUTHORIZE, outcome: Outcome = Outcome.OK, every_ms: int = 10
) -> Recording:
    """A recording of calls that were due every ten milliseconds from the end of the warm-up on."""
    recording = Recording(ZERO_NS, SECOND_NS // 2)
    for number, took_ms in enumerate(milliseconds):
        due_ns = ZERO_NS + number * every_ms * MS
        recording.begin(due_ns, 0)
        recording.end(call, due_ns, due_ns + took_ms * MS, outcome)
    return recording


def result_of(
    recording: Recording,
    *,
    before: int = 10_000,
    after: int | None = None,
    held_after: int = 0,
    cpu_share: float = 0.3,
    measured_s: float = 10.0,
    is_checked: bool = True,
    unread: str = "",
    is_stopped_early: bool = False,
    **plan: object,
) -> Result:
    """A result of that recording, whose balances fell by what was debited unless ``after`` says otherwise."""
    after = before - recording.debited["USD"] if after is None else after
    books = Books(
        Sums(Counter({"USD": before}), Counter({"USD": 0})), Sums(Counter({"USD": after}), Counter({"USD": held_after}))
    )
    return Result(
        plan=plan_of(**plan),
        connection=Connection("127.0.0.1:50051", 2.0),
        began=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        measured_s=measured_s,
        is_stopped_early=is_stopped_early,
        recording=recording,
        cpu_shares=[cpu_share],
        books=books if is_checked and not unread else None,
        unread=unread,
    )
