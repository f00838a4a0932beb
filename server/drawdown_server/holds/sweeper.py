"""Frees holds that nobody settled in time, and forgets old tombstones.

Every process that serves or flushes sweeps every partition: the script decides what is due, so two sweeps at once do
no harm, and no hold depends on one process being alive.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from drawdown_server.errors import DrawdownError, StoreUnavailableError
from drawdown_server.holds.messages import SweepRequest
from drawdown_server.signals import stopped

if TYPE_CHECKING:
    from drawdown_server.holds.store import HoldStore

log = structlog.get_logger(__name__)

WALLETS_PER_ROUND: Final = 500
"""Wallets swept per partition and round; the rest is due in the next round, which then comes at once."""


SWEEPS_AT_ONCE: Final = 256
"""Scripts in flight: calls of customers wait behind some milliseconds of them at most, however much is due at once."""


class Sweeper:
    """Sweeps all partitions again and again.

    Args:
        interval_ms: Pause between rounds when a round left nothing due.
        tombstone_ms: How long an expired hold is remembered.
    """

    def __init__(self, holds: HoldStore, *, interval_ms: int, tombstone_ms: int) -> None:
        self._holds = holds
        self._interval_s = interval_ms / 1000
        self._tombstone_ms = tombstone_ms
        self._room = asyncio.Semaphore(SWEEPS_AT_ONCE)
        self.expired_total = 0
        self.forgotten_total = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep until told to stop."""
        while not stop.is_set():
            more = False
            try:
                more = await self.run_once()
            except StoreUnavailableError:
                log.warning("sweeper.store_unavailable")
            except DrawdownError:
                log.exception("sweeper.failed")
            if more:
                continue
            await stopped(stop, self._interval_s)

    async def run_once(self) -> bool:
        """Sweep every partition once. Returns whether something is still due.

        Raises:
            StoreUnavailableError: The store did not answer.
        """
        due = await self._holds.due_wallets(WALLETS_PER_ROUND)
        wallets = [wallet for partition in due for wallet in partition]
        more = await asyncio.gather(*(self._sweep_wallet(tenant_id, wallet_id) for tenant_id, wallet_id in wallets))
        return any(more) or any(len(partition) == WALLETS_PER_ROUND for partition in due)

    async def _sweep_wallet(self, tenant_id: str, wallet_id: str) -> bool:
        request = SweepRequest(tenant_id=tenant_id, wallet_id=wallet_id, tombstone_ms=self._tombstone_ms)
        async with self._room:
            reply = await self._holds.sweep(request)
        self.expired_total += reply.expired
        self.forgotten_total += reply.forgotten
        return reply.more
