"""What must hold after every verb, checked from two sides: the wallet as it is, and what its events alone say."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drawdown_server.holds.model import UNITS_MAX, CapWindow, HoldState
from drawdown_server.holds.rules.caps import end_of
from drawdown_server.holds.rules.events import Event, EventKind, LineKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from drawdown_server.holds.rules.grants import Asset
    from drawdown_server.holds.rules.hold import Hold
    from drawdown_server.holds.rules.wallet import Wallet

ADDS = frozenset({LineKind.GRANT, LineKind.REFUND})
"""Lines that add to the balance; all others but REPAY, which moves units from a grant to the debt, take from it."""


class BrokenRuleError(AssertionError):
    """Something that must always hold does not."""


def _require(holds: bool, rule: str, *details: object) -> None:
    if not holds:
        raise BrokenRuleError(rule, *details)


@dataclass(slots=True)
class Books:
    """A wallet as somebody knows it who has seen nothing but its events: the ledger."""

    sequence: int = 0
    remaining: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    """Units left by (asset, grant id); what belongs to no grant ("") is the debt below zero."""
    usage: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Units debited, by the counter of a cap."""
    finals: set[str] = field(default_factory=set)
    """Holds that had their one final COMMIT."""

    @classmethod
    def opened(cls, sequence: int, assets: Iterable[Asset], usage: Mapping[str, int]) -> Books:
        """The books of a wallet that is being loaded."""
        books = cls(sequence)
        books.usage.update(usage)
        for asset in assets:
            books.remaining[asset.code, ""] = -asset.debt
            for grant in asset.grants:
                books.remaining[asset.code, grant.grant_id] = grant.free
        return books

    def post(self, event: Event) -> None:
        """Record an event."""
        _require(event.wallet_sequence == self.sequence + 1, "sequences have no gap", event)
        self.sequence = event.wallet_sequence
        for line in event.lines:
            _require(line.units > 0, "every line moves at least one unit", event)
            key = (line.asset, line.grant_id)
            self.remaining[key] += line.units if line.kind in ADDS else -line.units
            if line.kind is LineKind.REPAY:
                self.remaining[line.asset, ""] += line.units
        for delta in event.cap_usage:
            self.usage[delta.counter] += delta.units
        if event.kind is EventKind.COMMIT and event.final:
            _require(event.hold_id not in self.finals, "a hold is settled once", event)
            self.finals.add(event.hold_id)


def check(wallet: Wallet) -> None:
    """Audit a wallet.

    Raises:
        BrokenRuleError: Something does not add up.
    """
    _require(wallet.sequence == wallet.books.sequence, "the sequence counts the events")
    for hold in wallet.holds.values():
        check_hold(hold)
    for asset in wallet.assets.values():
        check_asset(wallet, asset)
    check_caps(wallet)


def check_asset(wallet: Wallet, asset: Asset) -> None:
    """The numbers of one asset agree with each other, with the holds, and with the ledger."""
    balance = asset.balance(with_grants=False)
    left, right = balance.available + balance.held, balance.settled + balance.overdraft_limit
    _require(left == right, "available + held = settled + overdraft_limit", balance)
    _require(abs(left) <= UNITS_MAX, "amounts and balances are exact in a double", balance)
    pins: defaultdict[str, int] = defaultdict(int)
    for hold in wallet.open_holds():
        for amount in hold.amounts:
            if amount.asset == asset.code:
                for pin in amount.pins:
                    pins[pin.grant_id] += pin.units
    _require(balance.held == sum(pins.values()), "held is the sum of the open holds", balance, pins)
    _require(asset.overdraft_held == pins[""], "overdraft held is what holds lack grants for", asset)
    live = {grant.grant_id: grant for grant in asset.grants}
    _require(len(live) == len(asset.grants), "a grant lives once", asset)
    for grant in asset.grants:
        _require(grant.free >= 0 and grant.pinned >= 0, "nothing is used twice", grant)
        _require(grant.free + grant.pinned > 0, "an empty grant is history", grant)
        _require(grant.pinned == pins[grant.grant_id], "pinned is the sum of the pins", grant)
        _require(not (grant.voided and grant.free), "a voided grant has nothing free", grant)
    _require(asset.grants == sorted(asset.grants, key=lambda g: g.burn_key()), "grants are in burn order", asset)
    for (code, grant_id), units in wallet.books.remaining.items():
        if code == asset.code and grant_id:
            left = live[grant_id].free + live[grant_id].pinned if grant_id in live else 0
            _require(left == units, "the events say what is left of each grant", grant_id, left, units)
    _require(wallet.books.remaining[asset.code, ""] == -asset.debt, "the events say what the debt is", asset)
    _require(asset.debt <= 0 or asset.free == 0, "debt never stands beside free units", asset)


def check_hold(hold: Hold) -> None:
    """A hold agrees with itself."""
    for amount in hold.amounts:
        _require(amount.held == 0 or hold.state is HoldState.HELD, "only open holds hold anything", hold)
        _require(amount.held <= amount.authorized, "no more is held than was authorized", amount)
        _require(0 <= amount.refunded <= amount.debited, "no more is refunded than was debited", amount)
        owed = sum(debit.units for debit in amount.debits)
        _require(owed == amount.refundable, "what was debited is known by grant", amount)
        for part in amount.parts:
            _require(0 <= part.recorded <= part.units, "the ledger knows of no more than is counted", amount)
        if amount.parts:
            counted = sum(part.units for part in amount.parts)
            _require(amount.counted == counted, "caps count held + debited - refunded", amount)
            recorded = sum(part.recorded for part in amount.parts)
            _require(recorded == amount.refundable, "the ledger counts what was debited and not refunded", amount)


def check_caps(wallet: Wallet) -> None:
    """Each counter is what the ledger knows to be debited, and what the open holds hold."""
    counted = defaultdict(int, wallet.books.usage)
    for hold in wallet.holds.values():
        for amount in hold.amounts:
            for part in amount.parts:
                for name in part.counters:
                    counted[name] += part.units - part.recorded
    for name in counted.keys() | wallet.caps.used.keys():
        used = wallet.caps.used.get(name, 0)
        _require(used == counted[name], "counters are held + debited", name, used, counted[name])
        # A refund may come after the counter of an old window was forgotten: nobody looks at that one again.
        _require(used >= 0 or is_over(name, wallet.now_ms), "counters are never negative", name, used)


def is_over(counter: str, now_ms: int) -> bool:
    """Whether the window of a counter has ended."""
    _, _, window, period = counter.split("|")
    return 0 < end_of(CapWindow(window), int(period)) <= now_ms
