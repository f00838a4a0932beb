"""Stacks of many grants: a call looks at the head of a stack, and at the rest when it needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from contract.wallets import CREATE_MS
from drawdown_server.holds.messages import LoadedAsset, PackedGrant
from drawdown_server.holds.model import GrantSource

if TYPE_CHECKING:
    from contract.wallets import Stage, Wallet

GRANTS: Final = 1_000
"""The most that Postgres lets an asset of a wallet have."""
UNITS: Final = 10
EXPIRE_MS: Final = CREATE_MS * 2


async def stacked(stage: Stage, grants: int = GRANTS) -> Wallet:
    """A wallet with grants of ``UNITS`` each, which burn in the order of their numbers."""
    wallet = stage.unloaded()
    packed = [
        PackedGrant(f"g{n:04}", UNITS, 0, 50, EXPIRE_MS + n, GrantSource.PURCHASE, CREATE_MS, CREATE_MS)
        for n in range(grants)
    ]
    await wallet.load([LoadedAsset("USD", 0, 0, packed, [])])
    return wallet


async def rest_of(wallet: Wallet) -> bytes | None:
    """What the wallet keeps of its stack beside the head."""
    rest: bytes | None = await wallet.client.hget(wallet.keys[3], "USD+")
    return rest


async def test_calls_that_the_first_grants_can_pay_leave_the_rest_of_a_stack_alone(stage: Stage) -> None:
    wallet = await stacked(stage)
    rest = await rest_of(wallet)
    assert rest is not None
    head = await wallet.client.hstrlen(wallet.keys[3], "USD")
    assert head < len(rest) / 100
    await wallet.hold("committed", USD=UNITS + 1)
    await wallet.hold("released", USD=UNITS + 1)
    await wallet.commit("committed", USD=UNITS + 1)
    await wallet.release("released")
    assert await rest_of(wallet) == rest
    grants = await wallet.grants("USD")
    assert list(grants.items())[:2] == [("g0001", (UNITS - 1, 0)), ("g0002", (UNITS, 0))]
    assert len(grants) == GRANTS - 1


async def test_a_hold_over_a_whole_stack_pins_every_grant_in_order_and_gives_it_back(stage: Stage) -> None:
    wallet = await stacked(stage)
    await wallet.hold("all", USD=GRANTS * UNITS)
    assert set((await wallet.grants("USD")).values()) == {(0, UNITS)}
    assert await rest_of(wallet) is None, "nothing is left that a call could take"
    assert (await wallet.authorize("more", USD=1)).status == "DENIED"
    await wallet.commit("all", USD=5 * UNITS)
    lines = (await wallet.events())[-1].lines
    assert [(line.grant_id, line.units) for line in lines] == [(f"g{n:04}", UNITS) for n in range(5)]
    assert set((await wallet.grants("USD")).values()) == {(UNITS, 0)}
    assert next(iter(await wallet.grants("USD"))) == "g0005"


async def test_a_stack_is_used_up_grant_by_grant(stage: Stage) -> None:
    wallet, grants = await stacked(stage, grants=12), 12
    for number in range(grants):
        await wallet.hold(f"h{number}", USD=UNITS)
        await wallet.commit(f"h{number}", USD=UNITS)
        assert list(await wallet.grants("USD")) == [f"g{n:04}" for n in range(number + 1, grants)]
    assert await rest_of(wallet) is None
    assert await wallet.available("USD") == 0


async def test_pins_stay_with_their_grants_when_one_that_burns_sooner_comes(stage: Stage) -> None:
    wallet = await stacked(stage, grants=8)
    await wallet.hold("h1", USD=3 * UNITS)
    for number in range(8):
        await wallet.grant("USD", UNITS, f"sooner{number}", priority=10)
    await wallet.release("h1")
    assert set((await wallet.grants("USD")).values()) == {(UNITS, 0)}
    await wallet.hold("h2", USD=9 * UNITS)
    assert [units for units in (await wallet.grants("USD")).values() if units[1]] == [(0, UNITS)] * 9
    assert list(await wallet.grants("USD"))[8] == "g0000"
