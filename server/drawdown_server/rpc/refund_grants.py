"""Refund, with the grants that may have paid: it needs those that are used up, so that they can live again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drawdown_server.holds.messages import PackedGrant
from drawdown_server.holds.refusals import GrantsMissingError

if TYPE_CHECKING:
    from drawdown_server.holds.messages import RefundRequest, SettleReply
    from drawdown_server.holds.store import HoldStore
    from drawdown_server.ledger.rows import GrantRow
    from drawdown_server.ledger.store import LedgerStore


async def refund(holds: HoldStore, ledger: LedgerStore, request: RefundRequest) -> SettleReply:
    """Send a refund, and again with the grants that only Valkey knew to be among those that paid.

    Raises:
        DrawdownError: As ``HoldStore.refund``.
        StoreUnavailableError: Postgres did not answer.
    """
    try:
        return await holds.refund(request)
    except GrantsMissingError as missing:
        grants = await ledger.grants_by_id(request.tenant_id, request.wallet_id, missing.grant_ids)
        request.grants += [_packed(grant) for grant in grants]
        return await holds.refund(request)


async def grants_that_may_have_paid(
    ledger: LedgerStore, tenant_id: str, wallet_id: str, hold_id: str
) -> list[PackedGrant]:
    """The grants of the hold's recorded debits, and every grant that has units left as far as Postgres knows.

    The second part is for debits that are still on their way to Postgres: a grant that they used up has units left
    there, unless it was used up before and a refund revived it. It is read first, so that a debit recorded between the
    two reads is in the second one.

    Raises:
        StoreUnavailableError: Postgres did not answer.
    """
    found = {grant.grant_id: grant for grant in await ledger.unspent_grants(tenant_id, wallet_id)}
    row = await ledger.get_settled_hold(tenant_id, wallet_id, hold_id)
    debits = [] if row is None else [debit for amount in row.amounts for debit in amount.debits]
    missing = sorted({debit.grant_id for debit in debits if debit.grant_id} - found.keys())
    if missing:
        found |= {grant.grant_id: grant for grant in await ledger.grants_by_id(tenant_id, wallet_id, missing)}
    return [_packed(grant) for grant in found.values()]


def _packed(grant: GrantRow) -> PackedGrant:
    """A grant without units, as refund.lua takes it."""
    return PackedGrant(
        grant_id=grant.grant_id,
        free=0,
        pinned=0,
        priority=grant.priority,
        expire_ms=grant.expire_ms,
        source=grant.source,
        effective_ms=grant.effective_ms,
        create_ms=grant.create_ms,
        voided=grant.void_ms != 0,
    )
