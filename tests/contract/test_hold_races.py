"""Many calls at once: exactly as many winners as there is money, and one effect per id."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from contract.stage import open_connection
from contract.wallets import assert_conserved
from drawdown_server.errors import DrawdownError, ErrorReason
from drawdown_server.holds.model import HoldState
from drawdown_server.holds.store import HoldStore
from drawdown_server.ledger.events import EventKind

if TYPE_CHECKING:
    from contract.wallets import Stage, Wallet

ROUNDS = 50


async def test_64_at_once_against_10_units_admit_exactly_10(stage: Stage) -> None:
    async with open_connection(stage.url) as second_connection:
        second = HoldStore(second_connection, stage.library, stage.epochs)
        for turn in range(ROUNDS):
            wallet = await stage.wallet(f"w{turn}", USD=10)
            twin = stage.unloaded(f"w{turn}")
            twin.store = second
            stage.wallets.remove(twin)
            replies = await asyncio.gather(*((wallet, twin)[n % 2].authorize(f"h{n}", USD=1) for n in range(64)))
            assert sum(reply.status == "OK" for reply in replies) == 10
            assert {reply.reason for reply in replies if reply.status == "DENIED"} == {"INSUFFICIENT_FUNDS"}
            balance = await wallet.balance("USD")
            assert (balance.available, balance.held) == (0, 10)


async def test_100_times_the_same_authorize_at_once_is_one_hold(stage: Stage) -> None:
    wallet = await stage.wallet(USD=1000)
    replies = await asyncio.gather(*(wallet.authorize("h1", USD=7) for _ in range(100)))
    assert [reply.replayed for reply in replies].count(False) == 1
    assert all((reply.hold, reply.balances) == (replies[0].hold, replies[0].balances) for reply in replies)
    assert (await wallet.read()).open_holds == 1
    assert await wallet.available("USD") == 993


async def test_100_times_the_same_commit_at_once_is_one_debit(stage: Stage) -> None:
    wallet = await stage.wallet(USD=1000)
    await wallet.hold("h1", USD=7)
    replies = await asyncio.gather(*(wallet.commit("h1", USD=5) for _ in range(100)))
    assert [reply.replayed for reply in replies].count(False) == 1
    assert all((reply.hold, reply.balances) == (replies[0].hold, replies[0].balances) for reply in replies)
    assert [event.kind for event in await wallet.events()] == [EventKind.GRANT, EventKind.COMMIT]


async def test_a_commit_and_a_release_at_once_have_one_winner(stage: Stage) -> None:
    wallet = await stage.wallet(USD=1000)

    async def reason_of(call: asyncio.Future[object]) -> ErrorReason | None:
        try:
            await call
        except DrawdownError as error:
            return error.reason
        return None

    async def race(number: int) -> None:
        hold_id = f"h{number}"
        await wallet.hold(hold_id, USD=3)
        calls = [wallet.commit(hold_id, USD=2), wallet.release(hold_id)]
        reasons = await asyncio.gather(
            *(reason_of(asyncio.ensure_future(call)) for call in (calls if number % 2 else calls[::-1]))
        )
        state = (await wallet.read_hold(hold_id)).state
        loser = {HoldState.COMMITTED: ErrorReason.HOLD_COMMITTED, HoldState.RELEASED: ErrorReason.HOLD_RELEASED}
        assert sorted(map(str, reasons)) == sorted(["None", str(loser[state])])

    await asyncio.gather(*(race(number) for number in range(50)))
    commits = [event for event in await wallet.events() if event.kind is EventKind.COMMIT]
    assert await wallet.available("USD") == 1000 - 2 * len(commits)


async def spend(wallet: Wallet, worker: int) -> None:
    """One gateway: holds, and settles or forgets."""
    for number in range(20):
        hold_id = f"h{worker}.{number}"
        ttl_ms = 1 if number % 5 == 4 else 60_000
        reply = await wallet.authorize(hold_id, ttl_ms=ttl_ms, USD=3, TOKENS=1 + worker)
        if reply.status == "DENIED":
            continue
        if number % 5 == 3:
            await wallet.release(hold_id)
        elif number % 5 != 4:
            await wallet.commit(hold_id, USD=number % 4, TOKENS=1)


async def test_a_crowd_of_gateways_and_a_sweeper_keep_the_books(stage: Stage) -> None:
    wallet = await stage.wallet(USD=40, TOKENS=400)
    running = asyncio.gather(*(spend(wallet, worker) for worker in range(16)))
    while not running.done():
        await wallet.sweep()
    await running
    await assert_conserved(wallet)
