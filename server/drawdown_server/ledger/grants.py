"""Grants in Postgres: funds come in here first, then Valkey applies the change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from drawdown_server.errors import DrawdownError, ErrorReason
from drawdown_server.holds.model import UNITS_MAX, GrantSource
from drawdown_server.ledger.database import Connection, Database, from_ms
from drawdown_server.ledger.queries import QUERIES
from drawdown_server.ledger.rows import ChangeKind, GrantRow, grant_row
from drawdown_server.ledger.wallets import lock_wallet, refuse_closed, take_change

if TYPE_CHECKING:
    from collections.abc import Mapping

GRANTS_MAX: Final = 1_000
"""Live grants per wallet and asset. A script walks them in burn order, so this bounds how long one call may take."""


class GrantStore(Database):
    """Grants."""

    async def create_grant(
        self,
        tenant_id: str,
        wallet_id: str,
        grant_id: str,
        *,
        asset: str,
        units: int,
        priority: int,
        source: GrantSource,
        effective_ms: int,
        expire_ms: int,
        labels: Mapping[str, str],
    ) -> tuple[GrantRow, bool]:
        """Put funds in: one numbered change, still to be applied to Valkey.

        The checks run under the lock of the wallet's row, so that grants that race each other cannot pass together
        what none of them may pass. Their order: the id is known; closed; asset; number of grants; range.

        Args:
            tenant_id: The tenant.
            wallet_id: The wallet.
            grant_id: The caller's id, the idempotency key.
            asset: The asset's code.
            units: 1 .. UNITS_MAX.
            priority: Low burns first.
            source: Where the funds come from.
            effective_ms: Not usable before; 0 = at once.
            expire_ms: What is left expires then; 0 = never.
            labels: The tenant's own.

        Returns:
            The grant as it is stored, and whether this call created it (if not, the caller compares the content).

        Raises:
            DrawdownError: WALLET_NOT_FOUND, WALLET_CLOSED, ASSET_NOT_FOUND, TOO_MANY_GRANTS or BALANCE_OUT_OF_RANGE.
        """
        async with self._transaction() as connection:
            wallet = await lock_wallet(connection, tenant_id, wallet_id)
            known = await connection.fetchrow(QUERIES["grant_get"], tenant_id, wallet_id, grant_id)
            if known is not None:
                return grant_row(known), False
            refuse_closed(wallet)
            await _check_asset(connection, tenant_id, asset)
            await _check_limits(connection, tenant_id, wallet_id, asset, units)
            changed = await take_change(connection, wallet, ChangeKind.GRANT, grant_id=grant_id)
            row = await connection.fetchrow(
                QUERIES["grant_create"],
                tenant_id,
                wallet_id,
                grant_id,
                asset,
                units,
                priority,
                source.value,
                from_ms(effective_ms),
                from_ms(expire_ms),
                msgspec.json.encode(labels).decode(),
                changed.change_number,
            )
        assert row is not None, "INSERT ... RETURNING answers"  # noqa: S101
        return grant_row(row), True

    async def get_grant(self, tenant_id: str, wallet_id: str, grant_id: str) -> GrantRow | None:
        """A grant by its id."""
        async with self._connection() as connection:
            row = await connection.fetchrow(QUERIES["grant_get"], tenant_id, wallet_id, grant_id)
        return None if row is None else grant_row(row)

    async def list_grants(
        self, tenant_id: str, wallet_id: str, *, asset: str = "", after_change_number: int = 0, limit: int
    ) -> list[GrantRow]:
        """A page of a wallet's grants, oldest first; of one asset, or of all with ""."""
        async with self._connection() as connection:
            rows = await connection.fetch(
                QUERIES["grant_list"], tenant_id, wallet_id, asset, after_change_number, limit
            )
        return [grant_row(row) for row in rows]


async def _check_asset(connection: Connection, tenant_id: str, asset: str) -> None:
    if await connection.fetchrow(QUERIES["asset_get"], tenant_id, asset) is None:
        raise DrawdownError(ErrorReason.ASSET_NOT_FOUND, f"asset {asset} does not exist", asset=asset)


async def _check_limits(connection: Connection, tenant_id: str, wallet_id: str, asset: str, units: int) -> None:
    live = await connection.fetchrow(QUERIES["grant_limits"], tenant_id, wallet_id, asset)
    assert live is not None, "an aggregate answers"  # noqa: S101
    if live["grants"] >= GRANTS_MAX:
        raise DrawdownError(
            ErrorReason.TOO_MANY_GRANTS,
            f"wallet {wallet_id} has {GRANTS_MAX} live grants of {asset}, the most there may be",
            asset=asset,
            limit=str(GRANTS_MAX),
        )
    if live["units"] + units > UNITS_MAX:
        raise DrawdownError(
            ErrorReason.BALANCE_OUT_OF_RANGE,
            f"the balance of {asset} would exceed {UNITS_MAX} units",
            asset=asset,
            limit=str(UNITS_MAX),
        )
