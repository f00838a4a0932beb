"""A wallet: assets, holds and caps together, at one moment.

Whatever a verb touches is first brought up to date: time has expired grants and made scheduled ones effective before
anything is decided. All events go through ``record``.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypedDict

from drawdown_server.holds.model import ExpiryAction, HoldState, WalletState
from drawdown_server.holds.rules.audit import Books
from drawdown_server.holds.rules.caps import CapBook
from drawdown_server.holds.rules.events import CapDelta, Event, EventKind, Line, SettledAmount
from drawdown_server.holds.rules.grants import Asset

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Unpack

    from drawdown_server.holds.model import AssetBalance
    from drawdown_server.holds.rules.hold import Hold, HoldAmount

EXPIRE_MAX: Final = 1000
"""Due holds that one call expires; the others wait for the next one."""


class EventDetails(TypedDict, total=False):
    """What an event has beside its kind and lines."""

    change_number: int
    hold_id: str
    amounts: list[SettledAmount]
    subjects: list[str]
    labels: str
    hold_create_ms: int
    late: bool
    final: bool
    refund_id: str
    cap_usage: list[CapDelta]


@dataclass(slots=True, kw_only=True)
class Wallet:
    """One customer's prepaid balance over any number of assets."""

    tenant_id: str
    wallet_id: str
    state: WalletState
    sequence: int
    """Number of the last event."""
    change_number: int
    """Number of the last change by an administrator that was applied."""
    events: list[Event]
    """Where its events go."""
    now_ms: int = 0
    """The time of the call that is going on; it stands still within one."""
    loaded_ms: int = 0
    """Since when it is here."""
    touched: set[str] = field(default_factory=set)
    """The assets that this call has brought up to date."""
    assets: dict[str, Asset] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    """Open ones, and settled ones until they are forgotten."""
    caps: CapBook = field(default_factory=CapBook)
    books: Books = field(default_factory=Books)
    """What the events alone say; for the audit."""

    # --- assets --------------------------------------------------------------------------------------------------

    def asset(self, code: str) -> Asset:
        """An asset of the wallet, new if it never had any of it."""
        return self.assets.setdefault(code, Asset(code))

    def seen(self, code: str) -> Asset:
        """An asset as a check sees it: one that the wallet never had is empty, and stays unknown."""
        return self.assets.get(code) or Asset(code)

    def available(self, code: str) -> int:
        """What can be held of an asset; 0 if the wallet never had any of it."""
        return self.assets[code].available if code in self.assets else 0

    def touch(self, codes: Iterable[str]) -> None:
        """Bring assets up to date, in this order. What time has done is one TIME event per asset."""
        for code in codes:
            self.touched.add(code)
            lines = self.assets[code].refresh(self.now_ms) if code in self.assets else []
            if lines:
                self.record(EventKind.TIME, lines)

    def balances(self, codes: Iterable[str], *, with_grants: bool = False) -> list[AssetBalance]:
        """The balances as of now, for an answer. Looking changes nothing.

        What a verb has made room for comes in with the next one.
        """
        balances = []
        for code in codes:
            asset = self.assets.get(code) or Asset(code)
            if code not in self.touched and asset.is_behind(self.now_ms):
                asset = deepcopy(asset)
                asset.refresh(self.now_ms)
            balances.append(asset.balance(with_grants=with_grants))
        return balances

    # --- events --------------------------------------------------------------------------------------------------

    def record(self, kind: EventKind, lines: list[Line], **details: Unpack[EventDetails]) -> None:
        """The wallet's next event. A hold remembers the sequence of its last one."""
        self.sequence += 1
        event = Event(
            kind=kind,
            tenant_id=self.tenant_id,
            wallet_id=self.wallet_id,
            wallet_sequence=self.sequence,
            time_ms=self.now_ms,
            lines=lines,
            **details,
        )
        if event.hold_id:
            self.holds[event.hold_id].wallet_sequence = self.sequence
        self.events.append(event)
        self.books.post(event)

    def record_commit(self, hold: Hold, lines: list[Line], usage: list[CapDelta], *, late: bool, final: bool) -> None:
        """A COMMIT: everything that the ledger keeps about the hold, also when nothing was debited."""
        self.record(
            EventKind.COMMIT,
            lines,
            hold_id=hold.hold_id,
            amounts=[amount.settled() for amount in hold.amounts],
            subjects=list(hold.subjects),
            labels=hold.labels,
            hold_create_ms=hold.create_ms,
            late=late,
            final=final,
            cap_usage=usage,
        )

    # --- holds ---------------------------------------------------------------------------------------------------

    def open_holds(self) -> list[Hold]:
        """Those not settled yet, soonest expiry first, then by id."""
        holds = [hold for hold in self.holds.values() if hold.state is HoldState.HELD]
        return sorted(holds, key=lambda hold: (hold.expire_ms, hold.hold_id))

    def expire_due(self, tombstone_ms: int) -> int:
        """Expire the holds that are due, soonest first. Returns how many."""
        due = [hold for hold in self.open_holds() if hold.is_due(self.now_ms)][:EXPIRE_MAX]
        for hold in due:
            self.touch(hold.assets)
            self.expire(hold, tombstone_ms)
        return len(due)

    def expire(self, hold: Hold, tombstone_ms: int) -> None:
        """Nobody settled a hold in time: give it back (RELEASE), or debit all that is held (COMMIT_FULL)."""
        if hold.expiry_action is ExpiryAction.RELEASE:
            self.give_back(hold)
            self.close(hold, HoldState.EXPIRED, tombstone_ms)
            return
        lines: list[Line] = []
        usage: list[CapDelta] = []
        for amount in hold.amounts:
            held = amount.held
            debits, amount.pins = self.asset(amount.asset).debit_pins(amount.pins, held)
            amount.add_debits(debits)
            lines += debits
            usage += self.recount(amount)
        lines += self.repay(hold)
        self.close(hold, HoldState.COMMITTED, tombstone_ms)
        self.record_commit(hold, lines, usage, late=False, final=True)

    def give_back(self, hold: Hold) -> None:
        """What is still held goes back, its caps' headroom too. An event only if something ended by it."""
        lines = [line for amount in hold.amounts for line in self.give_back_amount(amount)]
        if lines:
            self.record(EventKind.TIME, lines, hold_id=hold.hold_id)

    def give_back_amount(self, amount: HoldAmount) -> list[Line]:
        """One asset of ``give_back``. What comes back repays debt first."""
        pins, amount.pins = amount.pins, []
        self.recount(amount)
        if not pins:
            return []
        asset = self.asset(amount.asset)
        return asset.give_back(pins, self.now_ms) + asset.repay()

    def repay(self, hold: Hold) -> list[Line]:
        """Debt that the units of a hold have left beside free ones is repaid before the event is recorded."""
        return [line for amount in hold.amounts for line in self.asset(amount.asset).repay()]

    def close(self, hold: Hold, state: HoldState, tombstone_ms: int) -> None:
        """A hold reaches a final state, and is remembered for a while so that repeats get the same answer."""
        hold.state = state
        hold.settle_ms = self.now_ms
        self.remember(hold, tombstone_ms)

    def remember(self, hold: Hold, tombstone_ms: int) -> None:
        """A settled hold is still in use: remember it for as long as if it had been settled now."""
        hold.forget_ms = self.now_ms + tombstone_ms

    def recount(self, amount: HoldAmount) -> list[CapDelta]:
        """Caps count held + debited - refunded, in the windows in which the units were reserved.

        What is less goes back to the last part first; what is more counts in the last.

        Returns:
            What the ledger is told: debited units alone, which fill the parts from the first.
        """
        change = amount.counted - sum(part.units for part in amount.parts)
        for part in reversed(amount.parts):
            step = max(change, -part.units)
            part.units += step
            change -= step
            self.caps.count(part.counters, step)
        deltas: list[CapDelta] = []
        debited = amount.refundable
        for part in amount.parts:
            usage = min(part.units, debited)
            debited -= usage
            if usage != part.recorded:
                deltas += [CapDelta(name, usage - part.recorded) for name in part.counters]
                part.recorded = usage
        return deltas

    def forget_due(self) -> int:
        """Forget settled holds whose time has come: the ledger has them. Returns how many."""
        ids = [hold.hold_id for hold in self.settled_holds() if hold.forget_ms <= self.now_ms]
        for hold_id in ids:
            del self.holds[hold_id]
            self.books.finals.discard(hold_id)
        return len(ids)

    def settled_holds(self) -> list[Hold]:
        """Those in a final state that are not forgotten yet."""
        return [hold for hold in self.holds.values() if hold.state is not HoldState.HELD]
