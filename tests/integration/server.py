"""A whole server in the hands of a test: real stores behind it, the generated stubs in front of it.

``run_server`` starts ``app.serve`` inside the test's event loop; ``faults/processes.py`` starts it as a process.
Calls go through the raw stubs: the client's retries would hide what these tests look for.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import grpc
import pytest
import pytest_asyncio
import stores
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2_grpc
from grpc_status import rpc_status
from integration.audit import Audit, open_audit

from drawdown.v1 import (
    asset_service_pb2_grpc,
    authorization_service_pb2_grpc,
    balance_service_pb2_grpc,
    grant_service_pb2_grpc,
    ledger_service_pb2_grpc,
    types_pb2,
    wallet_service_pb2_grpc,
)
from drawdown.v1 import asset_service_pb2 as asset_pb
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import balance_service_pb2 as balance_pb
from drawdown.v1 import grant_service_pb2 as grant_pb
from drawdown.v1 import ledger_service_pb2 as ledger_pb
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from drawdown_server.app import serve
from drawdown_server.config import Config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping

    from google.protobuf.message import Message

    from drawdown_server.dev.postgres import PostgresProcess
    from drawdown_server.dev.valkey import ValkeyProcess

WAIT_S: Final = 20.0
"""Longest wait for a condition. Met within milliseconds; this is for a loaded machine."""
DEADLINE_S: Final = 15.0
"""Of every call, so that a server that never answers fails its test by name."""
POLL_S: Final = 0.005
ASSETS: Final = {"USD": 6, "EUR": 2, "TOKENS": 0}
PARTITIONS: Final = 4
"""Fewer than by default, for a fast start."""

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Failure:
    """How a call failed."""

    code: grpc.StatusCode
    message: str
    reason: str
    """Without its prefix: ``INVALID_FIELD``."""
    metadata: dict[str, str]
    fields: list[str]
    """Of the BadRequest, in its order."""
    retry_ms: int | None
    """Of the RetryInfo, if there is one."""


class Rpc:
    """The stubs of one channel, with short ways to say what tests say most."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.authorization: Any = authorization_service_pb2_grpc.AuthorizationServiceStub(channel)
        self.assets: Any = asset_service_pb2_grpc.AssetServiceStub(channel)
        self.wallets: Any = wallet_service_pb2_grpc.WalletServiceStub(channel)
        self.grants: Any = grant_service_pb2_grpc.GrantServiceStub(channel)
        self.balances: Any = balance_service_pb2_grpc.BalanceServiceStub(channel)
        self.ledger: Any = ledger_service_pb2_grpc.LedgerServiceStub(channel)
        self.health: Any = health_pb2_grpc.HealthStub(channel)

    async def call(self, request: Message, *, deadline_s: float = DEADLINE_S) -> Any:  # noqa: ANN401 - any response
        """Send a request to the RPC that it belongs to."""
        name = type(request).__name__.removesuffix("Request")
        for stub in (self.authorization, self.assets, self.wallets, self.grants, self.balances, self.ledger):
            if hasattr(stub, name):
                return await getattr(stub, name)(request, timeout=deadline_s)
        raise AssertionError(f"no RPC {name}")

    async def create_assets(self) -> None:
        for asset, scale in ASSETS.items():
            await self.call(asset_pb.CreateAssetRequest(asset=asset, scale=scale))

    async def wallet(self, wallet_id: str = "", **units: int) -> str:
        """A new wallet with a grant per asset: ``await rpc.wallet(USD=10)``."""
        wallet_id = wallet_id or f"w-{next(_numbers)}-{uuid4().hex[:8]}"
        await self.call(wallet_pb.CreateWalletRequest(wallet_id=wallet_id))
        for asset, amount in units.items():
            await self.grant(wallet_id, f"g-{asset}", asset, amount)
        return wallet_id

    async def grant(self, wallet_id: str, grant_id: str, asset: str, units: int) -> grant_pb.CreateGrantResponse:
        return await self.call(grant_request(wallet_id, grant_id, asset, units))

    async def authorize(self, wallet_id: str, hold_id: str, ttl_s: float = 60, **units: int) -> pb.AuthorizeResponse:
        return await self.call(authorize_request(wallet_id, hold_id, ttl_s, **units))

    async def commit(self, wallet_id: str, hold_id: str, **units: int) -> pb.CommitResponse:
        return await self.call(commit_request(wallet_id, hold_id, **units))

    async def release(self, wallet_id: str, hold_id: str) -> pb.ReleaseResponse:
        return await self.call(pb.ReleaseRequest(wallet_id=wallet_id, hold_id=hold_id))

    async def get_hold(self, wallet_id: str, hold_id: str) -> types_pb2.Hold:
        return (await self.call(pb.GetHoldRequest(wallet_id=wallet_id, hold_id=hold_id))).hold

    async def balance(self, wallet_id: str, asset: str = "USD") -> types_pb2.Balance:
        reply = await self.call(balance_pb.GetBalanceRequest(wallet_id=wallet_id, assets=[asset]))
        return reply.balances[0]

    async def entries(self, wallet_id: str, **filters: str) -> list[types_pb2.Entry]:
        """Every entry of a wallet, page by page."""
        found: list[types_pb2.Entry] = []
        token = ""
        while True:
            reply = await self.call(ledger_pb.ListEntriesRequest(wallet_id=wallet_id, page_token=token, **filters))
            found += reply.entries
            token = reply.next_page_token
            if not token:
                return found

    async def debits(self, wallet_id: str, *, at_least: int) -> list[types_pb2.Entry]:
        """The debits of a wallet, once there are as many as expected."""

        async def recorded() -> list[types_pb2.Entry]:
            found = [e for e in await self.entries(wallet_id) if e.kind == types_pb2.ENTRY_KIND_DEBIT]
            return found if len(found) >= at_least else []

        return await until(recorded)


@dataclass(frozen=True)
class Server(Rpc):
    """A running server: its stubs, its settings, and its books for the auditor."""

    config: Config
    port: int
    audit: Audit
    channel: grpc.aio.Channel
    stop: asyncio.Event
    task: asyncio.Task[None]

    def __post_init__(self) -> None:
        Rpc.__init__(self, self.channel)

    async def assert_conserved(self, *wallet_ids: str) -> None:
        """The books of these wallets are right, in Valkey, in Postgres and between the two."""
        await self.audit.assert_conserved(*wallet_ids)


Server.__setattr__ = object.__setattr__  # type: ignore[method-assign]
