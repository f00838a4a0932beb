"""The rules of a wallet, sentence by sentence, on the pure model; every verb ends with the model's own audit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from drawdown_server.holds.messages import (
    AmountRequest,
    ApplyReply,
    ApplyRequest,
    AuthorizeReply,
    AuthorizeRequest,
    CapUsage,
    Change,
    ChargeRequest,
    CommitRequest,
    ExtendRequest,
    GrantChange,
    ListHoldsRequest,
    LoadedAsset,
    LoadReply,
    LoadRequest,
    PackedGrant,
    ReadHoldRequest,
    ReadWalletRequest,
    RefundRequest,
    ReleaseRequest,
    SettleReply,
    SweepReply,
    SweepRequest,
    TotalUsed,
)
from drawdown_server.holds.model import (
    AssetBalance,
    Cap,
    CapMode,
    CapWindow,
    DenialReason,
    ExpiryAction,
    GrantSource,
    Hold,
    HoldState,
    OveragePolicy,
    WalletReading,
    WalletState,
)
from drawdown_server.holds.recorded import RecordedAmount, RecordedDebit, RecordedHold, RecordedPart
from drawdown_server.holds.rules import BrokenRuleError, Event, ModelStore
from drawdown_server.holds.rules import wallet as rules_wallet
from drawdown_server.holds.rules.caps import end_of, period_of
from drawdown_server.holds.rules.grants import Grant

TENANT: Final = "acme"
START_MS: Final = 1_767_225_540_000
"""2025-12-31 23:59:00 UTC, a Wednesday: every window but the week's ends in a minute."""
TTL_MS: Final = 300_000
TOMBSTONE_MS: Final = 900_000
MINUTE_MS: Final = 60_000
DAY_MS: Final = 86_400_000
NEVER: Final = 0
LATE: Final = True

REJECT, AVAILABLE, FULL = OveragePolicy.REJECT, OveragePolicy.CHARGE_AVAILABLE, OveragePolicy.CHARGE_FULL
ChangeKind = Literal["GRANT", "STATE", "VOID", "EXPIRY", "OVERDRAFT", "CAP", "CAP_REMOVAL"]
COMMIT_FULL: Final = ExpiryAction.COMMIT_FULL


@dataclass
class Wallet:
    """One wallet of a model in the hands of a test. Amounts are named by asset: ``authorize("h1", USD=5)``."""

    model: ModelStore = field(default_factory=ModelStore)
    wallet_id: str = "w1"
    changes: int = 0
    grants: dict[str, PackedGrant] = field(default_factory=dict)
    """Every grant there ever was, as Postgres would know it."""

    @property
    def ids(self) -> dict[str, str]:
        return {"tenant_id": TENANT, "wallet_id": self.wallet_id}

    # --- time ----------------------------------------------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        return self.model.now_ms

    def wait(self, span_ms: int) -> None:
        self.model.now_ms += span_ms

    def sweep(self) -> SweepReply:
        return self.model.sweep(SweepRequest(**self.ids, tombstone_ms=TOMBSTONE_MS))

    # --- money in ------------------------------------------------------------------------------------------------

    def load(
        self,
        assets: list[LoadedAsset] | None = None,
        *,
        age_ms: int = 0,
        sequence: int = 0,
        caps: list[Cap] | None = None,
        cap_usage: list[CapUsage] | None = None,
        changes: list[Change] | None = None,
    ) -> LoadReply:
        return self.model.load(
            LoadRequest(
                **self.ids,
                ticket_ms=self.now_ms - age_ms,
                state=WalletState.ACTIVE,
                sequence=sequence,
                change_number=0,
                assets=assets or [],
                caps=caps or [],
                cap_usage=cap_usage or [],
                changes=changes or [],
            )
        )

    def apply(
        self,
        kind: ChangeKind,
        *,
        grant: GrantChange | None = None,
        state: WalletState | None = None,
        asset: str = "",
        limit: int = 0,
        cap: Cap | None = None,
    ) -> ApplyReply:
        self.changes += 1
        change = Change(self.changes, kind, grant=grant, state=state, asset=asset, limit=limit, cap=cap)
        return self.model.apply(ApplyRequest(**self.ids, change=change))

    def grant(
        self,
        asset: str,
        units: int,
        grant_id: str = "",
        *,
        priority: int = 50,
        source: GrantSource = GrantSource.PURCHASE,
        effective_ms: int = 0,
        expire_ms: int = NEVER,
    ) -> ApplyReply:
        grant_id = grant_id or f"g{self.changes + 1}"
        effective_ms = effective_ms or self.now_ms
        self.grants[grant_id] = PackedGrant(grant_id, 0, 0, priority, expire_ms, source, effective_ms, self.now_ms)
        change = GrantChange(grant_id, asset, units, priority, source, effective_ms, expire_ms, self.now_ms, "")
        return self.apply("GRANT", grant=change)

    def change_grant(self, kind: ChangeKind, asset: str, grant_id: str, expire_ms: int = NEVER) -> ApplyReply:
        before = self.grants[grant_id]
        after = (before.grant_id, 0, 0, before.priority, expire_ms if kind == "EXPIRY" else before.expire_ms)
        self.grants[grant_id] = PackedGrant(
            *after, before.source, before.effective_ms, before.create_ms, before.voided or kind == "VOID"
        )
        change = GrantChange(grant_id, asset, 0, 0, before.source, 0, expire_ms, 0, "")
        return self.apply(kind, grant=change)

    def overdraft(self, asset: str, limit: int) -> None:
        self.apply("OVERDRAFT", asset=asset, limit=limit)

    def cap(self, subject: str, limit: int, window: CapWindow = CapWindow.DAY, mode: CapMode = CapMode.ENFORCE) -> None:
        self.apply("CAP", cap=Cap(subject, "USD", window, limit, mode))

    # --- holds ---------------------------------------------------------------------------------------------------

    def authorize(
        self,
        hold_id: str,
        *,
        ways: list[list[AmountRequest]] | None = None,
        policy: OveragePolicy = AVAILABLE,
        min_units: int = 0,
        **units: int,
    ) -> AuthorizeReply:
        ways = ways or [[AmountRequest(a, u, min_units, policy) for a, u in units.items()]]
        return self.ask(hold_id, ways)

    def ask(
        self,
        hold_id: str,
        ways: list[list[AmountRequest]],
        *,
        subjects: list[str] | None = None,
        ttl_ms: int = TTL_MS,
        expiry_action: ExpiryAction = ExpiryAction.RELEASE,
        open_holds_max: int = 100,
    ) -> AuthorizeReply:
        return self.model.authorize(
            AuthorizeRequest(
                **self.ids,
                hold_id=hold_id,
                fingerprint=repr(ways),
                ways=ways,
                ttl_ms=ttl_ms,
                subjects=subjects or [],
                expiry_action=expiry_action,
                labels="",
                open_holds_max=open_holds_max,
                tombstone_ms=TOMBSTONE_MS,
            )
        )

    def charge(
        self, hold_id: str, policy: OveragePolicy = REJECT, subjects: list[str] | None = None, **units: int
    ) -> AuthorizeReply:
        amounts = [AmountRequest(asset, wanted, 0, policy) for asset, wanted in units.items()]
        return self.model.charge(
            ChargeRequest(
                **self.ids,
                hold_id=hold_id,
                fingerprint=repr(amounts),
                amounts=amounts,
                subjects=subjects or [],
                labels="",
                tombstone_ms=TOMBSTONE_MS,
            )
        )

    def commit(self, hold_id: str, *, final: bool = True, **totals: int) -> SettleReply:
        return self.model.commit(
            CommitRequest(**self.ids, hold_id=hold_id, amounts=used(totals), final=final, tombstone_ms=TOMBSTONE_MS)
        )

    def progress(self, hold_id: str, **totals: int) -> SettleReply:
        return self.commit(hold_id, final=False, **totals)

    def release(self, hold_id: str, *, bury: bool = False, forced: bool = False) -> SettleReply:
        return self.model.release(
            ReleaseRequest(**self.ids, hold_id=hold_id, tombstone_ms=TOMBSTONE_MS, bury=bury, forced=forced)
        )

    def extend(self, hold_id: str, ttl_ms: int = 0, **totals: int) -> AuthorizeReply:
        return self.model.extend(
            ExtendRequest(**self.ids, hold_id=hold_id, ttl_ms=ttl_ms, amounts=used(totals), tombstone_ms=TOMBSTONE_MS)
        )

    def refund(
        self, hold_id: str, refund_id: str = "r1", recorded: RecordedHold | None = None, **units: int
    ) -> SettleReply:
        return self.model.refund(
            RefundRequest(
                **self.ids,
                hold_id=hold_id,
                refund_id=refund_id,
                digest=repr(units),
                amounts=used(units),
                grants=list(self.grants.values()),
                recorded=recorded,
                tombstone_ms=TOMBSTONE_MS,
            )
        )

    # --- looking -------------------------------------------------------------------------------------------------

    def read(self) -> WalletReading:
        reply = self.model.read_wallet(ReadWalletRequest(**self.ids, assets=[], with_grants=True))
        assert reply.wallet is not None
        return reply.wallet

    def balance(self, asset: str = "USD") -> AssetBalance:
        return next(balance for balance in self.read().balances if balance.asset == asset)

    def available(self, asset: str = "USD") -> int:
        return self.balance(asset).available

    def stack(self, asset: str = "USD") -> list[tuple[str, int, int]]:
        """(id, free, pinned) of the live grants, in burn order."""
        return [(grant.grant_id, grant.free, grant.pinned) for grant in self.balance(asset).grants]

    def hold(self, hold_id: str) -> Hold:
        reply = self.model.read_hold(ReadHoldRequest(**self.ids, hold_id=hold_id))
        assert reply.hold is not None
        return reply.hold

    def open_holds(self, after_ms: int = 0, after_id: str = "", limit: int = 100) -> list[str]:
        request = ListHoldsRequest(**self.ids, after_ms=after_ms, after_id=after_id, limit=limit)
        return [hold.hold_id for hold in self.model.list_holds(request).holds]

    @property
    def events(self) -> list[Event]:
        return self.model.events

    def lines(self, last: int = 1) -> list[tuple[str, str, int, str]]:
        """The lines of the last events."""
        return [(line.kind.value, *line[1:]) for event in self.events[-last:] for line in event.lines]

    def counter(self, name: str) -> int:
        return self.model.wallets[TENANT, self.wallet_id].caps.used.get(name, 0)


def used(units: dict[str, int]) -> list[TotalUsed]:
    return [TotalUsed(asset, total) for asset, total in units.items()]


def usd(units: int, min_units: int = 0, policy: OveragePolicy = AVAILABLE, *, known: bool = True) -> AmountRequest:
    return AmountRequest("USD", units, min_units, policy, known)


def debited(reply: SettleReply | AuthorizeReply) -> dict[str, int]:
    assert reply.hold is not None
    return {amount.asset: amount.debited for amount in reply.hold.amounts}


@pytest.fixture
def wallet() -> Wallet:
    """An empty wallet."""
    found = Wallet()
    found.model.now_ms = START_MS
    assert found.load().loaded
    return found


@pytest.fixture
def rich(wallet: Wallet) -> Wallet:
    """A wallet with one grant, g1, of 100 USD units."""
    wallet.grant("USD", 100, "g1")
    return wallet


# --- order of checks in authorize ------------------------------------------------------------------------------------

FAULTS: Final = ("hold_id", "state", "open_holds", "asset", "funds", "cap")
"""What can be wrong with an Authorize, in the order in which it is found."""
ANSWERS: Final = {
    "hold_id": "ID_REUSED",
    "state": "WALLET_FROZEN",
    "open_holds": "TOO_MANY_HOLDS",
    "asset": "ASSET_NOT_FOUND",
    "funds": "INSUFFICIENT_FUNDS",
    "cap": "CAP_EXCEEDED",
}


@pytest.mark.parametrize("first", range(len(FAULTS) + 1), ids=[*FAULTS, "none"])
def test_the_first_check_that_fails_decides(rich: Wallet, first: int) -> None:
    wrong = FAULTS[first:]  # this fault and all that are checked after it
    rich.cap("", 5, CapWindow.PER_REQUEST)
    assert rich.authorize("known", USD=1).status == "OK"
    if "state" in wrong:
        rich.apply("STATE", state=WalletState.FROZEN)
    units = 1000 if "funds" in wrong else 6 if "cap" in wrong else 1
    reply = rich.ask(
        "known" if "hold_id" in wrong else "new",
        [[usd(units, known="asset" not in wrong)]],
        open_holds_max=1 if "open_holds" in wrong else 100,
    )
    expected = ANSWERS[wrong[0]] if wrong else "OK"
    assert (reply.reason or reply.status) == expected


def test_a_wallet_that_is_not_loaded_is_the_first_thing_that_stops_any_verb() -> None:
    nobody = Wallet()
    assert nobody.authorize("h1", USD=1).status == "NOT_LOADED"
    assert nobody.charge("h1", USD=1).status == "NOT_LOADED"
    assert nobody.commit("h1", USD=1).status == "NOT_LOADED"
    assert nobody.release("h1").status == "NOT_LOADED"
    assert nobody.refund("h1", USD=1).status == "NOT_LOADED"
    assert nobody.extend("h1").status == "NOT_LOADED"
    assert nobody.sweep().status == "NOT_LOADED"
    assert nobody.apply("STATE", state=WalletState.FROZEN).status == "NOT_LOADED"


def test_the_same_hold_id_with_the_same_content_gets_the_same_answer_replayed(rich: Wallet) -> None:
    first = rich.authorize("h1", USD=10)
    again = rich.authorize("h1", USD=10)
    assert (again.status, again.hold, again.balances, again.replayed) == ("OK", first.hold, first.balances, True)


def test_the_same_hold_id_with_other_content_is_an_error(rich: Wallet) -> None:
    rich.authorize("h1", USD=10)
    reply = rich.authorize("h1", USD=11)
    assert (reply.status, reply.fingerprint) == ("ID_REUSED", rich.hold("h1").fingerprint)


def test_a_replay_changes_nothing_not_even_what_is_due(rich: Wallet) -> None:
    rich.authorize("h1", USD=10)
    rich.wait(TTL_MS)
    reply = rich.authorize("h1", USD=10)
    assert reply.hold is not None
    assert reply.hold.state is HoldState.HELD
    assert rich.read().open_holds == 1


def test_due_grants_and_due_holds_expire_before_funds_are_checked(wallet: Wallet) -> None:
    wallet.grant("USD", 10, "promo", expire_ms=START_MS + TTL_MS)
    wallet.grant("USD", 10, "paid")
    wallet.authorize("h1", USD=20)
    wallet.wait(TTL_MS)
    assert wallet.authorize("h2", USD=11).available == 10
    assert wallet.hold("h1").state is HoldState.EXPIRED
    assert wallet.lines() == [("EXPIRE", "USD", 10, "promo")]
    assert wallet.events[-1].hold_id == "h1"
    assert wallet.authorize("h3", USD=10).status == "OK"


def test_a_due_hold_does_not_count_against_the_open_hold_limit(rich: Wallet) -> None:
    rich.ask("h1", [[usd(1)]], open_holds_max=1)
    assert rich.ask("h2", [[usd(1)]], open_holds_max=1).reason is DenialReason.TOO_MANY_HOLDS
    rich.wait(TTL_MS)
    assert rich.ask("h2", [[usd(1)]], open_holds_max=1).status == "OK"


# --- several assets, ways to pay, partial approval -------------------------------------------------------------------


def test_all_or_nothing_over_several_assets(rich: Wallet) -> None:
    rich.grant("TOKENS", 5)
    reply = rich.authorize("h1", USD=10, TOKENS=6)
    assert (reply.reason, reply.asset, reply.required, reply.available) == ("INSUFFICIENT_FUNDS", "TOKENS", 6, 5)
    assert (rich.available(), rich.available("TOKENS")) == (100, 5)


def test_funds_of_all_assets_are_checked_before_any_cap(rich: Wallet) -> None:
    rich.cap("", 5)
    assert rich.authorize("h1", USD=10, TOKENS=1).reason is DenialReason.INSUFFICIENT_FUNDS


def test_the_first_affordable_way_wins_and_the_answer_says_which(rich: Wallet) -> None:
    ways = [[AmountRequest("IMAGE", 1)], [usd(101)], [usd(40)], [usd(1)]]
    reply = rich.authorize("h1", ways=ways)
    assert reply.hold is not None
    assert (reply.hold.way, [(a.asset, a.held) for a in reply.hold.amounts]) == (2, [("USD", 40)])


def test_when_no_way_is_affordable_the_first_one_says_why(rich: Wallet) -> None:
    unknown = AmountRequest("IMAGE", 1, known=False)
    assert rich.authorize("h1", ways=[[unknown], [usd(101)]]).reason is DenialReason.ASSET_NOT_FOUND
    assert rich.authorize("h1", ways=[[usd(101)], [unknown]]).reason is DenialReason.INSUFFICIENT_FUNDS
    assert rich.authorize("h1", ways=[[unknown], [usd(100)]]).status == "OK"


@pytest.mark.parametrize(
    ("units", "min_units", "held"), [(100, 1, 100), (150, 50, 100), (150, 100, 100), (150, 101, None), (150, 0, None)]
)
def test_min_units_holds_as_much_as_is_available_between_it_and_units(
    rich: Wallet, units: int, min_units: int, held: int | None
) -> None:
    reply = rich.authorize("h1", USD=units, min_units=min_units)
    assert (reply.hold.amounts[0].authorized if reply.hold else None) == held
    if held is None:
        assert (reply.required, reply.available) == (min_units or units, 100)


def test_min_units_is_also_what_the_caps_leave(rich: Wallet) -> None:
    rich.cap("", 30)
    rich.cap("key:a", 20, CapWindow.PER_REQUEST)
    reply = rich.ask("h1", [[usd(100, 5)]], subjects=["key:a"])
    assert reply.hold is not None
    assert reply.hold.amounts[0].held == 20
    rich.ask("h2", [[usd(10)]])
    denied = rich.ask("h3", [[usd(100, 5)]], subjects=["key:a"])
    assert denied.cap is not None
    assert (denied.reason, denied.cap.cap, denied.cap.used) == ("CAP_EXCEEDED", "", 30)


# --- grants ----------------------------------------------------------------------------------------------------------


def grant(
    grant_id: str, priority: int = 50, expire_ms: int = NEVER, source: str = "PURCHASE", create_ms: int = 1
) -> Grant:
    return Grant(grant_id, 1, 0, priority, expire_ms, GrantSource(source), 0, create_ms)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param(grant("b", priority=1), grant("a", 2, 9, "PROMOTION", 0), id="low priority"),
        pytest.param(grant("b", expire_ms=8), grant("a", 50, 9, "PROMOTION", 0), id="soonest expiry"),
        pytest.param(grant("b", expire_ms=8), grant("a", 50, NEVER, "PROMOTION", 0), id="never expires last"),
        pytest.param(grant("b", source="PROMOTION"), grant("a", create_ms=0), id="promotion"),
        pytest.param(grant("b", create_ms=0), grant("a"), id="oldest"),
        pytest.param(grant("a", source="TOP_UP"), grant("b", source="PURCHASE"), id="id"),
    ],
)
def test_burn_order(first: Grant, then: Grant) -> None:
    assert sorted([then, first], key=Grant.burn_key) == [first, then]


def test_a_hold_pins_units_of_grants_in_burn_order_and_commit_says_which_grants_paid(wallet: Wallet) -> None:
    wallet.grant("USD", 10, "paid")
    wallet.grant("USD", 10, "promo", source=GrantSource.PROMOTION)
    wallet.authorize("h1", USD=15)
    assert wallet.stack() == [("promo", 0, 10), ("paid", 5, 5)]
    wallet.commit("h1", USD=12)
    assert wallet.lines() == [("DEBIT", "USD", 10, "promo"), ("DEBIT", "USD", 2, "paid")]
    assert wallet.stack() == [("paid", 8, 0)]


def test_at_a_grants_expiry_the_unpinned_rest_expires_at_once(wallet: Wallet) -> None:
    wallet.grant("USD", 10, "g1", expire_ms=START_MS + 1000)
    wallet.wait(999)
    wallet.sweep()
    assert wallet.available() == 10
    wallet.wait(1)
    assert wallet.available() == 0
    assert wallet.read().sequence == 1  # looking saves nothing
    wallet.sweep()
    assert (wallet.events[-1].kind, wallet.lines()) == ("TIME", [("EXPIRE", "USD", 10, "g1")])


def test_pinned_units_cannot_expire_under_a_running_request(wallet: Wallet) -> None:
    wallet.grant("USD", 10, "g1", expire_ms=START_MS + 1000)
    wallet.authorize("h1", USD=6)
    wallet.wait(1000)
    wallet.sweep()
    assert wallet.lines() == [("EXPIRE", "USD", 4, "g1")]
    assert wallet.commit("h1", USD=6).status == "OK"
    assert wallet.lines() == [("DEBIT", "USD", 6, "g1")]


def test_what_a_hold_gives_back_to_an_expired_grant_expires_then(wallet: Wallet) -> None:
    wallet.grant("USD", 5, "short", expire_ms=START_MS + 1000)
    wallet.grant("USD", 5, "long")
    for hold_id in ("h1", "h2"):
        wallet.authorize(hold_id, USD=2)
    wallet.wait(1000)
    wallet.commit("h1", USD=1)
    assert wallet.lines(2) == [
        ("EXPIRE", "USD", 1, "short"),  # the free rest, as the commit touches the asset
        ("DEBIT", "USD", 1, "short"),
        ("EXPIRE", "USD", 1, "short"),  # what the commit gave back
    ]
    wallet.release("h2")
    assert (wallet.events[-1].kind, wallet.events[-1].hold_id) == ("TIME", "h2")
    assert wallet.lines() == [("EXPIRE", "USD", 2, "short")]
    assert wallet.stack() == [("long", 5, 0)]


def test_a_hold_that_gives_everything_back_to_live_grants_is_no_event(rich: Wallet) -> None:
    rich.authorize("h1", USD=10)
    rich.release("h1")
    rich.authorize("h2", USD=10)
    rich.wait(TTL_MS)
    rich.sweep()
    assert rich.read().sequence == 1


def test_a_grant_of_the_future_becomes_effective_on_time(wallet: Wallet) -> None:
    wallet.grant("USD", 10, "g1", effective_ms=START_MS + 1000)
    assert (wallet.events[-1].kind, wallet.lines(), wallet.available()) == ("GRANT", [], 0)
    wallet.wait(1000)
    assert wallet.authorize("h1", USD=10).status == "OK"
    assert (wallet.events[-1].kind, wallet.lines()) == ("TIME", [("GRANT", "USD", 10, "g1")])


def test_grants_become_effective_in_the_order_of_their_times(wallet: Wallet) -> None:
    wallet.charge("c1", FULL, USD=12)
    wallet.grant("USD", 10, "later", effective_ms=START_MS + 20, priority=1)
    wallet.grant("USD", 10, "sooner", effective_ms=START_MS + 10, priority=2)
    wallet.wait(20)
    wallet.sweep()
    assert wallet.lines() == [
        ("GRANT", "USD", 10, "sooner"),
        ("REPAY", "USD", 10, "sooner"),
        ("GRANT", "USD", 10, "later"),
        ("REPAY", "USD", 2, "later"),
    ]


def test_a_grant_whose_whole_life_passed_unseen_came_and_went(wallet: Wallet) -> None:
    wallet.grant("USD", 10, "g1", effective_ms=START_MS + 10, expire_ms=START_MS + 20)
    wallet.wait(20)
    wallet.sweep()
    assert wallet.lines() == [("GRANT", "USD", 10, "g1"), ("EXPIRE", "USD", 10, "g1")]


def test_void_takes_the_free_units_at_once_and_the_pinned_ones_when_they_come_back(rich: Wallet) -> None:
    rich.authorize("h1", USD=40)
    rich.change_grant("VOID", "USD", "g1")
    assert rich.lines() == [("VOID", "USD", 60, "g1")]
    rich.commit("h1", USD=30)
    assert rich.lines() == [("DEBIT", "USD", 30, "g1"), ("VOID", "USD", 10, "g1")]
    assert rich.stack() == []


def test_void_of_a_scheduled_grant_means_it_never_comes(wallet: Wallet) -> None:
    wallet.grant("USD", 10, "g1", effective_ms=START_MS + 10)
    wallet.change_grant("VOID", "USD", "g1")
    wallet.change_grant("VOID", "USD", "g1")  # gone by now: still a numbered change, and an event
    wallet.wait(10)
    wallet.sweep()
    assert [event.kind for event in wallet.events] == ["GRANT", "VOID", "VOID"]
    assert wallet.lines(3) == []


def test_another_expiry_moves_a_grant_in_the_burn_order_and_may_end_it(wallet: Wallet) -> None:
    wallet.grant("USD", 1, "a")
    wallet.grant("USD", 2, "b")
    wallet.change_grant("EXPIRY", "USD", "b", START_MS + 10)
    assert wallet.stack() == [("b", 2, 0), ("a", 1, 0)]
    wallet.change_grant("EXPIRY", "USD", "b", START_MS)
    assert (wallet.events[-1].kind, wallet.lines()) == ("EXPIRY", [("EXPIRE", "USD", 2, "b")])


# --- commit ----------------------------------------------------------------------------------------------------------


def test_commit_debits_what_was_used_and_gives_the_rest_back_to_the_same_grants(rich: Wallet) -> None:
    rich.authorize("h1", USD=40)
    reply = rich.commit("h1", USD=15)
    assert reply.hold is not None
    assert (reply.hold.state, debited(reply), rich.stack()) == ("COMMITTED", {"USD": 15}, [("g1", 85, 0)])
    event = rich.events[-1]
    assert (event.kind, event.hold_id, event.amounts, event.final, event.late) == (
        "COMMIT",
        "h1",
        [("USD", 40, 15, 0, ())],
        True,
        False,
    )


def test_commit_amounts_are_totals_so_a_lost_message_is_harmless(rich: Wallet) -> None:
    rich.authorize("h1", USD=40)
    rich.progress("h1", USD=10)
    # 20 is lost
    rich.progress("h1", USD=30)
    assert debited(rich.commit("h1", USD=35)) == {"USD": 35}
    assert rich.available() == 65


def test_a_repeated_message_is_harmless(rich: Wallet) -> None:
    rich.authorize("h1", USD=40)
    rich.progress("h1", USD=10)
    assert rich.progress("h1", USD=10).replayed
    rich.commit("h1", USD=20)
    assert rich.commit("h1", USD=20).replayed
    assert rich.commit("h1", USD=21).status == "HOLD_COMMITTED"
    assert len(rich.events) == 3


def test_a_reordered_message_is_harmless_a_total_below_what_is_debited_is_refused(rich: Wallet) -> None:
    rich.authorize("h1", USD=40)
    rich.progress("h1", USD=30)
    reply = rich.progress("h1", USD=10)
    assert (reply.status, reply.asset, reply.required, reply.available) == ("TOTAL_BELOW_DEBITED", "USD", 10, 30)
    rich.commit("h1", USD=30)
    assert rich.progress("h1", USD=30).status == "HOLD_COMMITTED"
    assert debited(rich.commit("h1", USD=30)) == {"USD": 30}


def test_progress_is_debited_at_once_and_the_rest_stays_held(rich: Wallet) -> None:
    rich.authorize("h1", USD=40)
    reply = rich.progress("h1", USD=10)
    assert reply.hold is not None
    amount = reply.hold.amounts[0]
    assert (reply.hold.state, amount.debited, amount.held) == ("HELD", 10, 30)
    assert (rich.balance().settled, rich.balance().held, rich.available()) == (90, 30, 60)
    assert not rich.events[-1].final


def test_an_asset_that_is_not_named_has_not_been_used_further(rich: Wallet) -> None:
    rich.grant("TOKENS", 10)
    rich.authorize("h1", USD=10, TOKENS=10)
    rich.progress("h1", TOKENS=4)
    assert debited(rich.commit("h1", USD=1)) == {"USD": 1, "TOKENS": 4}
    assert rich.available("TOKENS") == 6


def test_a_refused_commit_changes_nothing_in_any_asset(rich: Wallet) -> None:
    rich.grant("TOKENS", 10)
    rich.authorize("h1", policy=REJECT, USD=10, TOKENS=10)
    before = rich.read()
    assert rich.commit("h1", USD=5, TOKENS=11).status == "EXCEEDS_HOLD"
    assert rich.commit("h1", USD=5, IMAGE=0).status == "ASSET_NOT_HELD"
    assert rich.read() == before


def test_every_commit_that_settles_is_one_event_even_of_nothing(rich: Wallet) -> None:
    rich.authorize("h1", USD=10)
    rich.commit("h1", USD=0)
    assert (rich.events[-1].kind, rich.lines(), rich.read().sequence) == ("COMMIT", [], 2)


# --- more than the hold ----------------------------------------------------------------------------------------------


def test_reject_is_an_error_and_leaves_the_hold_untouched(rich: Wallet) -> None:
    rich.authorize("h1", policy=REJECT, USD=10)
    reply = rich.commit("h1", USD=11)
    assert (reply.status, reply.asset, reply.required, reply.available) == ("EXCEEDS_HOLD", "USD", 11, 10)
    assert rich.hold("h1").state is HoldState.HELD
    assert rich.commit("h1", USD=10).status == "OK"


def test_charge_available_takes_what_is_available_and_records_the_rest_as_uncollected(rich: Wallet) -> None:
    rich.authorize("h1", USD=40)
    rich.authorize("h2", USD=40)
    reply = rich.commit("h1", USD=70)
    assert reply.hold is not None
    assert (reply.hold.amounts[0].debited, reply.hold.amounts[0].uncollected) == (60, 10)
    assert rich.events[-1].amounts == [("USD", 40, 60, 10, ())]
    assert rich.commit("h1", USD=70).replayed


def test_charge_available_never_repays_what_is_owed(wallet: Wallet) -> None:
    wallet.charge("c1", FULL, USD=30)
    reply = wallet.charge("c2", AVAILABLE, USD=5)
    assert reply.hold is not None
    assert (reply.hold.amounts[0].debited, reply.hold.amounts[0].uncollected) == (0, 5)
    assert (wallet.lines(), wallet.balance().debt) == ([], 30)


def test_charge_full_goes_into_debt_whatever_the_overdraft_limit(rich: Wallet) -> None:
    rich.authorize("h1", policy=FULL, USD=40)
    rich.commit("h1", USD=130)
    assert rich.lines() == [("DEBIT", "USD", 40, "g1"), ("DEBIT", "USD", 60, "g1"), ("DEBIT", "USD", 30, "")]
    assert (rich.balance().settled, rich.balance().debt, rich.available()) == (-30, 30, -30)


def test_debt_is_repaid_first_by_the_next_grant(rich: Wallet) -> None:
    rich.charge("c1", FULL, USD=130)
    rich.grant("USD", 20, "g2")
    assert rich.lines() == [("GRANT", "USD", 20, "g2"), ("REPAY", "USD", 20, "g2")]
    rich.grant("USD", 50, "g3", effective_ms=START_MS + 10)
    assert rich.balance().debt == 10
    rich.wait(10)
    rich.sweep()
    assert rich.lines() == [("GRANT", "USD", 50, "g3"), ("REPAY", "USD", 10, "g3")]
    assert (rich.stack(), rich.balance().debt, rich.available()) == ([("g3", 40, 0)], 0, 40)


def test_an_expired_grant_still_repays_debt_before_it_ends(rich: Wallet) -> None:
    rich.charge("c1", FULL, USD=130)
    rich.grant("USD", 50, "g2", expire_ms=START_MS)
    assert rich.lines() == [("GRANT", "USD", 50, "g2"), ("REPAY", "USD", 30, "g2"), ("EXPIRE", "USD", 20, "g2")]


# --- expiry of holds -------------------------------------------------------------------------------------------------


def test_expired_holds_are_freed_by_the_sweep(rich: Wallet) -> None:
    rich.authorize("h1", USD=40)
    rich.wait(TTL_MS - 1)
    assert rich.sweep().expired == 0
    rich.wait(1)
    assert rich.sweep().expired == 1
    assert (rich.hold("h1").state, rich.available()) == ("EXPIRED", 100)


def test_the_sweep_expires_holds_first_and_then_grants_asset_by_asset(wallet: Wallet) -> None:
    for asset in ("USD", "ABC", "IMAGE"):
        wallet.grant(asset, 10, f"g-{asset}", expire_ms=START_MS + TTL_MS)
    wallet.authorize("h1", USD=10)
    wallet.wait(TTL_MS)
    wallet.sweep()
    assert [(event.kind.value, event.hold_id, event.lines[0].asset) for event in wallet.events[-3:]] == [
        ("TIME", "h1", "USD"),
        ("TIME", "", "ABC"),
        ("TIME", "", "IMAGE"),
    ]


def test_expiry_action_commit_full_debits_all_that_is_held(rich: Wallet) -> None:
    rich.ask("h1", [[usd(40)]], expiry_action=COMMIT_FULL)
    rich.progress("h1", USD=10)
    rich.wait(TTL_MS)
    rich.sweep()
    assert (rich.hold("h1").state, rich.available(), rich.lines()) == ("COMMITTED", 60, [("DEBIT", "USD", 30, "g1")])
    assert (rich.events[-1].final, rich.events[-1].late) == (True, False)
    assert rich.commit("h1", USD=40).replayed
    assert rich.commit("h1", USD=15).status == "HOLD_COMMITTED"


def test_a_commit_expires_its_own_due_hold_first(rich: Wallet) -> None:
    rich.ask("h1", [[usd(40)]], expiry_action=COMMIT_FULL)
    rich.wait(TTL_MS)
    assert rich.commit("h1", USD=15).status == "HOLD_COMMITTED"
    assert rich.release("h1").status == "HOLD_COMMITTED"
    assert rich.extend("h1", ttl_ms=1000).status == "HOLD_COMMITTED"
    assert debited(rich.commit("h1", USD=40)) == {"USD": 40}


# --- late commits and releases ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("forced", [False, True], ids=["expiry", "forced release"])
def test_a_late_commit_is_never_lost_but_charged_and_flagged(rich: Wallet, *, forced: bool) -> None:
    rich.authorize("h1", USD=40)
    if forced:
        rich.release("h1", forced=True)
    else:
        rich.wait(TTL_MS)
    reply = rich.commit("h1", USD=15)
    assert reply.hold is not None
    assert (reply.status, reply.hold.state, reply.hold.late, rich.events[-1].late) == ("OK", "COMMITTED", True, True)
    assert rich.available() == 85


@pytest.mark.parametrize(
    ("policy", "answer"), [(REJECT, "INSUFFICIENT_FUNDS"), (AVAILABLE, (10, 30, 0)), (FULL, (40, 0, 30))]
)
def test_a_late_commit_is_charged_under_the_overage_policy(
    rich: Wallet, policy: OveragePolicy, answer: str | tuple[int, int, int]
) -> None:
    rich.authorize("h1", policy=policy, USD=40)
    rich.wait(TTL_MS)
    rich.charge("c1", USD=90)
    reply = rich.commit("h1", USD=40)
    if reply.status != "OK":
        assert (reply.status, reply.required, reply.available) == (answer, 40, 10)
    else:
        assert reply.hold is not None
        amount = reply.hold.amounts[0]
        assert (amount.debited, amount.uncollected, rich.balance().debt) == answer


def test_late_progress_is_debited_and_the_hold_stays_expired(rich: Wallet) -> None:
    rich.authorize("h1", USD=40)
    rich.wait(TTL_MS)
    rich.progress("h1", USD=10)
    assert (rich.hold("h1").state, rich.events[-1].late, rich.events[-1].final) == ("EXPIRED", True, False)
    rich.commit("h1", USD=12)
    assert (rich.hold("h1").state, rich.hold("h1").late, rich.available()) == ("COMMITTED", True, 88)


def test_late_progress_is_remembered_for_another_idempotency_window(rich: Wallet) -> None:
    rich.authorize("h1", USD=40)
    rich.wait(TTL_MS)
    rich.sweep()
    rich.wait(TOMBSTONE_MS - 1)
    rich.progress("h1", USD=10)
    rich.wait(TOMBSTONE_MS - 1)
    assert rich.sweep().forgotten == 0
    assert rich.commit("h1", USD=12).status == "OK"


def test_after_the_callers_own_release_nothing_can_be_committed(rich: Wallet) -> None:
    rich.authorize("h1", USD=40)
    rich.release("h1")
    assert rich.commit("h1", USD=1).status == "HOLD_RELEASED"
    assert rich.release("h1").replayed
    assert rich.release("h1", forced=True).replayed
    assert rich.authorize("h1", USD=40).reason is DenialReason.HOLD_RELEASED


def test_the_caller_may_release_what_has_expired_an_operator_has_nothing_to_do(rich: Wallet) -> None:
    rich.authorize("h1", USD=40)
    rich.wait(TTL_MS)
    assert rich.release("h1", forced=True).replayed
    assert rich.hold("h1").state is HoldState.EXPIRED
    assert not rich.release("h1").replayed
    assert rich.hold("h1").state is HoldState.RELEASED


def test_what_progress_debited_stays_debited_when_the_hold_is_released(rich: Wallet) -> None:
    rich.authorize("h1", USD=40)
    rich.progress("h1", USD=10)
    assert debited(rich.release("h1")) == {"USD": 10}
    assert rich.available() == 90


def test_release_of_an_unknown_hold_leaves_a_tombstone_so_a_delayed_authorize_is_refused(rich: Wallet) -> None:
    assert rich.release("h1").status == "HOLD_UNKNOWN"
    assert not rich.release("h1", bury=True).replayed
    assert rich.release("h1", bury=True).replayed
    reply = rich.authorize("h1", USD=1)
    assert (reply.status, reply.reason, reply.replayed) == ("DENIED", "HOLD_RELEASED", True)


def test_settled_holds_stay_as_tombstones_for_an_idempotency_window(rich: Wallet) -> None:
    rich.authorize("h1", USD=10)
    rich.commit("h1", USD=10)
    rich.wait(TOMBSTONE_MS - 1)
    assert rich.sweep().forgotten == 0
    assert rich.commit("h1", USD=10).replayed
    rich.wait(1)
    assert rich.sweep().forgotten == 1
    assert rich.commit("h1", USD=10).status == "HOLD_UNKNOWN"


def test_settles_keep_working_on_a_frozen_wallet_and_only_new_holds_are_denied(rich: Wallet) -> None:
    for hold_id in ("h1", "h2", "h3"):
        rich.authorize(hold_id, USD=10)
    rich.apply("STATE", state=WalletState.FROZEN)
    assert rich.authorize("h4", USD=1).reason is DenialReason.WALLET_FROZEN
    assert rich.charge("h4", USD=1).reason is DenialReason.WALLET_FROZEN
    assert rich.extend("h1", USD=11).reason is DenialReason.WALLET_FROZEN
    assert rich.extend("h1", ttl_ms=TTL_MS + 1, USD=10).status == "OK"
    assert rich.commit("h1", USD=5).status == "OK"
    assert rich.release("h2").status == "OK"
    assert rich.refund("h1", USD=5).status == "OK"
    rich.apply("STATE", state=WalletState.CLOSED)
    assert rich.authorize("h4", USD=1).reason is DenialReason.WALLET_CLOSED


# --- caps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "name", "reset_ms"),
    [
        (CapWindow.MINUTE, 29_453_759, START_MS + MINUTE_MS),
        (CapWindow.HOUR, 490_895, START_MS + MINUTE_MS),
        (CapWindow.DAY, 20_453, START_MS + MINUTE_MS),
        (CapWindow.WEEK, 2_922, START_MS + MINUTE_MS + 4 * DAY_MS),
        (CapWindow.MONTH, 2025 * 12 + 11, START_MS + MINUTE_MS),
        (CapWindow.LIFETIME, 0, 0),
        (CapWindow.PER_REQUEST, 0, 0),
    ],
)
def test_windows_are_utc_and_counters_are_keyed_by_their_number(window: CapWindow, name: int, reset_ms: int) -> None:
    assert period_of(window, START_MS) == name
    assert end_of(window, name) == reset_ms
    if reset_ms:
        assert (period_of(window, reset_ms - 1), period_of(window, reset_ms)) == (name, name + 1)


def test_a_week_begins_on_monday_and_february_ends_on_time() -> None:
    assert period_of(CapWindow.WEEK, 4 * DAY_MS - 1) + 1 == period_of(CapWindow.WEEK, 4 * DAY_MS)  # 1970-01-05
    leap_day = 1_709_164_800_000  # 2024-02-29
    assert end_of(CapWindow.MONTH, period_of(CapWindow.MONTH, leap_day)) == leap_day + DAY_MS


def test_a_denial_says_which_cap_its_limit_used_and_when_it_resets(rich: Wallet) -> None:
    rich.cap("key:*", 10)
    rich.ask("h1", [[usd(8)]], subjects=["key:a"])
    reply = rich.ask("h2", [[usd(3)]], subjects=["user:1", "key:a"])
    assert (reply.status, reply.reason, reply.cap is not None) == ("DENIED", "CAP_EXCEEDED", True)
    assert reply.cap is not None
    assert (reply.cap.cap, reply.cap.subject, reply.cap.limit, reply.cap.used) == ("key:*", "key:a", 10, 8)
    assert reply.cap.reset_ms == START_MS + MINUTE_MS


def test_held_and_committed_units_count_and_commit_of_less_gives_headroom_back(rich: Wallet) -> None:
    rich.cap("", 10)
    rich.authorize("h1", USD=10)
    assert rich.authorize("h2", USD=1).reason is DenialReason.CAP_EXCEEDED
    rich.commit("h1", USD=7)
    assert rich.authorize("h2", USD=3).status == "OK"
    assert rich.authorize("h3", USD=1).reason is DenialReason.CAP_EXCEEDED


def test_a_release_gives_headroom_back_to_the_window_it_came_from(rich: Wallet) -> None:
    rich.cap("", 10)
    rich.authorize("h1", USD=10)
    rich.wait(MINUTE_MS)  # the next day
    rich.authorize("h2", USD=6)
    rich.release("h1")
    assert (rich.counter("|USD|DAY|20453"), rich.counter("|USD|DAY|20454")) == (0, 6)
    assert rich.authorize("h3", USD=5).reason is DenialReason.CAP_EXCEEDED


def test_expiry_gives_headroom_back_too(rich: Wallet) -> None:
    rich.cap("", 10, CapWindow.LIFETIME)
    rich.authorize("h1", USD=10)
    rich.progress("h1", USD=4)
    rich.wait(TTL_MS)
    assert rich.authorize("h2", USD=7).reason is DenialReason.CAP_EXCEEDED
    assert rich.authorize("h2", USD=6).status == "OK"


def test_usage_beyond_the_hold_counts_although_no_cap_can_stop_it_any_more(rich: Wallet) -> None:
    rich.cap("", 10, CapWindow.LIFETIME)
    rich.authorize("h1", USD=10)
    rich.commit("h1", USD=15)
    assert rich.counter("|USD|LIFETIME|0") == 15
    assert rich.events[-1].cap_usage == [("|USD|LIFETIME|0", 15)]


def test_a_subjects_own_cap_goes_before_the_longest_prefix_default(rich: Wallet) -> None:
    rich.cap("*", 1)
    rich.cap("key:*", 2)
    rich.cap("key:a*", 3)
    rich.cap("key:abc", 4)
    limits = {}
    for subject in ("key:abc", "key:abd", "key:b", "user:1"):
        reply = rich.ask(f"h-{subject}", [[usd(50)]], subjects=[subject])
        assert reply.cap is not None
        limits[subject] = reply.cap.limit
    assert limits == {"key:abc": 4, "key:abd": 3, "key:b": 2, "user:1": 1}
    assert rich.authorize("h1", USD=50).status == "OK"  # a default is for subjects, not for the whole wallet


def test_each_subject_under_a_prefix_default_counts_for_itself(rich: Wallet) -> None:
    rich.cap("key:*", 10)
    assert rich.ask("h1", [[usd(10)]], subjects=["key:a"]).status == "OK"
    assert rich.ask("h2", [[usd(10)]], subjects=["key:b"]).status == "OK"
    assert rich.ask("h3", [[usd(1)]], subjects=["key:b"]).status == "DENIED"


def test_all_subjects_of_a_request_must_pass_and_the_whole_wallet_is_asked_first(rich: Wallet) -> None:
    rich.cap("user:1", 5)
    rich.cap("key:a", 6)
    rich.cap("", 7)
    order = [rich.ask("h1", [[usd(units)]], subjects=["key:a", "user:1"]).cap for units in (8, 7, 6)]
    assert [cap.cap for cap in order if cap] == ["", "key:a", "user:1"]
    assert rich.ask("h1", [[usd(5)]], subjects=["key:a", "user:1"]).status == "OK"


def test_narrow_windows_are_asked_first(rich: Wallet) -> None:
    for window in reversed(CapWindow):
        rich.cap("", 5, window)
    asked = []
    for window in CapWindow:
        reply = rich.authorize("h1", USD=6)
        assert reply.cap is not None
        asked.append(reply.cap.window)
        rich.apply("CAP_REMOVAL", cap=Cap("", "USD", window, 0, CapMode.ENFORCE))
    assert asked == list(CapWindow)
    assert rich.authorize("h1", USD=6).status == "OK"


def test_observe_mode_reports_without_denying(rich: Wallet) -> None:
    rich.cap("", 5, mode=CapMode.OBSERVE)
    reply = rich.authorize("h1", USD=6)
    assert (reply.status, [(cap.limit, cap.used) for cap in reply.observed]) == ("OK", [(5, 0)])
    assert rich.authorize("h2", USD=1).observed[0].used == 6


def test_a_cap_that_is_set_again_goes_on_counting_where_it_stopped(rich: Wallet) -> None:
    rich.cap("", 10)
    rich.authorize("h1", USD=10)
    rich.apply("CAP_REMOVAL", cap=Cap("", "USD", CapWindow.DAY, 0, CapMode.ENFORCE))
    assert rich.authorize("h2", USD=1).status == "OK"
    rich.cap("", 10)
    assert rich.authorize("h3", USD=1).reason is DenialReason.CAP_EXCEEDED


# --- overdraft -------------------------------------------------------------------------------------------------------


def test_an_overdraft_limit_of_0_means_none(rich: Wallet) -> None:
    assert rich.authorize("h1", USD=101).reason is DenialReason.INSUFFICIENT_FUNDS
    assert rich.authorize("h2", USD=100).status == "OK"


def test_overdraft_is_checked_with_the_funds_and_becomes_debt_only_when_debited(rich: Wallet) -> None:
    rich.overdraft("USD", 50)
    assert rich.authorize("h1", USD=151).available == 150
    rich.authorize("h1", USD=150)
    assert (rich.balance().held, rich.balance().debt, rich.available()) == (150, 0, 0)
    rich.commit("h1", USD=120)
    assert rich.lines() == [("DEBIT", "USD", 100, "g1"), ("DEBIT", "USD", 20, "")]
    assert (rich.balance().settled, rich.balance().debt, rich.available()) == (-20, 20, 30)


# --- extend, charge, refund ------------------------------------------------------------------------------------------


def test_extend_gives_more_time(rich: Wallet) -> None:
    rich.authorize("h1", USD=10)
    rich.wait(TTL_MS - 1)
    rich.extend("h1", ttl_ms=1000)
    assert rich.hold("h1").expire_ms == START_MS + TTL_MS - 1 + 1000
    assert rich.extend("h1").replayed
    rich.wait(1000)
    assert rich.extend("h1", ttl_ms=1000).status == "HOLD_EXPIRED"


def test_a_denied_raise_leaves_the_old_hold_usable(rich: Wallet) -> None:
    rich.cap("", 90, CapWindow.LIFETIME)
    rich.authorize("h1", USD=40)
    before = rich.hold("h1")
    denied = rich.extend("h1", ttl_ms=1000, USD=141)
    assert (denied.reason, denied.required, denied.available) == ("INSUFFICIENT_FUNDS", 101, 60)
    assert rich.extend("h1", ttl_ms=1000, USD=91).reason is DenialReason.CAP_EXCEEDED
    assert rich.hold("h1") == before
    assert debited(rich.commit("h1", USD=40)) == {"USD": 40}


def test_a_raise_counts_in_the_windows_of_now_and_goes_back_first(rich: Wallet) -> None:
    rich.cap("", 50)
    rich.authorize("h1", USD=40)
    rich.progress("h1", USD=5)
    rich.wait(MINUTE_MS)  # the next day
    reply = rich.extend("h1", USD=60)
    assert reply.hold is not None
    assert (reply.hold.amounts[0].authorized, reply.hold.amounts[0].held) == (60, 55)
    assert (rich.counter("|USD|DAY|20453"), rich.counter("|USD|DAY|20454")) == (40, 20)
    assert rich.extend("h1", USD=91).reason is DenialReason.CAP_EXCEEDED
    rich.commit("h1", USD=45)
    assert (rich.counter("|USD|DAY|20453"), rich.counter("|USD|DAY|20454")) == (40, 5)
    assert rich.events[-1].cap_usage == [("|USD|DAY|20453", 35), ("|USD|DAY|20454", 5)]


def test_only_the_raise_counts_in_a_cap_that_was_set_after_the_authorize(rich: Wallet) -> None:
    rich.authorize("h1", USD=40)
    rich.cap("", 10)
    assert rich.extend("h1", USD=51).reason is DenialReason.CAP_EXCEEDED
    assert rich.extend("h1", USD=50).status == "OK"
    assert rich.counter("|USD|DAY|20453") == 10
    rich.commit("h1", USD=45)
    assert (rich.counter("|USD|DAY|20453"), rich.events[-1].cap_usage) == (5, [("|USD|DAY|20453", 5)])


def test_a_raise_is_part_of_the_request_that_it_raises(rich: Wallet) -> None:
    rich.cap("", 50, CapWindow.PER_REQUEST)
    rich.authorize("h1", USD=40)
    rich.progress("h1", USD=30)
    denied = rich.extend("h1", USD=51)
    assert denied.cap is not None
    assert (denied.reason, denied.cap.used) == ("CAP_EXCEEDED", 40)
    assert rich.extend("h1", USD=50).status == "OK"


def test_extend_never_shortens(rich: Wallet) -> None:
    rich.authorize("h1", USD=10)
    rich.extend("h1", ttl_ms=1000)
    assert rich.hold("h1").expire_ms == START_MS + TTL_MS


def test_debt_never_stands_beside_free_units(rich: Wallet) -> None:
    rich.overdraft("USD", 20)
    rich.authorize("h1", USD=110)
    rich.authorize("h2", USD=5)
    rich.release("h1")  # the overdraft of h2 is all that is held
    assert (rich.balance().held, rich.balance().debt, rich.stack()) == (5, 0, [("g1", 100, 0)])
    rich.commit("h2", USD=5)
    assert rich.lines() == [("DEBIT", "USD", 5, ""), ("REPAY", "USD", 5, "g1")]
    assert (rich.balance().debt, rich.available()) == (0, 115)


def test_extend_never_lowers_a_hold_nor_adds_an_asset(rich: Wallet) -> None:
    rich.authorize("h1", USD=40)
    reply = rich.extend("h1", USD=39)
    assert (reply.status, reply.required, reply.available) == ("BELOW_HOLD", 39, 40)
    assert rich.extend("h1", TOKENS=1).status == "ASSET_NOT_HELD"
    assert rich.extend("h2", USD=1).status == "HOLD_UNKNOWN"


def test_extend_is_about_what_is_reserved_also_beyond_the_first_authorization(rich: Wallet) -> None:
    rich.authorize("h1", USD=40)
    rich.progress("h1", USD=60)
    assert rich.extend("h1", USD=59).available == 60
    reply = rich.extend("h1", USD=70)
    assert reply.hold is not None
    assert (reply.hold.amounts[0].authorized, reply.hold.amounts[0].held) == (70, 10)


@pytest.mark.parametrize(("policy", "answer"), [(REJECT, None), (AVAILABLE, (100, 30)), (FULL, (130, 0))])
def test_charge_is_authorize_and_commit_in_one_step(
    rich: Wallet, policy: OveragePolicy, answer: tuple[int, int] | None
) -> None:
    reply = rich.charge("c1", policy, USD=130)
    if answer is None:
        assert (reply.reason, reply.required, reply.available) == ("INSUFFICIENT_FUNDS", 130, 100)
        return
    assert reply.hold is not None
    amount = reply.hold.amounts[0]
    assert (reply.hold.state, amount.authorized, (amount.debited, amount.uncollected)) == ("COMMITTED", 130, answer)
    assert rich.events[-1].amounts == [("USD", 130, *answer, ())]
    assert rich.charge("c1", policy, USD=130).replayed
    assert rich.charge("c1", policy, USD=131).status == "ID_REUSED"


def test_a_charge_is_capped_by_all_its_units_and_counts_what_it_debited(rich: Wallet) -> None:
    rich.cap("", 130)
    assert rich.charge("c1", AVAILABLE, USD=131).reason is DenialReason.CAP_EXCEEDED
    rich.charge("c1", AVAILABLE, USD=130)
    assert rich.counter("|USD|DAY|20453") == 100


def test_a_refund_goes_back_to_the_grants_that_paid_the_last_debit_first(wallet: Wallet) -> None:
    wallet.grant("USD", 10, "a")
    wallet.grant("USD", 10, "b")
    wallet.charge("c1", FULL, USD=25)
    wallet.refund("c1", USD=18)
    assert wallet.lines() == [("REFUND", "USD", 5, ""), ("REFUND", "USD", 10, "b"), ("REFUND", "USD", 3, "a")]
    assert (wallet.stack(), wallet.balance().debt) == ([("a", 3, 0), ("b", 10, 0)], 0)


def test_a_refund_is_idempotent_and_at_most_what_was_debited(rich: Wallet) -> None:
    rich.cap("", 200)
    rich.charge("c1", USD=30)
    assert rich.refund("c1", "r1", USD=20).status == "OK"
    assert rich.refund("c1", "r1", USD=20).replayed
    assert rich.refund("c1", "r1", USD=21).status == "ID_REUSED"
    reply = rich.refund("c1", "r2", USD=11)
    assert (reply.status, reply.required, reply.available) == ("EXCEEDS_DEBITED", 11, 10)
    assert rich.refund("c1", "r2", TOKENS=1).status == "ASSET_NOT_HELD"
    assert rich.counter("|USD|DAY|20453") == 10
    assert rich.events[-1].cap_usage == [("|USD|DAY|20453", -20)]


def test_a_refund_to_an_expired_or_voided_grant_ends_at_once(wallet: Wallet) -> None:
    wallet.grant("USD", 10, "short", expire_ms=START_MS + 1000)
    wallet.grant("USD", 10, "void")
    wallet.charge("c1", USD=15)
    wallet.change_grant("VOID", "USD", "void")
    wallet.wait(1000)
    wallet.refund("c1", USD=15)
    assert wallet.lines() == [
        ("REFUND", "USD", 5, "void"),
        ("VOID", "USD", 5, "void"),
        ("REFUND", "USD", 10, "short"),
        ("EXPIRE", "USD", 10, "short"),
    ]
    assert wallet.available() == 0


def test_a_refund_of_repaid_debt_is_a_credit_that_belongs_to_no_grant_and_is_used_last(rich: Wallet) -> None:
    rich.charge("c1", FULL, USD=130)
    rich.grant("USD", 50, "g2")
    rich.refund("c1", USD=30)
    assert (rich.balance().debt, rich.balance().settled, rich.available()) == (-30, 50, 50)
    rich.charge("c2", USD=25)
    assert rich.lines() == [("DEBIT", "USD", 20, "g2"), ("DEBIT", "USD", 5, "")]
    rich.grant("USD", 5, "g3")
    assert rich.lines() == [("GRANT", "USD", 5, "g3")]  # there is no debt to repay


def test_caps_count_debits_less_refunds_also_when_the_hold_goes_on(rich: Wallet) -> None:
    rich.cap("", 200)
    rich.authorize("h1", USD=50)
    rich.progress("h1", USD=40)
    rich.refund("h1", USD=10)
    assert rich.counter("|USD|DAY|20453") == 40
    rich.commit("h1", USD=40)
    assert rich.counter("|USD|DAY|20453") == 30


def test_a_hold_that_only_the_ledger_remembers_is_refunded_once(rich: Wallet) -> None:
    paid = RecordedAmount(
        "USD", 40, 30, 0, 5, [RecordedDebit("g0", 5), RecordedDebit("g1", 20)], [RecordedPart(["|USD|DAY|20453"], 25)]
    )
    recorded = RecordedHold(1, 2, [], "", LATE, 1, [paid], [("r0", "{'USD': 5}")])
    rich.model.wallets[TENANT, "w1"].books.usage["|USD|DAY|20453"] = 25
    rich.model.wallets[TENANT, "w1"].caps.used["|USD|DAY|20453"] = 25
    rich.grants["g0"] = PackedGrant("g0", 0, 0, 10, NEVER, GrantSource.PROMOTION, 0, 0)
    assert rich.refund("h0", USD=1).status == "HOLD_UNKNOWN"
    assert rich.refund("h0", "r0", recorded, USD=5).replayed
    assert rich.refund("h0", "r1", recorded, USD=26).status == "EXCEEDS_DEBITED"
    rich.model.wallets[TENANT, "w1"].books.remaining["USD", "g0"] = 0  # used up before this wallet was loaded
    assert rich.refund("h0", "r1", recorded, USD=22).status == "OK"
    assert rich.stack() == [("g0", 2, 0), ("g1", 120, 0)]
    assert rich.counter("|USD|DAY|20453") == 3
    assert rich.refund("h0", "r1", recorded, USD=22).replayed  # although the ledger does not know it yet
    assert rich.authorize("h0", USD=1).status == "ID_REUSED"
    assert len(rich.events) == 2


def test_a_refunded_hold_is_remembered_for_another_idempotency_window(rich: Wallet) -> None:
    rich.charge("c1", USD=30)
    rich.wait(TOMBSTONE_MS - 1)
    rich.refund("c1", USD=10)
    rich.wait(TOMBSTONE_MS - 1)
    assert rich.sweep().forgotten == 0
    assert rich.refund("c1", USD=10).replayed
    rich.wait(1)
    assert rich.sweep().forgotten == 1


def test_a_used_up_grant_lives_again_with_what_was_refunded_alone(rich: Wallet) -> None:
    rich.charge("c1", USD=100)
    rich.grants["g1"] = PackedGrant("g1", 7, 0, 50, NEVER, GrantSource.PURCHASE, 0, 0)  # as an older reading has it
    rich.refund("c1", USD=1)
    assert rich.stack() == [("g1", 1, 0)]


# --- loading and changes ---------------------------------------------------------------------------------------------


def test_a_slow_load_is_refused_and_what_is_live_is_never_overwritten() -> None:
    wallet = Wallet()
    wallet.model.now_ms = START_MS
    assert wallet.load(age_ms=30_001).status == "TICKET_EXPIRED"
    assert wallet.load(age_ms=30_000).loaded
    wallet.grant("USD", 10)
    assert not wallet.load().loaded
    assert wallet.available() == 10


def test_a_wallet_comes_back_as_the_ledger_has_it() -> None:
    wallet = Wallet()
    wallet.model.now_ms = START_MS
    live = PackedGrant("a", 10, 0, 50, START_MS, GrantSource.PURCHASE, 0, 0)
    coming = PackedGrant("b", 7, 0, 50, NEVER, GrantSource.PURCHASE, START_MS, 0)
    wallet.load(
        [LoadedAsset("USD", 3, 20, [live], [coming])],
        sequence=9,
        caps=[Cap("", "USD", CapWindow.DAY, 10, CapMode.ENFORCE)],
        cap_usage=[CapUsage("|USD|DAY|20453", 9)],
    )
    assert wallet.available() == 7 + 20
    assert wallet.lines() == [("REPAY", "USD", 3, "a")]
    reply = wallet.authorize("h1", USD=2)
    assert reply.cap is not None
    assert reply.cap.used == 9
    assert wallet.events[-1].wallet_sequence == 11
    assert wallet.lines() == [("GRANT", "USD", 7, "b"), ("EXPIRE", "USD", 7, "a")]


def test_changes_that_came_after_the_recorded_state_are_part_of_the_load() -> None:
    wallet = Wallet()
    wallet.model.now_ms = START_MS
    live = PackedGrant("a", 10, 0, 50, START_MS, GrantSource.PURCHASE, 0, 0)
    top_up = GrantChange("b", "USD", 7, 50, GrantSource.TOP_UP, 0, NEVER, 0, "")
    changes = [Change(1, "GRANT", grant=top_up), Change(2, "STATE", state=WalletState.FROZEN)]
    wallet.load([LoadedAsset("USD", 0, 0, [live], [])], changes=changes)
    assert [event.kind for event in wallet.events] == ["TIME", "GRANT", "STATE"]
    assert wallet.lines(3) == [("EXPIRE", "USD", 10, "a"), ("GRANT", "USD", 7, "b")]
    assert wallet.authorize("h1", USD=1).reason is DenialReason.WALLET_FROZEN


def test_changes_are_applied_once_and_in_order(wallet: Wallet) -> None:
    wallet.grant("USD", 10)
    wallet.changes = 0
    assert not wallet.grant("USD", 10, "g9").applied
    wallet.changes = 2
    reply = wallet.grant("USD", 10, "g9")
    assert (reply.status, reply.change_number) == ("GAP", 1)
    assert wallet.available() == 10


def test_open_holds_are_listed_by_expiry_page_by_page(rich: Wallet) -> None:
    for hold_id, ttl_ms in (("b", 20), ("a", 20), ("c", 10)):
        rich.ask(hold_id, [[usd(1)]], ttl_ms=ttl_ms)
    assert rich.open_holds(limit=2) == ["c", "a"]
    assert rich.open_holds(START_MS + 20, "a") == ["b"]


def test_the_audit_sees_what_does_not_add_up(rich: Wallet) -> None:
    rich.model.wallets[TENANT, "w1"].assets["USD"].grants[0].free += 1
    with pytest.raises(BrokenRuleError):
        rich.model.check()


# --- random lives ----------------------------------------------------------------------------------------------------

ASSETS: Final = ("USD", "TOKENS")
SUBJECTS: Final = ("", "*", "key:*", "key:a")

asset_codes = st.sampled_from(ASSETS)
new_holds = st.sampled_from([f"h{number}" for number in range(20)])
amounts = st.dictionaries(asset_codes, st.integers(1, 60), min_size=1)
totals = st.dictionaries(asset_codes, st.integers(0, 80), min_size=1)
policies = st.sampled_from(OveragePolicy)
subject_lists = st.lists(st.sampled_from(["key:a", "key:b", "user:1"]), unique=True, max_size=2)
states = st.sampled_from([WalletState.ACTIVE, WalletState.ACTIVE, WalletState.FROZEN])
spans = st.sampled_from([1, 1000, MINUTE_MS, TTL_MS, TTL_MS, TOMBSTONE_MS, DAY_MS])
starts = st.sampled_from([0, 0, 0, 1000, TTL_MS])
ends = st.sampled_from([0, 1, 1000, TTL_MS, DAY_MS])
often = st.integers(0, 4).map(bool)


class RulesMachine(RuleBasedStateMachine):
    """Any sequence of verbs keeps the books in order: the model audits itself after each."""

    def __init__(self) -> None:
        super().__init__()
        self.wallet = Wallet()
        self.wallet.model.now_ms = START_MS
        self.wallet.load()
        self.wallet.grant("USD", 50, expire_ms=START_MS + DAY_MS)
        self.refunds = 0

    @property
    def inside(self) -> rules_wallet.Wallet:
        return self.wallet.model.wallets[TENANT, "w1"]

    def some_hold(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from([*sorted(self.inside.holds), "nobody"]))

    @rule(span_ms=spans)
    def wait(self, span_ms: int) -> None:
        self.wallet.wait(span_ms)

    @rule()
    def sweep(self) -> None:
        self.wallet.sweep()

    @rule(asset=asset_codes, units=st.integers(1, 100), priority=st.integers(0, 2), start=starts, end=ends)
    def grant(self, asset: str, units: int, priority: int, start: int, end: int) -> None:
        now_ms = self.wallet.now_ms
        expire_ms = now_ms + end if end else NEVER
        self.wallet.grant(asset, units, priority=priority, effective_ms=now_ms + start, expire_ms=expire_ms)

    @rule(data=st.data(), asset=asset_codes, kind=st.sampled_from(["VOID", "EXPIRY"]), end=ends)
    def change_grant(self, data: st.DataObject, asset: str, kind: ChangeKind, end: int) -> None:
        grant_id = data.draw(st.sampled_from(sorted(self.wallet.grants)))
        self.wallet.change_grant(kind, asset, grant_id, self.wallet.now_ms + end)

    @rule(data=st.data(), asset=asset_codes, limit=st.integers(0, 150))
    def administer(self, data: st.DataObject, asset: str, limit: int) -> None:
        match data.draw(st.sampled_from(["STATE", "OVERDRAFT", "CAP", "CAP", "CAP_REMOVAL"])):
            case "STATE":
                self.wallet.apply("STATE", state=data.draw(states))
            case "OVERDRAFT":
                self.wallet.overdraft(asset, limit)
            case kind:
                subject, window = data.draw(st.sampled_from(SUBJECTS)), data.draw(st.sampled_from(CapWindow))
                cap = Cap(subject, asset, window, limit, data.draw(st.sampled_from(CapMode)))
                self.wallet.apply("CAP" if kind == "CAP" else "CAP_REMOVAL", cap=cap)

    @rule(
        hold_id=new_holds,
        ways=st.lists(amounts, min_size=1, max_size=2),
        least=st.integers(0, 3),
        policy=policies,
        subjects=subject_lists,
        action=st.sampled_from(ExpiryAction),
    )
    def authorize(
        self,
        hold_id: str,
        ways: list[dict[str, int]],
        least: int,
        policy: OveragePolicy,
        subjects: list[str],
        action: ExpiryAction,
    ) -> None:
        asked = [[AmountRequest(asset, units, min(least, units), policy) for asset, units in w.items()] for w in ways]
        reply = self.wallet.ask(hold_id, asked, subjects=subjects, expiry_action=action)
        if reply.status == "OK":
            before = len(self.wallet.events)
            assert self.wallet.ask(hold_id, asked, subjects=subjects, expiry_action=action).replayed
            assert len(self.wallet.events) == before

    @rule(hold_id=new_holds, units=amounts, policy=policies, subjects=subject_lists)
    def charge(self, hold_id: str, units: dict[str, int], policy: OveragePolicy, subjects: list[str]) -> None:
        self.wallet.charge(hold_id, policy, subjects, **units)

    @rule(data=st.data(), units=totals, final=st.booleans(), held_only=often)
    def commit(self, data: st.DataObject, units: dict[str, int], *, final: bool, held_only: bool) -> None:
        hold_id = self.some_hold(data)
        if held_only and hold_id in self.inside.holds:
            units = {asset: units.get(asset, 30) for asset in self.inside.holds[hold_id].assets}
        before, events_before = self.wallet.read(), len(self.wallet.events)
        reply = self.wallet.commit(hold_id, final=final, **units)
        if reply.status != "OK" and len(self.wallet.events) == events_before:
            settled = [balance.settled for balance in self.wallet.read().balances]
            assert settled == [balance.settled for balance in before.balances]
        if reply.status == "OK" and (held_only or not final):
            events_before = len(self.wallet.events)
            assert self.wallet.commit(hold_id, final=final, **units).replayed
            assert len(self.wallet.events) == events_before

    @rule(data=st.data(), bury=st.booleans(), forced=st.booleans())
    def release(self, data: st.DataObject, *, bury: bool, forced: bool) -> None:
        hold_id = self.some_hold(data)
        reply = self.wallet.release(hold_id, bury=bury, forced=forced)
        assert reply.status != "OK" or self.wallet.release(hold_id, forced=forced).replayed

    @rule(data=st.data(), ttl_ms=st.sampled_from([0, 1, TTL_MS]), units=totals)
    def extend(self, data: st.DataObject, ttl_ms: int, units: dict[str, int]) -> None:
        self.wallet.extend(self.some_hold(data), ttl_ms, **units)

    @rule(data=st.data(), share=st.integers(1, 3), blindly=st.integers(0, 4).map(lambda number: number == 0))
    def refund(self, data: st.DataObject, share: int, *, blindly: bool) -> None:
        hold_id = self.some_hold(data)
        units = {"USD": 10}
        if hold_id in self.inside.holds and not blindly:
            units = {amount.asset: amount.refundable // share for amount in self.inside.holds[hold_id].amounts}
        self.refunds += 1
        if self.wallet.refund(hold_id, f"r{self.refunds}", None, **units).status == "OK":
            before = len(self.wallet.events)
            assert self.wallet.refund(hold_id, f"r{self.refunds}", None, **units).replayed
            assert len(self.wallet.events) == before

    @invariant()
    def looking_changes_nothing(self) -> None:
        shown = self.wallet.read()
        self.wallet.model.check()
        assert self.wallet.read() == shown

    def teardown(self) -> None:
        """In the end nothing is held, and the caps have counted what was debited and not refunded."""
        self.wallet.wait(2 * DAY_MS)
        self.wallet.sweep()
        assert all(balance.held == 0 for balance in self.wallet.read().balances)
        assert [event.wallet_sequence for event in self.wallet.events] == list(range(1, len(self.wallet.events) + 1))
        counters, usage = self.inside.caps.used, self.inside.books.usage
        assert {name: units for name, units in counters.items() if units} == {k: v for k, v in usage.items() if v}


TestRandomLives = RulesMachine.TestCase
TestRandomLives.settings = settings(
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
