"""What may be held: Authorize, Charge, Extend. "No" is an answer, and the first check that fails gives it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drawdown_server.holds.messages import AuthorizeReply
from drawdown_server.holds.model import DenialReason, HoldState, OveragePolicy, WalletState
from drawdown_server.holds.rules.caps import CapTest, Wanted
from drawdown_server.holds.rules.hold import Hold, HoldAmount, Part, append
from drawdown_server.holds.rules.settle import bring_up_to_date, debit_up_to

if TYPE_CHECKING:
    from collections.abc import Iterable

    from drawdown_server.holds.messages import AmountRequest, AuthorizeRequest, ChargeRequest, ExtendRequest, TotalUsed
    from drawdown_server.holds.model import CapStatus
    from drawdown_server.holds.rules.wallet import Wallet


@dataclass(slots=True)
class Denial:
    """Why not."""

    reason: DenialReason
    asset: str = ""
    required: int = 0
    available: int = 0
    cap: CapStatus | None = None

    def answer(self, wallet: Wallet, assets: Iterable[str]) -> AuthorizeReply:
        """The reply."""
        return AuthorizeReply(
            status="DENIED",
            reason=self.reason,
            asset=self.asset,
            required=self.required,
            available=self.available,
            cap=self.cap,
            balances=wallet.balances(assets),
        )


@dataclass(slots=True)
class Payable:
    """A way to pay that passed every check."""

    units: list[int]
    """What to hold of each amount: with ``min_units`` it may be less than was asked for."""
    observed: list[CapStatus] = field(default_factory=list)


def authorize(wallet: Wallet, request: AuthorizeRequest) -> AuthorizeReply:
    """Hold units of one or more assets, all or nothing, in the first way that is affordable.

    Order of checks: hold id known; backlog; wallet state; [due holds and due grants expire]; open-hold limit; then way
    by way assets, funds, caps. If no way passes, the answer says what was wrong with the first one.
    """
    known = wallet.holds.get(request.hold_id)
    if known is not None:
        return same_id_again(wallet, known, request.fingerprint)
    if backlog_is_full(wallet, request.outbox_backlog_limit):
        return AuthorizeReply(status="BACKLOG_FULL")
    first_assets = [amount.asset for amount in request.ways[0]]
    if wallet.state is not WalletState.ACTIVE:
        return wallet_denial(wallet).answer(wallet, first_assets)
    wallet.expire_due(request.tombstone_ms)
    wallet.touch(first_assets)
    if len(wallet.open_holds()) >= request.open_holds_max:
        return Denial(DenialReason.TOO_MANY_HOLDS).answer(wallet, first_assets)
    denials: list[Denial] = []
    for number, way in enumerate(request.ways):
        wallet.touch(amount.asset for amount in way)
        result = try_way(wallet, way, request.subjects)
        if isinstance(result, Denial):
            denials.append(result)
        else:
            hold = place_hold(wallet, request, number, result)
            return AuthorizeReply(
                status="OK", hold=hold.answer(), balances=wallet.balances(hold.assets), observed=result.observed
            )
    return denials[0].answer(wallet, first_assets)


def same_id_again(wallet: Wallet, hold: Hold, fingerprint: str) -> AuthorizeReply:
    """The same content gets the same answer again, ``replayed``; other content is an error. Nothing changes.

    Only a release is an answer of its own: nothing can ever be committed under its hold. A Release that came first
    knows no content, so any is the same.
    """
    if hold.fingerprint not in {"", fingerprint}:
        return AuthorizeReply(status="ID_REUSED", fingerprint=hold.fingerprint)
    balances = wallet.balances(hold.assets)
    if hold.state is HoldState.RELEASED:
        return AuthorizeReply(status="DENIED", reason=DenialReason.HOLD_RELEASED, balances=balances, replayed=True)
    return AuthorizeReply(status="OK", hold=hold.answer(), balances=balances, replayed=True)


def backlog_is_full(wallet: Wallet, limit: int) -> bool:
    """Whether the ledger is too far behind for new spending. The model has one outbox, which nobody records."""
    return 0 < limit < len(wallet.events)


def wallet_denial(wallet: Wallet) -> Denial:
    """A frozen or closed wallet takes no new holds."""
    is_frozen = wallet.state is WalletState.FROZEN
    return Denial(DenialReason.WALLET_FROZEN if is_frozen else DenialReason.WALLET_CLOSED)


def try_way(wallet: Wallet, way: list[AmountRequest], subjects: list[str]) -> Payable | Denial:
    """Whether one way to pay is affordable: assets of all its amounts, then funds of all, then caps of all."""
    denial = unknown_asset(way) or insufficient_funds(wallet, way)
    if denial:
        return denial
    units = [affordable_units(wallet, amount, subjects) for amount in way]
    # Where the caps leave less than the least that is useful, it is this least that they deny.
    wanted = [Wanted(a.asset, max(most, a.min_units)) for a, most in zip(way, units, strict=True)]
    caps = wallet.caps.test(subjects, wanted, wallet.now_ms)
    return cap_denial(caps) or Payable(units, caps.observed)


def unknown_asset(way: list[AmountRequest]) -> Denial | None:
    """An asset that the tenant does not have."""
    for amount in way:
        if not amount.known:
            return Denial(DenialReason.ASSET_NOT_FOUND, amount.asset)
    return None


def insufficient_funds(wallet: Wallet, way: list[AmountRequest]) -> Denial | None:
    """Less is available than the least that is useful. The overdraft limit is part of what is available."""
    for amount in way:
        required, available = amount.min_units or amount.units, wallet.available(amount.asset)
        if available < required:
            return Denial(DenialReason.INSUFFICIENT_FUNDS, amount.asset, required, available)
    return None


def affordable_units(wallet: Wallet, amount: AmountRequest, subjects: list[str]) -> int:
    """``min_units`` > 0 is partial approval: as much as funds and caps leave between min_units and units."""
    if amount.min_units == 0:
        return amount.units
    units = min(amount.units, wallet.available(amount.asset))
    headroom = wallet.caps.headroom(subjects, amount.asset, wallet.now_ms)
    return units if headroom is None else min(units, headroom)


def cap_denial(caps: CapTest) -> Denial | None:
    """The first cap that says no."""
    if caps.exceeded is None:
        return None
    return Denial(DenialReason.CAP_EXCEEDED, caps.exceeded.asset, cap=caps.exceeded)


def place_hold(wallet: Wallet, request: AuthorizeRequest, number: int, payable: Payable) -> Hold:
    """Pin units of named grants. No event: settled funds stay as they are."""
    hold = Hold(
        hold_id=request.hold_id,
        fingerprint=request.fingerprint,
        amounts=[],
        create_ms=wallet.now_ms,
        expire_ms=wallet.now_ms + request.ttl_ms,
        subjects=list(request.subjects),
        labels=request.labels,
        expiry_action=request.expiry_action,
        way=number,
    )
    for wanted, units in zip(request.ways[number], payable.units, strict=True):
        amount = HoldAmount(
            asset=wanted.asset,
            authorized=units,
            overage_policy=wanted.overage_policy,
            pins=wallet.asset(wanted.asset).pin(units),
            parts=first_part(wallet, request.subjects, wanted.asset),
        )
        wallet.recount(amount)
        hold.amounts.append(amount)
    wallet.holds[hold.hold_id] = hold
    return hold


def first_part(wallet: Wallet, subjects: list[str], asset: str) -> list[Part]:
    """Where new units count in caps; nowhere if none applies."""
    counters = wallet.caps.counters(subjects, asset, wallet.now_ms)
    return [Part(counters)] if counters else []


# --- charge ----------------------------------------------------------------------------------------------------------


def charge(wallet: Wallet, request: ChargeRequest) -> AuthorizeReply:
    """An Authorize and its Commit in one step. It leaves a COMMITTED hold, and is never open.

    Checks as in Authorize, without the open-hold limit. Only under REJECT do funds deny: the other policies say what
    to do with what the funds do not cover. Caps look at all units.
    """
    known = wallet.holds.get(request.hold_id)
    if known is not None:
        return same_id_again(wallet, known, request.fingerprint)
    if backlog_is_full(wallet, request.outbox_backlog_limit):
        return AuthorizeReply(status="BACKLOG_FULL")
    assets = [amount.asset for amount in request.amounts]
    if wallet.state is not WalletState.ACTIVE:
        return wallet_denial(wallet).answer(wallet, assets)
    wallet.expire_due(request.tombstone_ms)
    wallet.touch(assets)
    denial = unknown_asset(request.amounts)
    for amount in request.amounts:
        available = wallet.available(amount.asset)
        if denial is None and amount.overage_policy is OveragePolicy.REJECT and available < amount.units:
            denial = Denial(DenialReason.INSUFFICIENT_FUNDS, amount.asset, amount.units, available)
        is_full = amount.overage_policy is OveragePolicy.CHARGE_FULL
        asset = wallet.assets.get(amount.asset)
        if denial is None and is_full and asset and not asset.can_be_owed(amount.units):
            return AuthorizeReply(status="BALANCE_OUT_OF_RANGE", asset=amount.asset, required=amount.units)
    caps = wallet.caps.test(request.subjects, [Wanted(a.asset, a.units) for a in request.amounts], wallet.now_ms)
    denial = denial or cap_denial(caps)
    if denial:
        return denial.answer(wallet, assets)
    hold = settle_charge(wallet, request)
    return AuthorizeReply(status="OK", hold=hold.answer(), balances=wallet.balances(assets), observed=caps.observed)


def settle_charge(wallet: Wallet, request: ChargeRequest) -> Hold:
    """Debit a charge that passed every check."""
    hold = Hold(
        hold_id=request.hold_id,
        fingerprint=request.fingerprint,
        amounts=[],
        create_ms=wallet.now_ms,
        expire_ms=0,
        subjects=list(request.subjects),
        labels=request.labels,
    )
    wallet.holds[hold.hold_id] = hold
    lines, usage = [], []
    for wanted in request.amounts:
        amount = HoldAmount(
            asset=wanted.asset,
            authorized=wanted.units,
            overage_policy=wanted.overage_policy,
            parts=first_part(wallet, request.subjects, wanted.asset),
        )
        lines += debit_up_to(wallet, amount, wanted.units)
        usage += wallet.recount(amount)
        hold.amounts.append(amount)
    wallet.close(hold, HoldState.COMMITTED, request.tombstone_ms)
    wallet.record_commit(hold, lines, usage, late=False, final=True)
    return hold


# --- extend ----------------------------------------------------------------------------------------------------------


def extend(wallet: Wallet, request: ExtendRequest) -> AuthorizeReply:
    """Give an open hold more time, more units, or both. A denied raise leaves the hold usable as it was.

    Totals are what the hold shall have reserved, used units included.

    Order of checks: hold known; [a due hold expires]; its state; assets held; not less than is reserved; and for a
    raise: wallet state, funds, caps.
    """
    hold = wallet.holds.get(request.hold_id)
    if hold is None:
        return AuthorizeReply(status="HOLD_UNKNOWN")
    bring_up_to_date(wallet, hold, request.tombstone_ms)
    refusal = not_open(hold) or not_a_raise(hold, request.amounts)
    if refusal is not None:
        return refusal
    raises = [raise_of(hold, total) for total in request.amounts if total.units > hold.must(total.asset).reserved]
    if raises and wallet.state is not WalletState.ACTIVE:
        return wallet_denial(wallet).answer(wallet, hold.assets)
    caps = wallet.caps.test(hold.subjects, raises, wallet.now_ms)
    denial = insufficient_raise(wallet, raises) or cap_denial(caps)
    if denial is not None:
        return denial.answer(wallet, hold.assets)
    for wanted in raises:
        raise_amount(wallet, hold, wanted)
    if request.ttl_ms > 0:
        hold.expire_ms = max(hold.expire_ms, wallet.now_ms + request.ttl_ms)
    return AuthorizeReply(
        status="OK",
        hold=hold.answer(),
        balances=wallet.balances(hold.assets),
        observed=caps.observed,
        replayed=not raises and request.ttl_ms == 0,
    )


def not_open(hold: Hold) -> AuthorizeReply | None:
    """A settled hold cannot be extended."""
    match hold.state:
        case HoldState.RELEASED:
            return AuthorizeReply(status="HOLD_RELEASED", hold=hold.answer())
        case HoldState.COMMITTED:
            return AuthorizeReply(status="HOLD_COMMITTED", hold=hold.answer())
        case HoldState.EXPIRED:
            return AuthorizeReply(status="HOLD_EXPIRED", hold=hold.answer())
        case HoldState.HELD:
            return None


def not_a_raise(hold: Hold, totals: list[TotalUsed]) -> AuthorizeReply | None:
    """Extend adds to what is reserved: totals of assets that are held, never less than before."""
    for total in totals:
        if hold.amount(total.asset) is None:
            return AuthorizeReply(status="ASSET_NOT_HELD", asset=total.asset)
    for total in totals:
        reserved = hold.must(total.asset).reserved
        if total.units < reserved:
            return AuthorizeReply(status="BELOW_HOLD", asset=total.asset, required=total.units, available=reserved)
    return None


def raise_of(hold: Hold, total: TotalUsed) -> Wanted:
    """What a new total adds to what is reserved."""
    reserved = hold.must(total.asset).reserved
    return Wanted(total.asset, total.units - reserved, reserved)


def insufficient_raise(wallet: Wallet, raises: list[Wanted]) -> Denial | None:
    """Less is available than is to be added."""
    for wanted in raises:
        available = wallet.available(wanted.asset)
        if wanted.units > available:
            return Denial(DenialReason.INSUFFICIENT_FUNDS, wanted.asset, wanted.units, available)
    return None


def raise_amount(wallet: Wallet, hold: Hold, wanted: Wanted) -> None:
    """A raise that passed every check. No event: settled funds stay as they are.

    It counts in the caps and windows of now; what was reserved before stays where it counts.
    """
    amount = hold.must(wanted.asset)
    counters = wallet.caps.counters(hold.subjects, wanted.asset, wallet.now_ms)
    if counters != (amount.parts[-1].counters if amount.parts else []):
        before = amount.parts or [Part([], amount.counted, recorded=amount.refundable)]
        amount.parts = [*before, Part(counters)]
    append(amount.pins, wallet.asset(wanted.asset).pin(wanted.units))
    amount.authorized = wanted.reserved + wanted.units
    wallet.recount(amount)
