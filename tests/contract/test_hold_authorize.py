"""Authorize: all or nothing, the order of checks, which grants pay."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Final

import pytest

from contract.wallets import CREATE_MS
from drawdown_server.errors import DrawdownError
from drawdown_server.holds.model import UNITS_MAX, DenialReason, ExpiryAction, GrantSource, OveragePolicy, WalletState

if TYPE_CHECKING:
    from contract.wallets import Stage, Wallet


async def test_a_hold_answers_what_it_holds(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10, TOKENS=1000)
    before_ms = await stage.store.now_ms()
    reply = await wallet.authorize(
        "h1",
        ttl_ms=60_000,
        subjects=["key:sk_1", "user:42"],
        labels='{"a":"b"}',
        overage_policy=OveragePolicy.CHARGE_FULL,
        expiry_action=ExpiryAction.COMMIT_FULL,
        TOKENS=400,
        USD=3,
    )
    hold = reply.hold
    assert hold is not None
    assert (hold.hold_id, hold.state, hold.wallet_sequence, hold.settle_ms, hold.late) == ("h1", "HELD", 0, 0, False)
    assert [(a.asset, a.authorized, a.held, a.debited) for a in hold.amounts] == [
        ("TOKENS", 400, 400, 0),
        ("USD", 3, 3, 0),
    ]
    assert before_ms <= hold.create_ms <= await stage.store.now_ms()
    assert hold.expire_ms == hold.create_ms + 60_000
    assert (hold.subjects, hold.labels) == (["key:sk_1", "user:42"], '{"a":"b"}')
    assert {amount.overage_policy for amount in hold.amounts} == {OveragePolicy.CHARGE_FULL}
    assert hold.expiry_action is ExpiryAction.COMMIT_FULL
    assert [(b.asset, b.settled, b.held, b.available) for b in reply.balances] == [
        ("TOKENS", 1000, 400, 600),
        ("USD", 10, 3, 7),
    ]
    assert await wallet.read_hold("h1") == hold


@pytest.mark.parametrize(
    ("balance", "units", "approved"),
    [(10, 9, True), (10, 10, True), (10, 11, False), (1, 1, True), (UNITS_MAX, UNITS_MAX, True)],
)
async def test_the_boundary_of_the_funds(stage: Stage, balance: int, units: int, approved: bool) -> None:
    wallet = await stage.wallet(USD=balance)
    reply = await wallet.authorize("h1", USD=units)
    if approved:
        assert reply.status == "OK"
        assert await wallet.available("USD") == balance - units
    else:
        assert (reply.status, reply.reason, reply.asset) == ("DENIED", DenialReason.INSUFFICIENT_FUNDS, "USD")
        assert (reply.required, reply.available) == (units, balance)
        assert [(b.asset, b.held, b.available) for b in reply.balances] == [("USD", 0, balance)]


@pytest.mark.parametrize("poor", ["USD", "TOKENS", "GPU"])
async def test_several_assets_are_held_all_or_not_at_all(stage: Stage, poor: str) -> None:
    wallet = await stage.wallet(USD=10, TOKENS=10, GPU=10)
    at_rest = await wallet.at_rest()
    reply = await wallet.authorize("h1", **{asset: 11 if asset == poor else 10 for asset in ("USD", "TOKENS", "GPU")})
    assert (reply.status, reply.reason, reply.asset) == ("DENIED", DenialReason.INSUFFICIENT_FUNDS, poor)
    assert await wallet.at_rest() == at_rest
    await wallet.hold("h1", USD=10, TOKENS=10, GPU=10)


async def test_an_asset_that_the_wallet_never_had_is_no_funds(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    reply = await wallet.authorize("h1", USD=1, GPU=1)
    assert (reply.reason, reply.asset, reply.required, reply.available) == ("INSUFFICIENT_FUNDS", "GPU", 1, 0)
    assert [(b.asset, b.available) for b in reply.balances] == [("USD", 10), ("GPU", 0)]


async def test_a_denial_is_not_remembered(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    assert (await wallet.authorize("h1", USD=11)).status == "DENIED"
    await wallet.grant("USD", 1)
    reply = await wallet.authorize("h1", USD=11)
    assert (reply.status, reply.replayed) == ("OK", False)


async def test_a_wallet_that_does_not_exist_is_denied(stage: Stage) -> None:
    async def find_nothing(_tenant_id: str, _wallet_id: str) -> bool:
        return False

    stage.store.on_missing_wallet(find_nothing)
    reply = await stage.unloaded().authorize("h1", USD=1)
    assert (reply.status, reply.reason) == ("DENIED", DenialReason.WALLET_NOT_FOUND)


@pytest.mark.parametrize(
    ("state", "reason"),
    [(WalletState.FROZEN, DenialReason.WALLET_FROZEN), (WalletState.CLOSED, DenialReason.WALLET_CLOSED)],
)
async def test_only_an_active_wallet_takes_holds(stage: Stage, state: WalletState, reason: DenialReason) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.set_state(state)
    at_rest = await wallet.at_rest()
    reply = await wallet.authorize("h1", USD=1)
    assert (reply.status, reply.reason) == ("DENIED", reason)
    assert [(b.asset, b.available) for b in reply.balances] == [("USD", 10)]
    assert await wallet.at_rest() == at_rest
    await wallet.set_state(WalletState.ACTIVE)
    await wallet.hold("h1", USD=1)


async def test_the_number_of_open_holds_is_limited(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    for number in range(3):
        assert (await wallet.authorize(f"h{number}", open_holds_max=3, USD=1)).status == "OK"
    denied = await wallet.authorize("h3", open_holds_max=3, USD=1)
    assert (denied.status, denied.reason) == ("DENIED", DenialReason.TOO_MANY_HOLDS)
    await wallet.release("h1")  # a settled hold does not count
    assert (await wallet.authorize("h3", open_holds_max=3, USD=1)).status == "OK"


# --- the order of checks -----------------------------------------------------------------------------------------

ORDER: Final = [
    "stale epoch",
    "hold known",
    "not loaded",
    "backlog",
    "frozen",
    "too many holds",
    "no such asset",
    "no funds",
]
"""The first that applies decides."""
IMPOSSIBLE: Final = {("hold known", "not loaded"), ("not loaded", "frozen")}
ANSWERS: Final = {
    "stale epoch": "ERROR_REASON_STORE_UNAVAILABLE",
    "hold known": "ERROR_REASON_ID_REUSED",
    "not loaded": "NOT_LOADED",
    "backlog": "ERROR_REASON_LEDGER_BACKLOG",
    "frozen": "WALLET_FROZEN",
    "too many holds": "TOO_MANY_HOLDS",
    "no such asset": "ASSET_NOT_FOUND",
    "no funds": "INSUFFICIENT_FUNDS",
}


async def answer_with(stage: Stage, violations: set[str]) -> str:
    """What Authorize says to a request that breaks these rules and no other."""
    wallet = stage.unloaded() if "not loaded" in violations else await stage.wallet(USD=10)
    if "hold known" in violations:
        await wallet.authorize("h1", labels="other", USD=1)
    if "frozen" in violations:
        await wallet.set_state(WalletState.FROZEN)
    neighbour = await stage.wallet("w3", USD=1, EUR=1)  # so that there are events in the outbox, whatever is wrong
    assert neighbour.partition == wallet.partition
    backlog = await wallet.client.xlen(wallet.keys[1])
    if "stale epoch" in violations:
        await stage.set_epoch(wallet, 2)
    at_rest = await wallet.at_rest()
    # The asset without funds stands before the one that does not exist: the order of checks decides, not theirs.
    units = {"USD": 11 if "no funds" in violations else 1}
    if "no such asset" in violations:
        units["NOPE"] = 1
    try:
        reply = await wallet.authorize(
            "h1",
            open_holds_max=0 if "too many holds" in violations else 10,
            outbox_backlog_limit=backlog - 1 if "backlog" in violations else backlog,
            unknown=("NOPE",),
            **units,
        )
    except DrawdownError as error:
        answer = str(error.reason)
    else:
        answer = str(reply.reason or reply.status)
    if violations:
        assert await wallet.at_rest() == at_rest
    await stage.set_epoch(wallet, 1)
    return answer


@pytest.mark.parametrize("violation", ORDER)
async def test_each_check_alone(stage: Stage, violation: str) -> None:
    assert await answer_with(stage, {violation}) == ANSWERS[violation]


@pytest.mark.parametrize(("earlier", "later"), [pair for pair in combinations(ORDER, 2) if pair not in IMPOSSIBLE])
async def test_of_two_checks_the_earlier_decides(stage: Stage, earlier: str, later: str) -> None:
    assert await answer_with(stage, {earlier, later}) == ANSWERS[earlier]


async def test_everything_wrong_at_once(stage: Stage) -> None:
    assert await answer_with(stage, set(ORDER) - {"not loaded"}) == ANSWERS["stale epoch"]


async def test_nothing_wrong(stage: Stage) -> None:
    assert await answer_with(stage, set()) == "OK"


# --- burn order --------------------------------------------------------------------------------------------------

LATER: Final = CREATE_MS * 2
BURN_ORDER: Final[dict[str, list[tuple[str, dict[str, object]]]]] = {
    "low priority number first": [
        ("z", {"priority": -1}),
        ("y", {"priority": 0, "expire_ms": LATER}),
        ("x", {"priority": 1, "source": GrantSource.PROMOTION}),
        ("w", {"priority": 10, "create_ms": 1}),
        ("v", {"priority": 100}),
    ],
    "soonest expiry first, never is last": [
        ("z", {"expire_ms": LATER}),
        ("y", {"expire_ms": LATER + 1, "source": GrantSource.PROMOTION}),
        ("x", {"expire_ms": LATER + 2, "create_ms": 1}),
        ("w", {"source": GrantSource.PROMOTION}),
    ],
    "promotions before the rest": [
        ("z", {"source": GrantSource.PROMOTION, "create_ms": CREATE_MS + 1}),
        ("a", {"source": GrantSource.PURCHASE, "create_ms": 1}),
        ("b", {"source": GrantSource.TOP_UP, "create_ms": 2}),
        ("c", {"source": GrantSource.REFUND, "create_ms": 3}),
        ("d", {"source": GrantSource.ADJUSTMENT, "create_ms": 4}),
    ],
    "the oldest first": [("z", {"create_ms": 1}), ("y", {"create_ms": 2}), ("x", {"create_ms": CREATE_MS})],
    "by id, byte by byte": [
        (grant_id, {}) for grant_id in ("-", ".", "/", "0", "10", "9", ":", "@", "A", "Z", "_", "a", "aa", "b")
    ],
}


@pytest.mark.parametrize("arrival", ["in order", "backwards", "shuffled"])
@pytest.mark.parametrize("case", BURN_ORDER)
async def test_burn_order(stage: Stage, case: str, arrival: str) -> None:
    expected = BURN_ORDER[case]
    granted = {
        "in order": expected,
        "backwards": expected[::-1],
        "shuffled": expected[1::2] + expected[::2],
    }[arrival]
    wallet = await stage.wallet()
    for grant_id, properties in granted:
        await wallet.grant("USD", 10, grant_id, **properties)  # type: ignore[arg-type]
    burned = [grant_id for grant_id, _ in expected]
    assert list(await wallet.grants("USD")) == burned

    await wallet.hold("h1", USD=15)
    pins = await wallet.grants("USD")
    assert [pins[grant_id] for grant_id in burned[:3]] == [(0, 10), (5, 5), (10, 0)]
    await wallet.commit("h1", USD=15)
    lines = (await wallet.events())[-1].lines
    assert [(line.grant_id, line.units) for line in lines] == [(burned[0], 10), (burned[1], 5)]


async def test_a_later_grant_takes_its_place_before_the_others(stage: Stage) -> None:
    wallet = await stage.wallet()
    await wallet.grant("USD", 10, "slow", priority=5)
    await wallet.hold("h1", USD=4)
    await wallet.grant("USD", 10, "fast", priority=1)
    await wallet.hold("h2", USD=12)
    assert await wallet.grants("USD") == {"fast": (0, 10), "slow": (4, 6)}


async def test_each_hold_pins_its_own_units_of_named_grants(stage: Stage) -> None:
    wallet: Wallet = await stage.wallet()
    await wallet.grant("USD", 3, "a", priority=1)
    await wallet.grant("USD", 3, "b", priority=2)
    await wallet.grant("TOKENS", 100, "t")
    await wallet.hold("h1", USD=2, TOKENS=60)
    await wallet.hold("h2", USD=2)
    assert await wallet.grants("USD") == {"a": (0, 3), "b": (2, 1)}
    assert await wallet.grants("TOKENS") == {"t": (40, 60)}
    await wallet.release("h1")
    assert await wallet.grants("USD") == {"a": (2, 1), "b": (2, 1)}
    await wallet.commit("h2", USD=2)
    assert await wallet.grants("USD") == {"a": (2, 0), "b": (2, 0)}
