"""Messages of one hold overtake each other. Whatever the order: nothing stays held after a Release."""

from __future__ import annotations

import asyncio
import random
from itertools import permutations
from typing import TYPE_CHECKING, Final

import grpc
import pytest

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import types_pb2
from faults.tcp_proxy import TcpProxy
from integration.server import Rpc, authorize_request, commit_request, open_channel

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from integration.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELD: Final = 10
USED: Final = 7
CODES: Final = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION}
"""What a call that came at the wrong time may be told, if it is no answer."""
ORDERS: Final = sorted(set(permutations("AACRR")))
"""A: Authorize, C: Commit, R: Release; two of them twice."""


def request(letter: str, wallet: str, hold_id: str) -> Message:
    requests: dict[str, Message] = {
        "A": authorize_request(wallet, hold_id, USD=HELD),
        "C": commit_request(wallet, hold_id, USD=USED),
        "R": pb.ReleaseRequest(wallet_id=wallet, hold_id=hold_id),
    }
    return requests[letter]


async def accepted(rpc: Rpc, message: Message) -> bool:
    """Whether a call had, or repeated, its effect."""
    try:
        reply = await rpc.call(message)
    except grpc.aio.AioRpcError as error:
        assert error.code() in CODES, error
        return False
    return getattr(reply, "decision", pb.DECISION_APPROVED) == pb.DECISION_APPROVED


def expected(order: str) -> tuple[str, int]:
    """The rules: the hold's end and what it was debited, message by message."""
    state, debited = "", 0
    for letter in order:
        if letter == "A" and not state:
            state = "HELD"
        elif letter == "C" and state == "HELD":
            state, debited = "COMMITTED", USED
        elif letter == "R" and state in ("", "HELD"):
            state = "RELEASED"
    return state, debited


async def test_every_order_ends_as_the_rules_say(server: Server) -> None:
    wallet, total = await server.wallet(USD=10_000), 0
    for order in map("".join, ORDERS):
        for letter in order:
            await accepted(server, request(letter, wallet, order))
        state, debited = expected(order)
        hold = await server.get_hold(wallet, order)
        assert types_pb2.HoldState.Name(hold.state) == f"HOLD_STATE_{state}", order
        assert sum(amount.debited_units for amount in hold.amounts) == debited, order
        total += debited
    balance = await server.balance(wallet)
    assert (balance.held_units, balance.settled_units) == (0, 10_000 - total)
    await server.assert_conserved(wallet)


async def test_all_at_once_leaves_nothing_held(server: Server) -> None:
    """The order is what the network makes of it; what was acknowledged holds."""
    wallet, dice = await server.wallet(USD=10_000), random.Random(21)  # noqa: S311
    committed = 0
    for number in range(60):
        letters = list("AACRR")
        dice.shuffle(letters)
        told = await asyncio.gather(*(accepted(server, request(each, wallet, f"h{number}")) for each in letters))
        acknowledged = {letter for letter, yes in zip(letters, told, strict=True) if yes}
        hold = await server.get_hold(wallet, f"h{number}")
        if "C" in acknowledged:
            assert hold.state == types_pb2.HOLD_STATE_COMMITTED
            assert "R" not in acknowledged
            committed += USED
        else:
            assert hold.state == types_pb2.HOLD_STATE_RELEASED
    balance = await server.balance(wallet)
    assert (balance.held_units, balance.settled_units) == (0, 10_000 - committed)
    await server.assert_conserved(wallet)


@pytest.mark.parametrize("overtakes", ["R", "C"])
async def test_what_overtakes_a_slow_authorize_decides(server: Server, overtakes: str) -> None:
    """The Authorize is on a line that stands still; the gateway has given up and says so on another one."""
    wallet = await server.wallet(USD=100)
    async with TcpProxy(server.port, counts_replies=False) as proxy, open_channel(proxy.port) as channel:
        slow = Rpc(channel)
        await slow.balance(wallet)  # connected
        proxy.stall("requests")
        late = asyncio.create_task(slow.call(request("A", wallet, "h")))
        assert await accepted(server, request(overtakes, wallet, "h")) == (overtakes == "R")
        proxy.resume()
        reply: pb.AuthorizeResponse = await late
    if overtakes == "R":
        assert (reply.decision, reply.denial.reason) == (pb.DECISION_DENIED, pb.DENIAL_REASON_HOLD_RELEASED)
        assert (await server.balance(wallet)).held_units == 0
    else:  # a Commit of a hold that nobody knows is an error, so its sender knows that nothing was charged
        assert reply.decision == pb.DECISION_APPROVED
        assert await accepted(server, request("C", wallet, "h"))
        assert (await server.balance(wallet)).settled_units == 100 - USED
    await server.assert_conserved(wallet)
