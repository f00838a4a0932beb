"""Caps in Postgres: the newest wanted ones. What is in force is in ``applied_caps``, kept by the flusher."""

from __future__ import annotations

from typing import Final

from drawdown_server.errors import DrawdownError, ErrorReason
from drawdown_server.holds.messages import Change
from drawdown_server.holds.model import Cap, CapWindow
from drawdown_server.ledger.audit import cap_state, write_audit
from drawdown_server.ledger.changes import (
    lock_wallet,
    refuse_closed,
    refuse_unknown_asset,
    take_number,
    write_change,
)
from drawdown_server.ledger.database import Connection, Database
from drawdown_server.ledger.queries import QUERIES
from drawdown_server.ledger.rows import cap_row

CAPS_MAX: Final = 100
"""Caps per wallet. A script looks at all of them for each subject and asset of a request."""

USAGE_KEPT_S: Final = 86_400.0
"""How long a counter is kept after its window has ended: for people who look; a load leaves it out."""

_WINDOWS: Final = list(CapWindow)


class CapStore(Database):
    """Caps."""

    async def set_cap(self, tenant_id: str, wallet_id: str, cap: Cap) -> bool:
        """Set a cap, new or instead of the one with the same subject, asset and window: one numbered change.

        Returns:
            Whether this call changed anything; False when the cap is the same already.

        Raises:
            DrawdownError: WALLET_NOT_FOUND, WALLET_CLOSED, ASSET_NOT_FOUND or TOO_MANY_CAPS.
        """
        async with self._transaction() as connection:
            wallet = await lock_wallet(connection, tenant_id, wallet_id)
            caps = {_name(known): known for known in await _read_caps(connection, tenant_id, wallet_id)}
            if caps.get(_name(cap)) == cap:
                return False
            refuse_closed(wallet)
            await refuse_unknown_asset(connection, tenant_id, cap.asset)
            if _name(cap) not in caps and len(caps) >= CAPS_MAX:
                raise DrawdownError(
                    ErrorReason.TOO_MANY_CAPS,
                    f"wallet {wallet_id} has {CAPS_MAX} caps, the most there may be",
                    limit=str(CAPS_MAX),
                )
            changed = await take_number(connection, wallet)
            await write_change(connection, changed, Change(changed.change_number, "CAP", cap=cap))
            await connection.execute(
                QUERIES["cap_set"], tenant_id, wallet_id, *_name(cap), cap.limit, cap.mode, changed.change_number
            )
            before = caps.get(_name(cap))
            await write_audit(connection, before=None if before is None else cap_state(before), after=cap_state(cap))
        return True

    async def remove_cap(self, tenant_id: str, wallet_id: str, *, subject: str, asset: str, window: CapWindow) -> bool:
        """Remove a cap: one numbered change. Returns False when there is none.

        Raises:
            DrawdownError: WALLET_NOT_FOUND or WALLET_CLOSED.
        """
        async with self._transaction() as connection:
            wallet = await lock_wallet(connection, tenant_id, wallet_id)
            caps = {_name(known): known for known in await _read_caps(connection, tenant_id, wallet_id)}
            cap = caps.get((subject, asset, window))
            if cap is None:
                return False
            refuse_closed(wallet)
            changed = await take_number(connection, wallet)
            await write_change(connection, changed, Change(changed.change_number, "CAP_REMOVAL", cap=cap))
            await connection.execute(QUERIES["cap_remove"], tenant_id, wallet_id, *_name(cap))
            await write_audit(connection, before=cap_state(cap), after=None)
        return True

    async def list_caps(self, tenant_id: str, wallet_id: str) -> list[Cap]:
        """The newest wanted caps of a wallet, by subject, asset and window; none for an unknown wallet."""
        async with self._connection() as connection:
            caps = await _read_caps(connection, tenant_id, wallet_id)
        return sorted(caps, key=lambda cap: (cap.subject, cap.asset, _WINDOWS.index(cap.window)))

    async def forget_cap_usage(self, limit: int) -> int:
        """Delete counters whose window ended more than ``USAGE_KEPT_S`` ago; returns how many, at most ``limit``."""
        async with self._connection() as connection:
            status = await connection.execute(QUERIES["cap_usage_forget"], USAGE_KEPT_S, limit)
        return int(status.rpartition(" ")[2])


def _name(cap: Cap) -> tuple[str, str, CapWindow]:
    return cap.subject, cap.asset, cap.window


async def _read_caps(connection: Connection, tenant_id: str, wallet_id: str) -> list[Cap]:
    return [cap_row(row) for row in await connection.fetch(QUERIES["cap_list"], tenant_id, wallet_id)]
