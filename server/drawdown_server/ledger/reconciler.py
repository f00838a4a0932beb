"""Reconciles again and again while the server works, and says so at once when something differs.

Each process looks at the wallets whose outboxes it records, so every wallet is looked at by one process. It is gentle:
a few wallets, then a rest in proportion, and a pass of all of them no more often than asked for.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import structlog

from drawdown_server.errors import DrawdownError
from drawdown_server.ledger.reconcile import reconcile_wallet
from drawdown_server.signals import stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from drawdown_server.ledger.reconcile import LiveWallets
    from drawdown_server.ledger.store import LedgerStore

PAGE: Final = 50
"""Wallets between two rests."""
REST: Final = 4
"""A rest is so many times as long as the work before it: a fifth of one connection to Postgres at most."""

SOON_S: Final = 60.0
"""The first pass begins so long after the start, and another after one that was interrupted: also a server that is
restarted every day, or loses a store every day, gets through all wallets."""

_log = structlog.get_logger(__name__)


class Reconciler:
    """Compares Valkey with Postgres, wallet by wallet.

    Args:
        live: Where Valkey is read.
        store: The ledger.
        owned: The partitions that this process looks after now.
        interval_s: Least seconds from the start of one pass to the start of the next.
    """

    def __init__(
        self, live: LiveWallets, store: LedgerStore, owned: Callable[[], Collection[int]], *, interval_s: float
    ) -> None:
        self._live = live
        self._store = store
        self._owned = owned
        self._interval_s = interval_s
        self.wallets_total = 0
        """Wallets compared since the start of the process."""
        self.differences_total = 0
        """Differences found since the start of the process."""
        self.differences = 0
        """Differences that the last complete pass found."""
        self.last_run_s = 0.0
        """When the last complete pass ended, in seconds since the Unix epoch; 0 = none yet."""

    async def run(self, stop: asyncio.Event) -> None:
        """Reconcile until told to stop."""
        pause_s = min(SOON_S, self._interval_s)
        while not await stopped(stop, pause_s):
            started = time.monotonic()
            try:
                await self.run_once(stop)
                pause_s = max(0.0, started + self._interval_s - time.monotonic())
            except DrawdownError as error:
                pause_s = min(SOON_S, self._interval_s)
                _log.warning("reconcile_interrupted", reason=error.message)

    async def run_once(self, stop: asyncio.Event) -> int:
        """One pass over all wallets of the partitions that are owned.

        Returns:
            How many differences there are.

        Raises:
            StoreUnavailableError: A store did not answer; the next pass begins anew.
        """
        found, after = 0, ("", "")
        while places := await self._store.list_all_wallets(after, PAGE):
            started = time.monotonic()
            for place in places:
                if place.partition in self._owned():
                    found += await self._compare(place.tenant_id, place.wallet_id)
            after = places[-1][:2]
            if await stopped(stop, REST * (time.monotonic() - started)):
                return found
        self.differences = found
        self.last_run_s = time.time()
        return found

    async def _compare(self, tenant_id: str, wallet_id: str) -> int:
        report = await reconcile_wallet(self._live, self._store, tenant_id, wallet_id)
        for difference in report.differences:
            _log.error(
                "reconcile_difference",
                tenant_id=difference.tenant_id,
                wallet_id=difference.wallet_id,
                asset=difference.asset,
                what=difference.what,
                valkey=difference.valkey,
                postgres=difference.postgres,
            )
        self.wallets_total += 1
        self.differences_total += len(report.differences)
        return len(report.differences)
