"""Refund: what was debited goes back to the grants that had paid it, and the caps' headroom with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drawdown_server.holds.messages import SettleReply
from drawdown_server.holds.model import HoldState
from drawdown_server.holds.rules.events import EventKind
from drawdown_server.holds.rules.grants import Grant
from drawdown_server.holds.rules.recall import recall
from drawdown_server.holds.rules.settle import answer

if TYPE_CHECKING:
    from drawdown_server.holds.messages import RefundRequest, TotalUsed
    from drawdown_server.holds.rules.events import CapDelta, Line
    from drawdown_server.holds.rules.hold import Hold
    from drawdown_server.holds.rules.wallet import Wallet


def refund(wallet: Wallet, request: RefundRequest) -> SettleReply:
    """Give debited units back: at most what was debited, each refund id once, in any state of the hold.

    A grant that is used up lives again by it. What comes back to a grant that is expired or voided ends at once, in
    the same event.

    Order of checks: hold known, here or to the ledger; refund id known (the same amounts: the same answer again;
    others: an error); assets held; not more than was debited and not refunded yet; room for it in the balance.
    """
    hold = wallet.holds.get(request.hold_id)
    if hold is None and request.recorded is not None:
        hold = recall(request.hold_id, request.recorded)
    if hold is None:
        return SettleReply(status="HOLD_UNKNOWN")
    wallet.touch(hold.assets)
    if request.refund_id in hold.refunds:
        is_same = hold.refunds[request.refund_id] == request.digest
        if is_same:
            return answer(wallet, hold, replayed=True)
        return SettleReply(status="ID_REUSED", fingerprint=hold.refunds[request.refund_id])
    refusal = first_refusal(wallet, hold, request.amounts)
    if refusal is not None:
        return refusal
    give_debits_back(wallet, hold, request)
    return answer(wallet, hold)


def first_refusal(wallet: Wallet, hold: Hold, amounts: list[TotalUsed]) -> SettleReply | None:
    """The first check of the amounts that fails."""
    for wanted in amounts:
        if hold.amount(wanted.asset) is None:
            return SettleReply(status="ASSET_NOT_HELD", asset=wanted.asset)
    for wanted in amounts:
        refundable = hold.must(wanted.asset).refundable
        if wanted.units > refundable:
            return SettleReply(
                status="EXCEEDS_DEBITED", asset=wanted.asset, required=wanted.units, available=refundable
            )
    for wanted in amounts:
        # Also for what a grant that is over would not keep.
        if not wallet.seen(wanted.asset).has_room(wanted.units):
            return SettleReply(status="BALANCE_OUT_OF_RANGE", asset=wanted.asset, required=wanted.units)
    return None


def give_debits_back(wallet: Wallet, hold: Hold, request: RefundRequest) -> None:
    """The change of a refund that passed every check: asset by asset, the last debit first."""
    wallet.holds[hold.hold_id] = hold
    grants = {packed.grant_id: packed for packed in request.grants}
    lines: list[Line] = []
    usage: list[CapDelta] = []
    for wanted in request.amounts:
        amount = hold.must(wanted.asset)
        for debit in amount.take_debits(wanted.units):
            packed = grants.get(debit.grant_id)
            paid_by = Grant.unpack(packed) if packed else None
            lines += wallet.asset(amount.asset).refund(debit, paid_by, wallet.now_ms)
        usage += wallet.recount(amount)
    lines += wallet.repay(hold)
    hold.refunds[request.refund_id] = request.digest
    if hold.state is not HoldState.HELD:
        # The ledger may not know this refund before the hold would have been forgotten; a repeat must still find it.
        wallet.remember(hold, request.tombstone_ms)
    wallet.record(
        EventKind.REFUND,
        lines,
        hold_id=hold.hold_id,
        subjects=list(hold.subjects),
        labels=hold.labels,
        hold_create_ms=hold.create_ms,
        refund_id=request.refund_id,
        cap_usage=usage,
    )
