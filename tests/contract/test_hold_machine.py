"""Long random lives of a wallet on the real store, step by step against a small model of the rules in plain Python."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from contract.stage import open_stage
from contract.wallets import CREATE_MS
from drawdown_server.errors import DrawdownError
from drawdown_server.holds.model import GrantSource, WalletState
from stores import CLUSTER

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from drawdown_server.holds.messages import AuthorizeReply, SettleReply

STEPS: Final = 300
EXAMPLES: Final = 8
ASSETS: Final = ("TOKENS", "USD")
OPEN_MAX: Final = 8

# --- the model ---------------------------------------------------------------------------------------------------


@dataclass
class ModelGrant:
    name: str
    priority: int
    expire_ms: int
    promotion: bool
    create_ms: int
    free: int
    pinned: int = 0

    def burn_key(self) -> tuple[object, ...]:
        return (self.priority, self.expire_ms or float("inf"), not self.promotion, self.create_ms, self.name)


@dataclass
class ModelHold:
    content: tuple[object, ...]
    amounts: dict[str, int]
    due: bool
    state: str = "HELD"
    pins: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    debited: dict[str, int] = field(default_factory=dict)
    late: bool = False
    sequence: int = 0
    forgettable: bool = False


class Model:
    """The rules, without a store. A verb answers a short text; "OK" moved something or said the same again."""

    def __init__(self) -> None:
        self.state = "ACTIVE"
        self.sequence = 0
        self.grants: dict[str, list[ModelGrant]] = {asset: [] for asset in ASSETS}
        self.holds: dict[str, ModelHold] = {}
        self.spent: set[str] = set()
        """Ids in the ledger that the store has forgotten: to use them again is a mistake of the caller."""

    def available(self, asset: str) -> int:
        return sum(grant.free for grant in self.grants[asset])

    def grant(self, asset: str, grant: ModelGrant) -> None:
        self.sequence += 1
        self.grants[asset] = sorted([*self.grants[asset], grant], key=ModelGrant.burn_key)

    def _take(self, asset: str, units: int) -> list[tuple[ModelGrant, int]]:
        taken = []
        for grant in self.grants[asset]:
            part = min(units, grant.free)
            if part:
                grant.free -= part
                units -= part
                taken.append((grant, part))
        assert units == 0
        return taken

    def _unpin(self, hold: ModelHold, used: dict[str, int]) -> None:
        for asset, pins in hold.pins.items():
            left = used.get(asset, 0)
            for name, units in pins:
                grant = next(grant for grant in self.grants[asset] if grant.name == name)
                debited = min(left, units)
                left -= debited
                grant.pinned -= units
                grant.free += units - debited
            assert left == 0
        hold.pins = {}

    def _drop_empty(self) -> None:
        for asset, grants in self.grants.items():
            self.grants[asset] = [grant for grant in grants if grant.free + grant.pinned]

    def free_due(self, forgettable: bool = False) -> int:
        due = [hold for hold in self.holds.values() if hold.state == "HELD" and hold.due]
        for hold in due:
            self._unpin(hold, {})
            hold.state, hold.forgettable = "EXPIRED", forgettable
        return len(due)

    def _denial(self, amounts: dict[str, int]) -> str:
        if sum(hold.state == "HELD" for hold in self.holds.values()) >= OPEN_MAX:
            return "TOO_MANY_HOLDS"
        if any(self.available(asset) < units for asset, units in amounts.items()):
            return "INSUFFICIENT_FUNDS"
        return ""

    def authorize(self, hold_id: str, amounts: dict[str, int], due: bool) -> str:
        content = (tuple(amounts.items()), due)
        known = self.holds.get(hold_id)
        if known:
            if known.content and known.content != content:
                return "ID_REUSED"
            return "HOLD_RELEASED" if known.state == "RELEASED" else "OK"
        if self.state != "ACTIVE":
            return f"WALLET_{self.state}"
        self.free_due()
        if denial := self._denial(amounts):
            return denial
        hold = self.holds[hold_id] = ModelHold(content, amounts, due)
        for asset, units in amounts.items():
            hold.pins[asset] = []
            for grant, part in self._take(asset, units):
                grant.pinned += part
                hold.pins[asset].append((grant.name, part))
        return "OK"

    def commit(self, hold_id: str, totals: dict[str, int], forgettable: bool) -> str:  # noqa: PLR0911 - a table
        hold = self.holds.get(hold_id)
        if hold is None:
            return "HOLD_NOT_FOUND"
        if hold.state == "RELEASED":
            return "HOLD_RELEASED"
        if hold.state == "COMMITTED":
            same = all(units == hold.debited.get(asset, 0) for asset, units in totals.items())
            return "OK" if same and totals.keys() <= hold.amounts.keys() else "HOLD_COMMITTED"
        if hold.due and hold.state == "HELD":
            self._unpin(hold, {})
            hold.state, hold.forgettable = "EXPIRED", forgettable
        if not totals.keys() <= hold.amounts.keys():
            return "ASSET_NOT_HELD"
        if any(units > hold.amounts[asset] for asset, units in totals.items()):
            return "EXCEEDS_HOLD"
        hold.late = hold.state == "EXPIRED"
        if hold.late:
            if any(units > self.available(asset) for asset, units in totals.items()):
                return "INSUFFICIENT_FUNDS"
            for asset, units in totals.items():
                self._take(asset, units)
        else:
            self._unpin(hold, totals)
        self._drop_empty()
        self.sequence += 1
        hold.state, hold.debited, hold.sequence, hold.forgettable = "COMMITTED", totals, self.sequence, forgettable
        return "OK"

    def release(self, hold_id: str, bury: bool, forgettable: bool) -> str:
        hold = self.holds.get(hold_id)
        if hold is None:
            if not bury:
                return "HOLD_NOT_FOUND"
            hold = self.holds[hold_id] = ModelHold((), {}, due=False)
        elif hold.state == "COMMITTED":
            return "HOLD_COMMITTED"
        elif hold.state == "RELEASED":
            return "OK"
        self._unpin(hold, {})
        hold.state, hold.forgettable = "RELEASED", forgettable
        return "OK"

    def sweep(self, forgettable: bool) -> tuple[int, int]:
        old = [hold_id for hold_id, hold in self.holds.items() if hold.state != "HELD" and hold.forgettable]
        for hold_id in old:
            if self.holds.pop(hold_id).state == "COMMITTED":
                self.spent.add(hold_id)
        return self.free_due(forgettable), len(old)


# --- the machine -------------------------------------------------------------------------------------------------

numbers = st.integers(0, 99)
amounts = st.dictionaries(st.sampled_from(ASSETS), st.integers(1, 15), min_size=1)
totals = st.dictionaries(st.sampled_from(ASSETS), st.integers(0, 15))
seldom = st.integers(0, 5).map(lambda number: number == 0)


class HoldMachine(RuleBasedStateMachine):
    """The store and the model, side by side. Whatever is to be over is over before the next step."""

    url = ""
    runner: asyncio.Runner
    lives = itertools.count(1)
    """A life leaves its wallet behind, and the next one has another."""

    @initialize()
    def open(self) -> None:
        self.run(self._open())

    async def _open(self) -> None:
        self.exit = AsyncExitStack()
        self.stage = await self.exit.enter_async_context(open_stage(self.url))
        # Some lives have no grant of their own.
        self.wallet = await self.stage.wallet(f"w{next(self.lives)}", USD=200, TOKENS=200)
        self.model = Model()
        for name, asset in (("g1", "USD"), ("g2", "TOKENS")):
            self.model.grant(asset, ModelGrant(name, 0, 0, promotion=False, create_ms=CREATE_MS, free=200))

    def run(self, step: Awaitable[None]) -> None:
        async def awaited() -> None:
            await step

        self.runner.run(awaited())

    @rule(
        asset=st.sampled_from(ASSETS),
        units=st.integers(1, 80),
        priority=st.integers(0, 2),
        expire_ms=st.sampled_from([0, CREATE_MS * 2, CREATE_MS * 3]),
        promotion=st.booleans(),
        create_ms=st.sampled_from([CREATE_MS, CREATE_MS + 1]),
    )
    def grant(self, asset: str, units: int, priority: int, expire_ms: int, promotion: bool, create_ms: int) -> None:
        name = f"g{self.wallet.change_number + 1}"
        source = GrantSource.PROMOTION if promotion else GrantSource.TOP_UP

        async def step() -> None:
            await self.wallet.grant(
                asset, units, name, priority=priority, expire_ms=expire_ms, source=source, create_ms=create_ms
            )

        self.model.grant(asset, ModelGrant(name, priority, expire_ms, promotion, create_ms, free=units))
        self.run(step())

    def hold_id(self, number: int) -> str:
        """Mostly a hold that can be settled, sometimes a settled one, seldom one that never was."""
        holds = self.model.holds
        if number >= 30:
            holds = {hold_id: hold for hold_id, hold in holds.items() if hold.state in ("HELD", "EXPIRED")}
        if number < 3 or not holds:
            return f"x{number}"
        return list(holds)[number % len(holds)]

    @rule(number=numbers, amounts=amounts)
    def authorize(self, number: int, amounts: dict[str, int]) -> None:
        self._authorize(f"h{number}", amounts, due=False)

    @rule(number=numbers, amounts=amounts)
    def authorize_and_let_it_expire(self, number: int, amounts: dict[str, int]) -> None:
        self._authorize(f"h{number}", amounts, due=True)

    @rule(number=numbers)
    def authorize_again(self, number: int) -> None:
        hold_id = self.hold_id(number)
        known = self.model.holds.get(hold_id)
        self._authorize(hold_id, dict(known.amounts) if known else {"USD": 1}, due=bool(known and known.due))

    def _authorize(self, hold_id: str, amounts: dict[str, int], due: bool) -> None:
        while hold_id in self.model.spent:
            hold_id += "."
        expected = self.model.authorize(hold_id, dict(amounts), due)

        async def step() -> None:
            call = self.wallet.authorize(hold_id, ttl_ms=1 if due else 60_000_000, open_holds_max=OPEN_MAX, **amounts)
            assert await self.answer(call) == expected
            if expected == "OK" and due:
                await self.stage.until((await self.wallet.read_hold(hold_id)).expire_ms)
            await self.compare()

        self.run(step())

    @rule(number=numbers, totals=totals, forgettable=seldom, exact=st.booleans())
    def commit(self, number: int, totals: dict[str, int], forgettable: bool, exact: bool) -> None:
        hold_id = self.hold_id(number)
        known = self.model.holds.get(hold_id)
        totals = dict(known.amounts) if exact and known else totals
        expected = self.model.commit(hold_id, dict(totals), forgettable)
        tombstone_ms = 1 if forgettable else 60_000_000

        async def step() -> None:
            assert await self.answer(self.wallet.commit(hold_id, tombstone_ms=tombstone_ms, **totals)) == expected
            await self.compare()

        self.run(step())

    @rule(number=numbers, bury=seldom, forgettable=seldom)
    def release(self, number: int, bury: bool, forgettable: bool) -> None:
        hold_id = self.hold_id(number)
        expected = self.model.release(hold_id, bury, forgettable)
        tombstone_ms = 1 if forgettable else 60_000_000

        async def step() -> None:
            assert await self.answer(self.wallet.release(hold_id, bury=bury, tombstone_ms=tombstone_ms)) == expected
            await self.compare()

        self.run(step())

    @rule(forgettable=seldom)
    def sweep(self, forgettable: bool) -> None:
        expected = self.model.sweep(forgettable)

        async def step() -> None:
            # What may be forgotten after 1 ms is to be forgotten by now.
            await self.stage.until(await self.stage.store.now_ms() + 2)
            swept = await self.wallet.sweep(tombstone_ms=1 if forgettable else 60_000_000)
            assert (swept.expired, swept.forgotten) == expected
            await self.compare()

        self.run(step())

    @rule(state=st.sampled_from([WalletState.ACTIVE] * 5 + [WalletState.FROZEN]))
    def set_state(self, state: WalletState) -> None:
        async def step() -> None:
            await self.wallet.set_state(state)

        self.model.state = str(state)
        self.model.sequence += 1
        self.run(step())

    @staticmethod
    async def answer(call: Awaitable[AuthorizeReply | SettleReply]) -> str:
        try:
            reply = await call
        except DrawdownError as error:
            return error.reason.removeprefix("ERROR_REASON_")
        return str(getattr(reply, "reason", None) or reply.status)

    async def compare(self) -> None:
        reading = await self.wallet.read()
        assert (str(reading.state), reading.sequence) == (self.model.state, self.model.sequence)
        for balance in reading.balances:
            assert balance.available == self.model.available(balance.asset)
            found = [(grant.grant_id, grant.free, grant.pinned) for grant in balance.grants]
            assert found == [(grant.name, grant.free, grant.pinned) for grant in self.model.grants[balance.asset]]

    def teardown(self) -> None:
        if hasattr(self, "wallet"):
            self.run(self._close())

    async def _close(self) -> None:
        try:
            for hold_id, expected in self.model.holds.items():
                hold = await self.wallet.read_hold(hold_id)
                assert (str(hold.state), hold.late, hold.wallet_sequence) == (
                    expected.state,
                    expected.late and expected.state == "COMMITTED",
                    expected.sequence,
                )
                assert {a.asset: a.debited for a in hold.amounts if a.debited} == {
                    asset: units for asset, units in expected.debited.items() if units
                }
        finally:
            await self.exit.aclose()


def test_random_lives_of_a_wallet_follow_the_rules(store_url: str, store_kind: str) -> None:
    with asyncio.Runner() as runner:
        machine = type("Machine", (HoldMachine,), {"url": store_url, "runner": runner})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=1
                if store_kind == CLUSTER
                else EXAMPLES,  # the scripts are the same, what sends them is not
                stateful_step_count=STEPS,
                derandomize=True,
                deadline=None,
                database=None,
                phases=[Phase.generate],  # add Phase.shrink to look for the shortest life that fails: minutes
                suppress_health_check=list(HealthCheck),
            ),
        )
