"""Assets and wallets in Postgres, and what a load into Valkey needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from drawdown_server.holds.messages import Change
from drawdown_server.holds.model import UNITS_MAX, OveragePolicy, WalletState
from drawdown_server.holds.refusals import balance_out_of_range
from drawdown_server.ledger.audit import asset_state, overdraft_state, wallet_state, write_audit
from drawdown_server.ledger.batches import Batches
from drawdown_server.ledger.changes import (
    latest_change,
    lock_wallet,
    refuse_closed,
    refuse_unknown_asset,
    take_number,
    write_change,
)
from drawdown_server.ledger.closings import is_closing, write_state
from drawdown_server.ledger.database import ACQUIRE_TIMEOUT_S, Connection, Database, Pool, translated
from drawdown_server.ledger.queries import QUERIES
from drawdown_server.ledger.rows import (
    AssetRow,
    RecordedWallet,
    WalletRow,
    WalletSnapshot,
    asset_row,
    wallet_row,
)
from drawdown_server.ledger.snapshot import WalletKey, read_snapshots

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class WalletPlace(NamedTuple):
    """A wallet, and the partition in which it lives."""

    tenant_id: str
    wallet_id: str
    partition: int


class WalletStore(Database):
    """Assets and wallets."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self._loads = Batches(self._load_wallets)

    async def create_asset(
        self, tenant_id: str, asset: str, scale: int, display_name: str, default_overage_policy: OveragePolicy
    ) -> tuple[AssetRow, bool]:
        """Create an asset, or find the one that has its code already.

        Returns:
            The asset as it is stored, and whether this call created it (if not, the caller compares the content).
        """
        async with self._transaction() as connection:
            created = await connection.fetchrow(
                QUERIES["asset_create"], tenant_id, asset, scale, display_name, default_overage_policy.value
            )
            if created is not None:
                await write_audit(connection, before=None, after=asset_state(asset_row(created)))
            row = created or await connection.fetchrow(QUERIES["asset_get"], tenant_id, asset)
        assert row is not None, "assets are never deleted"  # noqa: S101
        return asset_row(row), created is not None

    async def get_asset(self, tenant_id: str, asset: str) -> AssetRow | None:
        """An asset by its code."""
        async with self._connection() as connection:
            row = await connection.fetchrow(QUERIES["asset_get"], tenant_id, asset)
        return None if row is None else asset_row(row)

    async def list_assets(self, tenant_id: str, after_asset: str, limit: int) -> list[AssetRow]:
        """A page of assets by code, after ``after_asset`` ("" = from the start)."""
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["asset_list"], tenant_id, after_asset, limit)
        return [asset_row(row) for row in rows]

    async def create_wallet(
        self, tenant_id: str, wallet_id: str, partition: int, display_name: str, labels: Mapping[str, str]
    ) -> tuple[WalletRow, bool]:
        """Create a wallet, or find the one that has its id already.

        Args:
            tenant_id: The tenant.
            wallet_id: The tenant's id for it.
            partition: ``holds.keys.partition_of`` of the two.
            display_name: For people.
            labels: The tenant's own.

        Returns:
            The wallet as it is stored, and whether this call created it (if not, the caller compares the content).
        """
        encoded = msgspec.json.encode(labels).decode()
        async with self._transaction() as connection:
            created = await connection.fetchrow(
                QUERIES["wallet_create"], tenant_id, wallet_id, partition, display_name, encoded
            )
            if created is not None:
                await write_audit(connection, before=None, after=wallet_state(wallet_row(created)))
            row = created or await connection.fetchrow(QUERIES["wallet_get"], tenant_id, wallet_id)
        assert row is not None, "wallets are never deleted"  # noqa: S101
        return wallet_row(row), created is not None

    async def get_wallet(self, tenant_id: str, wallet_id: str) -> WalletRow | None:
        """A wallet by its id."""
        async with self._connection() as connection:
            row = await connection.fetchrow(QUERIES["wallet_get"], tenant_id, wallet_id)
        return None if row is None else wallet_row(row)

    async def recorded_wallets(self, names: Sequence[tuple[str, str]]) -> list[RecordedWallet]:
        """How far these wallets (tenant, wallet) are recorded; those that do not exist are left out."""
        async with self._connection() as connection:
            rows = await connection.fetch(
                QUERIES["wallets_recorded"], [tenant for tenant, _ in names], [wallet for _, wallet in names]
            )
        return [RecordedWallet(*row) for row in rows]

    async def list_wallets(self, tenant_id: str, after_wallet_id: str, limit: int) -> list[WalletRow]:
        """A page of wallets by id, after ``after_wallet_id`` ("" = from the start)."""
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["wallet_list"], tenant_id, after_wallet_id, limit)
        return [wallet_row(row) for row in rows]

    async def list_all_wallets(self, after: tuple[str, str], limit: int, tenant_id: str = "") -> list[WalletPlace]:
        """A page of the wallets of every tenant, or of one, after (tenant_id, wallet_id)."""
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["wallet_list_all"], *after, tenant_id, limit)
        return [WalletPlace(row["tenant_id"], row["wallet_id"], row["partition"]) for row in rows]

    async def count_wallets(self, tenant_id: str = "") -> int:
        """How many wallets there are, of every tenant or of one."""
        async with self._connection() as connection:
            count: int = await connection.fetchval(QUERIES["wallet_count"], tenant_id)
        return count

    async def set_wallet_state(
        self,
        tenant_id: str,
        wallet_id: str,
        state: WalletState,
        reason: str,
        *,
        seen_change_number: int | None = None,
    ) -> tuple[WalletRow, bool]:
        """Freeze, unfreeze or close a wallet: one numbered change, or none when it is in that state already.

        Args:
            tenant_id: The tenant.
            wallet_id: The wallet.
            state: The new state.
            reason: For people.
            seen_change_number: Only if the wallet has not been changed since this change.

        Returns:
            The wallet, and whether this call changed it.

        Raises:
            DrawdownError: WALLET_NOT_FOUND, or WALLET_CLOSED (for good).
        """
        async with self._transaction() as connection:
            wallet = await lock_wallet(connection, tenant_id, wallet_id)
            if seen_change_number not in (None, wallet.change_number):
                return wallet, False
            # A freeze that lasts only until a close is decided becomes the operator's own.
            if wallet.state is state and not await is_closing(connection, wallet):
                return wallet, False
            refuse_closed(wallet)
            changed = await write_state(connection, wallet, state, reason)
            await write_audit(connection, before=wallet_state(wallet), after=wallet_state(changed))
        return changed, True

    async def set_overdraft_limit(
        self, tenant_id: str, wallet_id: str, asset: str, limit_units: int, reason: str
    ) -> tuple[WalletRow, bool]:
        """Set how far below zero the balance of an asset may go: one numbered change, or none when that is the limit.

        Args:
            tenant_id: The tenant.
            wallet_id: The wallet.
            asset: The asset's code.
            limit_units: 0 .. UNITS_MAX.
            reason: For people.

        Returns:
            The wallet, and whether this call changed it.

        Raises:
            DrawdownError: WALLET_NOT_FOUND, WALLET_CLOSED, ASSET_NOT_FOUND, or BALANCE_OUT_OF_RANGE: what there is and
                what may be owed must be exact in a script together.
        """
        async with self._transaction() as connection:
            wallet = await lock_wallet(connection, tenant_id, wallet_id)
            await refuse_unknown_asset(connection, tenant_id, asset)
            limit_before = await wanted_overdraft_limit(connection, wallet, asset)
            if limit_before == limit_units:
                return wallet, False
            refuse_closed(wallet)
            there = await connection.fetchrow(QUERIES["grant_limits"], tenant_id, wallet_id, asset)
            assert there is not None, "an aggregate answers"  # noqa: S101
            refuse_out_of_range(asset, there["units"] + limit_units)
            changed = await take_number(connection, wallet)
            change = Change(changed.change_number, "OVERDRAFT", asset=asset, limit=limit_units)
            await write_change(connection, changed, change, reason)
            await write_audit(connection, before=overdraft_state(limit_before), after=overdraft_state(limit_units))
        return changed, True

    async def load_wallet(self, tenant_id: str, wallet_id: str) -> WalletSnapshot | None:
        """Everything that a load into Valkey needs, all as of one instant; None for an unknown wallet.

        All of it is as of the last *recorded* event, because Valkey then applies the pending changes in order and each
        makes its own event again. Calls that come together share their queries.
        """
        return await self._loads.read((tenant_id, wallet_id))

    async def _load_wallets(self, keys: Sequence[WalletKey]) -> dict[WalletKey, WalletSnapshot]:
        with translated():
            async with (
                self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                return await read_snapshots(connection, keys)


async def wanted_overdraft_limit(connection: Connection, wallet: WalletRow, asset: str) -> int:
    """The newest limit that was asked for, in units."""
    change = await latest_change(connection, wallet, "OVERDRAFT", asset)
    return 0 if change is None else change.limit


def refuse_out_of_range(asset: str, units: int) -> None:
    """Raise BALANCE_OUT_OF_RANGE when so many units might become available."""
    if units > UNITS_MAX:
        raise balance_out_of_range(asset)
