"""Closing an empty wallet: it is frozen while it is looked at, and active again if it is not closed.

What was begun is a row in ``wallet_closings``, written with the freeze in one transaction, so that any server can undo
it when the one that began it died. Whoever sets the wallet's state meanwhile has decided it: the row goes.
"""

from __future__ import annotations

from drawdown_server.holds.messages import Change
from drawdown_server.holds.model import WalletState
from drawdown_server.ledger.audit import remember_before, wallet_state
from drawdown_server.ledger.changes import lock_wallet, take_number, write_change
from drawdown_server.ledger.database import Connection, Database
from drawdown_server.ledger.queries import QUERIES
from drawdown_server.ledger.rows import WalletRow


class ClosingStore(Database):
    """Closings that are under way."""

    async def begin_closing(self, tenant_id: str, wallet_id: str, reason: str) -> WalletRow:
        """Freeze a wallet until it is closed or the closing is undone. One that is not active stays as it is.

        A closing that is under way is taken over: its time begins anew.

        Returns:
            The wallet, whose ``change_number`` the close must still find.

        Raises:
            DrawdownError: WALLET_NOT_FOUND.
        """
        async with self._transaction() as connection:
            wallet = await lock_wallet(connection, tenant_id, wallet_id)
            if wallet.state is WalletState.ACTIVE:
                remember_before(wallet_state(wallet))
                wallet = await write_state(connection, wallet, WalletState.FROZEN, reason)
                await connection.execute(QUERIES["closing_begin"], tenant_id, wallet_id)
            elif await is_closing(connection, wallet):
                await connection.execute(QUERIES["closing_begin"], tenant_id, wallet_id)
        return wallet

    async def undo_closing(self, tenant_id: str, wallet_id: str, reason: str) -> bool:
        """Make a wallet active again that is frozen only because it was to be closed. Whether it was."""
        async with self._transaction() as connection:
            wallet = await lock_wallet(connection, tenant_id, wallet_id)
            if not await is_closing(connection, wallet):
                return False
            await write_state(connection, wallet, WalletState.ACTIVE, reason)
        return True

    async def list_abandoned_closings(self, older_than_s: float, limit: int) -> list[tuple[str, str]]:
        """(tenant, wallet) of closings that began that many seconds ago, the oldest first."""
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["closings_abandoned"], older_than_s, limit)
        return [(row["tenant_id"], row["wallet_id"]) for row in rows]


async def is_closing(connection: Connection, wallet: WalletRow) -> bool:
    """Whether the locked wallet is frozen only because it is to be closed."""
    found: int = await connection.fetchval(QUERIES["closing_exists"], wallet.tenant_id, wallet.wallet_id)
    return found > 0


async def write_state(connection: Connection, wallet: WalletRow, state: WalletState, reason: str) -> WalletRow:
    """Give the locked wallet a state: one numbered change, and the end of any closing."""
    changed = await take_number(connection, wallet, state)
    await write_change(connection, changed, Change(changed.change_number, "STATE", state=state), reason)
    await connection.execute(QUERIES["closing_end"], wallet.tenant_id, wallet.wallet_id)
    return changed
