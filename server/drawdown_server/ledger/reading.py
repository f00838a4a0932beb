"""What the flush reads of a batch's wallets before ``plan``: inside its transaction, in bulk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drawdown_server.ledger.database import from_ms, to_ms
from drawdown_server.ledger.posting import KnownGrant, LockedWallet
from drawdown_server.ledger.queries import QUERIES
from drawdown_server.ledger.rows import decode_amounts, decode_change, decode_refunds
from drawdown_server.ledger.settlement import KnownHold

if TYPE_CHECKING:
    from drawdown_server.holds.messages import Change
    from drawdown_server.ledger.database import Connection
    from drawdown_server.ledger.posting import ChangeKey, GrantKey, WalletKey
    from drawdown_server.ledger.settlement import HoldKey


async def lock_wallets(connection: Connection, keys: set[WalletKey]) -> dict[WalletKey, LockedWallet]:
    """The wallets, locked until the transaction ends."""
    # Only changes of the same wallet wait for these locks, and each of those locks one wallet only, so the order does
    # not matter.
    rows = await connection.fetch(
        QUERIES["flush_wallets_lock"], [tenant for tenant, _ in keys], [wallet for _, wallet in keys]
    )
    return {
        (row["tenant_id"], row["wallet_id"]): LockedWallet(
            row["partition"], row["change_number"], row["applied_change_number"], row["sequence"]
        )
        for row in rows
    }


async def read_grants(connection: Connection, keys: set[GrantKey]) -> dict[GrantKey, KnownGrant]:
    """Grants that get funds or are taken back."""
    if not keys:
        return {}
    ordered = list(keys)
    rows = await connection.fetch(
        QUERIES["flush_grants"], [key[0] for key in ordered], [key[1] for key in ordered], [key[2] for key in ordered]
    )
    return {
        (row["tenant_id"], row["wallet_id"], row["grant_id"]): KnownGrant(
            row["asset"], row["units"], row["source"], row["change_number"], row["live"]
        )
        for row in rows
    }


async def read_changes(connection: Connection, keys: set[ChangeKey]) -> dict[ChangeKey, Change]:
    """Changes that were applied."""
    if not keys:
        return {}
    ordered = list(keys)
    rows = await connection.fetch(
        QUERIES["flush_changes"], [key[0] for key in ordered], [key[1] for key in ordered], [key[2] for key in ordered]
    )
    return {(row["tenant_id"], row["wallet_id"], row["change_number"]): decode_change(row["payload"]) for row in rows}


async def read_holds(connection: Connection, keys: set[HoldKey]) -> dict[HoldKey, KnownHold]:
    """Holds that an event continues."""
    if not keys:
        return {}
    ordered = list(keys)
    rows = await connection.fetch(
        QUERIES["flush_holds"],
        [key[0] for key in ordered],
        [key[1] for key in ordered],
        [key[2] for key in ordered],
        [from_ms(key[3]) for key in ordered],
    )
    return {
        (row["tenant_id"], row["wallet_id"], row["hold_id"], to_ms(row["create_time"])): KnownHold(
            amounts=decode_amounts(row["amounts"]),
            refunds=decode_refunds(row["refunds"]),
            first_sequence=row["first_sequence"],
            final=row["final"],
            late=row["late"],
            settle_time=row["settle_time"],
        )
        for row in rows
    }
