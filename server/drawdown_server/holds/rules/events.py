"""The events that a wallet sends to the ledger: the only way in which settled funds change.

Every event has the wallet's next ``wallet_sequence``: +1 each, without a gap.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class EventKind(StrEnum):
    """What happened."""

    GRANT = "GRANT"
    STATE = "STATE"
    VOID = "VOID"
    EXPIRY = "EXPIRY"
    OVERDRAFT = "OVERDRAFT"
    CAP = "CAP"
    CAP_REMOVAL = "CAP_REMOVAL"
    TIME = "TIME"
    """Time passed: grants became effective or expired, or a hold gave units back to a grant that is over."""
    COMMIT = "COMMIT"
    """Usage was debited."""
    REFUND = "REFUND"


class LineKind(StrEnum):
    """What one line does to the grant it names ("" = to the debt)."""

    GRANT = "GRANT"
    """The grant came into force with all its units."""
    REPAY = "REPAY"
    """The grant paid debt: it has less, the debt is less, settled is the same."""
    DEBIT = "DEBIT"
    """Usage was paid from the grant; "": the debt grew."""
    EXPIRE = "EXPIRE"
    """Unused units ended with the grant's time."""
    VOID = "VOID"
    """Unused units were taken back by an operator."""
    REFUND = "REFUND"
    """A debit was given back to the grant that had paid it; "": the debt shrank."""


class Line(NamedTuple):
    """Units of one asset that one grant (or the debt) got or lost."""

    kind: LineKind
    asset: str
    units: int
    grant_id: str


class SettledAmount(NamedTuple):
    """One asset of a hold at a COMMIT: totals under this hold so far."""

    asset: str
    authorized: int
    debited: int
    uncollected: int
    parts: tuple[tuple[list[str], int], ...] = ()
    """Units debited by the counters of caps in which they count; only if there are several such parts."""


class CapDelta(NamedTuple):
    """By how much the debited units in a cap's counter changed."""

    counter: str
    units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of one wallet."""

    kind: EventKind
    tenant_id: str
    wallet_id: str
    wallet_sequence: int
    time_ms: int
    change_number: int = 0
    """The change by an administrator that this event applied; 0 for usage and for time."""
    hold_id: str = ""
    lines: list[Line] = field(default_factory=list)
    amounts: list[SettledAmount] = field(default_factory=list)
    """Of a COMMIT: every asset of the hold."""
    subjects: list[str] = field(default_factory=list)
    labels: str = ""
    hold_create_ms: int = 0
    late: bool = False
    """Of a COMMIT: the hold had expired before."""
    final: bool = True
    """Of a COMMIT: the hold is settled; false for a progress report."""
    refund_id: str = ""
    """Of a REFUND."""
    cap_usage: list[CapDelta] = field(default_factory=list)
