"""Commit or Release arrives in the same moments in which its hold expires: exactly one of the two wins."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Final

import grpc
import pytest

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import types_pb2
from integration.server import amounts, authorize_request, commit_request, run_server

if TYPE_CHECKING:
    from drawdown_server.config import Config
    from integration.server import Server

HELD: Final = 10
USED: Final = 7
TTL_S: Final = 1
EDGE_MS: Final = 150
"""The call arrives up to so long before or after the expiry."""
ENDS: Final = {(False, "in time"), (False, "late"), (True, "in time"), (True, "lost")}
"""Whether the hold pays in full at its expiry, and how its Commit fared: each must have been seen."""


@dataclass
class Race:
    """One hold, and the call that arrives at its end."""

    hold_id: str
    expire_ms: int
    commits: bool
    pays_in_full: bool
    """At its expiry, without a Commit."""
    arrive_ms: int


@pytest.mark.parametrize(
    ("holds", "rounds"),
    [
        pytest.param(150, 1, id="short"),
        pytest.param(300, 60, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ],
)
async def test_a_call_at_the_edge_of_the_ttl_wins_or_loses_and_never_both(
    config: Config, holds: int, rounds: int
) -> None:
    seed = random.randrange(10**9)  # noqa: S311 - a seed
    print(f"{seed=}")  # noqa: T201 - to run it again
    dice = random.Random(seed)  # noqa: S311
    async with run_server(config.model_copy(update={"sweep_interval_ms": 10})) as server:
        wallet, debited, outcomes = await server.wallet(USD=10_000_000), 0, set()
        for number in count():
            if number >= rounds and outcomes >= ENDS:
                break  # every end has been seen; on a slow machine that takes more than one round
            races = await begun(server, wallet, dice, f"{number}-", holds)
            for race, reply in zip(races, await run(server, wallet, races), strict=True):
                units, outcome = await settled(server, wallet, race, reply)
                debited += units
                outcomes.add((race.pays_in_full, outcome))
        balance = await server.balance(wallet)
        assert (balance.held_units, balance.settled_units) == (0, 10_000_000 - debited)
        await server.assert_conserved(wallet)
        entries = [e for e in await server.entries(wallet) if e.kind == types_pb2.ENTRY_KIND_DEBIT]
        assert sum(entry.units for entry in entries) == debited
        assert len({entry.hold_id for entry in entries}) == len(entries)


async def begun(server: Server, wallet: str, dice: random.Random, prefix: str, count: int) -> list[Race]:
    """Holds that are over in about a second, and when their calls are to arrive."""
    plans = [(f"{prefix}{number}", dice.random() < 0.7, dice.random() < 0.5) for number in range(count)]

    def request(hold_id: str, *, pays_in_full: bool) -> pb.AuthorizeRequest:
        wanted = authorize_request(wallet, hold_id, TTL_S, USD=HELD)
        if pays_in_full:
            wanted.expiry_action = types_pb2.EXPIRY_ACTION_COMMIT_FULL
        return wanted

    replies = await asyncio.gather(*(server.call(request(name, pays_in_full=full)) for name, _, full in plans))
    races = []
    for (name, commits, full), reply in zip(plans, replies, strict=True):
        assert reply.decision == pb.DECISION_APPROVED
        expire_ms = reply.hold.expire_time.ToMilliseconds()
        races.append(Race(name, expire_ms, commits, full, expire_ms + dice.randint(-EDGE_MS, EDGE_MS)))
    return races


async def run(server: Server, wallet: str, races: list[Race]) -> list[pb.CommitResponse | grpc.aio.AioRpcError]:
    """Send every call at its moment, by the store's clock."""

    def call(race: Race) -> asyncio.Task[pb.CommitResponse]:
        request = commit_request(wallet, race.hold_id, USD=USED)
        return asyncio.create_task(
            server.call(request if race.commits else pb.ReleaseRequest(wallet_id=wallet, hold_id=race.hold_id))
        )

    waiting, calls = sorted(races, key=lambda race: race.arrive_ms), {}
    while waiting:
        now_ms = await server.audit.stores.holds.now_ms()
        while waiting and waiting[0].arrive_ms <= now_ms:
            race = waiting.pop(0)
            calls[race.hold_id] = call(race)
    return await asyncio.gather(*(calls[race.hold_id] for race in races), return_exceptions=True)  # type: ignore[return-value]


async def settled(
    server: Server, wallet: str, race: Race, reply: pb.CommitResponse | grpc.aio.AioRpcError
) -> tuple[int, str]:
    """How many units a hold was debited, and who won; everything that is told of it agrees."""
    hold = await server.get_hold(wallet, race.hold_id)
    settle_ms = hold.settle_time.ToMilliseconds()
    debited, held = hold.amounts[0].debited_units, hold.amounts[0].held_units
    assert held == 0
    if isinstance(reply, BaseException):
        assert isinstance(reply, grpc.aio.AioRpcError)
        assert reply.code() is grpc.StatusCode.FAILED_PRECONDITION, reply
        assert race.pays_in_full
        assert (hold.state, debited) == (types_pb2.HOLD_STATE_COMMITTED, HELD)
        assert settle_ms >= race.expire_ms
        return HELD, "lost"
    if not race.commits:
        assert (hold.state, debited) == (types_pb2.HOLD_STATE_RELEASED, 0)
        assert settle_ms < race.expire_ms or not race.pays_in_full
        return 0, "released"
    assert (hold.state, debited) == (types_pb2.HOLD_STATE_COMMITTED, USED)
    assert list(reply.debited) == amounts(USD=USED)
    assert reply.late == (settle_ms >= race.expire_ms), "late exactly when it was over"
    assert not (reply.late and race.pays_in_full)
    return USED, "late" if reply.late else "in time"
