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
ATTEMPT_S: Final = 20.0
"""Of one attempt: long, so that on a loaded machine too only what failed is sent again."""
PAUSE_S: Final = 0.02


@dataclass
class Gateway:
    """Authorizes, commits, and now and then releases or forgets, on all wallets at once."""

    rpc: Rpc
    wallets: list[str]
    brings_tokens: bool = False
    """Whether each Commit brings the token of its hold, for the case that the hold is lost."""
    committed: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """(wallet, hold) -> units, wallet_sequence of every acknowledged Commit."""
    tokens: dict[tuple[str, str], bytes] = field(default_factory=dict)
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
            reply: pb.AuthorizeResponse = await self.answer(authorize_request(wallet, hold_id, ttl_s=600, USD=held))
            assert reply.decision == pb.DECISION_APPROVED, reply.denial
            fate = self.dice.random()
            if fate < 0.05:
                self.forgotten.add((wallet, hold_id))
            elif fate < 0.15:
                await self.answer(pb.ReleaseRequest(wallet_id=wallet, hold_id=hold_id))
                self.released.add((wallet, hold_id))
            else:
                if self.brings_tokens:
                    self.tokens[wallet, hold_id] = reply.hold.hold_token
                await self._commit(wallet, hold_id, self.dice.randint(1, held))

    async def _commit(self, wallet: str, hold_id: str, units: int) -> None:
        request = commit_request(wallet, hold_id, USD=units)
        request.hold_token = self.tokens.get((wallet, hold_id), b"")
        reply: pb.CommitResponse = await self.answer(request)
        self.committed[wallet, hold_id] = (units, reply.wallet_sequence)

    async def repeat_commits(self) -> None:
        """Send every acknowledged Commit again: what a failover has lost of them is charged by its token."""
        for (wallet, hold_id), (units, _) in list(self.committed.items()):
            await self._commit(wallet, hold_id, units)

    async def answer(self, request: Message) -> Any:  # noqa: ANN401 - the response of the request
        """Send a request until it is answered."""
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
