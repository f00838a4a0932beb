"""What came of a run: numbers that the recording implies, and what has to be said about them."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import TYPE_CHECKING, Final

import grpc

from drawdown.load.histogram import Histogram
from drawdown.load.plan import Loop

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from drawdown.load.connection import Connection
    from drawdown.load.plan import Plan
    from drawdown.load.recording import Call, Recording
    from drawdown.load.wallets import Sums

LATE_NS: Final = 5_000_000
"""A start that is later than this by the generator's own fault is a late start: a call takes less."""
LAG_SHARE: Final = 0.1
"""Part of a latency's p99 that the generator's own p99 may be; beyond it the generator spoils what it measures."""
LAG_LEAST_NS: Final = 1_000_000
"""A lag below this is what any process on any machine has."""
CPU_SHARE_HIGH: Final = 0.85
"""Of one core, which is all that a process of ours can use: beyond it answers wait in the generator."""


@dataclass(frozen=True, slots=True)
class Books:
    """Balances of the run's wallets."""

    before: Sums
    after: Sums


@dataclass(frozen=True, slots=True)
class Conservation:
    """One asset: what was answered, and what the balances say. Equal, or something is wrong."""

    asset: str
    debited_units: int
    """By the answers to Commits and Charges."""
    fallen_units: int
    """By which the settled balances fell."""
    held_more_units: int
    """Still held, beyond what was held before."""

    @property
    def is_conserved(self) -> bool:
        """Whether both say the same and nothing is left held."""
        return self.debited_units == self.fallen_units and self.held_more_units == 0


@dataclass(frozen=True, kw_only=True)
class Result:
    """A run that is over."""

    plan: Plan
    connection: Connection
    began: datetime
    measured_s: float
    """From the end of the warm-up to the end of the plan, or to when it was stopped."""
    is_stopped_early: bool
    recording: Recording
    cpu_shares: Sequence[float]
    """Of each process, of one core."""
    books: Books | None
    """None when nobody looked, or could look."""
    unread: str = ""
    """Why the balances could not be read after the run."""

    @cached_property
    def latency(self) -> dict[Call, Histogram]:
        """By call."""
        return self.recording.latency()

    @cached_property
    def all_calls(self) -> Histogram:
        """Every call."""
        total = Histogram()
        for histogram in self.latency.values():
            total.merge(histogram)
        return total

    @property
    def calls(self) -> int:
        """Calls that ended, whichever way."""
        return self.all_calls.count

    @property
    def request_rate(self) -> float:
        """Requests per second that began."""
        return self.recording.begun / self.measured_s if self.measured_s else 0.0

    def call_rate(self, call: Call | None = None) -> float:
        """Calls per second that ended within the measured time: what the server did, not what came after the end."""
        last = self.measured_s / self.plan.interval_s
        ended = sum(
            count
            for number, interval in self.recording.intervals.items()
            if number < last
            for (of, _), count in interval.ended.items()
            if call in (None, of)
        )
        return ended / self.measured_s if self.measured_s else 0.0

    @property
    def errors(self) -> int:
        """Calls that failed."""
        return self.recording.errors.total()

    @property
    def denials(self) -> int:
        """Calls that were answered with no."""
        return self.recording.denials.total()

    @cached_property
    def conservation(self) -> list[Conservation]:
        """By asset; nothing when nobody looked."""
        if self.books is None:
            return []
        before, after, debited = self.books.before, self.books.after, self.recording.debited
        assets = sorted(before.settled.keys() | after.settled.keys() | debited.keys() | set(self.plan.assets))
        return [
            Conservation(
                asset,
                debited[asset],
                before.settled[asset] - after.settled[asset],
                after.held[asset] - before.held[asset],
            )
            for asset in assets
        ]

    @property
    def is_conserved(self) -> bool:
        """Whether the tool's books and the server's say the same and nothing is left held, as far as anybody looked."""
        is_settled = not self.recording.unsettled and not self.unread
        return is_settled and all(line.is_conserved for line in self.conservation)

    @property
    def late_start_percent(self) -> float:
        """Requests, in percent, that the generator itself began too late."""
        lag = self.recording.start_lag
        return 100 * lag.count_above(LATE_NS) / lag.count if lag.count else 0.0

    @property
    def generator_lag_ns(self) -> int:
        """The p99 of how late the generator itself was: its starts, or its timers, whichever is worse."""
        return max(lag.percentile_ns(99) for lag in (self.recording.start_lag, self.recording.loop_lag))

    @property
    def is_generator_late(self) -> bool:
        """Whether the generator's own delay is a part of the latencies that counts."""
        lag_ns = self.generator_lag_ns
        return lag_ns > LAG_LEAST_NS and lag_ns > LAG_SHARE * self.all_calls.percentile_ns(99)

    @property
    def is_generator_busy(self) -> bool:
        """Whether a process of the generator used nearly all of a core."""
        return max(self.cpu_shares, default=0.0) > CPU_SHARE_HIGH

    @property
    def warnings(self) -> list[str]:
        """What must be known before the numbers are believed; in sentences."""
        recording, plan, said = self.recording, self.plan, []
        if self.is_stopped_early:
            said.append(f"The run was stopped after {self.measured_s:.1f} of {plan.duration_s:g} s.")
        if self.is_generator_late or self.is_generator_busy:
            said.append(
                "The generator was the bottleneck: at p99 it began requests or read answers "
                f"{self.generator_lag_ns / 1e6:.1f} ms late, and its busiest process used "
                f"{max(self.cpu_shares, default=0):.0%} of a core. The latencies include its own delay: use more "
                "--processes, a machine of its own, or less load."
            )
        if recording.unsent:
            said.append(
                f"{recording.unsent:,} requests never began: the server did not keep up with the rate, and "
                f"{plan.in_flight_max:,} were in flight. The latencies leave these requests out, so they are too good."
            )
        elif recording.held_back:
            said.append(
                f"{recording.held_back:,} requests began late, because {plan.in_flight_max:,} were in flight "
                "(--in-flight). Their latencies count from the time at which they were due."
            )
        if recording.warmup_errors:
            said.append(f"{recording.warmup_errors:,} calls failed during the warm-up; they are in no other number.")
        if plan.loop is Loop.CLOSED and self.calls:
            said.append(
                "Closed loop: a stalled server also stalls the load, so these percentiles hide most of a stall. "
                "Use --rate for latencies that promise something."
            )
        return said


def versions() -> dict[str, str]:
    """What the run was made with."""
    return {
        "drawdown": metadata.version("drawdown"),
        "grpcio": grpc.__version__,
        "protobuf": metadata.version("protobuf"),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
