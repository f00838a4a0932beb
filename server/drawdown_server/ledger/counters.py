"""The counters of caps, ``subject|asset|WINDOW|period``: which asset each is about, and when its window ends.

``caps.lua`` makes the names; the periods are numbered as there.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

from drawdown_server.holds.model import CapWindow

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SPANS: Final = {
    CapWindow.MINUTE: timedelta(minutes=1),
    CapWindow.HOUR: timedelta(hours=1),
    CapWindow.DAY: timedelta(days=1),
    CapWindow.WEEK: timedelta(weeks=1),
}
_WEEK_OFFSET: Final = timedelta(days=3)
"""1970-01-01 was a Thursday; weeks begin on Monday, so week 0 began three days before."""
_MONTHS: Final = 12

COUNTERS_REMEMBERED: Final = 65_536
"""Counters whose parts are remembered: the same few come with nearly every event."""


class Counter(NamedTuple):
    """The parts of a counter's name that the ledger needs."""

    subject: str
    asset: str
    end_time: datetime | None
    """When its window ends; None for LIFETIME."""


@lru_cache(maxsize=COUNTERS_REMEMBERED)
def parse_counter(name: str) -> Counter:
    """What a counter is about.

    Raises:
        ValueError: It is no counter.
    """
    try:
        subject, asset, window, period = name.split("|")
        return Counter(subject, asset, _end_of(CapWindow(window), int(period)))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name} is no counter of a cap") from error


def _end_of(window: CapWindow, period: int) -> datetime | None:
    if window is CapWindow.LIFETIME:
        return None
    if window is CapWindow.MONTH:
        year, month = divmod(period + 1, _MONTHS)
        return datetime(year, month + 1, 1, tzinfo=UTC)
    if window is CapWindow.PER_REQUEST:
        raise ValueError("a cap per request counts nothing")
    start = _EPOCH - _WEEK_OFFSET if window is CapWindow.WEEK else _EPOCH
    return start + _SPANS[window] * (period + 1)
