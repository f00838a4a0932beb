"""Expiry by the store's clock, without a sleep: due holds, late commits, tombstones, and when the sweep comes next."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

import pytest

from contract.wallets import TENANT, TOMBSTONE_MS, WAIT_S, assert_conserved
from drawdown_server.errors import DrawdownError, ErrorReason
from drawdown_server.holds.model import DenialReason, HoldState, WalletState
from drawdown_server.holds.store import HoldUnknownError
from drawdown_server.holds.sweeper import Sweeper

if TYPE_CHECKING:
    from contract.wallets import Stage, Wallet


DUE_TTL_MS: Final = 1_500
"""Long enough to place a hold, short enough to wait for."""
HOLD_TAKES_MS: Final = 2
"""To place, on a machine that is busy with other tests."""


async def due_holds(wallet: Wallet, count: int, **units: int) -> None:
    """Many holds that are over, all of them placed before the first one was due."""
    ttl_ms = DUE_TTL_MS + count * HOLD_TAKES_MS
    replies = await asyncio.gather(*(wallet.authorize(f"due{n}", ttl_ms=ttl_ms, **units) for n in range(count)))
    assert all(reply.status == "OK" for reply in replies)
    await wallet.stage.until(max(reply.hold.expire_ms for reply in replies if reply.hold))


async def test_the_sweep_frees_what_is_due_and_nothing_else(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10, TOKENS=10)
    await wallet.hold("stays", USD=3)
    await wallet.due_hold("goes", USD=4, TOKENS=10)
    assert (await stage.store.due_wallets(10))[wallet.partition] == [(TENANT, "w1")]
    swept = await wallet.sweep()
    assert (swept.expired, swept.forgotten, swept.more) == (1, 0, False)
    gone = await wallet.read_hold("goes")
    assert gone.state is HoldState.EXPIRED
    assert gone.settle_ms >= gone.expire_ms
    assert (await wallet.read_hold("stays")).state is HoldState.HELD
    assert await wallet.grants("USD") == {"g1": (7, 3)}
    assert (await stage.store.due_wallets(10))[wallet.partition] == []
    assert len(await wallet.events()) == 2  # the two grants: an expired hold moves no settled funds


async def test_a_sweep_of_nothing(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    assert (await wallet.sweep()).expired == 0
    assert (await stage.unloaded("unknown").sweep()).status == "NOT_LOADED"
    assert await wallet.due_ms() == 0


async def test_an_authorize_that_would_be_denied_frees_due_holds(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.due_hold("h1", USD=10)
    reply = await wallet.authorize("h2", USD=8)
    assert reply.status == "OK"
    assert [(b.held, b.available) for b in reply.balances] == [(8, 2)]
    assert (await wallet.read_hold("h1")).state is HoldState.EXPIRED


async def test_an_authorize_that_could_be_paid_anyway_frees_due_holds_too(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.due_hold("h1", USD=2)
    await wallet.hold("h2", USD=8)
    assert (await wallet.read_hold("h1")).state is HoldState.EXPIRED
    assert (await wallet.sweep()).expired == 0


async def test_an_authorize_that_stays_denied_has_still_freed(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.due_hold("h1", USD=6)
    reply = await wallet.authorize("h2", USD=11)
    assert (reply.status, reply.available) == ("DENIED", 10)
    assert (await wallet.read_hold("h1")).state is HoldState.EXPIRED


async def test_the_limit_of_open_holds_does_not_count_due_ones(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.due_hold("h1", USD=1)
    await wallet.hold("h2", USD=1)
    assert (await wallet.authorize("h3", open_holds_max=2, USD=1)).status == "OK"
    denied = await wallet.authorize("h4", open_holds_max=2, USD=1)
    assert denied.reason is DenialReason.TOO_MANY_HOLDS


async def test_a_frozen_wallet_frees_nothing_in_authorize(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.due_hold("h1", USD=10)
    await wallet.set_state(WalletState.FROZEN)
    assert (await wallet.authorize("h2", USD=1)).reason is DenialReason.WALLET_FROZEN
    assert (await wallet.sweep()).expired == 1


@pytest.mark.parametrize("needed", [1, 250])
async def test_many_due_holds_are_freed_at_once(stage: Stage, needed: int) -> None:
    wallet = await stage.wallet(USD=250)
    await due_holds(wallet, 250, USD=1)
    assert await wallet.available("USD") == 0
    assert (await wallet.authorize("h1", USD=needed)).status == "OK"
    assert (await wallet.read()).open_holds == 1
    assert await wallet.available("USD") == 250 - needed


async def test_one_authorize_frees_a_bounded_number_and_the_next_goes_on(stage: Stage) -> None:
    wallet = await stage.wallet(USD=1200)
    await due_holds(wallet, 1200, USD=1)
    first = await wallet.authorize("h1", USD=1200)
    assert (first.status, first.available) == ("DENIED", 1000)
    assert (await wallet.authorize("h1", USD=1200)).status == "OK"


async def test_many_due_holds_and_tombstones_are_swept_in_bounded_steps(stage: Stage) -> None:
    wallet = await stage.wallet(USD=1200)
    await due_holds(wallet, 1200, USD=1)
    expired = forgotten = 0
    async with asyncio.timeout(WAIT_S):
        while (await wallet.read()).open_holds or await wallet.due_ms():
            swept = await wallet.sweep(tombstone_ms=1)
            assert swept.expired <= 1000
            assert swept.forgotten <= 1000
            expired, forgotten = expired + swept.expired, forgotten + swept.forgotten
            await stage.until(await wallet.due_ms())
    assert (expired, forgotten) == (1200, 1200)
    assert await wallet.client.exists(*wallet.keys[4:]) == 0
    assert await wallet.grants("USD") == {"g1": (1200, 0)}


async def test_more_tombstones_than_one_call_forgets(stage: Stage) -> None:
    wallet = await stage.wallet(USD=1)
    await asyncio.gather(*(wallet.release(f"h{n}", bury=True, tombstone_ms=1) for n in range(1100)))
    await stage.until(await wallet.stage.store.now_ms() + 1)
    first = await wallet.sweep()
    assert (first.forgotten, first.more) == (1000, True)
    second = await wallet.sweep()
    assert (second.forgotten, second.more) == (100, False)


# --- late commits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("swept", [False, True], ids=["unswept", "swept"])
async def test_a_commit_after_expiry_is_late_and_charged(stage: Stage, swept: bool) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.due_hold("h1", USD=8)
    if swept:
        await wallet.sweep()
    reply = await wallet.commit("h1", USD=5)
    assert reply.hold is not None
    assert (reply.hold.state, reply.hold.late, reply.replayed) == (HoldState.COMMITTED, True, False)
    event = (await wallet.events())[-1]
    assert (event.late, event.hold_id, event.wallet_sequence) == (True, "h1", reply.hold.wallet_sequence)
    assert await wallet.available("USD") == 5
    assert (await wallet.commit("h1", USD=5)).replayed
    await wallet.sweep()
    assert (await wallet.read_hold("h1")).state is HoldState.COMMITTED


async def test_a_late_commit_is_paid_in_burn_order_of_now(stage: Stage) -> None:
    wallet = await stage.wallet()
    await wallet.grant("USD", 10, "old", priority=5)
    await wallet.due_hold("h1", USD=10)
    await wallet.grant("USD", 4, "new", priority=1)
    await wallet.commit("h1", USD=6)
    assert [(line.grant_id, line.units) for line in (await wallet.events())[-1].lines] == [("new", 4), ("old", 2)]
    assert await wallet.grants("USD") == {"old": (8, 0)}


@pytest.mark.parametrize("swept", [False, True], ids=["unswept", "swept"])
async def test_a_late_commit_without_funds_waits_for_a_grant(stage: Stage, swept: bool) -> None:
    wallet = await stage.wallet(USD=10, TOKENS=10)
    await wallet.due_hold("h1", TOKENS=2, USD=8)
    if swept:
        await wallet.sweep()
    await wallet.hold("h2", USD=7 if swept else 2)
    if not swept:
        await wallet.authorize("h3", USD=5)  # frees h1
    refused_units = await wallet.available("USD")
    with pytest.raises(DrawdownError) as refused:
        await wallet.commit("h1", TOKENS=2, USD=8)
    assert refused.value.reason is ErrorReason.INSUFFICIENT_FUNDS
    assert refused.value.metadata["asset"] == "USD"
    assert refused.value.metadata["available_units"] == str(refused_units)
    assert (await wallet.balance("TOKENS")).settled == 10  # all or nothing
    await wallet.grant("USD", 7 - refused_units)
    with pytest.raises(DrawdownError):
        await wallet.commit("h1", TOKENS=2, USD=8)
    await wallet.grant("USD", 1)
    reply = await wallet.commit("h1", TOKENS=2, USD=8)
    assert reply.hold is not None
    assert reply.hold.late


async def test_a_refused_commit_of_a_due_hold_frees_it_all_the_same(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.due_hold("h1", USD=8)
    with pytest.raises(DrawdownError) as refused:
        await wallet.commit("h1", USD=9)
    assert refused.value.reason is ErrorReason.EXCEEDS_HOLD
    assert (await wallet.read_hold("h1")).state is HoldState.EXPIRED
    assert await wallet.available("USD") == 10
    await wallet.commit("h1", USD=8)


async def test_a_late_commit_of_nothing_needs_no_funds(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.due_hold("h1", USD=8)
    await wallet.sweep()
    await wallet.hold("h2", USD=10)
    reply = await wallet.commit("h1", USD=0)
    assert reply.hold is not None
    assert reply.hold.late
    assert (await wallet.events())[-1].lines == []


# --- tombstones and the next sweep -------------------------------------------------------------------------------


async def test_a_settled_hold_is_remembered_and_then_forgotten(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.hold("committed", USD=1)
    await wallet.hold("released", USD=1)
    await wallet.hold("kept", USD=1)
    await wallet.commit("committed", tombstone_ms=1, USD=1)
    await wallet.release("released", tombstone_ms=1)
    await wallet.release("buried", bury=True, tombstone_ms=1)
    await wallet.commit("kept", USD=1)
    await stage.until(await stage.store.now_ms() + 1)
    assert (await wallet.commit("committed", USD=1)).replayed  # forgotten by the sweep, not by the clock
    assert (await wallet.sweep()).forgotten == 3
    for hold_id in ("committed", "released", "buried"):
        with pytest.raises(HoldUnknownError):
            await wallet.commit(hold_id, USD=1)
    assert (await wallet.commit("kept", USD=1)).replayed
    kept = await wallet.read_hold("kept")
    ((event_id, _),) = await wallet.client.xrevrange(wallet.keys[1], count=1)
    event_ms = int(event_id.partition(b"-")[0])  # Redis 7's clock goes on in a script: this may be later
    assert await wallet.due_ms() == max(kept.settle_ms, event_ms) + TOMBSTONE_MS


async def test_a_committed_hold_is_remembered_until_the_ledger_has_it(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.hold("first", USD=1)
    await wallet.commit("first", tombstone_ms=1, USD=1)
    await wallet.hold("released", USD=1)
    await wallet.release("released", tombstone_ms=1)
    await stage.until(await stage.store.now_ms() + 1)
    swept = await wallet.sweep(recorded=False)
    assert (swept.forgotten, swept.more) == (1, False)
    assert (await wallet.commit("first", USD=1)).replayed
    assert 0 < await wallet.due_ms() <= await stage.store.now_ms() + 1_000  # it is looked at again soon
    await wallet.hold("second", USD=1)
    await wallet.commit("second", USD=1)
    await stage.until(await wallet.due_ms())
    assert (await wallet.sweep(recorded=False)).forgotten == 0
    await stage.until(await wallet.due_ms())
    assert (await wallet.sweep(recorded=True)).forgotten == 1
    with pytest.raises(HoldUnknownError):
        await wallet.commit("first", USD=1)


async def test_a_late_commit_that_is_refused_is_remembered_for_longer(stage: Stage) -> None:
    wallet = await stage.wallet(USD=5)
    late = await wallet.hold("late", ttl_ms=1, USD=5)
    await stage.until(late.expire_ms)
    await wallet.sweep(tombstone_ms=1)
    await wallet.hold("other", USD=5)
    with pytest.raises(DrawdownError):
        await wallet.commit("late", USD=5)
    assert (await wallet.sweep(tombstone_ms=1)).forgotten == 0
    await wallet.release("other")
    assert (await wallet.commit("late", USD=5)).hold.late


async def test_a_due_score_follows_the_earliest_thing_to_do(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    assert await wallet.due_ms() == 0
    late = await wallet.hold("late", ttl_ms=900_000, USD=1)
    assert await wallet.due_ms() == late.expire_ms
    soon = await wallet.hold("soon", ttl_ms=500_000, USD=1)
    assert await wallet.due_ms() == soon.expire_ms
    await wallet.release("soon", tombstone_ms=100_000)
    assert await wallet.due_ms() <= soon.create_ms + 110_000
    await wallet.release("late", tombstone_ms=1)
    await stage.until(await wallet.due_ms())
    await wallet.sweep()
    assert await wallet.due_ms() > soon.create_ms  # the tombstone of soon


async def test_a_sweep_that_expires_plans_the_tombstone_though_older_ones_live_longer(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.hold("h1", USD=1)
    await wallet.release("h1", tombstone_ms=3_600_000)
    await wallet.due_hold("h2", USD=1)
    await wallet.sweep(tombstone_ms=60_000)
    swept = await wallet.read_hold("h2")
    assert await wallet.due_ms() == swept.settle_ms + 60_000


@pytest.mark.parametrize("seed", range(4))
async def test_no_wallet_is_ever_missed_by_the_sweep(stage: Stage, seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - a test's dice
    wallets = [await stage.wallet(f"w{n}", USD=20) for n in range(3)]
    for step in range(120):
        wallet = rng.choice(wallets)
        hold_id = f"h{rng.randrange(step + 1)}"
        verb = rng.choice(["authorize", "authorize", "commit", "release", "sweep"])
        try:
            if verb == "authorize":
                await wallet.authorize(hold_id, ttl_ms=rng.choice([1, 5, 60_000]), print_of="", USD=rng.randint(1, 6))
            elif verb == "commit":
                await wallet.commit(hold_id, tombstone_ms=TOMBSTONE_MS, USD=rng.randint(0, 1))
            elif verb == "release":
                await wallet.release(hold_id, bury=rng.random() < 0.5)
            else:
                await wallet.sweep()
        except DrawdownError as error:
            assert error.reason is not ErrorReason.INTERNAL
        await assert_conserved(wallet)  # its due score is one of the books


# --- the sweeper -------------------------------------------------------------------------------------------------


async def test_the_sweeper_finds_due_wallets_in_every_partition(stage: Stage) -> None:
    wallets = [await stage.wallet(f"w{n}", USD=10) for n in range(12)]
    assert {wallet.partition for wallet in wallets} == set(range(stage.store.partitions))
    for wallet in wallets:
        await wallet.due_hold("h1", USD=10)
    sweeper = Sweeper(stage.store, interval_ms=60_000, tombstone_ms=TOMBSTONE_MS)
    assert await sweeper.run_once() is False
    assert (sweeper.expired_total, sweeper.forgotten_total) == (12, 0)
    assert {await wallet.available("USD") for wallet in wallets} == {10}
    assert await sweeper.run_once() is False
    assert sweeper.expired_total == 12


async def test_two_sweepers_free_each_hold_once(stage: Stage) -> None:
    wallet = await stage.wallet(USD=300)
    await due_holds(wallet, 300, USD=1)
    sweepers = [Sweeper(stage.store, interval_ms=60_000, tombstone_ms=TOMBSTONE_MS) for _ in range(2)]
    async with asyncio.timeout(WAIT_S):
        while any(await asyncio.gather(*(sweeper.run_once() for sweeper in sweepers))):
            pass
    assert sum(sweeper.expired_total for sweeper in sweepers) == 300


async def test_a_running_sweeper_stops_at_once(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.due_hold("h1", USD=10)
    stop = asyncio.Event()
    running = asyncio.create_task(Sweeper(stage.store, interval_ms=60_000, tombstone_ms=TOMBSTONE_MS).run(stop))
    async with asyncio.timeout(WAIT_S):
        while await wallet.available("USD") == 0:
            pass
        stop.set()
        await running


async def test_a_released_hold_with_progress_is_remembered_until_the_ledger_has_it(stage: Stage) -> None:
    """The debit of a progress report is an event, whatever became of the hold."""
    wallet = await stage.wallet(USD=10)
    await wallet.hold("h", USD=5)
    await wallet.commit("h", final=False, USD=2)
    await wallet.release("h", tombstone_ms=1)
    await stage.until(await stage.store.now_ms() + 1)
    assert (await wallet.sweep(recorded=False)).forgotten == 0
    await stage.until(await wallet.due_ms())
    assert (await wallet.sweep(recorded=True)).forgotten == 1
