"""Reading the ledger: entries, settled holds, dead letters. Only ``recording`` writes them."""

from __future__ import annotations

import msgspec

from drawdown_server.ledger.database import ACQUIRE_TIMEOUT_S, Database, translated
from drawdown_server.ledger.queries import QUERIES
from drawdown_server.ledger.rows import (
    DeadLetterRow,
    EntryRow,
    SettledHoldRow,
    WalletSnapshot,
    dead_letter_row,
    entry_row,
    settled_hold_row,
)
from drawdown_server.ledger.wallets import read_snapshot


class EntrySum(msgspec.Struct, frozen=True):
    """What a wallet's entries of one asset and grant ("" = the debt) add up to, in units."""

    asset: str
    grant_id: str
    credited_units: int
    debited_units: int


class WalletAudit(msgspec.Struct, frozen=True):
    """Everything Postgres knows about a wallet, as of one instant."""

    snapshot: WalletSnapshot
    sums: list[EntrySum]
    dead_letters: int
    """Events of this wallet that are not in the entries (at most ``limit`` are counted)."""


class EntryStore(Database):
    """The ledger, for reading."""

    async def get_settled_hold(self, tenant_id: str, wallet_id: str, hold_id: str) -> SettledHoldRow | None:
        """A committed hold, whenever that was; None for one that was never committed."""
        async with self._connection() as connection:
            row = await connection.fetchrow(QUERIES["settled_hold_get"], tenant_id, wallet_id, hold_id)
        return None if row is None else settled_hold_row(row)

    async def list_entries(
        self,
        tenant_id: str,
        wallet_id: str,
        *,
        asset: str = "",
        hold_id: str = "",
        after: tuple[int, int] = (0, 0),
        limit: int,
    ) -> list[EntryRow]:
        """A page of a wallet's entries, oldest first.

        Args:
            tenant_id: The tenant.
            wallet_id: The wallet.
            asset: Only of this asset; "" = all.
            hold_id: Only of the Commit of this hold; "" = all.
            after: (wallet_sequence, line) of the last entry of the page before.
            limit: Most entries to return.
        """
        async with self._connection() as connection:
            rows = await connection.fetch(
                QUERIES["entry_list"], tenant_id, wallet_id, asset, hold_id, after[0], after[1], limit
            )
        return [entry_row(row) for row in rows]

    async def audit_wallet(self, tenant_id: str, wallet_id: str, dead_letters_max: int = 100) -> WalletAudit | None:
        """Balances, grants and recomputed sums of entries in one snapshot; None for an unknown wallet.

        Reads every entry of the wallet: for reconciliation, not for a request.
        """
        with translated():
            async with (
                self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                snapshot = await read_snapshot(connection, tenant_id, wallet_id)
                if snapshot is None:
                    return None
                account = f"wallet:{wallet_id}"
                sums = await connection.fetch(QUERIES["entry_sums"], tenant_id, wallet_id, account)
                dead = await connection.fetch(
                    QUERIES["dead_letter_list_of_wallet"], tenant_id, wallet_id, dead_letters_max
                )
        return WalletAudit(
            snapshot=snapshot,
            sums=[EntrySum(s["asset"], s["grant_id"], s["credited_units"], s["debited_units"]) for s in sums],
            dead_letters=len(dead),
        )

    async def list_dead_letters(self, *, after: tuple[int, int, str] = (-1, 0, ""), limit: int) -> list[DeadLetterRow]:
        """A page of events that could not be recorded, after (partition, epoch, stream_id)."""
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["dead_letter_list"], *after, limit)
        return [dead_letter_row(row) for row in rows]
