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
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2_grpc
from grpc_status import rpc_status

import stores
from drawdown.v1 import asset_service_pb2 as asset_pb
from drawdown.v1 import (
    asset_service_pb2_grpc,
    audit_service_pb2_grpc,
    authorization_service_pb2_grpc,
    balance_service_pb2_grpc,
    cap_service_pb2_grpc,
    grant_service_pb2_grpc,
    key_service_pb2_grpc,
    ledger_service_pb2_grpc,
    types_pb2,
    wallet_service_pb2_grpc,
)
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import balance_service_pb2 as balance_pb
from drawdown.v1 import grant_service_pb2 as grant_pb
from drawdown.v1 import ledger_service_pb2 as ledger_pb
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from drawdown_server.app import serve
from drawdown_server.config import Config
from integration.audit import Audit, open_audit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from google.protobuf.message import Message

    from drawdown_server.dev.postgres import PostgresProcess
    from drawdown_server.dev.valkey import ValkeyProcess

WAIT_S: Final = 60.0
"""Longest wait for a condition. Met within milliseconds; this is for a loaded machine."""
DEADLINE_S: Final = 45.0
"""Of every call, so that a server that never answers fails its test by name; long, for a loaded machine."""
POLL_S: Final = 0.005
ASSETS: Final = {"USD": 6, "EUR": 2, "TOKENS": 0}
PARTITIONS: Final = 4
"""Fewer than by default, for a fast start."""
REASON_PREFIX: Final = "ERROR_REASON_"

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Failure:
    """How a call failed."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    """Without its prefix: ``INVALID_FIELD``."""
    metadata: dict[str, str] | None = None
    fields: tuple[str, ...] = ()
    """Of the BadRequest, in its order."""
    retry_ms: int | None = None
    """Of the RetryInfo, if there is one."""


class Rpc:
    """The stubs of one channel, with short ways to say what tests say most.

    Args:
        channel: The channel.
        credential: An API key or a wallet token that every ``call`` brings.
    """

    def __init__(self, channel: grpc.aio.Channel, credential: str = "") -> None:
        self.channel = channel
        self.metadata = [("authorization", f"Bearer {credential}")] if credential else []
        self.health: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        self._stubs: tuple[Any, ...] = (
            authorization_service_pb2_grpc.AuthorizationServiceStub(channel),
            asset_service_pb2_grpc.AssetServiceStub(channel),
            wallet_service_pb2_grpc.WalletServiceStub(channel),
            grant_service_pb2_grpc.GrantServiceStub(channel),
            balance_service_pb2_grpc.BalanceServiceStub(channel),
            cap_service_pb2_grpc.CapServiceStub(channel),
            ledger_service_pb2_grpc.LedgerServiceStub(channel),
            key_service_pb2_grpc.KeyServiceStub(channel),
            audit_service_pb2_grpc.AuditServiceStub(channel),
        )

    def method(self, name: str) -> Any:  # noqa: ANN401 - grpc.aio's callables have no common type
        """The callable of an RPC, whichever service it belongs to."""
        return next(getattr(stub, name) for stub in self._stubs if hasattr(stub, name))

    async def call(self, request: Message, *, deadline_s: float = DEADLINE_S) -> Any:  # noqa: ANN401 - any response
        """Send a request to the RPC that it belongs to."""
        name = type(request).__name__.removesuffix("Request")
        return await self.method(name)(request, timeout=deadline_s, metadata=self.metadata)

    async def failure(self, request: Message, *, deadline_s: float = DEADLINE_S) -> Failure:
        """Send a request that must fail."""
        return await failure_of(self.call(request, deadline_s=deadline_s))

    async def create_assets(self) -> None:
        for asset, scale in ASSETS.items():
            # REJECT: a test that wants more than was held says so in its Authorize.
            await self.call(
                asset_pb.CreateAssetRequest(
                    asset=asset, scale=scale, default_overage_policy=types_pb2.OVERAGE_POLICY_REJECT
                )
            )

    async def wallet(self, wallet_id: str = "", **units: int) -> str:
        """A new wallet with a grant per asset: ``await rpc.wallet(USD=10)``."""
        wallet_id = wallet_id or f"w-{next(_numbers)}-{uuid4().hex[:8]}"
        await self.call(wallet_pb.CreateWalletRequest(wallet_id=wallet_id))
        for asset, amount in units.items():
            await self.grant(wallet_id, f"g-{asset}", asset, amount)
        return wallet_id

    async def grant(self, wallet_id: str, grant_id: str, asset: str, units: int) -> grant_pb.CreateGrantResponse:
        reply: grant_pb.CreateGrantResponse = await self.call(grant_request(wallet_id, grant_id, asset, units))
        return reply

    async def authorize(self, wallet_id: str, hold_id: str, ttl_s: float = 60, **units: int) -> pb.AuthorizeResponse:
        reply: pb.AuthorizeResponse = await self.call(authorize_request(wallet_id, hold_id, ttl_s, **units))
        return reply

    async def commit(self, wallet_id: str, hold_id: str, **units: int) -> pb.CommitResponse:
        reply: pb.CommitResponse = await self.call(commit_request(wallet_id, hold_id, **units))
        return reply

    async def release(self, wallet_id: str, hold_id: str) -> pb.ReleaseResponse:
        reply: pb.ReleaseResponse = await self.call(pb.ReleaseRequest(wallet_id=wallet_id, hold_id=hold_id))
        return reply

    async def get_hold(self, wallet_id: str, hold_id: str) -> types_pb2.Hold:
        reply: pb.GetHoldResponse = await self.call(pb.GetHoldRequest(wallet_id=wallet_id, hold_id=hold_id))
        return reply.hold

    async def balance(self, wallet_id: str, asset: str = "USD") -> types_pb2.Balance:
        reply: balance_pb.GetBalanceResponse = await self.call(
            balance_pb.GetBalanceRequest(wallet_id=wallet_id, assets=[asset])
        )
        return reply.balances[0]

    async def entries(self, wallet_id: str, **filters: str) -> list[types_pb2.Entry]:
        """Every entry of a wallet that the ledger has by now."""
        request = ledger_pb.ListEntriesRequest(wallet_id=wallet_id, page_size=1000, **filters)
        found: list[types_pb2.Entry] = []
        while True:
            reply = await self.call(request)
            found += reply.entries
            request.page_token = reply.next_page_token
            if not request.page_token:
                return found

    async def debits(self, wallet_id: str, *, at_least: int) -> list[types_pb2.Entry]:
        """The debits of a wallet, once the ledger has as many as expected."""

        async def recorded() -> list[types_pb2.Entry]:
            found = [e for e in await self.entries(wallet_id) if e.kind == types_pb2.ENTRY_KIND_DEBIT]
            return found if len(found) >= at_least else []

        return await until(recorded)


class Server(Rpc):
    """A running server: its stubs, its settings, and an auditor of its books."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        config: Config,
        port: int,
        stop: asyncio.Event,
        task: asyncio.Task[None],
        audit: Audit,
        credential: str = "",
    ) -> None:
        super().__init__(channel, credential)
        self.audit = audit
        self.config = config
        self.port = port
        self.stop = stop
        """Ends the server when set."""
        self.task = task

    async def assert_conserved(self, *wallet_ids: str) -> None:
        """The books of these wallets are right, in Valkey, in Postgres and between the two."""
        await self.audit.assert_conserved(*wallet_ids)


async def pages(rpc: Rpc, request: Any, field: str) -> list[list[Any]]:  # noqa: ANN401 - any list request
    """Every page of a list; the last one has no token."""
    found = []
    while True:
        reply = await rpc.call(request)
        found.append(list(getattr(reply, field)))
        request.page_token = reply.next_page_token
        if not request.page_token:
            return found


def grant_request(wallet_id: str, grant_id: str, asset: str, units: int) -> grant_pb.CreateGrantRequest:
    return grant_pb.CreateGrantRequest(
        wallet_id=wallet_id, grant_id=grant_id, asset=asset, units=units, source=types_pb2.GRANT_SOURCE_PURCHASE
    )


def authorize_request(wallet_id: str, hold_id: str, ttl_s: float = 60, **units: int) -> pb.AuthorizeRequest:
    return pb.AuthorizeRequest(wallet_id=wallet_id, hold_id=hold_id, amounts=amounts(**units), ttl=duration(ttl_s))


def commit_request(wallet_id: str, hold_id: str, **units: int) -> pb.CommitRequest:
    return pb.CommitRequest(wallet_id=wallet_id, hold_id=hold_id, amounts=amounts(**units))


def amounts(**units: int) -> list[types_pb2.Amount]:
    return [types_pb2.Amount(asset=asset, units=amount) for asset, amount in units.items()]


def duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9))


async def failure_of(call: Awaitable[object]) -> Failure:
    """How a call failed; fails the test if it did not."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return failure_in(caught.value)


def failure_in(error: grpc.aio.AioRpcError) -> Failure:
    """What an error says."""
    found: dict[str, Any] = {}
    status = rpc_status.from_call(error)
    for detail in [] if status is None else status.details:
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            assert info.domain == "drawdown.dev"
            assert info.reason.startswith(REASON_PREFIX)
            found |= {"reason": info.reason.removeprefix(REASON_PREFIX), "metadata": dict(info.metadata)}
        elif detail.Unpack(bad):
            found["fields"] = tuple(violation.field for violation in bad.field_violations)
            assert all(violation.description for violation in bad.field_violations)
        elif detail.Unpack(retry):
            found["retry_ms"] = retry.retry_delay.ToMilliseconds()
        else:
            pytest.fail(f"unknown detail {detail.type_url}")
    return Failure(error.code(), error.details() or "", **found)


async def until(condition: Callable[[], Awaitable[Any]], *, timeout_s: float = WAIT_S) -> Any:  # noqa: ANN401
    """Ask again and again until the answer is true; the answer."""
    async with asyncio.timeout(timeout_s):
        while not (answer := await condition()):  # noqa: ASYNC110 - what is waited for lives in another process
            await asyncio.sleep(POLL_S)
    return answer


def settings(valkey_url: str, postgres_url: str, **others: object) -> Config:
    """Settings of a small, quick server on a free port."""
    quick: dict[str, object] = {
        "partitions": PARTITIONS,
        "flush_block_ms": 20,
        "flush_linger_ms": 0,
        "sweep_interval_ms": 20,
        "lease_ttl_ms": 1_000,
        "drain_grace_s": 10.0,
        "drain_delay_s": 0.0,
        "valkey_timeout_ms": 20_000,  # for a loaded machine; tests of the timeout have their own
    }
    return Config.model_validate(
        {"valkey_url": valkey_url, "postgres_url": postgres_url, "grpc_port": 0} | quick | others
    )


@asynccontextmanager
async def open_channel(
    port: int, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel of its own (without sharing sockets with others), which tries again quickly when the server is gone."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 20),
        ("grpc.min_reconnect_backoff_ms", 1_000),  # how long an attempt may take; a refusal is noticed at once
        ("grpc.max_reconnect_backoff_ms", 100),
    ]
    target = f"127.0.0.1:{port}"
    if credentials is None:
        opened = grpc.aio.insecure_channel(target, options=options)
    else:
        opened = grpc.aio.secure_channel(target, credentials, options=options)
    async with opened as channel:
        yield channel


@asynccontextmanager
async def run_server(
    config: Config, *, assets: bool = True, credential: str = "", credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[Server]:
    """A server in this event loop; stopped, and drained, at the end.

    Its calls bring the credential, an API key; with credentials they go over TLS.
    """
    stop = asyncio.Event()
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(config, stop=stop, on_ready=ready.set_result), name="server")
    await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    try:
        async with open_channel(ready.result(), credentials) as channel, open_audit(config) as audit:
            server = Server(channel, config, ready.result(), stop, task, audit, credential)
            if assets:
                await server.create_assets()
            yield server
    finally:
        stop.set()
        await task


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(valkey_process: ValkeyProcess, postgres_process: PostgresProcess) -> AsyncIterator[Server]:
    """One server for all tests of a module, each with wallets of its own; its module marks ``loop_scope="module"``.

    A test that needs a server with other settings runs it beside this one, with ``shared_config``. A test that breaks
    something, or needs empty stores, uses ``config`` and ``run_server``, and stands in another module.
    """
    stores.empty(valkey_process)
    name = f"server_{uuid4().hex[:12]}"
    postgres_url = await postgres_process.create_database(name, template=stores.TEMPLATE_DATABASE)
    config = settings(
        stores.as_user(valkey_process.url, stores.SERVER_USER), stores.as_user(postgres_url, stores.SERVER_ROLE)
    )
    async with run_server(config) as running:
        yield running
    await postgres_process.drop_database(name)


@pytest.fixture(scope="module")
def shared_config(server: Server) -> Config:
    """The settings of ``server``, for further servers with other settings on the same stores."""
    return server.config


@pytest.fixture
def directory(data_dir: Path) -> Path:
    """An existing directory of this test, for the logs of its processes."""
    data_dir.mkdir()
    return data_dir


@pytest.fixture
def config(valkey_url: str, postgres_url: str) -> Config:
    """Settings of a server on empty stores."""
    return settings(valkey_url, postgres_url)
