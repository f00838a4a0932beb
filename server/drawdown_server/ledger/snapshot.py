"""Wallets as of their last recorded event: what a load into Valkey and a reconciliation begin with."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, TypeAlias

from drawdown_server.holds.messages import CapUsage
from drawdown_server.holds.model import WalletState
from drawdown_server.ledger.queries import QUERIES
from drawdown_server.ledger.rows import WalletSnapshot, balance_row, cap_row, change_row, grant_row, wallet_row

if TYPE_CHECKING:
    from collections.abc import Collection

    import asyncpg

    from drawdown_server.ledger.database import Connection

WalletKey: TypeAlias = tuple[str, str]
"""tenant_id, wallet_id."""

PENDING_CHANGES_MAX: Final = 1_000
"""Pending changes that one load brings along; the rest follows by ``pending_changes``."""


async def read_snapshot(connection: Connection, tenant_id: str, wallet_id: str) -> WalletSnapshot | None:
    """``read_snapshots`` of one wallet; None when there is no such wallet."""
    return (await read_snapshots(connection, [(tenant_id, wallet_id)])).get((tenant_id, wallet_id))


async def read_snapshots(connection: Connection, keys: Collection[WalletKey]) -> dict[WalletKey, WalletSnapshot]:
    """Everything as of one instant, inside the caller's REPEATABLE READ transaction; the wallets that there are.

    ``wallet.state`` and the wanted limits and caps are already the newest; what is in force as of the applied change is
    looked up in the changes (the state) or was copied by the flusher (the rest). However many wallets, it is at most
    eight queries; for unknown ones alone it is one.
    """
    wallets = {
        key: wallet_row(rows[0]) for key, rows in (await _by_wallet(connection, "snapshot_wallets", keys)).items()
    }
    if not wallets:
        return {}
    applied = [key for key, wallet in wallets.items() if wallet.applied_change_number]
    behind = [key for key, wallet in wallets.items() if wallet.change_number > wallet.applied_change_number]
    states = await _by_wallet(connection, "snapshot_states", applied)
    caps = await _by_wallet(connection, "snapshot_caps", applied)
    usage = await _by_wallet(connection, "snapshot_cap_usage", applied)
    balances = await _by_wallet(connection, "snapshot_balances", wallets)
    grants = await _by_wallet(connection, "snapshot_grants", wallets)
    changes = await _by_wallet(connection, "snapshot_changes", behind, PENDING_CHANGES_MAX)
    snapshots = {}
    for key, wallet in wallets.items():
        unspent = [grant_row(grant) for grant in grants[key]]
        in_force = [grant for grant in unspent if grant.change_number <= wallet.applied_change_number]
        snapshots[key] = WalletSnapshot(
            wallet=wallet,
            applied_state=_state(states[key]),
            balances=[balance_row(balance) for balance in balances[key]],
            grants=[grant for grant in in_force if grant.live],
            scheduled=[grant for grant in in_force if not grant.live],
            caps=[cap_row(cap) for cap in caps[key]],
            cap_usage=[CapUsage(row["counter"], row["units"]) for row in usage[key]],
            pending=[change_row(change) for change in changes[key]],
        )
    return snapshots


async def _by_wallet(
    connection: Connection, query: str, keys: Collection[WalletKey], *more: int
) -> defaultdict[WalletKey, list[asyncpg.Record]]:
    """The rows of a query about several wallets, by wallet, in the query's order."""
    rows: defaultdict[WalletKey, list[asyncpg.Record]] = defaultdict(list)
    if keys:
        for row in await connection.fetch(QUERIES[query], [key[0] for key in keys], [key[1] for key in keys], *more):
            rows[row["tenant_id"], row["wallet_id"]].append(row)
    return rows


def _state(rows: list[asyncpg.Record]) -> WalletState:
    """Of the newest applied change of state; without one a wallet is as it was created."""
    change = change_row(rows[0]).change if rows else None
    return change.state if change is not None and change.state is not None else WalletState.ACTIVE
