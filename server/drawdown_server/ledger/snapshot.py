"""A wallet as of its last recorded event: what a load into Valkey and a reconciliation begin with."""

from __future__ import annotations

from typing import Final

from drawdown_server.holds.messages import CapUsage
from drawdown_server.holds.model import WalletState
from drawdown_server.ledger.changes import latest_change
from drawdown_server.ledger.database import Connection
from drawdown_server.ledger.queries import QUERIES
from drawdown_server.ledger.rows import WalletSnapshot, balance_row, cap_row, change_row, grant_row, wallet_row

PENDING_CHANGES_MAX: Final = 1_000
"""Pending changes that one load brings along; the rest follows by ``pending_changes``."""


async def read_snapshot(connection: Connection, tenant_id: str, wallet_id: str) -> WalletSnapshot | None:
    """Everything as of one instant, inside the caller's REPEATABLE READ transaction.

    ``wallet.state`` and the wanted limits and caps are already the newest; what is in force as of the applied change is
    looked up in the changes (the state) or was copied by the flusher (the rest). An unknown wallet costs one query, one
    that nothing was ever done to four.
    """
    row = await connection.fetchrow(QUERIES["wallet_get"], tenant_id, wallet_id)
    if row is None:
        return None
    wallet = wallet_row(row)
    applied = wallet.applied_change_number
    names = (tenant_id, wallet_id)
    state, caps, usage, changes = WalletState.ACTIVE, [], [], []
    if applied:
        change = await latest_change(connection, wallet, "STATE", "", applied)
        state = change.state if change is not None and change.state is not None else state
        caps = [cap_row(cap) for cap in await connection.fetch(QUERIES["applied_cap_list"], *names)]
        usage = [CapUsage(*counter) for counter in await connection.fetch(QUERIES["cap_usage_list"], *names)]
    balances = await connection.fetch(QUERIES["balance_list"], *names)
    unspent = [grant_row(grant) for grant in await connection.fetch(QUERIES["grant_list_unspent"], *names)]
    in_force = [grant for grant in unspent if grant.change_number <= applied]
    if wallet.change_number > applied:
        changes = await connection.fetch(QUERIES["change_list"], *names, applied, PENDING_CHANGES_MAX)
    return WalletSnapshot(
        wallet=wallet,
        applied_state=state,
        balances=[balance_row(balance) for balance in balances],
        grants=[grant for grant in in_force if grant.live],
        scheduled=[grant for grant in in_force if not grant.live],
        caps=caps,
        cap_usage=usage,
        pending=[change_row(change) for change in changes],
    )
