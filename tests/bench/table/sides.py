"""The servers that are compared: ours with everything on, the bare echo, what users build themselves, a store alone."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import hiredis

import drawdown
from bench.load.generator import NUMBER, WALLET
from bench.table.counters import valkey
from drawdown_server.config import Config, new_token_key
from drawdown_server.holds import keys
from drawdown_server.holds.connection import PipelinedConnection, open_connection
from drawdown_server.holds.fingerprint import fingerprint
from drawdown_server.holds.library import build_library, load_library
from drawdown_server.holds.messages import (
    AmountRequest,
    AuthorizeRequest,
    LoadedAsset,
    LoadRequest,
    PackedGrant,
)
from drawdown_server.holds.model import ExpiryAction, GrantSource, WalletState
from drawdown_server.holds.nodes import OneNode
from drawdown_server.holds.startup import open_client
from drawdown_server.holds.store import HoldStore
from drawdown_server.ledger.backlog import Backlog
from drawdown_server.ledger.database import open_pool
from drawdown_server.ledger.migrations import migrate
from drawdown_server.ledger.store import LedgerStore
from faults.processes import program
from integration.credentials import create_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from redis.asyncio import Redis

    from bench.table.counters import Meter

TESTS: Final = Path(__file__).parents[2]
GRANT_UNITS: Final = 10**9
AT_ONCE: Final = 16
"""Wallets that are made at once."""
ASSETS: Final = ("USD", "MODEL_TOKENS", "GPU_SECONDS", "IMAGE_CREDITS")
TENANT: Final = "default"
RECORDED_TIMEOUT_S: Final = 60.0
RECORDED_POLL_S: Final = 0.01
PARTITION: Final = 0


@dataclass(frozen=True)
class Side:
    """A running server."""

    port: int
    pid: int
    key: str = field(default="", repr=False)


@dataclass(frozen=True)
class Store:
    """A running Valkey, and a client for what is not measured."""

    port: int
    pid: int
    client: Redis

    @property
    def meter(self) -> Meter:
        """What it takes."""
        return valkey(self.client, self.pid)


@dataclass(frozen=True)
class Ours:
    """A server with everything on, and the flusher beside it: so each one's processor time is its own."""

    server: Side
    flusher: Side
    backlog: Backlog

    async def recorded(self) -> None:
        """Return when the ledger has everything."""
        async with asyncio.timeout(RECORDED_TIMEOUT_S):
            while True:
                await self.backlog.run_once()
                if self.backlog.events == 0:
                    return
                await asyncio.sleep(RECORDED_POLL_S)


@dataclass(frozen=True)
class Shape:
    """A kind of wallet."""

    name: str
    grants: int = 1
    """Of each asset."""
    assets: int = 1
    wallets: int = 200

    @property
    def prefix(self) -> str:
        """Of the ids of its wallets."""
        return f"{self.name.replace(' ', '-')}-"


@asynccontextmanager
async def script(name: str, *arguments: str) -> AsyncIterator[Side]:
    """A program of ``rivals/``, which prints its port when it serves."""
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"bench.rivals.{name}", *arguments, stdout=asyncio.subprocess.PIPE, env=environment
    )
    try:
        assert process.stdout is not None
        yield Side(int(await process.stdout.readline()), process.pid)
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def drawdown_server(
    store: Store,
    valkey_url: str,
    postgres_url: str,
    directory: Path,
    shapes: tuple[Shape, ...],
    *,
    python: str = sys.executable,
    variables: Mapping[str, str] | None = None,
) -> AsyncIterator[Ours]:
    """Our server with identity, telemetry and signed holds, its flusher, and wallets of some shapes.

    Args:
        store: Its Valkey.
        valkey_url: Of it.
        postgres_url: Its Postgres, an empty database.
        directory: For logs.
        shapes: Wallets of each are made.
        python: The interpreter, with the server that it finds.
        variables: Settings beside these, as the environment has them.
    """
    config = Config(
        valkey_url=valkey_url,
        postgres_url=postgres_url,
        grpc_port=0,
        flusher=False,
        identity="keys",
        api_key_pepper=new_token_key(),
        hold_token_keys=new_token_key(),
        log_level="INFO",
    )
    await migrate(postgres_url)
    async with (
        program("serve", config, directory, variables, python=python) as server,
        program("flush", config, directory, variables, python=python) as flusher,
        open_pool(config) as pool,
    ):
        port = await server.ready()
        key = await create_key(config, "bench")
        authorization = (("authorization", f"Bearer {key}"),)
        async with drawdown.AsyncClient(f"127.0.0.1:{port}", metadata=authorization, timeout_s=30) as client:
            for asset in ASSETS:
                await client.create_asset(asset=asset, scale=0)
            for shape in shapes:
                await fund(client, shape)
        yield Ours(
            Side(port, server.process.pid, key),
            Side(0, flusher.process.pid),
            Backlog(OneNode(store.client), LedgerStore(pool)),
        )


async def fund(client: drawdown.AsyncClient, shape: Shape) -> None:
    """Make the wallets of a shape, and use each once, so that it is in Valkey."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(wallet_id: str) -> None:
        async with free:
            await client.create_wallet(wallet_id=wallet_id)
            for asset in ASSETS[: shape.assets]:
                for number in range(shape.grants):
                    await client.create_grant(
                        wallet_id=wallet_id,
                        grant_id=f"grant-{asset}-{number:04d}",
                        asset=asset,
                        units=GRANT_UNITS,
                        source=drawdown.GrantSource.PURCHASE,
                    )
            await client.get_balance(wallet_id=wallet_id)

    await asyncio.gather(*(one(f"{shape.prefix}{number:06d}") for number in range(shape.wallets)))


class RecordedError(Exception):
    """Instead of an answer."""


class Recorder(PipelinedConnection):
    """Notes the command that a store sends, and sends nothing."""

    def __init__(self) -> None:
        super().__init__("redis://127.0.0.1:1", timeout_ms=1, in_flight_max=1)
        self.command: tuple[bytes | str | int, ...] = ()

    async def call(
        self,
        *command: bytes | str | int,
        partition: int = 0,  # noqa: ARG002
        settles: bool = False,  # noqa: ARG002
    ) -> bytes:
        self.command = command
        raise RecordedError


async def raw_authorize(valkey_url: str, wallets: int) -> bytes:
    """Wallets of the simplest shape in a store without a server, and the bytes of an Authorize for them."""
    library = build_library()
    async with (
        open_client(valkey_url, timeout_ms=10_000) as client,
        open_connection(valkey_url, timeout_ms=10_000, in_flight_max=1_000) as connection,
    ):
        await client.hset(keys.meta(PARTITION), "epoch", "1")
        await load_library(client, library)
        store = HoldStore(connection, library, [1])
        for number in range(wallets):
            await load(store, f"wallet-{number:06d}")
    recorder = Recorder()
    with suppress(RecordedError):
        await HoldStore(recorder, library, [1]).authorize(authorize_request(f"wallet-{WALLET}", f"hold-{NUMBER}"))
    return bytes(hiredis.pack_command(recorder.command))


async def load(store: HoldStore, wallet_id: str) -> None:
    """One wallet with one grant."""
    ticket = await store.ticket(TENANT, wallet_id)
    grant = PackedGrant("grant-USD-0000", GRANT_UNITS, 0, 0, 0, GrantSource.PURCHASE, 1, 1)
    request = LoadRequest(
        tenant_id=TENANT,
        wallet_id=wallet_id,
        ticket_ms=ticket.time_ms,
        state=WalletState.ACTIVE,
        sequence=0,
        change_number=0,
        assets=[LoadedAsset("USD", 0, 0, [grant], [])],
        caps=[],
        cap_usage=[],
        changes=[],
    )
    assert (await store.load(request, ticket)).loaded


def authorize_request(wallet_id: str, hold_id: str) -> AuthorizeRequest:
    """What the server sends for the simplest Authorize."""
    return AuthorizeRequest(
        tenant_id=TENANT,
        wallet_id=wallet_id,
        hold_id=hold_id,
        fingerprint=fingerprint({"amounts": "7", "subjects": "", "overage_policy": "1"}),
        ways=[[AmountRequest("USD", 7)]],
        ttl_ms=3_600_000,
        subjects=[],
        expiry_action=ExpiryAction.RELEASE,
        labels="",
        open_holds_max=1_000_000,
        tombstone_ms=900_000,
    )
