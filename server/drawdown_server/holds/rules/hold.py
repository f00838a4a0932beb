"""A hold: HELD, then COMMITTED, RELEASED or EXPIRED. It pins units of named grants."""

from __future__ import annotations

from dataclasses import dataclass, field

from drawdown_server.holds import model
from drawdown_server.holds.model import ExpiryAction, HoldState, OveragePolicy
from drawdown_server.holds.rules.events import Line, LineKind, SettledAmount
from drawdown_server.holds.rules.grants import Pin


@dataclass(slots=True)
class Part:
    """Units of a hold's amount that count in the same counters of caps.

    The Authorize makes the first part. A raise that counts elsewhere (in a later window, or under other caps) makes
    another one, so that each unit goes back to the window it came from.
    """

    counters: list[str]
    """Names. Empty: no cap applied."""
    units: int = 0
    """Units held, and debited and not refunded."""
    recorded: int = 0
    """Units of these that the ledger knows to be debited."""


def append(units: list[Pin], more: list[Pin]) -> None:
    """Add pins or debits to a list of them; those of one grant in a row are one."""
    for pin in more:
        if units and units[-1].grant_id == pin.grant_id:
            units[-1] = Pin(pin.grant_id, units[-1].units + pin.units)
        else:
            units.append(pin)


@dataclass(slots=True, kw_only=True)
class HoldAmount:
    """One asset of a hold."""

    asset: str
    authorized: int
    """Units reserved in total, raises included."""
    overage_policy: OveragePolicy
    pins: list[Pin] = field(default_factory=list)
    """What is still reserved, in the order in which it will be used."""
    debited: int = 0
    uncollected: int = 0
    """Units used that nobody paid, under CHARGE_AVAILABLE."""
    refunded: int = 0
    debits: list[Pin] = field(default_factory=list)
    """What each grant paid and was not given back, in the order of the debits."""
    parts: list[Part] = field(default_factory=list)
    """Where it counts in caps; none if no cap applied so far."""

    @property
    def held(self) -> int:
        """Units still reserved."""
        return sum(pin.units for pin in self.pins)

    @property
    def reported(self) -> int:
        """The last total that Commit reported: what was charged and what could not be."""
        return self.debited + self.uncollected

    @property
    def reserved(self) -> int:
        """What was asked for so far: used, and still held."""
        return self.held + self.reported

    @property
    def counted(self) -> int:
        """What counts in caps."""
        return self.held + self.debited - self.refunded

    @property
    def refundable(self) -> int:
        """At most what was debited can be refunded."""
        return self.debited - self.refunded

    def add_debits(self, lines: list[Line]) -> None:
        """Remember who paid."""
        debits = [Pin(line.grant_id, line.units) for line in lines if line.kind is LineKind.DEBIT]
        self.debited += sum(debit.units for debit in debits)
        append(self.debits, debits)

    def take_debits(self, units: int) -> list[Pin]:
        """The debits that a refund of so many units gives back: the last ones first."""
        self.refunded += units
        taken: list[Pin] = []
        while units > 0:
            last = self.debits.pop()
            part = min(last.units, units)
            if part < last.units:
                self.debits.append(Pin(last.grant_id, last.units - part))
            taken.append(Pin(last.grant_id, part))
            units -= part
        return taken

    def settled(self) -> SettledAmount:
        """As a COMMIT event has it."""
        is_several = len(self.parts) > 1
        parts = tuple((list(part.counters), part.recorded) for part in self.parts if is_several and part.recorded > 0)
        return SettledAmount(self.asset, self.authorized, self.debited, self.uncollected, parts)


@dataclass(slots=True, kw_only=True)
class Hold:
    """A reservation, and for a while after it was settled what became of it."""

    hold_id: str
    fingerprint: str
    """Of the Authorize that made it; empty if there was none."""
    amounts: list[HoldAmount]
    create_ms: int
    expire_ms: int
    """When it expires unless settled; 0 for what never was open."""
    subjects: list[str]
    labels: str
    expiry_action: ExpiryAction = ExpiryAction.RELEASE
    state: HoldState = HoldState.HELD
    settle_ms: int = 0
    forget_ms: int = 0
    """From when a settled hold may be forgotten."""
    late: bool = False
    """Something was committed after it had expired."""
    wallet_sequence: int = 0
    """Of its last event; 0 while there is none."""
    way: int = 0
    refunds: dict[str, str] = field(default_factory=dict)
    """The digest of each refund's amounts, by refund id."""

    @property
    def assets(self) -> list[str]:
        """Its assets, in its order."""
        return [amount.asset for amount in self.amounts]

    def amount(self, asset: str) -> HoldAmount | None:
        """Its amount of one asset."""
        return next((amount for amount in self.amounts if amount.asset == asset), None)

    def must(self, asset: str) -> HoldAmount:
        """Its amount of an asset that it is known to hold."""
        return next(amount for amount in self.amounts if amount.asset == asset)

    def is_due(self, now_ms: int) -> bool:
        """A hold is over at its expiry, whether or not anybody has looked since."""
        return self.state is HoldState.HELD and self.expire_ms <= now_ms

    def answer(self) -> model.Hold:
        """As a reply shows it."""
        return model.Hold(
            hold_id=self.hold_id,
            state=self.state,
            fingerprint=self.fingerprint,
            amounts=[
                model.HoldAmount(a.asset, a.authorized, a.held, a.debited, a.uncollected, a.refunded, a.overage_policy)
                for a in self.amounts
            ],
            create_ms=self.create_ms,
            expire_ms=self.expire_ms,
            settle_ms=self.settle_ms,
            subjects=list(self.subjects),
            expiry_action=self.expiry_action,
            labels=self.labels,
            late=self.late,
            wallet_sequence=self.wallet_sequence,
            way=self.way,
        )
