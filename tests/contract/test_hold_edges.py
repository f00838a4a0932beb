"""Largest numbers, hostile texts, paging, and the library that is lost or doubled."""

from __future__ import annotations

import json
import string
from collections import ChainMap
from typing import TYPE_CHECKING, Final

import pytest

from contract.wallets import TOMBSTONE_MS
from drawdown_server.errors import DrawdownError, ErrorReason, StoreUnavailableError
from drawdown_server.holds import keys
from drawdown_server.holds.library import build_library, load_library, read_sources
from drawdown_server.holds.messages import (
    AmountRequest,
    AuthorizeRequest,
    Change,
    ChargeRequest,
    CommitRequest,
    ExtendRequest,
    ListHoldsRequest,
    RefundRequest,
    TotalUsed,
)
from drawdown_server.holds.model import UNITS_MAX, Cap, CapMode, CapWindow, ExpiryAction, HoldState, WalletState
from drawdown_server.holds.store import HoldStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.asyncio import Redis

    from contract.wallets import Stage, Wallet
    from drawdown_server.holds.library import Library


# --- numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("units", [UNITS_MAX, UNITS_MAX - 1, 2**52 + 1, 2**32, 2**31 - 1, 1])
async def test_every_unit_survives_the_round_trip(stage: Stage, units: int) -> None:
    wallet = await stage.wallet(USD=UNITS_MAX)
    hold = await wallet.hold("h1", USD=units)
    assert (hold.amounts[0].authorized, hold.amounts[0].held) == (units, units)
    assert await wallet.available("USD") == UNITS_MAX - units
    reply = await wallet.commit("h1", USD=units)
    assert reply.hold is not None
    assert reply.hold.amounts[0].debited == units
    event = (await wallet.events())[-1]
    assert [line.units for line in event.lines] == [units]
    assert (event.amounts[0].authorized, event.amounts[0].debited) == (units, units)
    balance = await wallet.balance("USD")
    assert (balance.settled, balance.available) == (UNITS_MAX - units, UNITS_MAX - units)


async def test_all_but_one_unit_and_then_the_last(stage: Stage) -> None:
    wallet = await stage.wallet(USD=UNITS_MAX)
    await wallet.hold("h1", USD=UNITS_MAX - 1)
    assert (await wallet.authorize("h2", USD=2)).available == 1
    await wallet.commit("h1", USD=UNITS_MAX - 2)
    assert await wallet.available("USD") == 2


@pytest.mark.parametrize("units", [2**53, 2**53 + 1, 2**60, 2**63, 2**64 - 1, -1, -(2**53)])
async def test_an_authorize_out_of_range_fails_and_changes_nothing(stage: Stage, units: int) -> None:
    wallet = await stage.wallet(TOKENS=10, USD=UNITS_MAX)
    await wallet.hold("h1", USD=5)
    at_rest = await wallet.at_rest()
    with pytest.raises(DrawdownError) as failed:
        await wallet.authorize("h2", TOKENS=1, USD=units)
    assert failed.value.reason is ErrorReason.INTERNAL
    assert failed.value.message == "internal error"
    assert await wallet.at_rest() == at_rest


@pytest.mark.parametrize("units", [2**53, 2**53 + 1, 2**60, 2**64 - 1])
async def test_a_commit_out_of_range_fails_and_changes_nothing(stage: Stage, units: int) -> None:
    wallet = await stage.wallet(USD=UNITS_MAX)
    await wallet.hold("h1", USD=UNITS_MAX)
    at_rest = await wallet.at_rest()
    with pytest.raises(DrawdownError) as failed:
        await wallet.commit("h1", USD=units)
    assert failed.value.reason is ErrorReason.INTERNAL
    assert await wallet.at_rest() == at_rest


@pytest.mark.parametrize("units", [2**53, 2**60])
async def test_a_grant_out_of_range_fails_and_changes_nothing(stage: Stage, units: int) -> None:
    wallet = await stage.wallet(USD=1)
    at_rest = await wallet.at_rest()
    with pytest.raises(DrawdownError):
        await wallet.grant("USD", units)
    assert await wallet.at_rest() == at_rest


TWICE: Final = [TotalUsed("USD", 6), TotalUsed("USD", 6)]


@pytest.mark.parametrize("verb", ["authorize", "charge", "commit", "extend", "refund"])
async def test_an_asset_named_twice_cannot_move_more_than_there_is(stage: Stage, verb: str) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.hold("h1", USD=8)
    await wallet.commit("h1", final=False, USD=4)
    named = {**wallet.ids, "hold_id": "h1", "tombstone_ms": TOMBSTONE_MS}
    asked = {"fingerprint": "", "subjects": [], "labels": ""}
    amounts = [AmountRequest("USD", 1), AmountRequest("USD", 1)]
    requests: dict[str, Callable[[], Awaitable[object]]] = {
        "authorize": lambda: stage.store.authorize(
            AuthorizeRequest(
                **{**named, **asked, "hold_id": "h2"},
                ways=[amounts],
                ttl_ms=60_000,
                expiry_action=ExpiryAction.RELEASE,
                open_holds_max=10,
            )
        ),
        "charge": lambda: stage.store.charge(ChargeRequest(**{**named, **asked, "hold_id": "h2"}, amounts=amounts)),
        "commit": lambda: stage.store.commit(CommitRequest(**named, amounts=TWICE, final=True)),
        "extend": lambda: stage.store.extend(ExtendRequest(**named, amounts=TWICE, ttl_ms=0)),
        "refund": lambda: stage.store.refund(
            RefundRequest(**named, amounts=TWICE, refund_id="r1", digest="", grants=[], recorded=None)
        ),
    }
    at_rest = await wallet.at_rest()
    with pytest.raises(DrawdownError) as failed:
        await requests[verb]()
    assert failed.value.reason is ErrorReason.INTERNAL
    assert await wallet.at_rest() == at_rest
    await wallet.commit("h1", USD=4)


# --- texts -------------------------------------------------------------------------------------------------------

ID_CHARACTERS: Final = string.ascii_letters + string.digits + "._:@/-"
HOSTILE_IDS: Final = [
    ID_CHARACTERS,
    "a" * 128,
    "-inf",
    "0",
    "1e308",
    "nan",
    "head",
    "..",
    "//:@",
    "dd00",
    "-",
]
HOSTILE_LABELS: Final = [
    {"größe": "☃ 𝄞 \U0010ffff", "empty": ""},
    {"nul": "\0", "quote": '"', "slash": "\\", "newline": "\r\n", "sentence": "'); redis.call('FLUSHALL') --"},
    {"k" * 63: "v" * 255, "v": "é" * 255},
    {str(number): "x" * 32 for number in range(32)},
]


@pytest.mark.parametrize("hold_id", HOSTILE_IDS)
async def test_hostile_ids_survive_the_round_trip(stage: Stage, hold_id: str) -> None:
    wallet = await stage.wallet(hold_id, USD=10)
    await wallet.grant("TOKENS", 7, hold_id)
    other = await stage.wallet(hold_id + ".", USD=10)
    hold = await wallet.hold(hold_id, USD=4, TOKENS=7)
    assert hold.hold_id == hold_id
    assert [found.hold_id for found in await wallet.open_holds()] == [hold_id]
    assert await other.open_holds() == []
    assert await wallet.grants("TOKENS") == {hold_id: (0, 7)}
    await wallet.commit(hold_id, USD=4, TOKENS=7)
    event = (await wallet.events())[-1]
    assert (event.wallet_id, event.hold_id) == (hold_id, hold_id)
    assert event.lines[-1].grant_id == hold_id
    assert (await wallet.read_hold(hold_id)).state is HoldState.COMMITTED


@pytest.mark.parametrize("number", range(len(HOSTILE_LABELS)))
async def test_hostile_labels_and_subjects_survive_the_round_trip(stage: Stage, number: int) -> None:
    wallet = await stage.wallet(USD=10)
    labels = json.dumps(HOSTILE_LABELS[number], ensure_ascii=False)
    subjects = [f"key:{value}" for value in HOSTILE_LABELS[number].values()]
    await wallet.authorize("h1", labels=labels, subjects=subjects, USD=4)
    assert ((await wallet.read_hold("h1")).labels, (await wallet.read_hold("h1")).subjects) == (labels, subjects)
    await wallet.commit("h1", USD=4)
    event = (await wallet.events())[-1]
    assert json.loads(event.labels) == HOSTILE_LABELS[number]
    assert event.subjects == subjects


async def test_the_longest_asset_code_and_many_assets(stage: Stage) -> None:
    units = {f"A{number:02d}".ljust(32, "_"): 1 + number for number in range(32)}
    wallet = await stage.wallet(**units)
    hold = await wallet.hold("h1", **units)
    assert {amount.asset: amount.held for amount in hold.amounts} == units
    reply = await wallet.commit("h1", **units)
    assert [(b.asset, b.settled) for b in reply.balances] == [(asset, 0) for asset in units]
    assert [balance.asset for balance in (await wallet.read()).balances] == list(units)


# --- paging ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [1, 2, 7, 300])
async def test_open_holds_are_listed_by_expiry_without_gap_or_repeat(stage: Stage, page: int) -> None:
    wallet = await stage.wallet(USD=1000)
    for number in range(20):
        await wallet.hold(f"h{number}", ttl_ms=60_000 + 7_919 * number % 20_000, USD=1)
    await wallet.release("h3")
    holds = await wallet.open_holds(page)
    assert len({hold.hold_id for hold in holds}) == len(holds) == 19
    assert holds == sorted(holds, key=lambda hold: (hold.expire_ms, hold.hold_id))


async def test_many_holds_of_the_same_millisecond_are_paged(stage: Stage) -> None:
    wallet = await stage.wallet(USD=1000)
    for number in range(300):  # more than the script reads at a time
        await wallet.hold(f"{'Aa.'[number % 3]}{number}", USD=1)  # the order of bytes, not of a dictionary
    holds = {hold.hold_id: 60_000_000_000_000 for hold in await wallet.open_holds()}
    await wallet.client.zadd(wallet.keys[5], holds)  # as if all of them expired at once
    listed, after_id = list[str](), ""
    while found := await list_after(wallet, 60_000_000_000_000, after_id, 70):
        listed += found
        after_id = found[-1]
    assert listed == sorted(holds)
    stage.wallets.remove(wallet)  # its expiry times are not the books' any more


async def list_after(wallet: Wallet, after_ms: int, after_id: str, limit: int) -> list[str]:
    request = ListHoldsRequest(**wallet.ids, after_ms=after_ms, after_id=after_id, limit=limit)
    return [hold.hold_id for hold in await wallet.store.list_holds(request)]


# --- a full store ------------------------------------------------------------------------------------------------


async def test_a_full_store_traps_no_money_and_takes_none(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    for hold_id in ("commit", "release"):
        await wallet.hold(hold_id, USD=2)
    await wallet.due_hold("late", USD=3)
    await wallet.due_hold("sweep", USD=3)
    await stage.everywhere(lambda client: client.config_set("maxmemory", 1))
    try:
        at_rest = await wallet.at_rest()
        for refused in (wallet.authorize("more", USD=1), wallet.grant("USD", 1), stage.unloaded("other").load()):
            with pytest.raises(StoreUnavailableError):
                await refused
        assert await wallet.at_rest() == at_rest
        await wallet.commit("commit", USD=1)
        await wallet.release("release")
        await wallet.commit("late", USD=3)
        assert (await wallet.sweep()).expired == 1
        assert await wallet.available("USD") == 6
        assert (await wallet.read_hold("commit")).state is HoldState.COMMITTED
        assert await wallet.open_holds() == []
    finally:
        await stage.everywhere(lambda client: client.config_set("maxmemory", 0))
    await wallet.hold("more", USD=6)


# --- the library -------------------------------------------------------------------------------------------------


async def load_everywhere(stage: Stage, library: Library) -> None:
    await stage.everywhere(lambda client: load_library(client, library))


async def test_two_versions_of_the_library_serve_the_same_wallet(stage: Stage) -> None:
    sources = read_sources()
    next_library = build_library({**sources, "read.lua": sources["read.lua"] + "\n-- a later version\n"})
    assert next_library.name != stage.library.name
    await load_everywhere(stage, next_library)
    await load_everywhere(stage, next_library)  # it is there already, which is no error
    await load_everywhere(stage, stage.library)
    newer = HoldStore(stage.connection, next_library, stage.epochs)

    wallet = await stage.wallet(USD=10)
    old_store, wallet.store = wallet.store, newer
    await wallet.hold("h1", USD=4)
    wallet.store = old_store
    assert (await wallet.authorize("h1", USD=4)).replayed
    await wallet.hold("h2", USD=6)
    await wallet.commit("h1", USD=3)
    wallet.store = newer
    assert (await wallet.commit("h1", USD=3)).replayed
    await wallet.release("h2")
    assert await wallet.available("USD") == 7


@pytest.mark.parametrize("number", [1, 3], ids=["an older one", "a newer one"])
async def test_scripts_of_another_format_refuse_a_wallet_and_leave_it_as_it_is(stage: Stage, number: int) -> None:
    sources = read_sources()
    other = {**sources, "store.lua": sources["store.lua"].replace("local FORMAT = 2", f"local FORMAT = {number}")}
    assert other != sources
    await load_everywhere(stage, build_library(other))
    wallet = await stage.wallet(USD=10)
    await wallet.hold("h1", USD=4)
    before = await wallet.at_rest()

    ours, wallet.store = wallet.store, HoldStore(stage.connection, build_library(other), stage.epochs)
    for call in (
        lambda: wallet.authorize("h2", USD=1),
        lambda: wallet.commit("h1", USD=4),
        lambda: wallet.release("h1"),
        lambda: wallet.set_state(WalletState.FROZEN),
        wallet.sweep,
        wallet.read,
    ):
        with pytest.raises(StoreUnavailableError):
            await call()
    assert await wallet.at_rest() == before
    wallet.store = ours
    await wallet.commit("h1", USD=4)


async def test_a_lost_library_is_loaded_again(stage: Stage) -> None:
    wallet, reloads = await stage.wallet(USD=10), list[str]()

    async def reload() -> None:
        reloads.append("once more")
        await load_everywhere(stage, stage.library)

    stage.store.on_missing_library(reload)
    await wallet.hold("h1", USD=4)
    await stage.everywhere(lambda client: client.function_flush("SYNC"))
    reply = await wallet.commit("h1", USD=4)
    assert not reply.replayed
    assert len(reloads) == 1
    await stage.everywhere(lambda client: client.function_flush("SYNC"))
    assert await wallet.available("USD") == 6


async def test_a_lost_library_that_nobody_loads_is_a_store_that_is_down(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await stage.everywhere(lambda client: client.function_flush("SYNC"))
    with pytest.raises(StoreUnavailableError):
        await wallet.authorize("h1", USD=4)
    await load_everywhere(stage, stage.library)
    await wallet.hold("h1", USD=4)


async def test_only_the_declared_keys_exist_and_none_has_a_ttl(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    cap = Cap("", "USD", CapWindow.DAY, 10, CapMode.ENFORCE)
    await wallet.apply(Change(change_number=2, kind="CAP", cap=cap))
    await wallet.hold("h1", USD=4)
    await wallet.commit("h1", USD=4)
    await wallet.hold("h2", USD=4)

    async def ttls(client: Redis) -> dict[str, int]:
        return {key.decode(): await client.ttl(key) for key in await client.keys("*")}

    present = dict(ChainMap(*await stage.everywhere(ttls)))
    assert present.keys() == set(wallet.keys) | {keys.meta(partition) for partition in range(stage.store.partitions)}
    assert set(present.values()) == {-1}
