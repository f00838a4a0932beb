"""What was seen, in a form that is exact to merge: over time, and over processes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from drawdown.load.histogram import Histogram

NS: Final = 10**9
"""Nanoseconds in a second."""


class Call(StrEnum):
    """The calls that are timed."""

    AUTHORIZE = "Authorize"
    COMMIT = "Commit"
    RELEASE = "Release"
    CHARGE = "Charge"
    GET_BALANCE = "GetBalance"


class Outcome(StrEnum):
    """How a call ended."""

    OK = "ok"
    DENIED = "denied"
    FAILED = "failed"


@dataclass(slots=True)
class Interval:
    """One point in time."""

    latency: dict[Call, Histogram] = field(default_factory=dict)
    """Of the calls that were meant to begin here: a stall shows where it began."""
    ended: Counter[tuple[Call, Outcome]] = field(default_factory=Counter)
    """The calls that ended here: a stall is a gap."""
    begun: int = 0
    """Requests that were meant to begin here."""

    def merge(self, other: Interval) -> None:
        """Adds another one of the same time."""
        for call, histogram in other.latency.items():
            self.latency.setdefault(call, Histogram()).merge(histogram)
        self.ended.update(other.ended)
        self.begun += other.begun


@dataclass(slots=True)
class Recording:
    """Everything that was seen, or a part of it.

    Calls that were meant to begin in the warm-up are not in it, but for their money and the number of their errors.
    """

    zero_ns: int
    """The end of the warm-up, by the monotonic clock, which all processes of a machine share."""
    interval_ns: int
    intervals: dict[int, Interval] = field(default_factory=dict)
    """By their number after ``zero_ns``."""
    errors: Counter[tuple[Call, str, str]] = field(default_factory=Counter)
    """By call, gRPC status and reason."""
    denials: Counter[tuple[Call, str]] = field(default_factory=Counter)
    """By call and reason."""
    replayed: Counter[Call] = field(default_factory=Counter)
    """First sends that were answered as a repetition: the transport had sent them again after a lost answer."""
    start_lag: Histogram = field(default_factory=Histogram)
    """How late the generator itself began each request: after its time, although there was a free place in flight."""
    loop_lag: Histogram = field(default_factory=Histogram)
    """How late timers of the generator fired."""
    held_back: int = 0
    """Arrivals that found no free place in flight."""
    unsent: int = 0
    """Arrivals that never began: the run was over before there was a place for them."""
    warmup_errors: int = 0
    debited: Counter[str] = field(default_factory=Counter)
    """Units by asset that Commits and Charges were answered to have debited, also in the warm-up and at the end."""
    sent_again: int = 0
    """Calls that the tool itself repeated at the end, because no answer had come."""
    released_at_end: int = 0
    unsettled: Counter[str] = field(default_factory=Counter)
    """Holds that could not be settled at the end, by why."""

    def begin(self, due_ns: int, lag_ns: int) -> None:
        """Notes that a request began, and how late by the generator's own fault."""
        if due_ns >= self.zero_ns:
            self._at(due_ns).begun += 1
            self.start_lag.add(lag_ns)

    def end(self, call: Call, due_ns: int, ended_ns: int, outcome: Outcome) -> None:
        """Notes that a call ended; its latency is from when it was due."""
        if due_ns < self.zero_ns:
            self.warmup_errors += outcome is Outcome.FAILED
            return
        latency = self._at(due_ns).latency
        histogram = latency.get(call)
        if histogram is None:
            histogram = latency[call] = Histogram()
        histogram.add(ended_ns - due_ns)
        self._at(ended_ns).ended[call, outcome] += 1

    def merge(self, other: Recording) -> None:
        """Adds another part of the same run."""
        for number, interval in other.intervals.items():
            self.intervals.setdefault(number, Interval()).merge(interval)
        self.errors.update(other.errors)
        self.denials.update(other.denials)
        self.replayed.update(other.replayed)
        self.debited.update(other.debited)
        self.unsettled.update(other.unsettled)
        self.start_lag.merge(other.start_lag)
        self.loop_lag.merge(other.loop_lag)
        self.held_back += other.held_back
        self.unsent += other.unsent
        self.warmup_errors += other.warmup_errors
        self.sent_again += other.sent_again
        self.released_at_end += other.released_at_end

    def empty(self) -> Recording:
        """A new one of the same run."""
        return Recording(self.zero_ns, self.interval_ns)

    def latency(self) -> dict[Call, Histogram]:
        """Of each call, over the whole time; in the order of ``Call``."""
        found: dict[Call, Histogram] = {}
        for call in Call:
            total = Histogram()
            for interval in self.intervals.values():
                if call in interval.latency:
                    total.merge(interval.latency[call])
            if total.count:
                found[call] = total
        return found

    @property
    def begun(self) -> int:
        """Requests."""
        return sum(interval.begun for interval in self.intervals.values())

    def ended(self, outcome: Outcome) -> int:
        """Calls that ended so."""
        return sum(sum(n for (_, how), n in i.ended.items() if how is outcome) for i in self.intervals.values())

    def _at(self, time_ns: int) -> Interval:
        number = (time_ns - self.zero_ns) // self.interval_ns
        interval = self.intervals.get(number)
        if interval is None:
            interval = self.intervals[number] = Interval()
        return interval
