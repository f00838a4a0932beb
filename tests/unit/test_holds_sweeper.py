"""The sweeper on bad days, with a stand-in for the store; on a real one it is in contract/test_hold_expiry.py."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from drawdown_server.errors import DrawdownError, ErrorReason, StoreUnavailableError
from drawdown_server.holds.messages import SweepReply, SweepRequest
from drawdown_server.holds.sweeper import WALLETS_PER_ROUND, Sweeper

if TYPE_CHECKING:
    from drawdown_server.holds.store import HoldStore

WAIT_S = 5.0


class FakeHolds:
    """Due wallets by partition, and how many more sweeps each of them needs."""

    def __init__(self, due: list[list[str]], sweeps: int = 1) -> None:
        self.left = [dict.fromkeys(wallets, sweeps) for wallets in due]
        self.failures: list[Exception] = []
        self.rounds = 0
        self.stop = asyncio.Event()

    async def due_wallets(self, limit: int) -> list[list[tuple[str, str]]]:
        self.rounds += 1
        return [[("acme", wallet_id) for wallet_id in list(wallets)[:limit]] for wallets in self.left]

    async def sweep(self, request: SweepRequest) -> SweepReply:
        assert request.tombstone_ms == 7_000
        if self.failures:
            raise self.failures.pop()
        wallets = next(wallets for wallets in self.left if request.wallet_id in wallets)
        wallets[request.wallet_id] -= 1
        more = wallets[request.wallet_id] > 0
        if not more:
            del wallets[request.wallet_id]
        if not any(self.left):
            self.stop.set()
        return SweepReply(status="OK", expired=2, forgotten=1, more=more)


def sweeper_of(holds: FakeHolds, interval_ms: int = 1) -> Sweeper:
    return Sweeper(cast("HoldStore", holds), interval_ms=interval_ms, tombstone_ms=7_000)


async def test_a_round_sweeps_every_due_wallet_of_every_partition_once() -> None:
    holds = FakeHolds([["a", "b"], [], ["c"]])
    sweeper = sweeper_of(holds)
    assert await sweeper.run_once() is False
    assert (sweeper.expired_total, sweeper.forgotten_total) == (6, 3)
    assert not any(holds.left)


async def test_what_is_left_is_swept_at_once_and_not_an_interval_later() -> None:
    holds = FakeHolds([["a"]], sweeps=5)
    async with asyncio.timeout(WAIT_S):
        await sweeper_of(holds, interval_ms=3_600_000).run(holds.stop)
    assert holds.rounds == 5


async def test_a_full_partition_is_looked_at_again_at_once() -> None:
    holds = FakeHolds([[f"w{number}" for number in range(2 * WALLETS_PER_ROUND + 1)]])
    async with asyncio.timeout(WAIT_S):
        await sweeper_of(holds, interval_ms=3_600_000).run(holds.stop)
    assert holds.rounds == 3


@pytest.mark.parametrize(
    "error", [StoreUnavailableError("valkey"), DrawdownError(ErrorReason.INTERNAL, "internal error")]
)
async def test_it_goes_on_after_an_error(error: Exception) -> None:
    holds = FakeHolds([["a", "b"], ["c"]])
    holds.failures = [error, error]
    async with asyncio.timeout(WAIT_S):
        await sweeper_of(holds).run(holds.stop)
    assert not any(holds.left)


async def test_it_stops_between_rounds_however_long_the_interval() -> None:
    holds = FakeHolds([[]])
    running = asyncio.create_task(sweeper_of(holds, interval_ms=3_600_000).run(holds.stop))
    async with asyncio.timeout(WAIT_S):
        await asyncio.sleep(0)
        holds.stop.set()
        await running
    assert holds.rounds == 1
