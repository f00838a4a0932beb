"""Grants in Postgres: funds come in here first, then Valkey applies the change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from drawdown_server.errors import DrawdownError, ErrorReason
from drawdown_server.holds.labels import labels_text
from drawdown_server.holds.messages import Change, GrantChange
from drawdown_server.holds.model import GrantSource
from drawdown_server.holds.refusals import grant_not_found
from drawdown_server.ledger.audit import grant_state, write_audit
from drawdown_server.ledger.changes import (
    lock_wallet,
    refuse_closed,
    refuse_unknown_asset,
    take_number,
    write_change,
)
from drawdown_server.ledger.database import Connection, Database, from_ms, to_ms
from drawdown_server.ledger.queries import QUERIES
from drawdown_server.ledger.rows import DueGrant, DueKind, DuePosition, GrantRow, WalletRow, grant_row
from drawdown_server.ledger.wallets import refuse_out_of_range, wanted_overdraft_limit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
            await refuse_unknown_asset(connection, tenant_id, asset)
            await _check_limits(connection, wallet, asset, units)
            changed = await take_number(connection, wallet)
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
            created = grant_row(row)
            change = Change(changed.change_number, "GRANT", grant=_grant_change(created))
            await write_change(connection, changed, change)
            await write_audit(connection, before=None, after=grant_state(created))
        return created, True

    async def void_grant(self, tenant_id: str, wallet_id: str, grant_id: str, reason: str) -> tuple[GrantRow, bool]:
        """Take back what is left of a grant: one numbered change, or none when it was taken back before.

        Returns:
            The grant, and whether this call changed it.

        Raises:
            DrawdownError: WALLET_NOT_FOUND, GRANT_NOT_FOUND or WALLET_CLOSED.
        """
        async with self._transaction() as connection:
            wallet = await lock_wallet(connection, tenant_id, wallet_id)
            grant = await _get_known(connection, wallet, grant_id)
            if grant.void_ms:
                return grant, False
            refuse_closed(wallet)
            changed = await take_number(connection, wallet)
            change = Change(changed.change_number, "VOID", grant=_grant_change(grant))
            await write_change(connection, changed, change, reason)
            row = await connection.fetchrow(QUERIES["grant_void"], tenant_id, wallet_id, grant_id)
            assert row is not None, "grants are never deleted"  # noqa: S101
            voided = grant_row(row)
            await write_audit(connection, before=grant_state(grant), after=grant_state(voided))
        return voided, True

    async def set_grant_expiry(
        self, tenant_id: str, wallet_id: str, grant_id: str, expire_ms: int, reason: str
    ) -> tuple[GrantRow, bool]:
        """Change when a grant expires (0 = never): one numbered change, or none when it expires then already.

        Returns:
            The grant, and whether this call changed it.

        Raises:
            DrawdownError: WALLET_NOT_FOUND, GRANT_NOT_FOUND or WALLET_CLOSED.
        """
        async with self._transaction() as connection:
            wallet = await lock_wallet(connection, tenant_id, wallet_id)
            grant = await _get_known(connection, wallet, grant_id)
            if grant.expire_ms == expire_ms:
                return grant, False
            refuse_closed(wallet)
            changed = await take_number(connection, wallet)
            row = await connection.fetchrow(
                QUERIES["grant_set_expiry"], tenant_id, wallet_id, grant_id, from_ms(expire_ms)
            )
            assert row is not None, "grants are never deleted"  # noqa: S101
            updated = grant_row(row)
            change = Change(changed.change_number, "EXPIRY", grant=_grant_change(updated))
            await write_change(connection, changed, change, reason)
            await write_audit(connection, before=grant_state(grant), after=grant_state(updated))
        return updated, True

    async def get_grant(self, tenant_id: str, wallet_id: str, grant_id: str) -> GrantRow | None:
        """A grant by its id."""
        async with self._connection() as connection:
            row = await connection.fetchrow(QUERIES["grant_get"], tenant_id, wallet_id, grant_id)
        return None if row is None else grant_row(row)

    async def grants_by_id(self, tenant_id: str, wallet_id: str, grant_ids: Sequence[str]) -> list[GrantRow]:
        """The grants among these ids, oldest first."""
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["grants_by_id"], tenant_id, wallet_id, list(grant_ids))
        return [grant_row(row) for row in rows]

    async def unspent_grants(self, tenant_id: str, wallet_id: str) -> list[GrantRow]:
        """Every grant that has units left as of the last recorded event, also those not applied yet, oldest first."""
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["grant_list_unspent"], tenant_id, wallet_id)
        return [grant_row(row) for row in rows]

    async def list_grants(
        self, tenant_id: str, wallet_id: str, *, asset: str = "", after_change_number: int = 0, limit: int
    ) -> list[GrantRow]:
        """A page of a wallet's grants, oldest first; of one asset, or of all with ""."""
        async with self._connection() as connection:
            rows = await connection.fetch(
                QUERIES["grant_list"], tenant_id, wallet_id, asset, after_change_number, limit
            )
        return [grant_row(row) for row in rows]

    async def list_due_grants(self, kind: DueKind, after: DuePosition, until_ms: int, limit: int) -> list[DueGrant]:
        """A page of the walk through all grants of all wallets by the time at which they expire, or become effective.

        Args:
            kind: Which of the two.
            after: Where the page before ended; ``DUE_START`` = from the beginning.
            until_ms: No later than this.
            limit: Grants per page. All count, also those of which the ledger has heard: so a page costs the same
                however little is due.
        """
        due_ms, *names = after
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES[f"grants_{kind}"], from_ms(due_ms), *names, from_ms(until_ms), limit)
        return [
            DueGrant(
                DuePosition(to_ms(row["due_time"]), row["tenant_id"], row["wallet_id"], row["grant_id"]), row["is_due"]
            )
            for row in rows
        ]


async def _get_known(connection: Connection, wallet: WalletRow, grant_id: str) -> GrantRow:
    row = await connection.fetchrow(QUERIES["grant_get"], wallet.tenant_id, wallet.wallet_id, grant_id)
    if row is None:
        raise grant_not_found(wallet.wallet_id, grant_id)
    return grant_row(row)


async def _check_limits(connection: Connection, wallet: WalletRow, asset: str, units: int) -> None:
    live = await connection.fetchrow(QUERIES["grant_limits"], wallet.tenant_id, wallet.wallet_id, asset)
    assert live is not None, "an aggregate answers"  # noqa: S101
    if live["grants"] >= GRANTS_MAX:
        raise DrawdownError(
            ErrorReason.TOO_MANY_GRANTS,
            f"wallet {wallet.wallet_id} has {GRANTS_MAX} live grants of {asset}, the most there may be",
            asset=asset,
            limit=str(GRANTS_MAX),
        )
    refuse_out_of_range(asset, live["units"] + units + await wanted_overdraft_limit(connection, wallet, asset))


def _grant_change(grant: GrantRow) -> GrantChange:
    """A grant as the scripts take it."""
    return GrantChange(
        grant_id=grant.grant_id,
        asset=grant.asset,
        units=grant.units,
        priority=grant.priority,
        source=grant.source,
        effective_ms=grant.effective_ms,
        expire_ms=grant.expire_ms,
        create_ms=grant.create_ms,
        labels=labels_text(grant.labels),
    )
