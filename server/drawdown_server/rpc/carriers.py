"""Batch and Session: calls of the data plane that come many to a message, or over one stream."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown_server import deadline
from drawdown_server.rpc import wire
from drawdown_server.rpc.authorization import AuthorizationService
from drawdown_server.rpc.operations import Operations, wallet_of
from drawdown_server.rpc.session import Session
from drawdown_server.rpc.validation import Checks
from drawdown_server.turns import Turn, in_turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    import grpc

    from drawdown_server.holds.store import HoldStore
    from drawdown_server.holds.token import TokenKeys
    from drawdown_server.ledger.confirming import Confirmations
    from drawdown_server.ledger.store import LedgerStore
    from drawdown_server.rpc.authorization import HoldLimits
    from drawdown_server.rpc.gate import CallContext, Gate
    from drawdown_server.wallets.assets import AssetRegistry

LATE_S: Final = 0.001
"""Age of a stream that comes to a server that is ending, when its client is asked to leave; not before it is let in."""
OPERATIONS_MAX: Final = 256
"""In one message. Past some dozens a larger one saves nothing, and nobody else gets a turn while it is begun."""
_RESULTS: Final = wire.message_key(pb.BatchResponse.RESULTS_FIELD_NUMBER)


class CarryingService(AuthorizationService):
    """AuthorizationService, also for operations that other calls carry.

    Args:
        gate: What every call, and every operation, goes through.
        session_age_s: After that the client of a Session is asked to open another one; 0: never.
        holds: And the rest: as of AuthorizationService.
    """

    def __init__(
        self,
        gate: Gate,
        holds: HoldStore,
        ledger: LedgerStore,
        assets: AssetRegistry,
        limits: HoldLimits,
        tokens: TokenKeys,
        confirmations: Confirmations,
        *,
        session_age_s: float,
    ) -> None:
        super().__init__(holds, ledger, assets, limits, tokens, confirmations)
        self._operations = Operations(self, gate)
        self._gate = gate
        self._session_age_s = session_age_s

    async def Batch(  # noqa: N802
        self, request: pb.BatchRequest, context: grpc.aio.ServicerContext[pb.BatchRequest, pb.BatchResponse]
    ) -> bytes:
        """Run operations; a serialized BatchResponse."""
        checks = Checks()
        if not 1 <= len(request.operations) <= OPERATIONS_MAX:
            checks.fail("operations", f"must have 1-{OPERATIONS_MAX} entries")
        checks.finish()
        carrier, metadata = cast("CallContext", context), context.invocation_metadata()
        results = await asyncio.gather(
            *(
                in_turn(turn, self._operations.perform(operation, metadata, carrier, deadline.left_s()))
                for operation, turn in zip(request.operations, _turns(request.operations), strict=True)
            )
        )
        return b"".join(wire.message_field(_RESULTS, result) for result in results)

    async def Session(  # noqa: N802
        self, requests: object, context: grpc.aio.ServicerContext[pb.SessionRequest, pb.SessionResponse]
    ) -> None:
        """Serve a stream of operations."""
        metadata, carrier = context.invocation_metadata(), cast("CallContext", context)
        age_s = LATE_S if self._gate.is_ending else self._session_age_s
        session = Session(self._operations, metadata, carrier, age_s=age_s)
        self._gate.streams.add(session)
        try:
            await session.run()
        finally:
            self._gate.streams.discard(session)


def _turns(operations: Sequence[pb.Operation]) -> list[Turn | None]:
    """Turns for those whose wallet has others in the message; None for those that need not wait."""
    wallet_ids = [wallet_of(operation) for operation in operations]
    if len(set(wallet_ids)) == len(wallet_ids):
        return [None] * len(wallet_ids)
    last: dict[str, Turn] = {}
    turns: list[Turn | None] = []
    for wallet_id in wallet_ids:
        last[wallet_id] = turn = Turn(last.get(wallet_id))
        turns.append(turn)
    return turns
