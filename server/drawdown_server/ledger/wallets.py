"""Assets and wallets in Postgres, the numbered changes of a wallet, and what a load into Valkey needs.

A change that an administrator makes (a grant, a freeze) takes the wallet's next ``change_number`` under the lock of
its row. Valkey applies the changes in exactly that order and reports each as a ledger event; recording the event
moves ``applied_change_number``. What lies between the two numbers is pending, and any server may apply it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from drawdown_server.errors import DrawdownError, ErrorReason
from drawdown_server.holds.model import OveragePolicy, WalletState
from drawdown_server.ledger.database import ACQUIRE_TIMEOUT_S, Connection, Database, translated
from drawdown_server.ledger.queries import QUERIES
from drawdown_server.ledger.rows import (
    AssetRow,
    ChangeKind,
    ChangeRow,
    GrantRow,
    WalletRow,
    WalletSnapshot,
    asset_row,
    balance_row,
    change_row,
    grant_row,
    wallet_row,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

PENDING_CHANGES_MAX: Final = 1_000
"""Pending changes that one load brings along; the rest follows by ``pending_changes``."""


class WalletStore(Database):
    """Assets and wallets."""

    async def create_asset(
        self, tenant_id: str, asset: str, scale: int, display_name: str, default_overage_policy: OveragePolicy
    ) -> tuple[AssetRow, bool]:
        """Create an asset, or find the one that has its code already.

        Returns:
            The asset as it is stored, and whether this call created it (if not, the caller compares the content).
        """
        async with self._connection() as connection:
            created = await connection.fetchrow(
                QUERIES["asset_create"], tenant_id, asset, scale, display_name, default_overage_policy.value
            )
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
        async with self._connection() as connection:
            created = await connection.fetchrow(
                QUERIES["wallet_create"], tenant_id, wallet_id, partition, display_name, encoded
            )
            row = created or await connection.fetchrow(QUERIES["wallet_get"], tenant_id, wallet_id)
        assert row is not None, "wallets are never deleted"  # noqa: S101
        return wallet_row(row), created is not None

    async def get_wallet(self, tenant_id: str, wallet_id: str) -> WalletRow | None:
        """A wallet by its id."""
        async with self._connection() as connection:
            row = await connection.fetchrow(QUERIES["wallet_get"], tenant_id, wallet_id)
        return None if row is None else wallet_row(row)

    async def list_wallets(self, tenant_id: str, after_wallet_id: str, limit: int) -> list[WalletRow]:
        """A page of wallets by id, after ``after_wallet_id`` ("" = from the start)."""
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["wallet_list"], tenant_id, after_wallet_id, limit)
        return [wallet_row(row) for row in rows]

    async def set_wallet_state(
        self, tenant_id: str, wallet_id: str, state: WalletState, reason: str
    ) -> tuple[WalletRow, bool]:
        """Freeze, unfreeze or close a wallet: one numbered change, or none when it is in that state already.

        Returns:
            The wallet, and whether this call changed it.

        Raises:
            DrawdownError: WALLET_NOT_FOUND, or WALLET_CLOSED (for good).
        """
        async with self._transaction() as connection:
            wallet = await lock_wallet(connection, tenant_id, wallet_id)
            if wallet.state is state:
                return wallet, False
            refuse_closed(wallet)
            changed = await take_change(connection, wallet, ChangeKind.STATE, state=state, reason=reason)
        return changed, True

    async def load_wallet(self, tenant_id: str, wallet_id: str) -> WalletSnapshot | None:
        """Everything that a load into Valkey needs, all as of one instant; None for an unknown wallet.

        The grants and the state are those of the last *recorded* event, because Valkey then applies the pending
        changes in order and each makes its own event again. The state is looked up in the changes: ``wallet.state``
        is already the newest wanted one.
        """
        with translated():
            async with (
                self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                return await read_snapshot(connection, tenant_id, wallet_id)

    async def pending_changes(
        self, tenant_id: str, wallet_id: str, after_change_number: int, limit: int
    ) -> list[ChangeRow]:
        """The changes after a number, in the order in which they must be applied."""
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["change_list"], tenant_id, wallet_id, after_change_number, limit)
            grants: dict[int, GrantRow] = {}
            if any(row["kind"] == ChangeKind.GRANT.value for row in rows):
                # Grants of changes that are numbered later than this page are read in vain, at most `limit` of them.
                grants = {
                    row["change_number"]: grant_row(row)
                    for row in await connection.fetch(
                        QUERIES["grant_list"], tenant_id, wallet_id, "", after_change_number, limit
                    )
                }
        return [change_row(row, grants) for row in rows]

    async def list_wallets_with_pending_changes(self, older_than_s: float, limit: int) -> list[tuple[str, str]]:
        """(tenant, wallet) with changes that nobody has applied for that many seconds, the longest waiting first."""
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["wallets_with_pending_changes"], older_than_s, limit)
        return [(row["tenant_id"], row["wallet_id"]) for row in rows]


async def lock_wallet(connection: Connection, tenant_id: str, wallet_id: str) -> WalletRow:
    """The wallet, locked until the transaction ends."""
    row = await connection.fetchrow(QUERIES["wallet_lock"], tenant_id, wallet_id)
    if row is None:
        raise DrawdownError(ErrorReason.WALLET_NOT_FOUND, f"wallet {wallet_id} does not exist", wallet_id=wallet_id)
    return wallet_row(row)


def refuse_closed(wallet: WalletRow) -> None:
    """Raise WALLET_CLOSED for a closed wallet: nothing opens it again."""
    if wallet.state is WalletState.CLOSED:
        raise DrawdownError(
            ErrorReason.WALLET_CLOSED, f"wallet {wallet.wallet_id} is closed", wallet_id=wallet.wallet_id
        )


async def take_change(
    connection: Connection,
    wallet: WalletRow,
    kind: ChangeKind,
    *,
    grant_id: str = "",
    state: WalletState | None = None,
    reason: str = "",
) -> WalletRow:
    """Number a change and write it down; the wallet is locked. Returns the wallet with its new change number."""
    wanted = "" if state is None else state.value
    row = await connection.fetchrow(QUERIES["wallet_change"], wallet.tenant_id, wallet.wallet_id, wanted)
    assert row is not None, "the row is locked"  # noqa: S101
    changed = wallet_row(row)
    await connection.execute(
        QUERIES["change_create"],
        wallet.tenant_id,
        wallet.wallet_id,
        changed.change_number,
        kind.value,
        grant_id,
        wanted,
        reason,
    )
    return changed


async def read_snapshot(connection: Connection, tenant_id: str, wallet_id: str) -> WalletSnapshot | None:
    """``load_wallet`` inside the caller's REPEATABLE READ transaction. An unknown wallet costs one query."""
    row = await connection.fetchrow(QUERIES["wallet_get"], tenant_id, wallet_id)
    if row is None:
        return None
    wallet = wallet_row(row)
    applied = wallet.applied_change_number
    applied_state = await connection.fetchval(QUERIES["change_state_as_of"], tenant_id, wallet_id, applied)
    balances = await connection.fetch(QUERIES["balance_list"], tenant_id, wallet_id)
    grants = [grant_row(grant) for grant in await connection.fetch(QUERIES["grant_list_live"], tenant_id, wallet_id)]
    changes = []
    if wallet.change_number > applied:
        changes = await connection.fetch(QUERIES["change_list"], tenant_id, wallet_id, applied, PENDING_CHANGES_MAX)
    # A grant that is not applied has all its units, so the pending ones are among the live ones.
    by_change = {grant.change_number: grant for grant in grants if grant.change_number > applied}
    return WalletSnapshot(
        wallet=wallet,
        applied_state=WalletState.ACTIVE if applied_state is None else WalletState(applied_state),
        balances=[balance_row(balance) for balance in balances],
        grants=[grant for grant in grants if grant.change_number <= applied],
        pending=[change_row(change, by_change) for change in changes],
    )
