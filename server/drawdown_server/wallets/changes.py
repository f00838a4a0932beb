"""Changes: what is decided in Postgres first and then becomes part of the live balance.

A grant, a new state or a cap is recorded in Postgres under the next change number of its wallet; that is the moment
from which it will happen. ``apply.lua`` then applies it, in the order of the numbers and each exactly once, so it does
not matter who sends it or how often: the call that made the change, the next call for the same wallet, the load of a
wallet, or the ``run`` loop here, which finds what a crashed server left behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from drawdown_server.errors import DrawdownError, StoreUnavailableError
from drawdown_server.holds import keys
from drawdown_server.holds.messages import ApplyRequest
from drawdown_server.signals import stopped

if TYPE_CHECKING:
    import asyncio

    from drawdown_server.holds.store import HoldStore
    from drawdown_server.ledger.store import LedgerStore

log = structlog.get_logger(__name__)

CHANGES_PER_READ: Final = 500
"""Pending changes read at a time."""
WALLETS_PER_RUN: Final = 200
"""Wallets with pending changes looked after per round."""
ABANDONED_AFTER_S: Final = 5.0
"""A change pending for longer than this was left behind: the call that made it applies it within milliseconds, and
the flusher reports it back within a second."""
RUN_INTERVAL_S: Final = 2.0
"""Pause between rounds of looking for such changes."""
COUNTERS_PER_RUN: Final = 1_000
"""Counters of caps whose window ended long ago that are forgotten per round: faster than they come."""


class ChangeApplier:
    """Applies recorded changes to the live balance."""

    def __init__(self, holds: HoldStore, ledger: LedgerStore) -> None:
        self._holds = holds
        self._ledger = ledger
        self._passed = 0
        """Wallets with pending changes that were looked after since the last time that all had been."""

    async def apply_all(self, tenant_id: str, wallet_id: str, after_change_number: int) -> None:
        """Apply every recorded change after the given number, in order.

        Raises:
            StoreUnavailableError: A store did not answer; what is missing will be applied later.
        """
        while changes := await self._ledger.pending_changes(
            tenant_id, wallet_id, after_change_number, CHANGES_PER_READ
        ):
            for change in changes:
                request = ApplyRequest(tenant_id=tenant_id, wallet_id=wallet_id, change=change.change)
                reply = await self._holds.apply(request)
                if reply.status == "GAP":
                    # Redis knows less than we were told: somebody rebuilt it in the meantime. Begin where it is.
                    after_change_number = reply.change_number
                    break
                after_change_number = change.change_number

    async def catch_up(self, tenant_id: str, wallet_id: str) -> None:
        """Apply whatever Redis has not applied yet.

        Raises:
            StoreUnavailableError: A store did not answer.
        """
        reading = await self._holds.read(tenant_id, wallet_id)
        await self.apply_all(tenant_id, wallet_id, reading.change_number)

    async def run(self, stop: asyncio.Event) -> None:
        """Look for changes that were left behind, until told to stop. Also clears old counters of caps away."""
        while not stop.is_set():
            try:
                await self._ledger.forget_cap_usage(COUNTERS_PER_RUN)
                await self.run_once()
            except StoreUnavailableError as error:
                log.warning("changes.store_unavailable", store=error.metadata["store"])
            except DrawdownError:
                log.exception("changes.failed")
            await stopped(stop, RUN_INTERVAL_S)

    async def run_once(self, older_than_s: float = ABANDONED_AFTER_S) -> int:
        """Apply what was left behind for longer than ``older_than_s``. Returns the number of wallets looked after.

        A closing that was left behind is undone first: nobody knows any more whether the wallet is empty. A round after
        a full one goes on behind it: wallets that cannot be looked after must not be all that is ever seen.

        Raises:
            StoreUnavailableError: A store did not answer; what could be applied is, unless it is Postgres.
        """
        for tenant_id, wallet_id in await self._ledger.list_abandoned_closings(older_than_s, WALLETS_PER_RUN):
            if await self._ledger.undo_closing(tenant_id, wallet_id, "the server that was to close it died"):
                log.warning("changes.closing_undone", tenant_id=tenant_id, wallet_id=wallet_id)
        answering = await self._holds.clocks()
        wallets = await self._ledger.list_wallets_with_pending_changes(
            older_than_s, WALLETS_PER_RUN, list(answering), skip=self._passed
        )
        self._passed = self._passed + WALLETS_PER_RUN if len(wallets) == WALLETS_PER_RUN else 0
        unavailable: StoreUnavailableError | None = None
        for tenant_id, wallet_id in wallets:
            if keys.partition_of(tenant_id, wallet_id, self._holds.partitions) not in answering:
                continue
            try:
                await self.catch_up(tenant_id, wallet_id)
            except StoreUnavailableError as error:
                if error.metadata["store"] == "postgres":
                    raise
                unavailable = error  # perhaps of this wallet alone
                answering = await self._holds.clocks()
            except Exception:  # whatever is wrong with one wallet, the others' changes must be applied
                log.exception("changes.apply_failed", tenant_id=tenant_id, wallet_id=wallet_id)
        if unavailable is not None:
            raise unavailable
        return len(wallets)
