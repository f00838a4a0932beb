"""A bare grpc.aio server with our messages: what a server of this kind can be at best.

Parses each Authorize and answers with a response of the usual size; in a Session it answers each message with one, for
all of its operations. No checks, no store, no identity, no telemetry.
Prints its port.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import uvloop
from google.protobuf.timestamp_pb2 import Timestamp

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import authorization_service_pb2_grpc, types_pb2

TOKEN = bytes(170)
"""As long as ours for one asset."""


def answer(request: pb.AuthorizeRequest) -> pb.AuthorizeResponse:
    """An approval."""
    now = Timestamp(seconds=1_800_000_000)
    return pb.AuthorizeResponse(
        decision=pb.DECISION_APPROVED,
        hold=types_pb2.Hold(
            wallet_id=request.wallet_id,
            hold_id=request.hold_id,
            state=types_pb2.HOLD_STATE_HELD,
            amounts=[
                types_pb2.HoldAmount(asset=amount.asset, authorized_units=amount.units, held_units=amount.units)
                for amount in request.amounts
            ],
            create_time=now,
            expire_time=now,
            overage_policy=types_pb2.OVERAGE_POLICY_CHARGE_AVAILABLE,
            expiry_action=types_pb2.EXPIRY_ACTION_RELEASE,
            hold_token=TOKEN,
        ),
        balances=[
            types_pb2.Balance(asset=amount.asset, settled_units=10**9, held_units=7, available_units=10**9 - 7)
            for amount in request.amounts
        ],
    )


class Echo(authorization_service_pb2_grpc.AuthorizationServiceServicer):
    """Approves everything."""

    async def Authorize(self, request: pb.AuthorizeRequest, context: object) -> pb.AuthorizeResponse:  # noqa: ARG002, N802
        return answer(request)

    async def Session(self, request: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:  # noqa: ARG002, N802
        while (message := await context.read()) is not grpc.aio.EOF:
            results = [
                pb.SessionResult(tag=each.tag, result=pb.OperationResult(authorize=answer(each.operation.authorize)))
                for each in message.operations
            ]
            await context.write(pb.SessionResponse(results=results))


async def main() -> None:
    server = grpc.aio.server()
    authorization_service_pb2_grpc.add_AuthorizationServiceServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
