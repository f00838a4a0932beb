"""The tenant's assets, remembered in this process.

An asset never disappears and its scale never changes, so a known one is remembered for long; an unknown one only for a
moment, because somebody may be creating it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drawdown_server import clock

if TYPE_CHECKING:
    from drawdown_server.ledger.rows import AssetRow
    from drawdown_server.ledger.store import LedgerStore

UNKNOWN_TTL_S: Final = 1.0
"""How long an unknown code is remembered as unknown: it bounds what a caller with a wrong code costs Postgres."""
ENTRIES_MAX: Final = 10_000
"""Codes remembered; past this all are forgotten, which costs one query each on their next use."""


class AssetRegistry:
    """Which assets there are."""

    def __init__(self, ledger: LedgerStore) -> None:
        self._ledger = ledger
        self._known: dict[tuple[str, str], AssetRow] = {}
        self._unknown_until_s: dict[tuple[str, str], float] = {}

    def peek(self, tenant_id: str, asset: str) -> AssetRow | None:
        """The asset if this process remembers it; no query."""
        return self._known.get((tenant_id, asset))

    async def find(self, tenant_id: str, asset: str) -> AssetRow | None:
        """The asset, or None if there is none.

        Raises:
            StoreUnavailableError: Postgres had to be asked and did not answer.
        """
        key = (tenant_id, asset)
        row = self._known.get(key)
        if row is not None:
            return row
        if self._unknown_until_s.get(key, 0.0) > clock.monotonic_s():
            return None
        row = await self._ledger.get_asset(tenant_id, asset)
        if row is None:
            if len(self._unknown_until_s) >= ENTRIES_MAX:
                self._unknown_until_s.clear()
            self._unknown_until_s[key] = clock.monotonic_s() + UNKNOWN_TTL_S
        else:
            self.remember(row)
        return row

    def remember(self, row: AssetRow) -> None:
        """Note an asset that was just created or read."""
        if len(self._known) >= ENTRIES_MAX:
            self._known.clear()
        self._known[row.tenant_id, row.asset] = row
        self._unknown_until_s.pop((row.tenant_id, row.asset), None)
