"""The alarm clock of wallets that are not in Valkey: evicted, or not used since a rebuild.

Time does something to a wallet when a grant expires or becomes effective. In Valkey the sweep sees to it. For the
others this loop walks through the grants in Postgres by the time that matters, up to now and then along with it, and
wakes every wallet whose ledger has not heard of it: loads it and lets time have its effect, which becomes an event as
always. It begins at the beginning when the server starts and whenever a partition was rebuilt, and keeps nothing.

A position is never passed too early. What is live has its time in Valkey, also while Postgres is behind; and a wallet
is evicted only when Postgres has everything and nothing is due, so what is due later is found when the walk gets there.
All times are those of the store's clock; of several nodes the one that is behind the others, so that none is passed too
early.

Every server walks: most of what a second one finds was done by the first and costs one script each.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from drawdown_server.errors import DrawdownError, StoreUnavailableError
from drawdown_server.holds.messages import SweepRequest
from drawdown_server.ledger.rows import DUE_START, DueKind, DuePosition

if TYPE_CHECKING:
    from drawdown_server.holds.store import HoldStore
    from drawdown_server.ledger.store import LedgerStore

log = structlog.get_logger(__name__)

KINDS: Final[tuple[DueKind, ...]] = ("expiring", "starting")
GRANTS_PER_PAGE: Final = 500
"""Read at once, about 3 ms of Postgres; of a page in the past hardly any grant is still due."""
PAGE_PAUSE_S: Final = 0.02
"""Between full pages: at start ten million grants of the past are passed in minutes, beside the work of the day."""
INTERVAL_S: Final = 1.0
"""Pause when there was less than a page: how late a wallet that is not in Valkey may be."""


class Waker:
    """Wakes wallets when time has done something to them.

    Args:
        tombstone_ms: How long a hold that expires by it is remembered (a wallet that was evicted has none).
    """

    def __init__(self, holds: HoldStore, ledger: LedgerStore, *, tombstone_ms: int) -> None:
        self._holds = holds
        self._ledger = ledger
        self._tombstone_ms = tombstone_ms
        self._epochs: tuple[int, ...] = ()
        self._positions: dict[DueKind, DuePosition] = {}
        self.woken_total = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Walk until told to stop."""
        while not stop.is_set():
            more = False
            try:
                more = await self.run_once()
            except StoreUnavailableError as error:
                log.warning("waker.store_unavailable", store=error.metadata["store"])
            try:
                async with asyncio.timeout(PAGE_PAUSE_S if more else INTERVAL_S):
                    await stop.wait()
            except TimeoutError:
                continue

    async def run_once(self) -> bool:
        """One page of each kind. Returns whether there may be more up to now.

        Raises:
            StoreUnavailableError: A store did not answer; the same page comes again.
        """
        if self._epochs != self._holds.epochs:
            # What was live, and knew its times, may be gone: begin again.
            self._epochs = self._holds.epochs
            self._positions = dict.fromkeys(KINDS, DUE_START)
        now_ms = await self._holds.earliest_ms()
        pages = [await self._walk(kind, now_ms) for kind in KINDS]
        return max(pages) == GRANTS_PER_PAGE

    async def _walk(self, kind: DueKind, now_ms: int) -> int:
        after = min(self._positions[kind], DuePosition(now_ms))  # the store's clock may have gone back
        page = await self._ledger.list_due_grants(kind, after, now_ms, GRANTS_PER_PAGE)
        wallets = dict.fromkeys((grant.at.tenant_id, grant.at.wallet_id) for grant in page if grant.is_due)
        woken = await asyncio.gather(*(self._wake(*wallet) for wallet in wallets), return_exceptions=True)
        for failure in woken:
            if isinstance(failure, BaseException):
                raise failure
        if page:
            self._positions[kind] = page[-1].at
        return len(page)

    async def _wake(self, tenant_id: str, wallet_id: str) -> None:
        request = SweepRequest(tenant_id=tenant_id, wallet_id=wallet_id, tombstone_ms=self._tombstone_ms)
        try:
            await self._holds.wake(request)
            self.woken_total += 1
        except StoreUnavailableError:
            raise
        except DrawdownError:
            log.exception("waker.failed", tenant_id=tenant_id, wallet_id=wallet_id)
