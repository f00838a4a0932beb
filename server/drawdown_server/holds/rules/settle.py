"""What becomes of a hold: Commit and Release. A frozen or closed wallet still settles what was held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drawdown_server.holds.messages import SettleReply
from drawdown_server.holds.model import HoldState, OveragePolicy
from drawdown_server.holds.rules.hold import Hold
from drawdown_server.holds.rules.recall import LOST_TICKET_MS, recall_lost

if TYPE_CHECKING:
    from drawdown_server.holds.messages import CommitRequest, ReleaseRequest
    from drawdown_server.holds.rules.events import CapDelta, Line
    from drawdown_server.holds.rules.hold import HoldAmount
    from drawdown_server.holds.rules.wallet import Wallet


def bring_up_to_date(wallet: Wallet, hold: Hold, tombstone_ms: int) -> None:
    """Time has done its work on the assets of a hold, and on the hold itself, before anything is decided."""
    wallet.touch(hold.assets)
    if hold.is_due(wallet.now_ms):
        wallet.expire(hold, tombstone_ms)


# --- commit ----------------------------------------------------------------------------------------------------------


def commit(wallet: Wallet, request: CommitRequest) -> SettleReply:
    """Debit what was used. Amounts are totals used so far under this hold, so a repeated message is harmless.

    A final Commit gives the rest back; ``final`` false reports progress: debited at once, the rest stays held.

    A hold that is not known, because the state it lived in was lost, is committed like one that has expired, if the
    request brings it and its sender has asked the ledger just now.

    Order of checks: hold known, or brought by the request in time; released; [a due hold expires]; committed (the same
    totals and final: the same answer again); assets held; no total below what is already debited; what the overage
    policy says. All checks of all amounts come before the first change.
    """
    hold = find(wallet, request)
    if isinstance(hold, SettleReply):
        return hold
    if hold.state is HoldState.RELEASED:
        return SettleReply(status="HOLD_RELEASED")
    bring_up_to_date(wallet, hold, request.tombstone_ms)
    totals = {total.asset: total.units for total in request.amounts}
    if hold.state is HoldState.COMMITTED:
        is_same = request.final and has_same_totals(hold, totals)
        return answer(wallet, hold, replayed=True) if is_same else committed(hold)
    refusal = first_refusal(wallet, hold, totals)
    if refusal is not None:
        if hold.state is HoldState.EXPIRED and hold.hold_id in wallet.holds:
            wallet.remember(hold, request.tombstone_ms)  # it will be sent again
        return refusal
    if not request.final and all(hold.must(asset).reported == units for asset, units in totals.items()):
        return answer(wallet, hold, replayed=True)
    settle(wallet, hold, totals, request)
    return answer(wallet, hold)


def find(wallet: Wallet, request: CommitRequest) -> Hold | SettleReply:
    """The hold, or why there is none."""
    hold = wallet.holds.get(request.hold_id)
    if hold is not None:
        return hold
    if request.lost is None:
        return SettleReply(status="HOLD_UNKNOWN", now_ms=wallet.now_ms)
    if not 0 <= wallet.now_ms - request.ticket_ms < LOST_TICKET_MS:
        return SettleReply(status="TICKET_EXPIRED")
    return recall_lost(wallet, request.hold_id, request.lost)


def has_same_totals(hold: Hold, totals: dict[str, int]) -> bool:
    """The totals that settled the hold, charged or not; what is not named was used no more than so far."""
    is_held = all(hold.amount(asset) is not None for asset in totals)
    return is_held and all(totals.get(amount.asset, amount.reported) == amount.reported for amount in hold.amounts)


def first_refusal(wallet: Wallet, hold: Hold, totals: dict[str, int]) -> SettleReply | None:
    """The first check of the totals that fails."""
    for asset in totals:
        if hold.amount(asset) is None:
            return SettleReply(status="ASSET_NOT_HELD", asset=asset)
    for asset, total in totals.items():
        reported = hold.must(asset).reported
        if total < reported:
            return SettleReply(status="TOTAL_BELOW_DEBITED", asset=asset, required=total, available=reported)
    for asset, total in totals.items():
        refusal = overage_refusal(wallet, hold, hold.must(asset), total)
        if refusal is not None:
            return refusal
    return None


def overage_refusal(wallet: Wallet, hold: Hold, amount: HoldAmount, total: int) -> SettleReply | None:
    """More than the hold: REJECT is an error and leaves the hold untouched; the other policies never refuse.

    A late Commit may use as much as was authorized, if that is available again. Nothing more is always available.
    Under CHARGE_FULL alone the debt has no limit but the range of amounts.
    """
    delta, available = total - amount.reported, wallet.available(amount.asset)
    if amount.overage_policy is OveragePolicy.CHARGE_FULL and delta > amount.held:
        extra = delta - amount.held
        if not wallet.seen(amount.asset).can_be_owed(extra):
            return SettleReply(status="BALANCE_OUT_OF_RANGE", asset=amount.asset, required=extra)
    if amount.overage_policy is not OveragePolicy.REJECT:
        return None
    is_late = hold.state is HoldState.EXPIRED
    is_more = total > amount.authorized if is_late else delta > amount.held
    if is_more:
        return SettleReply(status="EXCEEDS_HOLD", asset=amount.asset, required=total, available=amount.authorized)
    if is_late and delta > max(0, available):
        return SettleReply(status="INSUFFICIENT_FUNDS", asset=amount.asset, required=delta, available=available)
    return None


def settle(wallet: Wallet, hold: Hold, totals: dict[str, int], request: CommitRequest) -> None:
    """Debit, asset by asset in the hold's order; when final, give the rest of each back. One event in any case."""
    is_late = hold.state is HoldState.EXPIRED
    wallet.holds[hold.hold_id] = hold
    lines: list[Line] = []
    usage: list[CapDelta] = []
    for amount in hold.amounts:
        lines += debit_up_to(wallet, amount, totals.get(amount.asset, amount.reported))
        usage += wallet.recount(amount)
        if request.final:
            lines += wallet.give_back_amount(amount)
    lines += wallet.repay(hold)
    hold.late = hold.late or is_late
    if request.final:
        wallet.close(hold, HoldState.COMMITTED, request.tombstone_ms)
    elif is_late:
        wallet.remember(hold, request.tombstone_ms)
    wallet.record_commit(hold, lines, usage, late=is_late, final=request.final)


def debit_up_to(wallet: Wallet, amount: HoldAmount, total: int) -> list[Line]:
    """Debit one asset until ``total`` is accounted for: pinned units first, the extra by the overage policy.

    REJECT: all of it (the checks made sure that it can be paid). CHARGE_AVAILABLE: what is available, the rest is
    recorded as uncollected. CHARGE_FULL: all of it; what the grants lack goes into debt, whatever the overdraft limit.
    """
    asset = wallet.asset(amount.asset)
    delta = total - amount.reported
    from_pins = min(delta, amount.held)
    lines, amount.pins = asset.debit_pins(amount.pins, from_pins)
    extra = charged = delta - from_pins
    if amount.overage_policy is OveragePolicy.CHARGE_AVAILABLE:
        charged = min(extra, max(0, asset.available))
    lines += asset.debit(charged)
    amount.add_debits(lines)
    amount.uncollected += extra - charged
    return lines


# --- release ---------------------------------------------------------------------------------------------------------


def release(wallet: Wallet, request: ReleaseRequest) -> SettleReply:
    """Give everything back that is still held. What progress reports debited stays debited.

    By the caller the hold is RELEASED for good, even if it had expired before. Forced by an operator it counts as
    EXPIRED, so that usage can still be committed, late. Releasing a hold that nobody knows leaves a tombstone, so
    that a delayed Authorize with that id is refused.

    Order of checks: hold known; [a due hold expires]; committed; released (the same answer again).
    """
    hold = wallet.holds.get(request.hold_id)
    if hold is None:
        return bury(wallet, request) if request.bury else SettleReply(status="HOLD_UNKNOWN")
    bring_up_to_date(wallet, hold, request.tombstone_ms)
    if hold.state is HoldState.COMMITTED:
        return committed(hold)
    if hold.state is HoldState.RELEASED or (request.forced and hold.state is HoldState.EXPIRED):
        return answer(wallet, hold, replayed=True)
    wallet.give_back(hold)
    wallet.close(hold, HoldState.EXPIRED if request.forced else HoldState.RELEASED, request.tombstone_ms)
    return answer(wallet, hold)


def bury(wallet: Wallet, request: ReleaseRequest) -> SettleReply:
    """The hold of a Release that came first: it holds nothing, and never will."""
    hold = Hold(
        hold_id=request.hold_id,
        fingerprint="",
        amounts=[],
        create_ms=wallet.now_ms,
        expire_ms=0,
        subjects=[],
        labels="",
    )
    wallet.holds[hold.hold_id] = hold
    wallet.close(hold, HoldState.RELEASED, request.tombstone_ms)
    return answer(wallet, hold)


# --- answers ---------------------------------------------------------------------------------------------------------


def answer(wallet: Wallet, hold: Hold, *, replayed: bool = False) -> SettleReply:
    """The hold as it is now, and the balances of its assets."""
    return SettleReply(status="OK", hold=hold.answer(), balances=wallet.balances(hold.assets), replayed=replayed)


def committed(hold: Hold) -> SettleReply:
    """The hold is committed, with its own totals."""
    return SettleReply(status="HOLD_COMMITTED", hold=hold.answer())
