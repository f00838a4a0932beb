"""Rules that need time or more than one verb, each on the model and on the scripts: what is asserted of the model's
answers holds for the scripts too, because every test ends by comparing all of them (``twin.py``)."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from contract.twin import IDS, Move, Scripts, World
from drawdown_server.holds.messages import (
    AmountRequest,
    ApplyRequest,
    AuthorizeReply,
    AuthorizeRequest,
    Change,
    CommitRequest,
    ExtendRequest,
    GrantChange,
    LoadedAsset,
    LoadRequest,
    PackedGrant,
    RefundRequest,
    ReleaseRequest,
    SettleReply,
    SweepRequest,
    TotalUsed,
)
from drawdown_server.holds.model import (
    AssetBalance,
    Cap,
    CapMode,
    CapStatus,
    CapWindow,
    DenialReason,
    ExpiryAction,
    GrantSource,
    OveragePolicy,
    WalletState,
)
from drawdown_server.holds.rules.caps import DAY_MS, HOUR_MS, MINUTE_MS
from drawdown_server.ledger.grants import GRANTS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drawdown_server.holds.messages import WalletRequest

START_MS: Final = 1_772_438_400_000
"""Monday, 2026-03-02, 08:00 UTC."""
TTL_MS: Final = 5 * MINUTE_MS
TOMBSTONE_MS: Final = 15 * MINUTE_MS


class Both:
    """A wallet in the model, whose moves the scripts make at the end. Amounts are named by asset."""

    def __init__(self, assets: list[LoadedAsset]) -> None:
        self.world = World(START_MS)
        self.ids = {**IDS, "tombstone_ms": TOMBSTONE_MS}
        self.number = 0
        self.make(
            "load",
            LoadRequest(
                **IDS,
                ticket_ms=START_MS,
                state=WalletState.ACTIVE,
                sequence=0,
                change_number=0,
                assets=assets,
                caps=[],
                cap_usage=[],
                changes=[],
            ),
        )

    def make(self, verb: str, request: WalletRequest) -> Any:  # noqa: ANN401 - the reply of any verb
        return self.world.make(Move(verb=verb, request=request)).seen["reply"]

    def wait(self, span_ms: int) -> None:
        self.world.make(Move(wait_ms=span_ms))

    def apply(self, kind: Any, **change: Any) -> None:  # noqa: ANN401
        assert self.make("apply", ApplyRequest(**IDS, change=Change(0, kind, **change))).applied

    def grant(
        self, grant_id: str, units: int, *, asset: str = "USD", priority: int = 50, begins: int = 0, ends: int = 0
    ) -> None:
        """A grant that begins and ends so many milliseconds after the start; 0 = at once, never."""
        self.number += 1
        grant = GrantChange(
            grant_id=grant_id,
            asset=asset,
            units=units,
            priority=priority,
            source=GrantSource.PURCHASE,
            effective_ms=START_MS + begins if begins else 0,
            expire_ms=START_MS + ends if ends else 0,
            create_ms=self.number,
            labels="",
        )
        self.apply("GRANT", grant=grant)

    def change_grant(self, kind: str, grant_id: str, expire_ms: int = 0) -> None:
        grant = GrantChange(grant_id, "USD", 0, 0, GrantSource.PURCHASE, 0, expire_ms, 0, "")
        self.apply(kind, grant=grant)

    def cap(self, subject: str, limit: int, window: CapWindow = CapWindow.DAY) -> None:
        self.apply("CAP", cap=Cap(subject, "USD", window, limit, CapMode.ENFORCE))

    def authorize(self, hold_id: str, *ways: dict[str, int], subjects: tuple[str, ...] = ()) -> AuthorizeReply:
        reply: AuthorizeReply = self.make(
            "authorize",
            AuthorizeRequest(
                **self.ids,
                hold_id=hold_id,
                fingerprint=hold_id,
                ways=[
                    [AmountRequest(asset, units, 0, OveragePolicy.REJECT) for asset, units in way.items()]
                    for way in ways
                ],
                ttl_ms=TTL_MS,
                subjects=list(subjects),
                expiry_action=ExpiryAction.RELEASE,
                labels="",
                open_holds_max=100,
            ),
        )
        return reply

    def commit(self, hold_id: str, units: int, *, final: bool = True) -> SettleReply:
        totals = [TotalUsed("USD", units)]
        request = CommitRequest(**self.ids, hold_id=hold_id, amounts=totals, final=final)
        reply: SettleReply = self.make("commit", request)
        return reply

    def extend(self, hold_id: str, units: int, ttl_ms: int = 0) -> AuthorizeReply:
        request = ExtendRequest(**self.ids, hold_id=hold_id, ttl_ms=ttl_ms, amounts=[TotalUsed("USD", units)])
        reply: AuthorizeReply = self.make("extend", request)
        return reply

    def release(self, hold_id: str) -> None:
        request = ReleaseRequest(**self.ids, hold_id=hold_id, bury=False, forced=False)
        assert self.make("release", request).status == "OK"

    def refund(self, hold_id: str, units: int) -> None:
        request = RefundRequest(
            **self.ids,
            hold_id=hold_id,
            refund_id="r1",
            digest=str(units),
            amounts=[TotalUsed("USD", units)],
            grants=[],
            recorded=None,
        )
        assert self.make("refund", request).status == "OK"

    def sweep(self) -> None:
        self.make("sweep", SweepRequest(**self.ids))

    def balance(self, asset: str = "USD") -> AssetBalance:
        """As it is without any verb: reading changes nothing."""
        wallet = self.world.wallet
        assert wallet is not None
        balance: AssetBalance = wallet.balances([asset], with_grants=True)[0]
        return balance

    def stack(self) -> list[tuple[str, int, int]]:
        """(grant, free, pinned) in burn order."""
        return [(grant.grant_id, grant.free, grant.pinned) for grant in self.balance().grants]

    def lines(self) -> list[tuple[str, int, str]]:
        """(kind, units, grant) of everything that the ledger was told, but grants."""
        lines = [line for event in self.world.model.events for line in event.lines]
        return [(line.kind.value, line.units, line.grant_id) for line in lines if line.kind.value != "GRANT"]


@contextmanager
def on_both_sides(store_url: str, assets: list[LoadedAsset]) -> Iterator[Both]:
    """A wallet with these assets. At the end the scripts make the same moves, and may differ in nothing."""
    both, scripts = Both(assets), Scripts(store_url)
    yield both
    assert scripts.difference(both.world) == ""
    scripts.close()


@pytest.fixture
def both(store_url: str) -> Iterator[Both]:
    """A wallet without funds, on both sides."""
    with on_both_sides(store_url, []) as both:
        yield both


def test_an_image_credit_or_else_dollars(both: Both) -> None:
    both.grant("credits", 1, asset="IMAGES")
    both.grant("dollars", 50)
    ways = ({"IMAGES": 1}, {"USD": 40})
    replies = [both.authorize(hold_id, *ways) for hold_id in ("h1", "h2", "h3")]
    assert [reply.hold.way if reply.hold else reply.asset for reply in replies] == [0, 1, "IMAGES"]


def test_a_denied_raise_leaves_the_hold_as_it_was(both: Both) -> None:
    both.grant("g1", 30)
    hold = both.authorize("h1", {"USD": 20}).hold
    denied = both.extend("h1", 31, ttl_ms=10 * TTL_MS)
    assert (denied.status, denied.required, denied.available) == ("DENIED", 11, 10)
    assert hold == both.world.steps[-1].seen["read_hold"].hold  # not even its time has changed
    assert both.extend("h1", 30).status == "OK"
    assert both.commit("h1", 30).status == "OK"


def test_pinned_units_outlive_their_grant_and_then_end_with_it(both: Both) -> None:
    both.grant("week", 10, ends=MINUTE_MS)
    both.authorize("h1", {"USD": 6})
    both.wait(MINUTE_MS)
    both.sweep()
    assert both.stack() == [("week", 0, 6)]
    assert both.commit("h1", 4).status == "OK"
    assert both.lines() == [("EXPIRE", 4, "week"), ("DEBIT", 4, "week"), ("EXPIRE", 2, "week")]


def test_the_sweep_alone_lets_grants_of_an_idle_wallet_begin_and_expire(both: Both) -> None:
    both.grant("now", 5, ends=HOUR_MS)
    both.grant("later", 7, begins=DAY_MS, ends=2 * DAY_MS)
    settled = []
    for span_ms in (HOUR_MS - 1, 1, DAY_MS - HOUR_MS, DAY_MS):
        both.wait(span_ms)
        both.sweep()
        settled.append(both.balance().settled)
    assert settled == [5, 0, 7, 0]
    assert both.lines() == [("EXPIRE", 5, "now"), ("EXPIRE", 7, "later")]


def test_void_with_and_without_open_holds(both: Both) -> None:
    both.grant("idle", 5)
    both.grant("busy", 9, priority=10)
    both.authorize("h1", {"USD": 6})
    both.change_grant("VOID", "idle")
    both.change_grant("VOID", "busy")
    assert (both.balance().available, both.stack()) == (0, [("busy", 0, 6)])
    assert both.commit("h1", 2).status == "OK"
    assert both.stack() == []
    assert both.lines() == [("VOID", 5, "idle"), ("VOID", 3, "busy"), ("DEBIT", 2, "busy"), ("VOID", 4, "busy")]


def test_a_change_of_expiry_moves_a_grant_and_may_end_it(both: Both) -> None:
    both.grant("a", 5, ends=DAY_MS)
    both.grant("b", 5, ends=2 * DAY_MS)
    both.change_grant("EXPIRY", "b", START_MS + HOUR_MS)
    assert [grant for grant, *_ in both.stack()] == ["b", "a"]
    both.change_grant("EXPIRY", "b")
    assert [grant for grant, *_ in both.stack()] == ["a", "b"]  # never comes last
    both.change_grant("EXPIRY", "a", START_MS)
    assert both.lines() == [("EXPIRE", 5, "a")]


def test_a_thousand_live_grants_are_held_debited_and_given_back(store_url: str) -> None:
    grants = [
        PackedGrant(f"g{number}", 1, 0, 50, START_MS + DAY_MS + number, GrantSource.PURCHASE, 0, 0)
        for number in range(GRANTS_MAX)
    ]
    with on_both_sides(store_url, [LoadedAsset("USD", 0, 0, grants, [])]) as both:
        assert both.authorize("h1", {"USD": GRANTS_MAX}).status == "OK"
        assert both.commit("h1", 600).status == "OK"
        assert both.balance().available == GRANTS_MAX - 600
        assert both.lines() == [("DEBIT", 1, f"g{number}") for number in range(600)]
        both.wait(DAY_MS + 800)
        both.sweep()
        assert both.balance().settled == GRANTS_MAX - 801
        both.wait(DAY_MS)
        both.sweep()
        assert both.stack() == []


def test_headroom_goes_back_when_less_is_used_released_or_refunded(both: Both) -> None:
    both.grant("g1", 1_000)
    both.cap("key:a", 10)
    used = []
    for hold_id in ("less", "released", "refunded"):
        assert both.authorize(hold_id, {"USD": 10}, subjects=("key:a",)).status == "OK"
        if hold_id == "released":
            both.release(hold_id)
        else:
            both.commit(hold_id, 4 if hold_id == "less" else 10)
            both.refund(hold_id, 4 if hold_id == "less" else 7)
        used.append([status.used for status in both.world.steps[-1].seen["read_caps"].usage])
        if hold_id == "less":
            both.commit("less", 4)
    assert used == [[0], [0], [3]]
    denied = both.authorize("h4", {"USD": 8}, subjects=("key:a",))
    assert denied.cap is not None
    assert denied.cap.used == 3


def test_a_cap_denies_with_its_limit_what_is_used_and_when_it_resets(both: Both) -> None:
    both.grant("g1", 1_000)
    both.cap("key:*", 10, CapWindow.HOUR)
    both.cap("key:night", 50, CapWindow.HOUR)
    both.wait(10 * MINUTE_MS)
    assert both.authorize("h1", {"USD": 8}, subjects=("key:a",)).status == "OK"
    assert both.authorize("h2", {"USD": 40}, subjects=("key:night",)).status == "OK"
    denied = both.authorize("h3", {"USD": 3}, subjects=("key:night", "key:a"))
    assert denied.reason is DenialReason.CAP_EXCEEDED
    assert denied.cap == CapStatus("key:*", "key:a", "USD", CapWindow.HOUR, 10, 8, CapMode.ENFORCE, START_MS + HOUR_MS)
    both.wait(50 * MINUTE_MS)
    assert both.authorize("h4", {"USD": 3}, subjects=("key:night", "key:a")).status == "OK"
