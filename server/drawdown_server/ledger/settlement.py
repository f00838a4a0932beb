"""What the ledger remembers of a hold: its totals, who paid, its refunds. Pure.

A COMMIT carries totals, so the record is what its last COMMIT said; who paid is added up from the lines, and taken
back by a REFUND from the last debit on, as ``refund.lua`` does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import msgspec

from drawdown_server.holds.fingerprint import refund_digest
from drawdown_server.holds.recorded import RecordedDebit, RecordedPart
from drawdown_server.ledger.counters import parse_counter
from drawdown_server.ledger.events import Event, LineKind
from drawdown_server.ledger.rows import SettledHoldAmount

if TYPE_CHECKING:
    from datetime import datetime

HoldKey: TypeAlias = tuple[str, str, str, int]
"""tenant_id, wallet_id, hold_id, hold_create_ms: an id may be used again much later."""


class KnownHold(NamedTuple):
    """A row of ``settled_holds`` that a later event of the hold changes."""

    amounts: list[SettledHoldAmount]
    refunds: list[tuple[str, str]]
    first_sequence: int
    final: bool
    late: bool
    settle_time: datetime


class AmountRecord:
    """One asset of a hold while its events are planned."""

    __slots__ = ("authorized", "debited", "debits", "parts", "refunded", "uncollected", "usage")

    def __init__(self) -> None:
        self.authorized = 0
        self.debited = 0
        self.uncollected = 0
        self.refunded = 0
        self.debits: list[tuple[str, int]] = []
        self.usage: dict[str, int] = {}
        self.parts: list[RecordedPart] = []

    def row(self, asset: str) -> SettledHoldAmount:
        """As column ``amounts`` has it."""
        return SettledHoldAmount(
            asset,
            self.authorized,
            self.debited,
            self.uncollected,
            self.refunded,
            [RecordedDebit(*debit) for debit in self.debits],
            {counter: units for counter, units in self.usage.items() if units},
            self.parts,
        )


class HoldRecord:
    """A hold while its events are planned.

    Most holds have one event: until there is a second, only that is kept.
    """

    __slots__ = (
        "_amounts",
        "_only",
        "final",
        "first_sequence",
        "is_new",
        "labels",
        "late",
        "refunds",
        "settle_time",
        "subjects",
        "wallet_sequence",
    )

    def __init__(self, event: Event, known: KnownHold | None, occurred: datetime | None) -> None:
        self.is_new = known is None
        self.first_sequence = self.wallet_sequence = event.wallet_sequence
        self.subjects = event.subjects
        self.labels = event.labels or "{}"
        self.refunds: list[tuple[str, str]] = []
        self.final = self.late = False
        self.settle_time = occurred
        self._only: Event | None = None
        self._amounts: dict[str, AmountRecord] | None = None
        if known is not None:
            self._continue(known)

    def _continue(self, known: KnownHold) -> None:
        self.first_sequence = known.first_sequence
        self.refunds = list(known.refunds)
        self.final, self.late, self.settle_time = known.final, known.late, known.settle_time
        self._amounts = {}
        for row in known.amounts:
            amount = self._amounts[row.asset] = AmountRecord()
            amount.authorized, amount.debited = row.authorized, row.debited
            amount.uncollected, amount.refunded = row.uncollected, row.refunded
            amount.debits = [(debit.grant_id, debit.units) for debit in row.debits]
            amount.usage, amount.parts = dict(row.usage), list(row.parts)

    def commit(self, event: Event, occurred: datetime | None) -> None:
        """Add a COMMIT."""
        self.wallet_sequence = event.wallet_sequence
        self.final = event.final
        self.late = self.late or event.late
        self.settle_time = occurred
        if self._amounts is None and self._only is None:
            self._only = event
        else:
            self._add_commit(event)

    def _add_commit(self, event: Event) -> None:
        for settled in event.amounts:
            amount = self._amount(settled.asset)
            amount.authorized = settled.authorized
            amount.debited = settled.debited
            amount.uncollected = settled.uncollected
            amount.parts = [RecordedPart(part.counters, part.units) for part in settled.parts]
        for line in event.lines:
            if line.kind is LineKind.DEBIT:
                debits = self._amount(line.asset).debits
                if debits and debits[-1][0] == line.grant_id:
                    debits[-1] = (line.grant_id, debits[-1][1] + line.units)
                else:
                    debits.append((line.grant_id, line.units))
        self._add_usage(event)

    def refund(self, event: Event) -> None:
        """Add a REFUND."""
        self.wallet_sequence = event.wallet_sequence
        units: dict[str, int] = {}
        for line in event.lines:
            if line.kind is LineKind.REFUND:
                units[line.asset] = units.get(line.asset, 0) + line.units
                amount = self._amount(line.asset)
                amount.refunded += line.units
                _take_back(amount.debits, line.grant_id, line.units)
                _take_from_last(amount.parts, line.units)
        self.refunds.append((event.refund_id, refund_digest(units)))
        self._add_usage(event)

    def _add_usage(self, event: Event) -> None:
        for delta in event.cap_usage:
            usage = self._amount(parse_counter(delta.counter).asset).usage
            usage[delta.counter] = usage.get(delta.counter, 0) + delta.units

    def _amount(self, asset: str) -> AmountRecord:
        amounts = self._by_asset()
        amount = amounts.get(asset)
        if amount is None:
            amount = amounts[asset] = AmountRecord()
        return amount

    def _by_asset(self) -> dict[str, AmountRecord]:
        if self._amounts is None:
            self._amounts = {}
            only, self._only = self._only, None
            if only is not None:
                self._add_commit(only)
        return self._amounts

    def amounts_json(self) -> str:
        """Column ``amounts``."""
        return _encode([amount.row(asset) for asset, amount in self._by_asset().items()]).decode()

    def refunds_json(self) -> str:
        """Column ``refunds``."""
        return _encode(self.refunds).decode() if self.refunds else "[]"


def begins_hold(event: Event) -> bool:
    """Whether a COMMIT is certainly the first of its hold.

    An earlier one would have debited something, which the totals have and the lines have not, or left something
    uncollected: a report that changes nothing makes no event.
    """
    debited: dict[str, int] = {}
    for line in event.lines:
        if line.kind is LineKind.DEBIT:
            debited[line.asset] = debited.get(line.asset, 0) + line.units
    return all(amount.uncollected == 0 and amount.debited == debited.get(amount.asset, 0) for amount in event.amounts)


def _take_back(debits: list[tuple[str, int]], grant_id: str, units: int) -> None:
    """Take units out of the last debits of a grant."""
    for place in range(len(debits) - 1, -1, -1):
        if units == 0:
            return
        if debits[place][0] == grant_id:
            left = debits[place][1] - units
            if left > 0:
                debits[place] = (grant_id, left)
                return
            del debits[place]
            units = -left


def _take_from_last(parts: list[RecordedPart], units: int) -> None:
    """Take refunded units out of the last parts."""
    while parts and units > 0:
        last = parts.pop()
        if last.units > units:
            parts.append(RecordedPart(last.counters, last.units - units))
        units -= min(units, last.units)


_encode: Final = msgspec.json.Encoder().encode
