"""A hold that is not known here: as the ledger remembers it, or as its token says what was authorized."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drawdown_server.holds.rules.grants import Pin
from drawdown_server.holds.rules.hold import Hold, HoldAmount, Part

if TYPE_CHECKING:
    from drawdown_server.holds.recorded import RecordedAmount, RecordedHold
    from drawdown_server.holds.rules.wallet import Wallet

LOST_TICKET_MS: Final = 1_000
"""A settled hold is remembered for at least as long. So a lost hold that somebody else has committed since the ledger
was asked is known again, if no more time than this has passed."""


def recall(hold_id: str, recorded: RecordedHold) -> Hold:
    """The hold as it was, with nothing held. It is kept here again once something is done with it.

    The ledger does not know the fingerprint, ttl and policies; a token does.
    """
    return Hold(
        hold_id=hold_id,
        fingerprint=recorded.fingerprint,
        amounts=[recall_amount(amount) for amount in recorded.amounts],
        create_ms=recorded.create_ms,
        expire_ms=recorded.expire_ms,
        subjects=list(recorded.subjects),
        labels=recorded.labels,
        expiry_action=recorded.expiry_action,
        state=recorded.state,
        settle_ms=recorded.settle_ms,
        late=recorded.late,
        wallet_sequence=recorded.wallet_sequence,
        way=recorded.way,
        refunds=dict(recorded.refunds),
    )


def recall_amount(amount: RecordedAmount) -> HoldAmount:
    """One asset. What was debited counts where it counted; the ledger knows all of that already."""
    return HoldAmount(
        asset=amount.asset,
        authorized=amount.authorized,
        overage_policy=amount.overage_policy,
        debited=amount.debited,
        uncollected=amount.uncollected,
        refunded=amount.refunded,
        debits=[Pin(debit.grant_id, debit.units) for debit in amount.debits],
        parts=[Part(list(part.counters), part.units, recorded=part.units) for part in amount.parts],
    )


def recall_lost(wallet: Wallet, hold_id: str, lost: RecordedHold) -> Hold:
    """A hold that was lost together with the state it lived in counts as expired: what it held is free.

    Nobody knows in which windows it counted, so what is committed of it counts in those of now.
    """
    hold = recall(hold_id, lost)
    for amount in hold.amounts:
        amount.parts.append(Part(wallet.caps.counters(hold.subjects, amount.asset, wallet.now_ms)))
    return hold
