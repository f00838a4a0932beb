"""A run as people read it in a terminal, and as the tables of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from drawdown.load.document import PERCENTILES, percentile_name
from drawdown.load.plan import Loop
from drawdown.load.recording import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from drawdown.load.assertions import Judged
    from drawdown.load.histogram import Histogram
    from drawdown.load.result import Result

COLUMN_GAP: Final = "  "
SECOND_MS: Final = 1_000


class Table(NamedTuple):
    """Rows of texts under a title; columns of numbers stand to the right."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int
    """Columns from the left that are text."""


def milliseconds(value_ns: float) -> str:
    """A time in milliseconds, three decimal places below a second."""
    value_ms = value_ns / 1e6
    return f"{value_ms:.3f}" if value_ms < SECOND_MS else f"{value_ms:,.1f}"


def facts(result: Result) -> dict[str, str]:
    """What was done, in a few words each."""
    plan, recording = result.plan, result.recording
    ended = {outcome: recording.ended(outcome) for outcome in Outcome}
    released, again = recording.released_at_end, recording.sent_again
    told = {
        "run": f"{plan.run_id} against {result.connection.target}, {result.began:%Y-%m-%d %H:%M:%S} UTC",
        "load": load(result),
        "requests": f"{plan.mix} over {len(plan.wallets):,} wallets, skew {plan.skew:g}",
        "measured": f"{result.measured_s:.1f} s: {recording.begun:,} requests, {result.request_rate:,.1f}/s",
        "calls": (
            f"{result.calls:,}, {result.call_rate():,.1f}/s: {ended[Outcome.OK]:,} ok, "
            f"{ended[Outcome.DENIED]:,} denied, {ended[Outcome.FAILED]:,} failed"
        ),
        "generator": (
            f"late by {milliseconds(result.generator_lag_ns)} ms at p99; busiest process "
            f"{max(result.cpu_shares, default=0):.0%} of a core"
        ),
    }
    if released or again:
        told["at the end"] = f"{released:,} open holds released, {again:,} calls without an answer sent again"
    return told


def load(result: Result) -> str:
    """The load in words."""
    plan = result.plan
    if plan.replay is not None:
        what = f"{len(plan.replay.rows):,} requests of {plan.replay.name}"
        what += f" at {plan.replay.speed:g}x" if plan.shape is None else ""
    else:
        what = f"{plan.arrivals} arrivals" if plan.loop is Loop.OPEN else "each sends again when it has its answer"
    if plan.shape is not None:
        what = f"{plan.shape.in_words('requests/s' if plan.loop is Loop.OPEN else 'gateways')}, {what}"
    if plan.warmup_s:
        what += f", after {plan.warmup_s:g} s of warm-up"
    processes = "1 process" if plan.processes == 1 else f"{plan.processes} processes"
    return f"{plan.loop} loop, {what}, {processes}, seed {plan.seed}"


def tables(result: Result) -> list[Table]:
    """Latencies, errors, denials, money."""
    recording = result.recording
    head = ["CALL", "COUNT", "PER S", "MEAN", *(percentile_name(percent).upper() for percent in PERCENTILES), "MAX"]
    rows = [[call, *_latency(histogram, result.call_rate(call))] for call, histogram in result.latency.items()]
    if len(rows) > 1:
        rows.append(["all", *_latency(result.all_calls, result.call_rate())])
    found = [Table("latency in ms, from when each call was due", head, rows, 1)]
    if recording.errors:
        errors = [[*key, f"{count:,}"] for key, count in recording.errors.most_common()]
        found.append(Table("errors", ["CALL", "STATUS", "REASON", "COUNT"], errors, 3))
    if recording.denials:
        denials = [[*key, f"{count:,}"] for key, count in recording.denials.most_common()]
        found.append(Table("denials", ["CALL", "REASON", "COUNT"], denials, 2))
    if recording.replayed:
        replays = [[call, f"{count:,}"] for call, count in recording.replayed.most_common()]
        found.append(Table("first sends answered as a replay: an answer was lost", ["CALL", "COUNT"], replays, 1))
    money = [
        [line.asset, f"{line.debited_units:,}", f"{line.fallen_units:,}", f"{line.held_more_units:,}"]
        for line in result.conservation
    ]
    if money:
        found.append(Table("money in units", ["ASSET", "DEBITED", "BALANCES FELL BY", "LEFT HELD"], money, 1))
    return found


def verdicts(result: Result, judged: Sequence[Judged]) -> list[tuple[bool, str]]:
    """Whether the books are right, and each assertion holds."""
    money: list[tuple[bool, str]] = []
    if result.recording.unsettled:
        why = ", ".join(f"{count:,} {reason}" for reason, count in result.recording.unsettled.items())
        money.append((False, f"holds that could not be settled at the end: {why}"))
    if result.unread:
        money.append((False, f"the balances could not be read after the run: {result.unread}"))
    elif result.books is not None and all(line.is_conserved for line in result.conservation):
        money.append((True, "conserved: the balances fell by what was debited, nothing is left held"))
    elif result.books is not None:
        money.append((False, "not conserved: the balances differ from what was debited, or holds are left"))
    return money + [(one.holds, f"{one.text} (it was {one.value})") for one in judged]


def lines(result: Result, judged: Sequence[Judged]) -> Iterator[str]:
    """The report for a terminal."""
    told = facts(result)
    width = max(map(len, told))
    for name, value in told.items():
        yield f"{name:<{width}}{COLUMN_GAP}{value}"
    for table in tables(result):
        yield ""
        yield table.title
        yield from aligned(table)
    yield ""
    for holds, text in verdicts(result, judged):
        yield f"{'ok  ' if holds else 'FAIL'}{COLUMN_GAP}{text}"
    for warning in result.warnings:
        yield f"WARNING{COLUMN_GAP}{warning}"


def aligned(table: Table) -> Iterator[str]:
    """The lines of a table."""
    rows = [table.head, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.head))]
    for row in rows:
        cells = [
            cell.ljust(width) if column < table.texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield COLUMN_GAP.join(cells).rstrip()


def _latency(histogram: Histogram, rate: float) -> list[str]:
    times = [histogram.mean_ns, *(histogram.percentile_ns(percent) for percent in PERCENTILES), histogram.max_ns]
    return [f"{histogram.count:,}", f"{rate:,.1f}", *map(milliseconds, times)]
