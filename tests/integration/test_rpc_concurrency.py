"""Races through gRPC, each with exactly as many winners as the funds allow."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from drawdown.v1 import authorization_service_pb2 as pb
from integration.server import DEADLINE_S, authorize_request

if TYPE_CHECKING:
    from integration.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

CALLERS = 64
FUNDS = 10
ROUNDS = 200


async def test_64_callers_of_a_balance_of_10_get_exactly_10_every_time(server: Server) -> None:
    authorize = server.method("Authorize")
    wallets = [await server.wallet(USD=FUNDS) for _ in range(ROUNDS)]
    for wallet in wallets:
        replies = await asyncio.gather(
            *(authorize(authorize_request(wallet, f"h{n}", USD=1), timeout=DEADLINE_S) for n in range(CALLERS))
        )
        approved = [reply.hold.hold_id for reply in replies if reply.decision == pb.DECISION_APPROVED]
        assert len(approved) == len(set(approved)) == FUNDS
        denied = [reply.denial for reply in replies if reply.decision == pb.DECISION_DENIED]
        assert len(denied) == CALLERS - FUNDS
        assert {denial.reason for denial in denied} == {pb.DENIAL_REASON_INSUFFICIENT_FUNDS}
        balance = await server.balance(wallet)
        assert (balance.available_units, balance.held_units) == (0, FUNDS)
    await server.assert_conserved(*wallets)


async def test_holds_of_several_assets_in_any_order_never_take_more_than_there_is(server: Server) -> None:
    wallet = await server.wallet(USD=10, TOKENS=15)

    async def one(number: int) -> bool:
        units = {"USD": 1, "TOKENS": 2} if number % 2 else {"TOKENS": 2, "USD": 1}
        return (await server.authorize(wallet, f"h{number}", **units)).decision == pb.DECISION_APPROVED

    assert sum(await asyncio.gather(*(one(number) for number in range(CALLERS)))) == 7
    await server.assert_conserved(wallet)
