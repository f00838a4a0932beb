"""A hold that Redis does not know, as the scripts take it: from the ledger, or from its token."""

from __future__ import annotations

from typing import Final

import msgspec

from drawdown_server.holds.model import ExpiryAction, HoldState, OveragePolicy

FORGOTTEN: Final = "-"
"""Fingerprint of a hold whose Authorize nobody remembers. No Authorize has it, so the id is not free again."""


class RecordedDebit(msgspec.Struct, frozen=True, array_like=True):
    """Units of a hold that a grant paid ("" = debt)."""

    grant_id: str
    units: int


class RecordedPart(msgspec.Struct, frozen=True, array_like=True):
    """Units debited under a hold that count in the same counters of caps, perhaps in none."""

    counters: list[str]
    units: int


class RecordedAmount(msgspec.Struct, frozen=True):
    """One asset of a hold that Redis does not know."""

    asset: str
    authorized: int
    debited: int = 0
    uncollected: int = 0
    refunded: int = 0
    debits: list[RecordedDebit] = []
    """What each grant paid and was not refunded yet, in the order of the debits."""
    parts: list[RecordedPart] = []
    """Where its debits count in caps, in order: a refund takes from the last."""
    overage_policy: OveragePolicy = OveragePolicy.REJECT
    """Only a token knows it: the ledger has none."""


class RecordedHold(msgspec.Struct, frozen=True):
    """A hold that Redis does not know, as the ledger has it, or its token. Nothing of it is held any more."""

    create_ms: int
    settle_ms: int
    subjects: list[str]
    labels: str
    late: bool
    wallet_sequence: int
    amounts: list[RecordedAmount]
    refunds: list[tuple[str, str]]
    """Its refunds: id, and digest of the amounts."""
    state: HoldState = HoldState.COMMITTED
    """COMMITTED; EXPIRED when more may be committed."""
    fingerprint: str = FORGOTTEN
    """Only a token knows it, and what follows."""
    expire_ms: int = 0
    expiry_action: ExpiryAction = ExpiryAction.RELEASE
    way: int = 0
