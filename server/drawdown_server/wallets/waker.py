"""The alarm clock of wallets that are not in Valkey: evicted, or not used since a rebuild.

Time does something to a wallet when a grant expires or becomes effective. In Valkey the sweep sees to it. For the
others this loop walks through the grants in Postgres by the time that matters, up to now and then along with it, and
wakes every wallet whose ledger has not heard of it: loads it and lets time have its effect, which becomes an event as
always. It begins at the beginning when the server starts and whenever a partition was rebuilt, and keeps nothing.

A position is never passed too early. What is live has its time in Valkey, also while Postgres is behind; and a wallet
is evicted only when Postgres has everything and nothing is due, so what is due later is found when the walk gets there.
All times are those of the store's clock; of several nodes the one that is behind the others, so that none is passed too
early.

The walk stops for nobody. A wallet that cannot be woken, because its node does not answer or for a reason of its own,
is put off: it is tried again every ``AGAIN_S``, once its own node's clock has reached its time, until it is awake.

Every server walks: most of what a second one finds was done by the first and costs one script each.
"""

from __future__ import annotations

import asyncio
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import structlog

from drawdown_server import clock
from drawdown_server.errors import DrawdownError, StoreUnavailableError
from drawdown_server.holds import keys
from drawdown_server.holds.messages import SweepRequest
from drawdown_server.ledger.rows import DUE_START, DueKind, DuePosition
from drawdown_server.signals import stopped

if TYPE_CHECKING:
    from collections.abc import Mapping

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
AGAIN_S: Final = 30.0
"""Until a wallet that could not be woken is tried again. One that never can be costs a script, a load and a line of the
log each time."""
PUT_OFF_MAX: Final = 10_000
"""Wallets that are put off, about 4 MB. What is more than that is forgotten, and found by walking from the beginning
once half of these are awake."""
NODE_IS_LOST: Final = "its node does not answer"

_Wallet: TypeAlias = tuple[str, str]
"""Tenant, wallet."""


class PutOff(NamedTuple):
    """A wallet that could not be woken."""

    due_ms: int
    """By its node's clock; earlier there is nothing to do."""
    again_s: float
    """When it is tried again, by our own clock (``clock.monotonic_s``)."""


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
        self._put_off: dict[_Wallet, PutOff] = {}
        """By when they are tried again."""
        self._has_forgotten = False
        self.woken_total = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Walk until told to stop."""
        while not stop.is_set():
            more = False
            try:
                more = await self.run_once()
            except StoreUnavailableError as error:
                log.warning("waker.store_unavailable", store=error.metadata["store"])
            except DrawdownError:
                log.exception("waker.walk_failed")
            await stopped(stop, PAGE_PAUSE_S if more else INTERVAL_S)

    async def run_once(self) -> bool:
        """One page of each kind, and one of those that were put off. Returns whether there may be more up to now.

        Raises:
            StoreUnavailableError: Postgres, or every node of Valkey, did not answer; the same page comes again.
        """
        has_room = len(self._put_off) <= PUT_OFF_MAX // 2
        if self._epochs != self._holds.epochs or (self._has_forgotten and has_room):
            # What was live, and knew its times, may be gone; or more was passed than could be put off: begin again.
            self._epochs = self._holds.epochs
            self._positions = dict.fromkeys(KINDS, DUE_START)
            self._has_forgotten = False
        clocks_ms = await self._holds.clocks()
        again = self._take_again(clocks_ms)
        await self._wake_all(again, clocks_ms)
        pages = [await self._walk(kind, clocks_ms) for kind in KINDS]
        return GRANTS_PER_PAGE in (len(again), *pages)

    async def _walk(self, kind: DueKind, clocks_ms: Mapping[int, int]) -> int:
        """A page of grants. Returns how many it had."""
        now_ms = min(clocks_ms.values())
        after = min(self._positions[kind], DuePosition(now_ms))  # the store's clock may have gone back
        page = await self._ledger.list_due_grants(kind, after, now_ms, GRANTS_PER_PAGE)
        # Of several grants of a wallet this keeps the latest time.
        due = {(grant.at.tenant_id, grant.at.wallet_id): grant.at.due_ms for grant in page if grant.is_due}
        await self._wake_all(due, clocks_ms)
        self._positions[kind] = page[-1].at if page else after
        return len(page)

    def _take_again(self, clocks_ms: Mapping[int, int]) -> dict[_Wallet, int]:
        """Of a page of wallets that were put off those that can be tried, with the times at which they were due."""
        now_s = clock.monotonic_s()
        taken: dict[_Wallet, int] = {}
        ready = takewhile(lambda one: one[1].again_s <= now_s, self._put_off.items())
        for wallet, (due_ms, _) in list(islice(ready, GRANTS_PER_PAGE)):
            if self._can_wake(wallet, due_ms, clocks_ms):
                taken[wallet] = due_ms
                del self._put_off[wallet]
            else:
                self._put_off_again(wallet, due_ms)
        return taken

    async def _wake_all(self, due: Mapping[_Wallet, int], clocks_ms: Mapping[int, int]) -> None:
        """Wake wallets, and put off those that cannot be woken."""
        reasons = await asyncio.gather(*(self._wake(wallet, due_ms, clocks_ms) for wallet, due_ms in due.items()))
        asleep = {wallet: reason for wallet, reason in zip(due, reasons, strict=True) if reason}
        for wallet in asleep:
            self._put_off_again(wallet, due[wallet])
        if asleep:
            (tenant_id, wallet_id), reason = next(iter(asleep.items()))  # one of them, to look at
            log.warning(
                "waker.put_off",
                wallets=len(asleep),
                again_s=AGAIN_S,
                tenant_id=tenant_id,
                wallet_id=wallet_id,
                reason=reason,
            )

    async def _wake(self, wallet: _Wallet, due_ms: int, clocks_ms: Mapping[int, int]) -> str:
        """Wake a wallet. Returns why it cannot be woken now; empty: it is awake."""
        if not self._can_wake(wallet, due_ms, clocks_ms):
            return NODE_IS_LOST
        tenant_id, wallet_id = wallet
        request = SweepRequest(tenant_id=tenant_id, wallet_id=wallet_id, tombstone_ms=self._tombstone_ms)
        try:
            await self._holds.wake(request)
        except StoreUnavailableError as error:
            return str(error)
        except Exception as error:  # whatever is wrong with one wallet, time must go on for the others
            log.exception("waker.failed", tenant_id=tenant_id, wallet_id=wallet_id)
            return type(error).__name__
        self.woken_total += 1
        return ""

    def _can_wake(self, wallet: _Wallet, due_ms: int, clocks_ms: Mapping[int, int]) -> bool:
        """Whether its node answers, and has reached its time."""
        return clocks_ms.get(keys.partition_of(*wallet, self._holds.partitions), 0) >= due_ms

    def _put_off_again(self, wallet: _Wallet, due_ms: int) -> None:
        """Remember to try it, after all others that are put off."""
        before = self._put_off.pop(wallet, None)
        if len(self._put_off) < PUT_OFF_MAX:
            # Grants expire and become effective in walks of their own: of its times the latest counts.
            due_ms = max(due_ms, before.due_ms) if before else due_ms
            self._put_off[wallet] = PutOff(due_ms, clock.monotonic_s() + AGAIN_S)
        else:
            self._has_forgotten = True
