"""Amounts at the edges of 32, 53 and 64 bits: exact to the unit, or refused with a reason; never INTERNAL."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import grpc
import pytest

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import balance_service_pb2 as balance_pb
from drawdown.v1 import cap_service_pb2 as cap_pb
from drawdown.v1 import types_pb2
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from integration.server import amounts, authorize_request, commit_request, failure_of, grant_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from integration.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

MAX: Final = 2**53 - 1
INT64_MAX: Final = 2**63 - 1
ABOVE: Final = (1, 2, 2**31 - 1, 2**31, 2**32, MAX - 1, MAX, MAX + 1, MAX + 2, INT64_MAX)
EDGES: Final = (-(2**63), -(2**53), -MAX, -1, 0, *ABOVE)
REQUESTS: Final[dict[str, tuple[int, Callable[[str, int], Message]]]] = {
    "Authorize.units": (1, lambda w, n: authorize_request(w, "new", USD=n)),
    "Authorize.min_units": (
        0,
        lambda w, n: pb.AuthorizeRequest(
            wallet_id=w, hold_id="new", amounts=[types_pb2.Amount(asset="USD", units=MAX, min_units=n)]
        ),
    ),
    "Commit.units": (0, lambda w, n: commit_request(w, "h", USD=n)),
    "Charge.units": (1, lambda w, n: pb.ChargeRequest(wallet_id=w, charge_id="c", amounts=amounts(USD=n))),
    "Extend.units": (1, lambda w, n: pb.ExtendRequest(wallet_id=w, hold_id="h", amounts=amounts(USD=n))),
    "Refund.units": (
        1,
        lambda w, n: pb.RefundRequest(wallet_id=w, hold_id="paid", refund_id="r", amounts=amounts(USD=n)),
    ),
    "CreateGrant.units": (1, lambda w, n: grant_request(w, "new", "USD", n)),
    "SetOverdraftLimit.limit_units": (
        0,
        lambda w, n: wallet_pb.SetOverdraftLimitRequest(wallet_id=w, asset="USD", limit_units=n),
    ),
    "SetCap.limit_units": (
        0,
        lambda w, n: cap_pb.SetCapRequest(
            wallet_id=w, asset="USD", window=types_pb2.CAP_WINDOW_DAY, limit_units=n, mode=types_pb2.CAP_MODE_ENFORCE
        ),
    ),
}
"""By field: the least that is legal, and the request."""


async def funded(server: Server) -> str:
    """A wallet with as much as it can have, a hold and a charge."""
    wallet = await server.wallet(USD=MAX)
    await server.authorize(wallet, "h", USD=10)
    await server.call(pb.ChargeRequest(wallet_id=wallet, charge_id="paid", amounts=amounts(USD=10)))
    return wallet


@pytest.mark.parametrize("field", REQUESTS)
async def test_every_amount_is_exact_or_refused(server: Server, field: str) -> None:
    least, request = REQUESTS[field]
    wallets = []
    for units in EDGES:
        wallet = await funded(server)
        wallets.append(wallet)
        if least <= units <= MAX:
            try:
                await server.call(request(wallet, units))
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, (units, error)
        else:
            failure = await failure_of(server.call(request(wallet, units)))
            assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"), units
            assert failure.fields, units
    await server.assert_conserved(*wallets)


class Sums:
    """One wallet in Python's integers: what was acknowledged, added up."""

    def __init__(self, server: Server, wallet: str, dice: random.Random) -> None:
        self.server = server
        self.wallet = wallet
        self.dice = dice
        self.settled = self.held = self.overdraft = self.number = 0
        self.story: list[str] = []
        """Every call and its error, for a failure."""
        self.holds: dict[str, int] = {}
        self.debits: dict[str, int] = {}

    async def step(self) -> None:
        """One call with an amount at an edge, or near what there is."""
        self.number += 1
        near = (self.settled, self.settled + self.overdraft - self.held, MAX - self.settled, *self.debits.values())
        units = self.dice.choice([*ABOVE, *near]) + self.dice.choice((-1, 0, 0, 1))
        units = min(units, INT64_MAX)
        call = self.dice.choice((self.grant, self.hold, self.settle, self.refund, self.limit))
        self.story.append(f"{call.__name__} {units}")
        try:
            await call(units)
        except grpc.aio.AioRpcError as error:
            self.story.append(f"  {error.details()}")
            assert error.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION}, error
        request = balance_pb.GetBalanceRequest(wallet_id=self.wallet, assets=["USD"], include_grants=True)
        balance = (await self.server.call(request)).balances[0]
        # A grant that was recorded just before a refund took its room waits among the scheduled ones.
        waiting = sum(grant.available_units for grant in balance.scheduled_grants)
        settled = self.settled - waiting
        assert (balance.settled_units, balance.held_units) == (settled, self.held), "\n".join(
            [*self.story, str(balance)]
        )
        assert balance.overdraft_limit_units == self.overdraft
        assert balance.available_units == settled - self.held + self.overdraft
        assert not waiting or self.settled + self.overdraft > MAX, "there is room"

    async def grant(self, units: int) -> None:
        await self.server.grant(self.wallet, f"g{self.number}", "USD", units)
        self.settled += units

    async def limit(self, units: int) -> None:
        await self.server.call(
            wallet_pb.SetOverdraftLimitRequest(wallet_id=self.wallet, asset="USD", limit_units=units)
        )
        self.overdraft = units

    async def hold(self, units: int) -> None:
        hold_id = f"h{self.number}"
        request = authorize_request(self.wallet, hold_id, 600, USD=units)
        request.overage_policy = types_pb2.OVERAGE_POLICY_CHARGE_FULL
        if (await self.server.call(request)).decision == pb.DECISION_APPROVED:
            self.held += units
            self.holds[hold_id] = units

    async def settle(self, units: int) -> None:
        """More than was held goes into debt, down to the least balance there can be."""
        if self.holds:
            hold_id = self.dice.choice(sorted(self.holds))
            await self.server.commit(self.wallet, hold_id, USD=units)
            self.held -= self.holds.pop(hold_id)
            self.settled -= units
            self.debits[hold_id] = units

    async def refund(self, units: int) -> None:
        if self.debits:
            hold_id = self.dice.choice(sorted(self.debits))
            request = pb.RefundRequest(
                wallet_id=self.wallet, hold_id=hold_id, refund_id=f"r{self.number}", amounts=amounts(USD=units)
            )
            await self.server.call(request)
            self.settled += units
            self.debits[hold_id] -= units


@pytest.mark.parametrize(
    ("runs", "steps"),
    [
        pytest.param(12, 25, id="short"),
        pytest.param(300, 60, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ],
)
async def test_what_was_acknowledged_adds_up_in_pythons_integers(server: Server, runs: int, steps: int) -> None:
    seed = random.randrange(10**9)  # noqa: S311 - a seed
    print(f"{seed=}")  # noqa: T201 - to run it again
    dice = random.Random(seed)  # noqa: S311
    for _ in range(runs):
        sums = Sums(server, await server.wallet(USD=1), dice)
        sums.settled = 1
        for _ in range(steps):
            await sums.step()
        await server.assert_conserved(sums.wallet)
