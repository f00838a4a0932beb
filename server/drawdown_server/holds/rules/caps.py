"""Caps: hard limits on spend, per wallet or subject, per asset, per window.

What counts is units held and units debited. Counters are named by the window they belong to, so a new window starts
at zero without anybody resetting anything; a hold remembers the counters it counts in, so what it gives back goes to
the window it came from.
"""

from __future__ import annotations

from calendar import timegm
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from drawdown_server.holds.model import UNITS_MAX, Cap, CapMode, CapStatus, CapWindow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
WEEK_DAYS: Final = 7
MONTHS: Final = 12
EPOCH_WEEKDAY: Final = 3
"""1970-01-01 was a Thursday: three days after Monday, when a week begins."""
WALLET: Final = ""
"""The subject of caps on the whole wallet."""


def period_of(window: CapWindow, time_ms: int) -> int:
    """The number of the window that a time falls into; UTC."""
    match window:
        case CapWindow.MINUTE:
            return time_ms // MINUTE_MS
        case CapWindow.HOUR:
            return time_ms // HOUR_MS
        case CapWindow.DAY:
            return time_ms // DAY_MS
        case CapWindow.WEEK:
            return (time_ms // DAY_MS + EPOCH_WEEKDAY) // WEEK_DAYS
        case CapWindow.MONTH:
            date = datetime.fromtimestamp(time_ms // 1000, UTC)
            return date.year * MONTHS + date.month - 1
        case CapWindow.LIFETIME | CapWindow.PER_REQUEST:
            return 0


def end_of(window: CapWindow, period: int) -> int:
    """When a window ends, in milliseconds: the first moment of the next one. 0 = never."""
    after = period + 1
    match window:
        case CapWindow.MINUTE:
            return after * MINUTE_MS
        case CapWindow.HOUR:
            return after * HOUR_MS
        case CapWindow.DAY:
            return after * DAY_MS
        case CapWindow.WEEK:
            return (after * WEEK_DAYS - EPOCH_WEEKDAY) * DAY_MS
        case CapWindow.MONTH:
            return timegm((after // MONTHS, after % MONTHS + 1, 1, 0, 0, 0)) * 1000
        case CapWindow.LIFETIME | CapWindow.PER_REQUEST:
            return 0


class Counter(NamedTuple):
    """What one subject used of one asset in one window."""

    subject: str
    """The request's, not the cap's: every subject counts for itself, also under a ``prefix*`` default."""
    asset: str
    window: CapWindow
    period: int

    @property
    def name(self) -> str:
        """``subject|asset|WINDOW|period``."""
        return f"{self.subject}|{self.asset}|{self.window}|{self.period}"


class Wanted(NamedTuple):
    """Units of one asset that somebody wants to hold."""

    asset: str
    units: int
    reserved: int = 0
    """Of a raise: what the hold has reserved before. For PER_REQUEST both together are the request."""


def status_of(cap: Cap, counter: Counter, used: int) -> CapStatus:
    """A cap as an answer shows it."""
    return CapStatus(
        cap=cap.subject,
        subject=counter.subject,
        asset=cap.asset,
        window=cap.window,
        limit=cap.limit,
        used=used,
        mode=cap.mode,
        reset_ms=end_of(counter.window, counter.period),
    )


@dataclass(slots=True)
class CapTest:
    """What the caps say to a request."""

    exceeded: CapStatus | None = None
    """The first enforced cap that says no."""
    observed: list[CapStatus] = field(default_factory=list)
    """The caps in OBSERVE mode that would have said no."""

    def meet(self, cap: Cap, counter: Counter, used: int, units: int) -> None:
        """One cap looks at so many units on top of what is used."""
        if used + units <= cap.limit:
            return
        status = status_of(cap, counter, used)
        if cap.mode is CapMode.OBSERVE:
            self.observed.append(status)
        elif self.exceeded is None:
            self.exceeded = status


@dataclass(slots=True)
class CapBook:
    """The caps of a wallet and their counters."""

    caps: dict[tuple[str, str, CapWindow], Cap] = field(default_factory=dict)
    """By subject, asset and window."""
    used: dict[str, int] = field(default_factory=dict)
    """Units held and debited, by the counter's name. Removing a cap leaves its counters."""

    def set(self, cap: Cap) -> None:
        """Set a cap, or change its limit and mode."""
        self.remove(cap)
        self.caps[cap.subject, cap.asset, cap.window] = cap

    def remove(self, cap: Cap) -> None:
        """Remove a cap."""
        self.caps.pop((cap.subject, cap.asset, cap.window), None)

    def all(self) -> list[Cap]:
        """Every cap, by subject, asset and window, narrow windows first."""
        windows = list(CapWindow)
        return sorted(self.caps.values(), key=lambda cap: (cap.subject, cap.asset, windows.index(cap.window)))

    def find(self, subject: str, asset: str, window: CapWindow) -> Cap | None:
        """The cap that applies: the subject's own, or else the longest ``prefix*`` default that matches it.

        Defaults are for subjects: only its own caps apply to the whole wallet.
        """
        own = self.caps.get((subject, asset, window))
        if own is not None or subject == WALLET:
            return own
        defaults = [
            cap
            for cap in self.caps.values()
            if (cap.asset, cap.window) == (asset, window)
            and cap.subject.endswith("*")
            and subject.startswith(cap.subject[:-1])
        ]
        return max(defaults, key=lambda cap: len(cap.subject), default=None)

    def applicable(self, subject: str, asset: str, now_ms: int) -> Iterator[tuple[Cap, Counter]]:
        """The caps that apply to a subject now, narrow windows first, each with the counter it looks at."""
        for window in CapWindow:
            cap = self.find(subject, asset, window)
            if cap is not None:
                yield cap, Counter(subject, asset, window, period_of(window, now_ms))

    def counters(self, subjects: Iterable[str], asset: str, now_ms: int) -> list[str]:
        """The counters in which units held now count: one per cap that applies, but PER_REQUEST counts nothing."""
        return [
            counter.name
            for subject in [WALLET, *subjects]
            for _, counter in self.applicable(subject, asset, now_ms)
            if counter.window is not CapWindow.PER_REQUEST
        ]

    def headroom(self, subjects: Iterable[str], asset: str, now_ms: int) -> int | None:
        """What the tightest enforced cap leaves; None if there is none."""
        rooms = [
            cap.limit - self.used_in(counter)
            for subject in [WALLET, *subjects]
            for cap, counter in self.applicable(subject, asset, now_ms)
            if cap.mode is CapMode.ENFORCE
        ]
        return min(rooms, default=None)

    def test(self, subjects: Iterable[str], wanted: Iterable[Wanted], now_ms: int) -> CapTest:
        """Whether new units fit: the whole wallet first, then subject by subject, asset by asset; all must pass."""
        result, amounts = CapTest(), list(wanted)
        for subject in [WALLET, *subjects]:
            for amount in amounts:
                for cap, counter in self.applicable(subject, amount.asset, now_ms):
                    is_one_request = cap.window is CapWindow.PER_REQUEST
                    result.meet(
                        cap, counter, amount.reserved if is_one_request else self.used_in(counter), amount.units
                    )
        return result

    def statuses(self, subjects: Iterable[str], now_ms: int) -> list[CapStatus]:
        """How the caps stand: for the whole wallet, for subjects with a cap of their own, and for the named ones."""
        own = [cap.subject for cap in self.all() if cap.subject != WALLET and not cap.subject.endswith("*")]
        shown = dict.fromkeys([WALLET, *own, *subjects])
        assets = sorted({cap.asset for cap in self.caps.values()})
        return [
            status_of(cap, counter, self.used_in(counter))
            for subject in shown
            for asset in assets
            for cap, counter in self.applicable(subject, asset, now_ms)
        ]

    def used_in(self, counter: Counter) -> int:
        """Units held and debited in a counter, at most UNITS_MAX: all time may be longer than any limit.

        PER_REQUEST has none: each request stands by itself.
        """
        return min(self.used.get(counter.name, 0), UNITS_MAX)

    def count(self, counters: Iterable[str], units: int) -> None:
        """Add units, or give headroom back when negative."""
        for name in counters:
            self.used[name] = self.used.get(name, 0) + units
