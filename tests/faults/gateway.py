"""A gateway that never gives up: it sends every call again with the same ids until it has an answer.

What it was told is what the ledger must show afterwards: ``assert_recorded``.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import grpc

from drawdown.v1 import authorization_service_pb2 as pb
from integration.server import WAIT_S, authorize_request, commit_request, until

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from integration.audit import Audit
    from integration.server import Rpc

RETRIED: Final = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # in flight when the server was killed
    grpc.StatusCode.UNKNOWN,
}
ATTEMPT_S: Final = 2.0
PAUSE_S: Final = 0.02


@dataclass
class Gateway:
    """Authorizes, commits, and now and then releases or forgets, on all wallets at once."""

    rpc: Rpc
    wallets: list[str]
    committed: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """(wallet, hold) -> units, wallet_sequence of every acknowledged Commit."""
    released: set[tuple[str, str]] = field(default_factory=set)
    forgotten: set[tuple[str, str]] = field(default_factory=set)
    retries: int = 0
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    dice: random.Random = field(default_factory=lambda: random.Random(11))  # noqa: S311
    _holds: int = 0

    async def run(self, workers: int = 8) -> None:
        """Until ``stop`` is set; requests that were begun are finished."""
        await asyncio.gather(*(self._work() for _ in range(workers)))

    async def reaches(self, commits: int) -> None:
        """Wait for so many more acknowledged commits."""
        goal = len(self.committed) + commits

        async def reached() -> bool:
            return len(self.committed) >= goal

        await until(reached)

    async def _work(self) -> None:
        while not self.stop.is_set():
            self._holds += 1
            hold_id, wallet = f"h{self._holds}", self.dice.choice(self.wallets)
            held = self.dice.randint(1, 50)
            reply: pb.AuthorizeResponse = await self._answer(authorize_request(wallet, hold_id, ttl_s=600, USD=held))
            assert reply.decision == pb.DECISION_APPROVED, reply.denial
            fate = self.dice.random()
            if fate < 0.05:
                self.forgotten.add((wallet, hold_id))
            elif fate < 0.15:
                await self._answer(pb.ReleaseRequest(wallet_id=wallet, hold_id=hold_id))
                self.released.add((wallet, hold_id))
            else:
                units = self.dice.randint(1, held)
                commit: pb.CommitResponse = await self._answer(commit_request(wallet, hold_id, USD=units))
                self.committed[wallet, hold_id] = (units, commit.wallet_sequence)

    async def _answer(self, request: Message) -> Any:  # noqa: ANN401 - the response of the request
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    return await self.rpc.call(request, deadline_s=ATTEMPT_S)
                except grpc.aio.AioRpcError as error:
                    assert error.code() in RETRIED, error
                    self.retries += 1
                    await asyncio.sleep(PAUSE_S)

    async def assert_recorded(self, audit: Audit) -> None:
        """Every acknowledged Commit is in the ledger exactly once, with its units, and nothing else is."""
        await audit.assert_conserved(*self.wallets)
        found: dict[tuple[str, str], tuple[int, int]] = {}
        for wallet in self.wallets:
            for entry in await audit.entries(wallet):
                if entry.hold_id:
                    units, sequence = found.get((wallet, entry.hold_id), (0, entry.wallet_sequence))
                    assert sequence == entry.wallet_sequence
                    found[wallet, entry.hold_id] = (units + entry.units, sequence)
        assert found == self.committed
        dead = await audit.stores.ledger.list_dead_letters(limit=10)
        assert dead == []
