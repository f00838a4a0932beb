"""Random moves of one wallet, thought of with an eye on the model: near the edges, where rules meet.

All randomness comes from one ``random.Random``, so that a seed is a run, and hypothesis can be the source as well.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from contract.twin import IDS, SUBJECTS, Move, Run, World, recorded
from drawdown_server.holds.messages import (
    AmountRequest,
    ApplyRequest,
    AuthorizeRequest,
    CapUsage,
    Change,
    ChargeRequest,
    CommitRequest,
    EvictRequest,
    ExtendRequest,
    GrantChange,
    LoadedAsset,
    LoadRequest,
    PackedGrant,
    RefundRequest,
    ReleaseRequest,
    SweepRequest,
    TotalUsed,
)
from drawdown_server.holds.model import (
    UNITS_MAX,
    Cap,
    CapMode,
    CapWindow,
    ExpiryAction,
    GrantSource,
    HoldState,
    OveragePolicy,
    WalletState,
)
from drawdown_server.holds.recorded import RecordedAmount, RecordedDebit, RecordedHold
from drawdown_server.holds.rules.caps import DAY_MS, HOUR_MS, MINUTE_MS, end_of, period_of
from drawdown_server.holds.rules.changes import LIVE_MIN_MS
from drawdown_server.holds.rules.recall import recall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drawdown_server.holds.rules.hold import Hold, HoldAmount

_T = TypeVar("_T")

ASSETS: Final = ("USD", "TOK")
HOLDS: Final = ("h1", "h2", "h3", "h4", "h5", "h6")
CAP_SUBJECTS: Final = ("", "", "*", "key:*", "key:a", "user:1")
STARTS: Final = (
    1_767_225_540_000,  # 2025-12-31 23:59:00, a Wednesday: every window but the week's ends in a minute
    1_709_164_799_000,  # the second before 2024-02-29
    1_772_409_599_000,  # the second before Monday, 2026-03-02
    1_740_787_190_123,  # 10 s before 2025-03-01
)
TTLS: Final = (1, 1_000, 30_000, MINUTE_MS, HOUR_MS, DAY_MS)
TOMBSTONES: Final = (2_000, MINUTE_MS, HOUR_MS)
SPANS: Final = (1, 1, 999, 1_000, 1_000, 30_000, MINUTE_MS, HOUR_MS, DAY_MS, 31 * DAY_MS)
SCALES: Final = (1, 1, 1, 1, 10**12, UNITS_MAX // 60)
"""Units of some runs are close to what a double can still count; in the last ones one grant may be the whole range."""
MOVES_MAX: Final = 16
CHANGES: Final = (
    *["GRANT"] * 4,
    *["CAP"] * 3,
    *["STATE", "VOID", "EXPIRY", "OVERDRAFT", "CAP_REMOVAL"],
)


class Player:
    """Thinks of moves."""

    def __init__(self, random: Random, world: World) -> None:
        self.random = random
        self.world = world
        self.scale = self.pick(SCALES)
        self.verbs = (*VERBS, *[self.pick(VERBS)] * self.pick((0, 8, 20)))
        """Every run has a liking of its own, so that chains of one verb happen."""
        self.ttls = self.pick((TTLS, TTLS[-3:]))
        self.made: list[Move] = []
        self.numbers = 0

    # --- small choices -------------------------------------------------------------------------------------------

    def pick(self, choices: Sequence[_T]) -> _T:
        return choices[self.random.randrange(len(choices))]

    def chance(self, percent: int) -> bool:
        return self.random.randrange(100) < percent

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def units(self, most: int = 20) -> int:
        return self.random.randint(1, most) * self.scale

    def is_whole(self, percent: int) -> bool:
        """Whether the whole range is asked for at once: only in runs near the end of it."""
        return self.scale == SCALES[-1] and self.chance(percent)

    def available(self, asset: str) -> int:
        return self.world.wallet.available(asset) if self.world.wallet else 0

    def known_holds(self) -> list[Hold]:
        return list(self.world.wallet.holds.values()) if self.world.wallet else []

    def some_hold(self, *, state: HoldState | None = None) -> Hold | None:
        """A hold that the wallet knows, mostly of a state."""
        holds = self.known_holds()
        fitting = [hold for hold in holds if hold.state is state]
        if fitting and not self.chance(15):
            holds = fitting
        return self.pick(holds) if holds else None

    def subjects(self) -> list[str]:
        return self.random.sample(SUBJECTS, self.pick((0, 1, 1, 2)))

    def assets(self) -> list[str]:
        return self.random.sample(ASSETS, self.pick((1, 1, 2)))

    # --- time ----------------------------------------------------------------------------------------------------

    def wait(self) -> int:
        """Nothing, a span, or exactly to an edge: a millisecond before, at, or after it."""
        if self.chance(65):
            return 0
        now_ms, edges = self.world.now_ms, self.edges()
        if edges and self.chance(70):
            return max(0, self.pick(edges) + self.pick((-1, 0, 0, 0, 1)) - now_ms)
        return self.pick(SPANS)

    def edges(self) -> list[int]:
        """The times at which something happens next."""
        wallet, now_ms = self.world.wallet, self.world.now_ms
        if wallet is None:
            return []
        times = [hold.expire_ms for hold in wallet.open_holds()] + [wallet.loaded_ms + LIVE_MIN_MS]
        times += [hold.forget_ms for hold in wallet.settled_holds()]
        for asset in wallet.assets.values():
            times += [grant.expire_ms for grant in asset.grants] + [grant.effective_ms for grant in asset.scheduled]
        for cap in wallet.caps.caps.values():
            times.append(end_of(cap.window, period_of(cap.window, now_ms)))
        return [time for time in times if time >= now_ms]

    def end_ms(self) -> int:
        """When a grant ends: never, soon, or long ago."""
        return self.pick((0, 0, 1, 1)) and self.world.now_ms + self.pick((-5, 0, 1, 1_000, 30_000, MINUTE_MS, DAY_MS))

    # --- the verbs -----------------------------------------------------------------------------------------------

    def amount(self, asset: str) -> AmountRequest:
        available = max(1, self.available(asset))
        units = self.units() if self.chance(75) else self.pick((available, min(available + 1, UNITS_MAX)))
        if self.is_whole(15):
            units = UNITS_MAX
        min_units = self.pick((1, units, max(1, units // 2))) if self.chance(25) else 0
        policy = OveragePolicy.CHARGE_FULL if self.is_whole(50) else self.pick(list(OveragePolicy))
        return AmountRequest(asset, units, min_units, policy)

    def way(self) -> list[AmountRequest]:
        way = [self.amount(asset) for asset in self.assets()]
        return [*way, AmountRequest("GHOST", 1, 0, OveragePolicy.REJECT, known=False)] if self.chance(5) else way

    def new_id(self) -> str:
        return self.pick(HOLDS)

    def authorize(self) -> AuthorizeRequest:
        return AuthorizeRequest(
            **IDS,
            hold_id=self.new_id(),
            fingerprint=f"f{self.number()}",
            ways=[self.way() for _ in range(self.pick((1, 1, 2, 3)))],
            ttl_ms=self.pick(self.ttls),
            subjects=self.subjects(),
            expiry_action=self.pick((ExpiryAction.RELEASE, ExpiryAction.RELEASE, ExpiryAction.COMMIT_FULL)),
            labels=self.pick(("", '{"a":"b"}')),
            open_holds_max=self.pick((1, 2, 100, 100, 100)),
            tombstone_ms=self.pick(TOMBSTONES),
            outbox_backlog_limit=self.backlog_limit(),
        )

    def charge(self) -> ChargeRequest:
        return ChargeRequest(
            **IDS,
            hold_id=self.new_id(),
            fingerprint=f"f{self.number()}",
            amounts=self.way(),
            subjects=self.subjects(),
            labels="",
            tombstone_ms=self.pick(TOMBSTONES),
            outbox_backlog_limit=self.backlog_limit(),
        )

    def backlog_limit(self) -> int:
        """Mostly none; else one event before, at, or after the edge."""
        return max(0, len(self.world.model.events) + self.pick((-1, 0, 1))) if self.chance(10) else 0

    def total(self, amount: HoldAmount) -> int:
        """A total as the API lets it pass."""
        return UNITS_MAX if self.is_whole(60) else min(self.any_total(amount), UNITS_MAX)

    def any_total(self, amount: HoldAmount) -> int:
        """A total near one of the numbers that matter."""
        beyond = amount.reserved + max(0, self.available(amount.asset))
        half = (amount.reported + amount.reserved) // 2
        near = (amount.reported, half, half, amount.reserved, amount.authorized, beyond)
        if self.chance(60):
            return max(0, self.pick(near) + self.pick((-1, 0, 0, 1, self.scale)))
        return amount.reported + self.random.randint(0, 20) * self.scale

    def totals(self, hold: Hold | None) -> list[TotalUsed]:
        amounts = hold.amounts if hold else []
        totals = [TotalUsed(amount.asset, self.total(amount)) for amount in amounts if not self.chance(15)]
        self.random.shuffle(totals)
        if self.chance(4) or not totals:
            totals.append(TotalUsed("GHOST", self.pick((0, 5))))
        return totals

    def commit(self) -> CommitRequest:
        hold = self.some_hold(state=self.pick((HoldState.HELD, HoldState.HELD, HoldState.EXPIRED)))
        hold_id, lost = hold.hold_id if hold else "nobody", None
        if self.chance(15):
            hold_id, lost = self.lost()
            hold = recall(hold_id, lost)
        return CommitRequest(
            **IDS,
            hold_id=hold_id,
            amounts=self.totals(hold),
            final=self.chance(50),
            tombstone_ms=self.pick(TOMBSTONES),
            lost=lost,
            ticket_ms=self.world.now_ms - self.pick((0, 0, 0, 0, 999, -1)) if lost else 0,
        )

    def lost(self) -> tuple[str, RecordedHold]:
        """A hold as the ledger or a token has it: one that was forgotten, or one of an older state of the wallet."""
        history = self.world.history.items()
        gone = [hold for id_, hold in history if hold.state is HoldState.EXPIRED and not self.knows(id_)]
        if gone and self.chance(60):
            hold = self.pick(gone)
            return hold.hold_id, msgspec.structs.replace(recorded(hold), state=HoldState.EXPIRED)
        now_ms = self.world.now_ms
        return self.new_id(), RecordedHold(
            create_ms=now_ms - self.pick((1_000, HOUR_MS)),
            settle_ms=0,
            subjects=self.subjects(),
            labels=self.pick(("", '{"a":"b"}')),
            late=False,
            wallet_sequence=0,
            amounts=[self.lost_amount(asset) for asset in self.assets()],
            refunds=[],
            state=HoldState.EXPIRED,
            fingerprint=f"f{self.number()}",
            expire_ms=now_ms + self.pick((-1, 0, 1_000)),
            expiry_action=self.pick(list(ExpiryAction)),
            way=self.pick((0, 1)),
        )

    def lost_amount(self, asset: str) -> RecordedAmount:
        """Of a lost hold: mostly nothing was debited."""
        authorized = self.units()
        debited = self.pick((0, 0, authorized // 2))
        return RecordedAmount(
            asset,
            authorized,
            debited=debited,
            uncollected=self.pick((0, 0, 1)) if debited else 0,
            debits=[RecordedDebit("", debited)] if debited else [],
            overage_policy=self.pick(list(OveragePolicy)),
        )

    def raises(self, hold: Hold | None) -> list[TotalUsed]:
        """Totals that add to a hold, as far as there are funds."""
        raises = []
        for amount in hold.amounts if hold else []:
            available = max(0, self.available(amount.asset))
            more = self.pick((1, self.scale, 3 * self.scale, available // 2, available, available + 1))
            raises.append(TotalUsed(amount.asset, min(amount.reserved + more, UNITS_MAX)))
        return raises

    def extend(self) -> ExtendRequest:
        hold = self.some_hold(state=HoldState.HELD)
        raises = self.totals(hold) if self.chance(25) else self.raises(hold)
        return ExtendRequest(
            **IDS,
            hold_id=hold.hold_id if hold else "nobody",
            ttl_ms=self.pick((0, 0, *self.ttls)),
            amounts=raises if self.chance(80) else [],
            tombstone_ms=self.pick(TOMBSTONES),
        )

    def release(self) -> ReleaseRequest:
        hold = self.some_hold(state=HoldState.HELD)
        hold_id = hold.hold_id if hold and not self.chance(10) else self.new_id()
        return ReleaseRequest(
            **IDS,
            hold_id=hold_id,
            tombstone_ms=self.pick(TOMBSTONES),
            bury=self.chance(50),
            forced=self.chance(30),
        )

    def refund(self) -> RefundRequest:
        paid = [hold for hold in self.known_holds() if any(amount.refundable for amount in hold.amounts)]
        gone = [hold for hold_id, hold in self.world.history.items() if not self.knows(hold_id)]
        hold = self.pick([*paid, *gone]) if paid or gone else self.some_hold()
        amounts = []
        for amount in hold.amounts if hold else []:
            if amount.refundable and not self.chance(20):
                units = self.pick((1, amount.refundable, amount.refundable, -(-amount.refundable // 2)))
                amounts.append(TotalUsed(amount.asset, min(units + (1 if self.chance(5) else 0), UNITS_MAX)))
        self.random.shuffle(amounts)
        if self.chance(4):
            amounts.append(TotalUsed("GHOST", 1))
        refund_id = f"r{self.number()}"
        if hold and hold.refunds and self.chance(20):
            refund_id = self.pick(list(hold.refunds))
        return RefundRequest(
            **IDS,
            hold_id=hold.hold_id if hold else "nobody",
            refund_id=refund_id,
            digest=";".join(f"{amount.asset}={amount.units}" for amount in amounts),
            amounts=amounts,
            grants=[],
            recorded=None,
            tombstone_ms=self.pick(TOMBSTONES),
        )

    def knows(self, hold_id: str) -> bool:
        return self.world.wallet is not None and hold_id in self.world.wallet.holds

    def sweep(self) -> SweepRequest:
        return SweepRequest(**IDS, tombstone_ms=self.pick(TOMBSTONES))

    # --- what administrators do ----------------------------------------------------------------------------------

    def grant(self) -> GrantChange:
        now_ms = self.world.now_ms
        return GrantChange(
            grant_id=f"g{self.number()}",
            asset=self.pick(ASSETS),
            units=self.units(60),
            priority=self.pick((10, 50, 50)),
            source=self.pick((GrantSource.PROMOTION, GrantSource.PURCHASE, GrantSource.TOP_UP)),
            effective_ms=self.pick((0, now_ms, now_ms, now_ms + 1, now_ms + 1_000, now_ms + MINUTE_MS)),
            expire_ms=self.end_ms(),
            create_ms=now_ms - self.pick((0, 0, 1)),
            labels=self.pick(("", '{"order":"7"}')),
        )

    def cap(self) -> Cap:
        limit = self.random.randint(0, 50) * self.scale
        return Cap(
            self.pick(CAP_SUBJECTS),
            self.pick(ASSETS),
            self.pick(list(CapWindow)),
            limit,
            self.pick((CapMode.ENFORCE, CapMode.ENFORCE, CapMode.OBSERVE)),
        )

    def change(self, number: int = 0) -> Change:
        wallet, kind = self.world.wallet, self.pick(CHANGES)
        if wallet and wallet.state is not WalletState.ACTIVE and self.chance(40):
            return Change(number, "STATE", state=WalletState.ACTIVE)
        funds = self.known_grant(self.end_ms())
        change = Change(number, "GRANT", grant=self.grant())
        match kind:
            case "STATE":
                states = (WalletState.ACTIVE, WalletState.ACTIVE, WalletState.FROZEN, WalletState.CLOSED)
                change = Change(number, "STATE", state=self.pick(states))
            case "VOID" | "EXPIRY" if funds:
                change = Change(number, "VOID" if kind == "VOID" else "EXPIRY", grant=funds)
            case "OVERDRAFT":
                asset = self.pick(ASSETS)
                limit = min(self.pick((0, 5, 20)) * self.scale, self.room(asset))
                change = Change(number, "OVERDRAFT", asset=asset, limit=limit)
            case "CAP":
                change = Change(number, "CAP", cap=self.cap())
            case "CAP_REMOVAL":
                caps = list(wallet.caps.caps.values()) if wallet else []
                gone = self.pick(caps) if caps and self.chance(80) else self.cap()
                change = Change(number, "CAP_REMOVAL", cap=gone)
        return change

    def room(self, asset: str) -> int:
        """The highest overdraft limit that Postgres lets pass; near the range none in a load: its funds come later."""
        wallet = self.world.wallet
        if wallet is None:
            return 0 if self.scale == SCALES[-1] else 5 * self.scale
        there = wallet.assets.get(asset)
        coming = sum(grant.free for grant in there.scheduled) if there else 0
        return max(0, UNITS_MAX - max(0, there.settled if there else 0) - coming)

    def known_grant(self, expire_ms: int) -> GrantChange | None:
        """A change of a grant, preferably one that is still good for something."""
        known = list(self.world.grants.items())
        if not known:
            return None
        grant_id, (asset, packed) = self.pick(known)
        return GrantChange(grant_id, asset, 0, 0, packed.source, 0, expire_ms, 0, "")

    def apply(self) -> ApplyRequest:
        return ApplyRequest(**IDS, change=self.change())

    def loaded_grant(self, *, is_scheduled: bool, most: int = UNITS_MAX) -> PackedGrant:
        funds = self.grant()
        starts = (0, 1, 1_000, MINUTE_MS) if is_scheduled else (-1, -DAY_MS)
        return PackedGrant(
            funds.grant_id,
            min(funds.units, most),
            0,
            funds.priority,
            funds.expire_ms,
            funds.source,
            self.world.now_ms + self.pick(starts),
            funds.create_ms,
        )

    def evict(self) -> EvictRequest:
        """With the numbers that Postgres has, by how much they are off: mostly not at all."""
        off = (0,) * 9 + (-1, 1)
        numbers = self.pick(off)
        return EvictRequest(
            **IDS,
            sequence=self.pick(off),
            applied_change_number=numbers,
            change_number=numbers + self.pick((0,) * 9 + (1,)),
        )

    def load(self) -> LoadRequest:
        numbers = self.pick((0, 0, 7))
        assets = [
            LoadedAsset(
                asset,
                self.units() if self.chance(15) else 0,
                self.pick((0, 0, 10)) * self.scale,
                [self.loaded_grant(is_scheduled=False, most=16 * self.scale) for _ in range(self.pick((1, 1, 2, 3)))],
                [self.loaded_grant(is_scheduled=True) for _ in range(self.pick((0, 0, 1, 2)))],
            )
            for asset in ASSETS
            if self.chance(85)
        ]
        caps = {(cap.subject, cap.asset, cap.window): cap for cap in (self.cap() for _ in range(self.pick((0, 1, 3))))}
        usage = [
            CapUsage(f"{cap.subject}|{cap.asset}|{cap.window}|{period_of(cap.window, self.world.now_ms)}", self.units())
            for cap in caps.values()
            if cap.window is not CapWindow.PER_REQUEST and "*" not in cap.subject and self.chance(50)
        ]
        return LoadRequest(
            **IDS,
            ticket_ms=self.world.now_ms - self.pick((*[0] * 18, 30_000, 30_001, -1)),
            state=WalletState.ACTIVE if self.chance(95) else WalletState.FROZEN,
            sequence=self.pick((0, 9)),
            change_number=numbers,
            assets=assets,
            caps=list(caps.values()),
            cap_usage=usage,
            changes=[self.change(numbers + 1 + i) for i in range(self.pick((0, 0, 0, 1, 2)))],
        )

    # --- moves ---------------------------------------------------------------------------------------------------

    def move(self, verb: str) -> Move:
        """A move of one verb."""
        request = getattr(self, verb)()
        return Move(
            wait_ms=self.wait() if self.made else 0,
            verb=verb,
            request=request,
            number=self.pick((0, 2)) if self.chance(4) else 1,
            from_ledger=self.chance(90),
            is_stale=self.chance(1),
        )

    def again(self) -> Move:
        """An old move once more, as a network may deliver it."""
        old = self.pick(self.made)
        return Move(self.wait(), old.verb, old.request, 0 if old.verb == "apply" else 1)

    def next_move(self) -> Move:
        """Any move: mostly one of a verb, sometimes an old one again."""
        if self.world.wallet is None:
            return self.move("load")
        if self.made and self.chance(12):
            return self.again()
        verb = self.pick(self.verbs)
        states = [hold.state for hold in self.known_holds()]
        useful = NEEDS.get(verb)
        if useful and not useful & set(states) and not self.chance(15):
            verb = self.pick(("authorize", "authorize", "charge"))
        return self.move(verb)

    def make(self, move: Move) -> None:
        """Make a move on the model."""
        self.world.make(move)
        self.made.append(move)


VERBS: Final = (
    *["authorize"] * 8,
    *["charge"] * 3,
    *["commit"] * 7,
    *["extend"] * 4,
    *["release"] * 3,
    *["refund"] * 4,
    *["apply"] * 6,
    *["sweep"] * 2,
    *["evict"] * 2,
    "load",
)


NEEDS: Final = {
    "commit": {HoldState.HELD, HoldState.EXPIRED},
    "extend": {HoldState.HELD},
    "release": {HoldState.HELD, HoldState.EXPIRED},
    "refund": {HoldState.COMMITTED, HoldState.EXPIRED},
}
"""The states of holds for which a verb does more than refuse."""


def random_run(seed: int) -> tuple[Run, World]:
    """A run from beginning to end, already made on the model."""
    random = Random(seed)  # noqa: S311 - a test's dice
    start_ms = STARTS[random.randrange(len(STARTS))]
    world = World(start_ms)
    player = Player(random, world)
    for _ in range(random.randint(6, MOVES_MAX)):
        player.make(player.next_move())
    player.make(Move(wait_ms=3 * DAY_MS, verb="sweep", request=player.sweep()))
    return Run(start_ms, player.made), world
