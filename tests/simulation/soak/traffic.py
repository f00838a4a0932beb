"""Gateways and an operator: what they do is drawn from the seed, what came of it is noted in the books.

Every call is sent again with the same ids, to whichever server, until it has an answer. What a caller does next never
depends on the clock, and on an answer only where it must (a denied hold is not committed), so a seed is a plan.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import drawdown
from drawdown import CapWindow, ExpiryAction, GrantSource, OveragePolicy
from simulation.soak.books import KnownGrant, KnownHold

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Sequence

    from simulation.soak.books import Books

Result = TypeVar("Result")

ASSETS: Final = {"USD": 6, "TOKENS": 0}
PATIENCE_S: Final = 180.0
"""How long one call is sent again and again before the run gives up: faults last for seconds, on a slow machine too."""
RETRY_PAUSE_S: Final = 0.05
THINK_S: Final = 0.04
"""Longest pause of a gateway between two requests."""
HOLD_TTL_S: Final = 900.0
"""Longer than any fault: what its gateway settles, the clock must not."""
FORGOTTEN_TTL_S: Final = 2.0
"""Of holds whose gateway never comes back."""
RICH_UNITS: Final = 50_000_000
POOR_UNITS: Final = 3_000
SUBJECT: Final = "key:soak"
CAP_UNITS: Final = 20_000
"""Per minute: denies now and then, and not for long."""
ENDS: Final = {
    "commit": 50,
    "charge": 12,
    "extend and commit": 10,
    "progress and commit": 8,
    "progress, extend and commit": 8,
    "release": 8,
    "forget": 4,
}
"""How requests end, and their weights."""
TWICE_SHARE: Final = 0.1
"""Of the requests whose calls are sent twice, as after a lost answer."""
REFUND_SHARE: Final = 0.2


class Caller:
    """Sends calls to any of the servers, until one answers."""

    def __init__(self, clients: Sequence[drawdown.AsyncClient], books: Books, dice: random.Random) -> None:
        self.books = books
        self.dice = dice
        self._clients = clients

    async def answer(self, name: str, call: Callable[[drawdown.AsyncClient], Awaitable[Result]]) -> Result:
        """The answer, however often it takes."""
        give_up = time.monotonic() + PATIENCE_S
        number = self.dice.randrange(len(self._clients))
        while True:
            try:
                found = await call(self._clients[number % len(self._clients)])
            except (drawdown.UnavailableError, drawdown.DeadlineExceededError) as error:
                assert time.monotonic() < give_up, f"{name} had no answer for {PATIENCE_S} s: {error}"
                self.books.counts["retries"] += 1
                number += 1
                await asyncio.sleep(RETRY_PAUSE_S)
            else:
                self.books.counts[name] += 1
                return found


class Request(NamedTuple):
    """What a gateway will do, drawn before anything is sent."""

    wallet_id: str
    hold_id: str
    amounts: dict[str, int]
    used: dict[str, int]
    policy: OveragePolicy
    expiry: ExpiryAction
    """Only of a hold that is forgotten."""
    end: str
    """One of ``ENDS``."""
    is_sent_twice: bool
    is_refunded: bool


class Gateway(Caller):
    """One request after the other, from its Authorize to its end."""

    def __init__(self, name: str, clients: Sequence[drawdown.AsyncClient], books: Books, dice: random.Random) -> None:
        super().__init__(clients, books, dice)
        self._name = name
        self._requests = 0
        self.needs_ledger = True
        """False: it refunds nothing, for which the ledger is asked."""
        self.open: list[Request] = []
        """Whose holds were placed and not settled, when it was told to leave them open."""

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop; the request that was begun is finished."""
        while not stop.is_set():
            await self.carry_out(self.draw())
            await asyncio.sleep(self.dice.uniform(0, THINK_S))

    def draw(self) -> Request:
        """The next request."""
        dice = self.dice
        self._requests += 1
        amounts = {asset: dice.randint(1, 900) for asset in dice.sample(list(ASSETS), dice.randint(1, 2))}
        return Request(
            wallet_id=dice.choice(self.books.wallets),
            hold_id=f"{self._name}-{self._requests}",
            amounts=amounts,
            used={asset: round(units * dice.choice((0, 0.3, 0.8, 1, 1, 1.5))) for asset, units in amounts.items()},
            policy=dice.choice((OveragePolicy.CHARGE_AVAILABLE, OveragePolicy.CHARGE_FULL)),
            expiry=dice.choice((ExpiryAction.RELEASE, ExpiryAction.COMMIT_FULL)),
            end=dice.choices(list(ENDS), list(ENDS.values()))[0],
            is_sent_twice=dice.random() < TWICE_SHARE,
            is_refunded=dice.random() < REFUND_SHARE,
        )

    async def carry_out(self, request: Request) -> None:
        """One request."""
        if request.end == "charge":
            await self._charge(request)
        elif not await self._authorize(request):
            return
        elif request.end == "forget":
            # Nobody settles it. By its expiry action the clock does, with all of it or nothing.
            known = self.books.holds[request.hold_id]
            known.debited = dict(request.amounts) if request.expiry is ExpiryAction.COMMIT_FULL else {}
            known.is_settled = True
        elif request.end == "release":
            await self._release(request)
        else:
            await self._commit_all(request)
        if request.is_refunded and self.needs_ledger and request.end not in ("forget", "release"):
            await self._refund(request.wallet_id, request.hold_id)

    async def leave_open(self) -> None:
        """A hold that is settled later: ``commit_open``."""
        request = self.draw()._replace(end="commit", is_sent_twice=False)
        if await self._authorize(request):
            self.open.append(request)

    async def commit_open(self) -> None:
        """Settle what was left open: by its token, where the hold was lost with Valkey's state."""
        for request in self.open:
            await self._commit(request.wallet_id, request.hold_id, request.used)
            self.books.counts["committed after a loss"] += 1
        self.open = []

    async def _authorize(self, request: Request) -> bool:
        """Whether it was approved."""
        is_forgotten = request.end == "forget"
        call = partial(
            drawdown.AsyncClient.authorize,
            wallet_id=request.wallet_id,
            hold_id=request.hold_id,
            amounts=request.amounts,
            ttl_s=FORGOTTEN_TTL_S if is_forgotten else HOLD_TTL_S,
            subjects=[SUBJECT],
            overage_policy=request.policy,
            expiry_action=request.expiry if is_forgotten else ExpiryAction.RELEASE,
        )
        answer = await self.answer("Authorize", call)
        self.books.check_balances(request.hold_id, answer.balances)
        if not answer.approved:
            self.books.counts[f"denied {answer.denial.reason.value if answer.denial else ''}"] += 1
            return False
        assert answer.hold is not None
        self.books.holds[request.hold_id] = KnownHold(request.wallet_id, answer.hold.hold_token)
        if request.is_sent_twice and not is_forgotten:
            repeated = await self.answer("Authorize again", call)
            if not repeated.replayed or repeated.hold != answer.hold:
                self.books.wrong.append(f"{request.hold_id}: approved, and sent again it was {repeated}")
        return True

    async def _release(self, request: Request) -> None:
        call = partial(drawdown.AsyncClient.release, wallet_id=request.wallet_id, hold_id=request.hold_id)
        answer = await self.answer("Release", call)
        self.books.check_balances(request.hold_id, answer.balances)
        self.books.holds[request.hold_id].is_settled = True

    async def _commit_all(self, request: Request) -> None:
        """Progress and a raise, where they were drawn, and the final Commit; at times two of it at once."""
        wallet_id, hold_id = request.wallet_id, request.hold_id
        if "progress" in request.end:
            some = {asset: units // 2 for asset, units in request.used.items()}
            await self._commit(wallet_id, hold_id, some, final=False)
        if "extend" in request.end:
            more = {asset: units + 50 for asset, units in request.amounts.items()}
            extend = partial(
                drawdown.AsyncClient.extend, wallet_id=wallet_id, hold_id=hold_id, amounts=more, ttl_s=HOLD_TTL_S
            )
            raised = await self.answer("Extend", extend)
            self.books.check_balances(hold_id, raised.balances)
        sent = 1 + request.is_sent_twice
        first, *others = await asyncio.gather(*(self._commit(wallet_id, hold_id, request.used) for _ in range(sent)))
        for other in others:
            if (first.debited, first.wallet_sequence) != (other.debited, other.wallet_sequence):
                self.books.wrong.append(f"{hold_id}: one Commit sent twice is answered by {first} and {other}")

    async def _commit(
        self, wallet_id: str, hold_id: str, used: dict[str, int], *, final: bool = True
    ) -> drawdown.CommitResult:
        floor, known = self.books.seen.get(wallet_id, 0), self.books.holds[hold_id]
        commit = partial(drawdown.AsyncClient.commit, wallet_id=wallet_id, hold_id=hold_id, hold_token=known.token)
        answer = await self.answer("Commit" if final else "Commit progress", partial(commit, amounts=used, final=final))
        known.told(answer.hold, answer.wallet_sequence)
        known.is_settled = final
        self.books.check_balances(hold_id, answer.balances)
        if answer.replayed or not final:
            self.books.counts["replayed"] += answer.replayed
        else:
            self.books.check_fresh(hold_id, wallet_id, floor, answer.wallet_sequence)
        return answer

    async def _charge(self, request: Request) -> None:
        call = partial(
            drawdown.AsyncClient.charge,
            wallet_id=request.wallet_id,
            charge_id=request.hold_id,
            amounts=request.amounts,
            subjects=[SUBJECT],
            overage_policy=request.policy,
        )
        answer = await self.answer("Charge", call)
        self.books.check_balances(request.hold_id, answer.balances)
        if answer.decision is drawdown.Decision.APPROVED:
            known = self.books.holds[request.hold_id] = KnownHold(request.wallet_id, is_settled=True)
            known.told(answer.hold, answer.wallet_sequence)

    async def _refund(self, wallet_id: str, hold_id: str) -> None:
        known = self.books.holds.get(hold_id)
        amounts = {asset: max(1, units // 3) for asset, units in known.debited.items()} if known else {}
        if known is None or not amounts:
            return
        call = partial(
            drawdown.AsyncClient.refund,
            wallet_id=wallet_id,
            hold_id=hold_id,
            refund_id=f"{hold_id}-back",
            amounts=amounts,
        )
        answer = await self.answer("Refund", call)
        self.books.check_balances(hold_id, answer.balances)
        known.told(answer.hold, answer.wallet_sequence)
        if known.refunded != amounts:
            self.books.wrong.append(f"{hold_id}: refunded {amounts}, the hold has {known.refunded}")


class Reader(Caller):
    """Somebody who looks at balances: never older than what was acknowledged before."""

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop."""
        while not stop.is_set():
            wallet_id = self.dice.choice(self.books.wallets)
            floor = self.books.seen.get(wallet_id, 0)
            call = partial(drawdown.AsyncClient.get_balance, wallet_id=wallet_id)
            answer = await self.answer("GetBalance", call)
            self.books.check_balances(f"reader of {wallet_id}", answer.balances)
            self.books.check_fresh("reader", wallet_id, floor, answer.wallet_sequence)
            await asyncio.sleep(self.dice.uniform(0, 4 * THINK_S))


class Operator(Caller):
    """Grants, voids, caps, freezes, overdraft limits."""

    def __init__(self, clients: Sequence[drawdown.AsyncClient], books: Books, dice: random.Random) -> None:
        super().__init__(clients, books, dice)
        self._made: dict[str, list[str]] = defaultdict(list)  # what may be voided: not the first funds
        self._number = 0

    async def prepare(self, wallets: int) -> None:
        """Assets, wallets and their first funds; every fifth wallet is poor."""
        for asset, scale in ASSETS.items():
            await self.answer("CreateAsset", partial(drawdown.AsyncClient.create_asset, asset=asset, scale=scale))
        for number in range(wallets):
            wallet_id = f"wallet-{number:03d}"
            await self.answer("CreateWallet", partial(drawdown.AsyncClient.create_wallet, wallet_id=wallet_id))
            for asset in ASSETS:
                await self.grant(wallet_id, asset, POOR_UNITS if number % 5 == 0 else RICH_UNITS)
            self.books.wallets.append(wallet_id)

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop; no wallet stays frozen."""
        while not stop.is_set():
            await self.change()
            await asyncio.sleep(self.dice.uniform(0, 8 * THINK_S))

    async def change(self) -> None:
        """One change of one wallet."""
        dice, client = self.dice, drawdown.AsyncClient
        wallet_id, asset, draw = dice.choice(self.books.wallets), dice.choice(list(ASSETS)), dice.random()
        units, lives_s = dice.randint(500, 5_000), dice.choice((None, None, 4.0, 8.0))
        if draw < 0.45:
            grant_id = await self.grant(wallet_id, asset, units, lives_s)
            if self.books.grants[wallet_id, grant_id].is_certain:
                self._made[wallet_id].append(grant_id)
        elif draw < 0.6 and self._made[wallet_id]:
            grant_id = dice.choice(self._made[wallet_id])
            self.books.grants[wallet_id, grant_id].may_be_void = True
            await self.answer("VoidGrant", partial(client.void_grant, wallet_id=wallet_id, grant_id=grant_id))
        elif draw < 0.7:
            call = partial(client.set_cap, window=CapWindow.MINUTE, limit_units=CAP_UNITS, subject=SUBJECT)
            await self.answer("SetCap", partial(call, wallet_id=wallet_id, asset=asset))
        elif draw < 0.78:
            call = partial(client.remove_cap, window=CapWindow.MINUTE, subject=SUBJECT)
            try:
                await self.answer("RemoveCap", partial(call, wallet_id=wallet_id, asset=asset))
            except drawdown.NotFoundError:
                self.books.counts["RemoveCap of none"] += 1
        elif draw < 0.9:
            await self.answer("FreezeWallet", partial(client.freeze_wallet, wallet_id=wallet_id))
            await self.answer("UnfreezeWallet", partial(client.unfreeze_wallet, wallet_id=wallet_id))
        else:
            limit = partial(client.set_overdraft_limit, limit_units=dice.choice((0, units)))
            await self.answer("SetOverdraftLimit", partial(limit, wallet_id=wallet_id, asset=asset))

    async def grant(self, wallet_id: str, asset: str, units: int, lives_s: float | None = None) -> str:
        """A grant, and its id; one that could not be answered before its own expiry may be there or not."""
        self._number += 1
        grant_id = f"grant-{self._number}"
        expire_time = None if lives_s is None else datetime.now(UTC) + timedelta(seconds=lives_s)
        known = self.books.grants[wallet_id, grant_id] = KnownGrant(wallet_id, asset, units, expire_time)
        call = partial(
            drawdown.AsyncClient.create_grant,
            wallet_id=wallet_id,
            grant_id=grant_id,
            asset=asset,
            units=units,
            source=GrantSource.PURCHASE,
            expire_time=expire_time,
        )
        try:
            await self.answer("CreateGrant", call)
        except drawdown.InvalidRequestError as error:
            assert expire_time is not None and datetime.now(UTC) > expire_time, error
            known.is_certain = False
            self.books.counts["CreateGrant too late"] += 1
        return grant_id
