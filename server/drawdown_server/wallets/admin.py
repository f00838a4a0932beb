"""What operators and platforms do to wallets: create, fund, freeze. Durable in Postgres and live before the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from drawdown_server.errors import DrawdownError, ErrorReason
from drawdown_server.holds import keys

if TYPE_CHECKING:
    from drawdown_server.holds.model import AssetBalance, GrantSource, OveragePolicy, WalletState
    from drawdown_server.holds.store import HoldStore
    from drawdown_server.ledger.rows import AssetRow, GrantRow, WalletRow
    from drawdown_server.ledger.store import LedgerStore
    from drawdown_server.wallets.assets import AssetRegistry
    from drawdown_server.wallets.changes import ChangeApplier
    from drawdown_server.wallets.loader import WalletLoader

log = structlog.get_logger(__name__)


def asset_not_found(asset: str) -> DrawdownError:
    """The error for an asset that does not exist."""
    return DrawdownError(ErrorReason.ASSET_NOT_FOUND, f"asset {asset} does not exist", asset=asset)


class WalletAdmin:
    """The control plane. Every mutation is idempotent by the caller's id: same content, same answer."""

    def __init__(
        self,
        holds: HoldStore,
        ledger: LedgerStore,
        assets: AssetRegistry,
        changes: ChangeApplier,
        loader: WalletLoader,
    ) -> None:
        self._holds = holds
        self._ledger = ledger
        self._assets = assets
        self._changes = changes
        self._loader = loader

    async def create_asset(
        self, tenant_id: str, *, asset: str, scale: int, display_name: str, default_overage_policy: OveragePolicy
    ) -> AssetRow:
        """Create an asset.

        Raises:
            DrawdownError: ID_REUSED when it exists with other content.
        """
        row, created = await self._ledger.create_asset(
            tenant_id,
            asset,
            scale=scale,
            display_name=display_name,
            default_overage_policy=default_overage_policy,
        )
        if not created:
            wanted = {
                "scale": scale,
                "display_name": display_name,
                "default_overage_policy": default_overage_policy,
            }
            _check_same("asset", asset, row, wanted)
        self._assets.remember(row)
        return row

    async def create_wallet(
        self, tenant_id: str, *, wallet_id: str, display_name: str, labels: dict[str, str]
    ) -> WalletRow:
        """Create a wallet without funds; it comes to Redis on its first use.

        Raises:
            DrawdownError: ID_REUSED when it exists with other content.
        """
        row, created = await self._ledger.create_wallet(
            tenant_id,
            wallet_id,
            partition=keys.partition_of(tenant_id, wallet_id, self._holds.partitions),
            display_name=display_name,
            labels=labels,
        )
        if not created:
            _check_same("wallet", wallet_id, row, {"display_name": display_name, "labels": labels})
        self._loader.forget_unknown(tenant_id, wallet_id)
        return row

    async def set_state(self, tenant_id: str, wallet_id: str, state: WalletState, reason: str) -> WalletRow:
        """Freeze or unfreeze a wallet; in force when this returns.

        Raises:
            DrawdownError: WALLET_NOT_FOUND, WALLET_CLOSED.
        """
        row, changed = await self._ledger.set_wallet_state(tenant_id, wallet_id, state, reason)
        # Also when nothing changed: an earlier call may have died between Postgres and Redis.
        await self._make_live(tenant_id, wallet_id)
        if changed:
            log.info("wallet.state_changed", tenant_id=tenant_id, wallet_id=wallet_id, state=state, reason=reason)
        return row

    async def create_grant(
        self,
        tenant_id: str,
        *,
        wallet_id: str,
        grant_id: str,
        asset: str,
        units: int,
        priority: int,
        source: GrantSource,
        labels: dict[str, str],
    ) -> tuple[GrantRow, AssetBalance, bool]:
        """Put funds into a wallet: recorded, then usable, then answered.

        Returns:
            The grant, the balance of its asset, and whether an earlier call had made the grant.

        Raises:
            DrawdownError: ASSET_NOT_FOUND, WALLET_NOT_FOUND, WALLET_CLOSED, ID_REUSED, BALANCE_OUT_OF_RANGE,
                TOO_MANY_GRANTS.
        """
        row, created = await self._ledger.create_grant(
            tenant_id,
            wallet_id,
            grant_id,
            asset=asset,
            units=units,
            priority=priority,
            source=source,
            effective_ms=0,
            expire_ms=0,
            labels=labels,
        )
        if not created:
            wanted = {"asset": asset, "units": units, "priority": priority, "source": source, "labels": labels}
            _check_same("grant", grant_id, row, wanted)
        # Also for a grant made before: the call that made it may have died before it became usable.
        await self._make_live(tenant_id, wallet_id)
        reading = await self._holds.read(tenant_id, wallet_id, assets=[asset])
        return row, reading.balances[0], not created

    async def _make_live(self, tenant_id: str, wallet_id: str) -> None:
        """Apply what Postgres has recorded. It knows the wallet, whatever the loader remembers of a moment ago."""
        self._loader.forget_unknown(tenant_id, wallet_id)
        await self._changes.catch_up(tenant_id, wallet_id)


def _check_same(resource: str, resource_id: str, row: object, wanted: dict[str, object]) -> None:
    """Raise ID_REUSED for the first field in which an existing thing differs from what is wanted."""
    for field, value in wanted.items():
        if getattr(row, field) != value:
            raise DrawdownError(
                ErrorReason.ID_REUSED,
                f"{resource} {resource_id} exists with other {field}",
                resource=resource,
                id=resource_id,
                field=field,
            )
