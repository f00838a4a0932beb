"""What operators and platforms do to wallets: create, fund, limit, freeze, close.

Each is durable in Postgres and live before the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from drawdown_server.errors import DrawdownError, ErrorReason
from drawdown_server.holds import keys
from drawdown_server.holds.model import UNITS_MAX, WalletState
from drawdown_server.holds.refusals import balance_out_of_range

if TYPE_CHECKING:
    from drawdown_server.holds.messages import GrantChange
    from drawdown_server.holds.model import (
        AssetBalance,
        Cap,
        CapWindow,
        GrantSource,
        OveragePolicy,
        WalletReading,
    )
    from drawdown_server.holds.store import HoldStore
    from drawdown_server.ledger.rows import AssetRow, GrantRow, WalletRow
    from drawdown_server.ledger.store import LedgerStore
    from drawdown_server.wallets.assets import AssetRegistry
    from drawdown_server.wallets.changes import ChangeApplier
    from drawdown_server.wallets.loader import WalletLoader

log = structlog.get_logger(__name__)


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

    async def close_wallet(self, tenant_id: str, wallet_id: str, *, force: bool, reason: str) -> WalletRow:
        """Close a wallet for ever; without force only an empty one.

        It is frozen while it is looked at, so that nothing can come in between; what is not empty is then as it was,
        also when this server dies meanwhile: another one makes the wallet active again within seconds.

        Raises:
            DrawdownError: WALLET_NOT_FOUND, WALLET_NOT_EMPTY.
        """
        row = await self._ledger.get_wallet(tenant_id, wallet_id)
        closed = False
        if row is None or row.state is not WalletState.CLOSED:
            if force:
                row, closed = await self._ledger.set_wallet_state(tenant_id, wallet_id, WalletState.CLOSED, reason)
            else:
                row, closed = await self._close_empty(tenant_id, wallet_id, reason)
        await self._make_live(tenant_id, wallet_id)
        if closed:
            log.info("wallet.closed", tenant_id=tenant_id, wallet_id=wallet_id, force=force, reason=reason)
        return row

    async def _close_empty(self, tenant_id: str, wallet_id: str, reason: str) -> tuple[WalletRow, bool]:
        """Close a wallet unless there is something in it; returns it, and whether this call closed it."""
        await self._refuse_not_empty(tenant_id, wallet_id)  # most refusals need not freeze it
        row = await self._ledger.begin_closing(tenant_id, wallet_id, reason)
        try:
            await self._refuse_not_empty(tenant_id, wallet_id)
            row, closed = await self._ledger.set_wallet_state(
                tenant_id, wallet_id, WalletState.CLOSED, reason, seen_change_number=row.change_number
            )
            if row.state is not WalletState.CLOSED:
                raise _not_empty(wallet_id, "was changed meanwhile")
        except DrawdownError:
            if await self._ledger.undo_closing(tenant_id, wallet_id, "not closed"):
                await self._make_live(tenant_id, wallet_id)
            raise
        return row, closed

    async def _refuse_not_empty(self, tenant_id: str, wallet_id: str) -> None:
        """Raise WALLET_NOT_EMPTY while there is money, debt or an open hold in the live wallet."""
        await self._make_live(tenant_id, wallet_id)
        _check_empty(wallet_id, await self._holds.read(tenant_id, wallet_id, with_grants=True))

    async def set_overdraft_limit(
        self, tenant_id: str, wallet_id: str, asset: str, limit_units: int, reason: str
    ) -> AssetBalance:
        """Set how far below zero the balance of an asset may go; returns the balance.

        Raises:
            DrawdownError: WALLET_NOT_FOUND, WALLET_CLOSED, ASSET_NOT_FOUND, BALANCE_OUT_OF_RANGE.
        """
        # The ledger checks this too, against what it has recorded; a refund that it has not yet takes room as well.
        self._loader.forget_unknown(tenant_id, wallet_id)
        live = (await self._holds.read(tenant_id, wallet_id, assets=[asset])).balances[0]
        if limit_units > live.overdraft_limit and live.settled + limit_units > UNITS_MAX:
            raise balance_out_of_range(asset)
        _, changed = await self._ledger.set_overdraft_limit(tenant_id, wallet_id, asset, limit_units, reason)
        balance = await self._live_balance(tenant_id, wallet_id, asset)
        if changed:
            log.info(
                "wallet.overdraft_limit",
                tenant_id=tenant_id,
                wallet_id=wallet_id,
                asset=asset,
                limit_units=limit_units,
                reason=reason,
            )
        return balance

    async def set_cap(self, tenant_id: str, wallet_id: str, cap: Cap) -> None:
        """Set a cap, new or instead of the one with the same subject, asset and window.

        Raises:
            DrawdownError: WALLET_NOT_FOUND, WALLET_CLOSED, ASSET_NOT_FOUND, TOO_MANY_CAPS.
        """
        changed = await self._ledger.set_cap(tenant_id, wallet_id, cap)
        await self._make_live(tenant_id, wallet_id)
        if changed:
            log.info("cap.set", tenant_id=tenant_id, wallet_id=wallet_id, cap=cap)

    async def remove_cap(self, tenant_id: str, wallet_id: str, *, subject: str, asset: str, window: CapWindow) -> None:
        """Remove a cap; that there is none is no error.

        Raises:
            DrawdownError: WALLET_NOT_FOUND, WALLET_CLOSED.
        """
        changed = await self._ledger.remove_cap(tenant_id, wallet_id, subject=subject, asset=asset, window=window)
        await self._make_live(tenant_id, wallet_id)
        if changed:
            log.info(
                "cap.removed", tenant_id=tenant_id, wallet_id=wallet_id, subject=subject, asset=asset, window=window
            )

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
        effective_ms: int = 0,
        expire_ms: int = 0,
    ) -> tuple[GrantRow, AssetBalance, bool]:
        """Put funds into a wallet: recorded, then usable (from ``effective_ms`` on), then answered.

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
            effective_ms=effective_ms,
            expire_ms=expire_ms,
            labels=labels,
        )
        if not created:
            wanted = {
                "asset": asset,
                "units": units,
                "priority": priority,
                "source": source,
                "labels": labels,
                "effective_ms": effective_ms,
            }
            _check_same("grant", grant_id, row, wanted)
            _check_same("grant", grant_id, await self._as_made(row), {"expire_ms": expire_ms})
        # Also for a grant made before: the call that made it may have died before it became usable.
        return row, await self._live_balance(tenant_id, wallet_id, asset), not created

    async def _as_made(self, row: GrantRow) -> GrantChange:
        """The grant with its first expiry, which may have been changed since."""
        made = await self._ledger.get_change(row.tenant_id, row.wallet_id, row.change_number)
        assert made is not None  # noqa: S101  # every grant is a change
        assert made.change.grant is not None  # noqa: S101  # a GRANT change carries it
        return made.change.grant

    async def void_grant(
        self, tenant_id: str, wallet_id: str, grant_id: str, reason: str
    ) -> tuple[GrantRow, AssetBalance]:
        """Take back what is left of a grant; what open holds pin of it goes the same way when they give it back.

        Raises:
            DrawdownError: WALLET_NOT_FOUND, GRANT_NOT_FOUND, WALLET_CLOSED.
        """
        row, changed = await self._ledger.void_grant(tenant_id, wallet_id, grant_id, reason)
        balance = await self._live_balance(tenant_id, wallet_id, row.asset)
        if changed:
            log.info("grant.voided", tenant_id=tenant_id, wallet_id=wallet_id, grant_id=grant_id, reason=reason)
        return row, balance

    async def set_grant_expiry(
        self, tenant_id: str, wallet_id: str, grant_id: str, expire_ms: int, reason: str
    ) -> tuple[GrantRow, AssetBalance]:
        """Change when a grant expires (0 = never); what is over by then expires at once.

        Raises:
            DrawdownError: WALLET_NOT_FOUND, GRANT_NOT_FOUND, WALLET_CLOSED.
        """
        row, changed = await self._ledger.set_grant_expiry(tenant_id, wallet_id, grant_id, expire_ms, reason)
        balance = await self._live_balance(tenant_id, wallet_id, row.asset)
        if changed:
            log.info(
                "grant.expiry_set",
                tenant_id=tenant_id,
                wallet_id=wallet_id,
                grant_id=grant_id,
                expire_ms=expire_ms,
                reason=reason,
            )
        return row, balance

    async def _live_balance(self, tenant_id: str, wallet_id: str, asset: str) -> AssetBalance:
        """Apply what Postgres has recorded; then the balance of an asset."""
        await self._make_live(tenant_id, wallet_id)
        reading = await self._holds.read(tenant_id, wallet_id, assets=[asset])
        return reading.balances[0]

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


def _check_empty(wallet_id: str, reading: WalletReading) -> None:
    """Raise WALLET_NOT_EMPTY for an open hold, money, debt, or money that is yet to come."""
    if reading.open_holds:
        raise _not_empty(wallet_id, "has open holds", open_holds=str(reading.open_holds))
    for balance in reading.balances:
        if balance.settled or balance.debt or balance.held:
            units = {"settled_units": str(balance.settled), "debt_units": str(balance.debt)}
            raise _not_empty(wallet_id, f"has a balance of {balance.asset}", asset=balance.asset, **units)
        if balance.scheduled:
            grant_id = balance.scheduled[0].grant_id
            raise _not_empty(
                wallet_id, f"has a grant that is not effective yet: {grant_id}", asset=balance.asset, grant_id=grant_id
            )


def _not_empty(wallet_id: str, what: str, **metadata: str) -> DrawdownError:
    message = f"wallet {wallet_id} {what}: it is closed by force only"
    return DrawdownError(ErrorReason.WALLET_NOT_EMPTY, message, wallet_id=wallet_id, **metadata)
