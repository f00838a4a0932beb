"""Eviction: an idle wallet leaves the store when, and only when, Postgres could bring it back as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from contract.wallets import TENANT
from drawdown_server.holds.messages import CapUsage, Change, EvictRequest, LoadedAsset, PackedGrant
from drawdown_server.holds.model import Cap, CapMode, CapWindow, GrantSource
from idle import make_idle

if TYPE_CHECKING:
    from contract.wallets import Stage, Wallet

CAP = Cap("", "USD", CapWindow.LIFETIME, 90, CapMode.ENFORCE)
YOUNG_S, OLD_S = 59, 61
TTL_MS = 1


async def evict(wallet: Wallet, *, sequence: int = 0, applied: int = 0, newest: int = 0) -> str:
    """Evict in a world where Postgres has recorded everything; the numbers say by how much it is off."""
    reading = await wallet.read()
    reply = await wallet.store.evict(
        EvictRequest(
            **wallet.ids,
            sequence=reading.sequence + sequence,
            applied_change_number=reading.change_number + applied,
            change_number=reading.change_number + newest,
        )
    )
    return reply.status


async def idle_wallet(stage: Stage, idle_s: int = OLD_S) -> Wallet:
    """A wallet with something in every key but those of holds."""
    wallet = stage.unloaded()
    expire_ms = await stage.store.now_ms() + 3_600_000
    grant = PackedGrant("g1", 10, 0, 0, expire_ms, GrantSource.PURCHASE, 1, 1)
    usage = [CapUsage("|USD|LIFETIME|0", 5)]
    await wallet.load([LoadedAsset("USD", 0, 0, [grant], [])], sequence=3, change_number=2, caps=[CAP], cap_usage=usage)
    await make_idle(wallet.client, wallet.keys[3], idle_s)
    return wallet


async def test_an_evicted_wallet_leaves_nothing_behind(stage: Stage) -> None:
    wallet = await idle_wallet(stage)
    assert await wallet.due_ms() > 0
    assert await evict(wallet) == "OK"
    assert await wallet.client.exists(*wallet.keys[3:]) == 0
    assert await wallet.due_ms() == 0
    request = EvictRequest(**wallet.ids, sequence=3, applied_change_number=2, change_number=2)
    assert (await stage.store.evict(request)).status == "NOT_LOADED"


@pytest.mark.parametrize(
    "off",
    [
        {"sequence": -1},
        {"sequence": 1},
        {"applied": -1, "newest": 0},
        {"applied": -1, "newest": -1},
        {"newest": 1},
    ],
    ids=str,
)
async def test_what_postgres_has_not_recorded_stays(stage: Stage, off: dict[str, int]) -> None:
    wallet = await idle_wallet(stage)
    at_rest = await wallet.at_rest()
    assert await evict(wallet, **off) == "NOT_RECORDED"
    assert await wallet.at_rest() == at_rest


async def test_what_time_has_done_and_nobody_has_recorded_stays(stage: Stage) -> None:
    wallet = await stage.wallet()
    expire_ms = await stage.store.now_ms() + 50
    await wallet.grant("USD", 10, expire_ms=expire_ms)
    await make_idle(wallet.client, wallet.keys[3])
    reading = await wallet.read()
    await stage.until(expire_ms)
    numbers = EvictRequest(**wallet.ids, sequence=reading.sequence, applied_change_number=1, change_number=1)
    at_rest = await wallet.at_rest()
    assert (await stage.store.evict(numbers)).status == "NOT_RECORDED"
    assert await wallet.at_rest() == at_rest
    await wallet.sweep()
    assert await evict(wallet) == "OK"


async def test_a_young_wallet_stays(stage: Stage) -> None:
    wallet = await idle_wallet(stage, YOUNG_S)
    assert await evict(wallet) == "TOO_YOUNG"
    assert (await wallet.read()).sequence == 3


async def test_holds_and_the_memory_of_them_keep_a_wallet(stage: Stage) -> None:
    wallet = await idle_wallet(stage)
    await wallet.hold("h1", USD=4)
    assert await evict(wallet) == "HAS_HOLDS"
    await wallet.release("h1", tombstone_ms=TTL_MS)
    assert await evict(wallet) == "HAS_HOLDS", "a repeat of the Release is answered from here"
    await stage.until(await stage.store.now_ms() + TTL_MS + 1)
    assert (await wallet.sweep()).forgotten == 1
    assert await evict(wallet) == "OK"


async def test_the_release_of_an_unknown_hold_keeps_a_wallet(stage: Stage) -> None:
    wallet = await idle_wallet(stage)
    await wallet.release("later", bury=True)
    assert await evict(wallet) == "HAS_HOLDS"
    assert (await wallet.authorize("later", USD=1)).reason == "HOLD_RELEASED"


async def test_a_ticket_says_whether_the_wallet_is_there(stage: Stage) -> None:
    """One that is there may be used and evicted while Postgres is read: the load would undo what was recorded since."""
    wallet = await idle_wallet(stage)
    assert (await stage.store.ticket(TENANT, wallet.wallet_id)).is_live
    assert await evict(wallet) == "OK"
    assert not (await stage.store.ticket(TENANT, wallet.wallet_id)).is_live


async def test_changes_go_on_after_an_eviction(stage: Stage) -> None:
    wallet = await idle_wallet(stage)
    assert await evict(wallet) == "OK"
    change = Change(change_number=3, kind="OVERDRAFT", asset="USD", limit=5)
    await wallet.load([LoadedAsset("USD", 0, 0, [], [])], sequence=3, change_number=2, changes=[change])
    assert (await wallet.read()).sequence == 4
    assert await wallet.available("USD") == 5
