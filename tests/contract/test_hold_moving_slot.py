"""Scripts on a wallet whose slot moves, key by key, while all its keys are still on the old node.

Valkey runs such a script, but stops it, its earlier writes kept, at a key that it has emptied itself. So no script may
touch a key after it has taken the last thing out of it.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from contract.stage import open_stage
from contract.wallets import TOMBSTONE_MS
from drawdown_server.dev.valkey_cluster import ValkeyCluster
from drawdown_server.holds import keys
from drawdown_server.holds.messages import AmountRequest, ChargeRequest
from drawdown_server.holds.model import Cap, CapMode, CapWindow, ExpiryAction, HoldState, OveragePolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from contract.wallets import Stage, Wallet


@pytest.fixture(scope="module")
def moving_cluster(worker_directory: Path) -> Iterator[ValkeyCluster]:
    """A primary with all slots, and one to which they could move."""
    with ValkeyCluster(worker_directory / "moving", primaries=1, appendfsync="no") as cluster:
        cluster.add_node()
        yield cluster


@pytest.fixture
async def moving_stage(moving_cluster: ValkeyCluster) -> AsyncIterator[Stage]:
    async with open_stage(moving_cluster.url) as stage:
        yield stage


@asynccontextmanager
async def on_the_move(cluster: ValkeyCluster, wallet: Wallet) -> AsyncIterator[None]:
    """Inside, the wallet's slot is on its way, none of its keys has gone yet, and there is every key that can be."""
    home, target = cluster.nodes
    names = wallet.keys
    assert await asyncio.to_thread(home.ask, "EXISTS", *names) == len(names)
    slot = keys.slot(wallet.partition)
    await asyncio.to_thread(home.ask, "CLUSTER", "SETSLOT", slot, "MIGRATING", target.node_id)
    try:
        yield
    finally:
        await asyncio.to_thread(home.ask, "CLUSTER", "SETSLOT", slot, "STABLE")


async def wallet_with_every_key(
    stage: Stage,
    wallet_id: str,
    *,
    expiry_action: ExpiryAction = ExpiryAction.RELEASE,
    tombstone_ms: int = TOMBSTONE_MS,
) -> Wallet:
    """A wallet with one settled hold, and one open hold that is over and that nobody has freed yet."""
    wallet = stage.unloaded(wallet_id)
    cap = Cap("", "USD", CapWindow.LIFETIME, 1_000, CapMode.ENFORCE)
    await wallet.load(caps=[cap])
    await wallet.grant("USD", 100)
    await wallet.hold("settled", USD=10)
    await wallet.commit("settled", USD=10, tombstone_ms=tombstone_ms)
    reply = await wallet.authorize("due", ttl_ms=1, expiry_action=expiry_action, USD=20)
    assert reply.hold is not None
    await stage.until(reply.hold.expire_ms)
    return wallet


async def test_an_authorize_frees_the_last_open_hold_and_places_one(
    moving_cluster: ValkeyCluster, moving_stage: Stage
) -> None:
    wallet = await wallet_with_every_key(moving_stage, "authorize")
    async with on_the_move(moving_cluster, wallet):
        reply = await wallet.authorize("next", USD=90)
    assert reply.status == "OK"
    assert [hold.hold_id for hold in await wallet.open_holds()] == ["next"]
    assert await wallet.available("USD") == 0


async def test_a_charge_frees_the_last_open_hold_and_takes_its_units(
    moving_cluster: ValkeyCluster, moving_stage: Stage
) -> None:
    wallet = await wallet_with_every_key(moving_stage, "charge", tombstone_ms=TOMBSTONE_MS)
    request = ChargeRequest(
        **wallet.ids,
        hold_id="charge",
        fingerprint="",
        amounts=[AmountRequest("USD", 90, overage_policy=OveragePolicy.REJECT)],
        subjects=[],
        labels="",
        tombstone_ms=TOMBSTONE_MS,
    )
    async with on_the_move(moving_cluster, wallet):
        reply = await wallet.store.charge(request)
    assert reply.status == "OK"
    assert await wallet.available("USD") == 0


async def test_a_late_commit_of_the_last_open_hold_is_one_event(
    moving_cluster: ValkeyCluster, moving_stage: Stage
) -> None:
    wallet = await wallet_with_every_key(moving_stage, "commit")
    async with on_the_move(moving_cluster, wallet):
        reply = await wallet.commit("due", USD=20)
    assert reply.hold is not None
    assert reply.hold.late
    assert await wallet.available("USD") == 70
    assert (await wallet.commit("due", USD=20)).replayed


async def test_a_late_release_of_the_last_open_hold(moving_cluster: ValkeyCluster, moving_stage: Stage) -> None:
    wallet = await wallet_with_every_key(moving_stage, "release")
    async with on_the_move(moving_cluster, wallet):
        await wallet.release("due")
    assert (await wallet.read_hold("due")).state is HoldState.RELEASED
    assert await wallet.available("USD") == 90


@pytest.mark.parametrize("action", list(ExpiryAction))
async def test_a_sweep_ends_the_last_open_hold_and_forgets_the_last_tombstone(
    moving_cluster: ValkeyCluster, moving_stage: Stage, action: ExpiryAction
) -> None:
    wallet = await wallet_with_every_key(moving_stage, f"sweep-{action.lower()}", expiry_action=action, tombstone_ms=1)
    await moving_stage.until(await moving_stage.store.now_ms() + 2)
    async with on_the_move(moving_cluster, wallet):
        swept = await wallet.sweep()
    assert (swept.expired, swept.forgotten) == (1, 1)
    assert await wallet.available("USD") == (90 if action is ExpiryAction.RELEASE else 70)
    assert await wallet.due_ms() > 0
