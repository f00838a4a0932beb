"""What is sent: the same call for a server of its own method, for a Session or a Batch, and for FastAPI."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from google.protobuf.duration_pb2 import Duration

from bench.load.generator import NUMBER, WALLET, Step
from bench.table.sides import ASSETS, Shape
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import balance_service_pb2 as balance_pb
from drawdown.v1 import types_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVICE: Final = "drawdown.v1.AuthorizationService"
APPROVED: Final = b"\x08\x01"
"""``decision`` is the first field of the answer of an Authorize."""
ANY_MESSAGE: Final = b"\x0a"
"""A message or a string is the first field of other answers."""
TTL: Final = Duration(seconds=3_600)
"""Longer than the table takes: a hold that expires would be work for the sweeper in some row to come."""
RIVAL: Final = Shape("wallet")
"""What the wallets of echo and rivals are called."""
HELD, USED = 7, 5
"""Units that a hold takes, and that its Commit debits."""


def _amounts(shape: Shape, units: int) -> Sequence[types_pb2.Amount]:
    return [types_pb2.Amount(asset=asset, units=units) for asset in ASSETS[: shape.assets]]


def authorize(shape: Shape) -> pb.AuthorizeRequest:
    """An Authorize for some wallet of a shape."""
    return pb.AuthorizeRequest(
        wallet_id=f"{shape.prefix}{WALLET}", hold_id=f"hold-{NUMBER}", amounts=_amounts(shape, HELD), ttl=TTL
    )


def commit(shape: Shape) -> pb.CommitRequest:
    """The Commit of such a hold."""
    return pb.CommitRequest(
        wallet_id=f"{shape.prefix}{WALLET}", hold_id=f"hold-{NUMBER}", amounts=_amounts(shape, USED)
    )


def authorize_step(shape: Shape, mode: str = "unary") -> Step:
    """An Authorize, however it travels."""
    if mode == "unary":
        return Step(f"{SERVICE}/Authorize", authorize(shape).SerializeToString(), APPROVED)
    return Step(_carrier(mode), pb.Operation(authorize=authorize(shape)).SerializeToString(), APPROVED)


def commit_step(shape: Shape, mode: str = "unary") -> Step:
    """A Commit, however it travels."""
    if mode == "unary":
        return Step(f"{SERVICE}/Commit", commit(shape).SerializeToString(), ANY_MESSAGE)
    return Step(_carrier(mode), pb.Operation(commit=commit(shape)).SerializeToString(), ANY_MESSAGE)


def balance_step(shape: Shape) -> Step:
    """A GetBalance."""
    request = balance_pb.GetBalanceRequest(wallet_id=f"{shape.prefix}{WALLET}")
    return Step("drawdown.v1.BalanceService/GetBalance", request.SerializeToString(), ANY_MESSAGE)


def fastapi_request() -> bytes:
    """The same Authorize as FastAPI takes it."""
    body = json.dumps({"wallet_id": f"wallet-{WALLET}", "hold_id": f"hold-{NUMBER}", "asset": "USD", "units": HELD})
    return (
        f"POST /authorize HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def _carrier(mode: str) -> str:
    return f"{SERVICE}/{'Session' if mode == 'session' else 'Batch'}"
