"""The numbered changes of a wallet.

What an administrator changes (a grant, a freeze, a cap) takes the wallet's next ``change_number`` under the lock of
its row, and is written down as the scripts will take it. Valkey applies the changes in exactly that order and reports
each as a ledger event; recording the event moves ``applied_change_number``. What lies between the two numbers is
pending, and any server may apply it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from drawdown_server.errors import DrawdownError, ErrorReason
from drawdown_server.holds.messages import Change
from drawdown_server.holds.model import Cap, WalletState
from drawdown_server.holds.refusals import asset_not_found, wallet_not_found
from drawdown_server.ledger.database import Connection, Database
from drawdown_server.ledger.queries import QUERIES
from drawdown_server.ledger.rows import ChangeKind, ChangeRow, WalletRow, change_row, wallet_row

if TYPE_CHECKING:
    from collections.abc import Sequence

_LATEST: Final = 2**63 - 1
"""Up to the newest change."""


class ChangeStore(Database):
    """Changes."""

    async def pending_changes(
        self, tenant_id: str, wallet_id: str, after_change_number: int, limit: int
    ) -> list[ChangeRow]:
        """The changes after a number, in the order in which they must be applied."""
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["change_list"], tenant_id, wallet_id, after_change_number, limit)
        return [change_row(row) for row in rows]

    async def get_change(self, tenant_id: str, wallet_id: str, change_number: int) -> ChangeRow | None:
        """One change by its number."""
        async with self._connection() as connection:
            row = await connection.fetchrow(QUERIES["change_get"], tenant_id, wallet_id, change_number)
        return None if row is None else change_row(row)

    async def list_wallets_with_pending_changes(
        self, older_than_s: float, limit: int, partitions: Sequence[int], *, skip: int = 0
    ) -> list[tuple[str, str]]:
        """(tenant, wallet) in these partitions with changes that nobody has applied for that many seconds.

        The longest waiting first; the first ``skip`` of them are left out.
        """
        async with self._connection() as connection:
            rows = await connection.fetch(
                QUERIES["wallets_with_pending_changes"], older_than_s, limit, partitions, skip
            )
        return [(row["tenant_id"], row["wallet_id"]) for row in rows]


async def lock_wallet(connection: Connection, tenant_id: str, wallet_id: str) -> WalletRow:
    """The wallet, locked until the transaction ends."""
    row = await connection.fetchrow(QUERIES["wallet_lock"], tenant_id, wallet_id)
    if row is None:
        raise wallet_not_found(wallet_id)
    return wallet_row(row)


def refuse_closed(wallet: WalletRow) -> None:
    """Raise WALLET_CLOSED for a closed wallet: nothing opens it again, and nothing about it changes any more."""
    if wallet.state is WalletState.CLOSED:
        raise DrawdownError(
            ErrorReason.WALLET_CLOSED, f"wallet {wallet.wallet_id} is closed", wallet_id=wallet.wallet_id
        )


async def refuse_unknown_asset(connection: Connection, tenant_id: str, asset: str) -> None:
    """Raise ASSET_NOT_FOUND for an asset that the tenant does not have."""
    if await connection.fetchrow(QUERIES["asset_get"], tenant_id, asset) is None:
        raise asset_not_found(asset)


async def take_number(connection: Connection, wallet: WalletRow, state: WalletState | None = None) -> WalletRow:
    """Take the wallet's next change number; the wallet is locked. Returns it with that number (and state)."""
    row = await connection.fetchrow(
        QUERIES["wallet_change"], wallet.tenant_id, wallet.wallet_id, "" if state is None else state.value
    )
    assert row is not None, "the row is locked"  # noqa: S101
    return wallet_row(row)


async def write_change(connection: Connection, wallet: WalletRow, change: Change, reason: str = "") -> None:
    """Write the change down whose number was just taken."""
    await connection.execute(
        QUERIES["change_create"],
        wallet.tenant_id,
        wallet.wallet_id,
        change.change_number,
        change.kind,
        target_of(change),
        msgspec.json.encode(change).decode(),
        reason,
    )


async def latest_change(
    connection: Connection, wallet: WalletRow, kind: ChangeKind, target: str, up_to: int = _LATEST
) -> Change | None:
    """The newest change of a kind about one thing (``target_of``), up to a number."""
    row = await connection.fetchrow(QUERIES["change_latest"], wallet.tenant_id, wallet.wallet_id, kind, target, up_to)
    return None if row is None else change_row(row).change


def target_of(change: Change) -> str:
    """What a change is about; a later one of the same kind and target replaces it."""
    if change.grant is not None:
        return change.grant.grant_id
    if change.cap is not None:
        return cap_target(change.cap)
    return change.asset


def cap_target(cap: Cap) -> str:
    """The name of a cap within its wallet."""
    return f"{cap.subject}|{cap.asset}|{cap.window}"
