"""One asset of a wallet: grants stack, burn in order, and end with their time.

Always ``available + held = settled + overdraft_limit``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from drawdown_server.holds.model import UNITS_MAX, AssetBalance, GrantBalance, GrantSource
from drawdown_server.holds.rules.events import Line, LineKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from drawdown_server.holds.messages import PackedGrant

BurnKey = tuple[int, bool, int, bool, int, str]

NO_GRANT = ""
"""The grant id of units that belong to no grant: overdraft while they are held, debt once they are debited."""


class Pin(NamedTuple):
    """Units of one grant that belong to a hold."""

    grant_id: str
    units: int


@dataclass(slots=True)
class Grant:
    """Funds put in, and what is left of them."""

    grant_id: str
    free: int
    pinned: int
    priority: int
    expire_ms: int
    """0 = never."""
    source: GrantSource
    effective_ms: int
    create_ms: int
    voided: bool = False

    @classmethod
    def unpack(cls, packed: PackedGrant) -> Grant:
        """A grant as requests carry it."""
        return cls(
            packed.grant_id,
            packed.free,
            packed.pinned,
            packed.priority,
            packed.expire_ms,
            packed.source,
            packed.effective_ms,
            packed.create_ms,
            packed.voided,
        )

    def burn_key(self) -> BurnKey:
        """Priority (low first), then soonest expiry (never last), then PROMOTION before the rest, oldest, id."""
        never_expires = self.expire_ms == 0
        is_paid_for = self.source is not GrantSource.PROMOTION
        return (self.priority, never_expires, self.expire_ms, is_paid_for, self.create_ms, self.grant_id)

    def balance(self) -> GrantBalance:
        """The grant as an answer shows it."""
        return GrantBalance(
            self.grant_id,
            self.free,
            self.pinned,
            self.priority,
            self.source,
            self.effective_ms,
            self.expire_ms,
            self.create_ms,
        )

    def is_expired(self, now_ms: int) -> bool:
        """A grant is over at its expiry, not a millisecond later."""
        return self.expire_ms != 0 and self.expire_ms <= now_ms

    def end_kind(self, now_ms: int) -> LineKind | None:
        """How units that come back to this grant end; None if it can still use them. A void comes first."""
        if self.voided:
            return LineKind.VOID
        return LineKind.EXPIRE if self.is_expired(now_ms) else None


@dataclass(slots=True)
class Asset:
    """One asset of a wallet. Every method that changes settled funds returns the lines that say so."""

    code: str
    debt: int = 0
    """Units debited that no grant paid. Below 0, a refund left a credit that belongs to no grant."""
    overdraft_limit: int = 0
    overdraft_held: int = 0
    """Units of open holds that no grant covers."""
    grants: list[Grant] = field(default_factory=list)
    """The live ones, in burn order. Those with nothing left are history."""
    scheduled: list[Grant] = field(default_factory=list)
    """Not in force yet, and no part of settled."""

    # --- the numbers ---------------------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """Units of live grants that nothing pins."""
        return sum(grant.free for grant in self.grants)

    @property
    def pinned(self) -> int:
        """Units of live grants that open holds pin."""
        return sum(grant.pinned for grant in self.grants)

    @property
    def settled(self) -> int:
        """Granted - debited - expired; below 0 means debt."""
        return self.free + self.pinned - self.debt

    @property
    def held(self) -> int:
        """Units in open holds."""
        return self.pinned + self.overdraft_held

    @property
    def available(self) -> int:
        """What the next Authorize can hold. Below 0 when debt is deeper than the overdraft limit allows."""
        return self.free - self.debt - self.overdraft_held + self.overdraft_limit

    def has_room(self, units: int) -> bool:
        """Whether so many units can come in: the balance and what may be owed must stay in range together."""
        return self.settled + self.overdraft_limit + units <= UNITS_MAX

    def can_be_owed(self, units: int) -> bool:
        """Whether so many units that nobody holds can be debited: debt, with held overdraft, must stay in range."""
        return self.debt + self.overdraft_held + max(0, units - self.free) <= UNITS_MAX

    def balance(self, *, with_grants: bool) -> AssetBalance:
        """The numbers as an answer shows them."""
        return AssetBalance(
            asset=self.code,
            settled=self.settled,
            held=self.held,
            available=self.available,
            debt=self.debt,
            overdraft_limit=self.overdraft_limit,
            grants=[grant.balance() for grant in self.grants] if with_grants else [],
            scheduled=[grant.balance() for grant in self.coming()] if with_grants else [],
        )

    # --- time ----------------------------------------------------------------------------------------------------

    def refresh(self, now_ms: int) -> list[Line]:
        """What time alone has done: grants whose time has come are live, those whose time is over expire.

        A hold pins its units, so they cannot expire under a running request: only the free rest does. A grant that
        would bring the balance out of range waits, and those after it, until there is room.
        """
        lines = self._begin_due(now_ms) + self._expire_due(now_ms)
        # What ended may have made room.
        return [*lines, *self.refresh(now_ms)] if self.is_behind(now_ms) else lines

    def _begin_due(self, now_ms: int) -> list[Line]:
        lines: list[Line] = []
        for grant in self.coming():
            if not self._may_begin(grant, now_ms):
                break
            self.scheduled.remove(grant)
            lines += self._begin(grant)
        return lines

    def _expire_due(self, now_ms: int) -> list[Line]:
        lines = [
            line for grant in self.grants if grant.is_expired(now_ms) for line in self._end_free(grant, LineKind.EXPIRE)
        ]
        self._drop_empty()
        return lines

    def is_behind(self, now_ms: int) -> bool:
        """Whether time has done something that ``refresh`` has not seen yet."""
        is_coming = any(self._may_begin(grant, now_ms) for grant in self.coming()[:1])
        return is_coming or any(grant.free > 0 and grant.is_expired(now_ms) for grant in self.grants)

    def coming(self) -> list[Grant]:
        """The scheduled grants, soonest first."""
        return sorted(self.scheduled, key=lambda grant: (grant.effective_ms, grant.burn_key()))

    def repay(self) -> list[Line]:
        """Debt never stands beside free units: whatever is free repays it, in burn order.

        Otherwise a grant could expire beside a debt that it could have paid.
        """
        lines: list[Line] = []
        for grant in self.grants:
            repaid = min(self.debt, grant.free)
            if repaid > 0:
                self.debt -= repaid
                grant.free -= repaid
                lines.append(self._line(LineKind.REPAY, repaid, grant.grant_id))
        self._drop_empty()
        return lines

    def _may_begin(self, grant: Grant, now_ms: int) -> bool:
        """Its time has come, and there is room: a refund may have filled it that the ledger did not know of."""
        return grant.effective_ms <= now_ms and self.has_room(grant.free)

    def _begin(self, grant: Grant) -> list[Line]:
        """A grant comes into force. Debt is repaid first by the next grant."""
        self._insert(grant)
        return [self._line(LineKind.GRANT, grant.free, grant.grant_id), *self.repay()]

    def _end_free(self, grant: Grant, kind: LineKind) -> list[Line]:
        """The free units of a grant are gone."""
        units, grant.free = grant.free, 0
        return [self._line(kind, units, grant.grant_id)] if units > 0 else []

    # --- holding and paying --------------------------------------------------------------------------------------

    def pin(self, units: int) -> list[Pin]:
        """Hold units in burn order; what the grants lack is overdraft. The caller has checked what is available."""
        pins = self._take_free(units)
        for pin in pins:
            self._live(pin.grant_id).pinned += pin.units
        rest = units - sum(pin.units for pin in pins)
        if rest > 0:
            self.overdraft_held += rest
            pins.append(Pin(NO_GRANT, rest))
        return pins

    def debit(self, units: int) -> list[Line]:
        """Pay at once, in burn order; what the grants lack is debt. The caller has checked what is available."""
        paid = self._take_free(units)
        rest = units - sum(pin.units for pin in paid)
        if rest > 0:
            self.debt += rest
            paid.append(Pin(NO_GRANT, rest))
        self._drop_empty()
        return [self._line(LineKind.DEBIT, pin.units, pin.grant_id) for pin in paid]

    def debit_pins(self, pins: Iterable[Pin], units: int) -> tuple[list[Line], list[Pin]]:
        """Pay from what a hold has pinned, first pinned first. Held overdraft becomes debt.

        Returns:
            The debits, and the pins that are left.
        """
        lines: list[Line] = []
        left: list[Pin] = []
        for pin in pins:
            used = min(pin.units, units)
            units -= used
            if used > 0:
                self._unpin(pin.grant_id, used)
                if pin.grant_id == NO_GRANT:
                    self.debt += used
                lines.append(self._line(LineKind.DEBIT, used, pin.grant_id))
            if used < pin.units:
                left.append(Pin(pin.grant_id, pin.units - used))
        self._drop_empty()
        return lines, left

    def give_back(self, pins: Iterable[Pin], now_ms: int) -> list[Line]:
        """Pins end unused: back to the same grants. What comes back to a grant that is over ends at once."""
        lines: list[Line] = []
        for pin in pins:
            self._unpin(pin.grant_id, pin.units)
            if pin.grant_id != NO_GRANT:
                grant = self._live(pin.grant_id)
                end = grant.end_kind(now_ms)
                if end is None:
                    grant.free += pin.units
                else:
                    lines.append(self._line(end, pin.units, pin.grant_id))
        self._drop_empty()
        return lines

    def refund(self, debit: Pin, paid_by: Grant | None, now_ms: int) -> list[Line]:
        """Give back what was debited, to the grant that had paid it; to the debt if no grant had.

        The debt may become negative: a credit that belongs to no grant, used up last.

        Args:
            debit: What to give back to whom.
            paid_by: The grant as the ledger knows it. A live one is used as it is here.
            now_ms: The time.
        """
        lines = [self._line(LineKind.REFUND, debit.units, debit.grant_id)]
        if debit.grant_id == NO_GRANT:
            self.debt -= debit.units
            return lines
        live = self.find(debit.grant_id)
        grant = live or paid_by
        if grant is None:
            raise LookupError(f"the request lacks grant {debit.grant_id}, which had paid")
        end = grant.end_kind(now_ms)
        if end is not None:
            return [*lines, self._line(end, debit.units, debit.grant_id)]
        if live is None:
            grant.free = grant.pinned = 0  # used up: it lives again by this refund alone
            self._insert(grant)
        grant.free += debit.units
        return lines

    # --- what administrators change ------------------------------------------------------------------------------

    def add(self, grant: Grant, now_ms: int) -> list[Line]:
        """A new grant: scheduled if it cannot begin yet; an expired one still repays debt before it ends."""
        if not self._may_begin(grant, now_ms):
            self.scheduled.append(grant)
            return []
        lines = self._begin(grant)
        if grant.is_expired(now_ms):
            lines += self._end_free(grant, LineKind.EXPIRE)
        self._drop_empty()
        return lines

    def void(self, grant_id: str, now_ms: int) -> list[Line]:
        """Take back what is left of a grant; what holds pin of it ends when they give it back."""
        self.scheduled = [grant for grant in self.scheduled if grant.grant_id != grant_id]
        grant = self.find(grant_id)
        if grant is None:
            return self.refresh(now_ms)
        grant.voided = True
        return [*self._end_free(grant, LineKind.VOID), *self.refresh(now_ms)]

    def change_expiry(self, grant_id: str, expire_ms: int, now_ms: int) -> list[Line]:
        """Another expiry for a grant: its place in the burn order changes, and it may be over at once."""
        for grant in self.scheduled + self.grants:
            if grant.grant_id == grant_id:
                grant.expire_ms = expire_ms
        self.grants.sort(key=Grant.burn_key)
        return self.refresh(now_ms)

    # --- the stack -----------------------------------------------------------------------------------------------

    def find(self, grant_id: str) -> Grant | None:
        """A live grant."""
        return next((grant for grant in self.grants if grant.grant_id == grant_id), None)

    def _live(self, grant_id: str) -> Grant:
        grant = self.find(grant_id)
        assert grant is not None, f"no live grant {grant_id}"  # noqa: S101  # a pinned grant is never dropped
        return grant

    def _insert(self, grant: Grant) -> None:
        self.grants.append(grant)
        self.grants.sort(key=Grant.burn_key)

    def _drop_empty(self) -> None:
        self.grants = [grant for grant in self.grants if grant.free + grant.pinned > 0]

    def _take_free(self, units: int) -> list[Pin]:
        """Up to so many free units, in burn order."""
        taken: list[Pin] = []
        for grant in self.grants:
            part = min(grant.free, units)
            if part > 0:
                grant.free -= part
                units -= part
                taken.append(Pin(grant.grant_id, part))
        return taken

    def _unpin(self, grant_id: str, units: int) -> None:
        if grant_id == NO_GRANT:
            self.overdraft_held -= units
        else:
            self._live(grant_id).pinned -= units

    def _line(self, kind: LineKind, units: int, grant_id: str) -> Line:
        return Line(kind, self.code, units, grant_id)
