"""Everything that is compared, started together."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import asyncpg

from bench.flush_rate import Outboxes
from bench.table.counters import postgres
from bench.table.sides import Ours, Shape, Side, Store, drawdown_server, raw_authorize, script
from drawdown_server.config import Config
from drawdown_server.dev.postgres import PostgresProcess
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.holds.startup import open_client
from drawdown_server.ledger.database import open_pool
from drawdown_server.ledger.migrations import migrate
from drawdown_server.ledger.store import LedgerStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bench.table.counters import Meter

SIMPLEST: Final = Shape("simplest")
HOT: Final = Shape("hot", wallets=1)
SHAPES: Final = (
    SIMPLEST,
    Shape("10 grants", grants=10, wallets=50),
    Shape("100 grants", grants=100, wallets=10),
    Shape("2 assets", assets=2, wallets=100),
    Shape("4 assets", assets=4, wallets=50),
    HOT,
)
RIVAL_WALLETS: Final = 10_000
CLIENT_TIMEOUT_MS: Final = 60_000
NO_REWRITE: Final = ("auto-aof-rewrite-percentage 0",)
"""No rewrite of the append-only file: it would slow down some row of some round."""
FLUSH_WALLETS: Final = 500
FLUSH_BATCH: Final = 2_000


@dataclass(frozen=True)
class Stack:
    """Servers, stores and rivals, each with nothing else to do than its own rows."""

    ours: Ours
    store: Store
    raw_store: Store
    raw_command: bytes
    """An Authorize as our server sends it to Valkey."""
    echo: Side
    postgres: Meter
    postgres_lock: Side
    fastapi: Side
    fastapi_store: Store
    memory_url: str
    outboxes: Outboxes


@asynccontextmanager
async def open_stack(directory: Path) -> AsyncIterator[Stack]:
    """Start all of it.

    Args:
        directory: For the data of all stores; empty.
    """
    async with AsyncExitStack() as opened:

        async def valkey(name: str) -> tuple[Store, str]:
            process = opened.enter_context(ValkeyProcess(directory / name, extra=NO_REWRITE))
            client = await opened.enter_async_context(open_client(process.url, timeout_ms=CLIENT_TIMEOUT_MS))
            return Store(process.port, process.pid, client), process.url

        database = opened.enter_context(PostgresProcess(directory / "postgres"))
        urls = {name: await database.create_database(name) for name in ("ours", "flush", "rival")}
        connection = await asyncpg.connect(urls["rival"])
        opened.push_async_callback(connection.close)
        (store, store_url), (raw, raw_url), (fastapi_store, fastapi_url) = [
            await valkey(name) for name in ("ours", "raw", "fastapi")
        ]
        memory = opened.enter_context(ValkeyProcess(directory / "memory", appendfsync="no"))
        wallets = str(RIVAL_WALLETS)
        yield Stack(
            ours=await opened.enter_async_context(drawdown_server(store, store_url, urls["ours"], directory, SHAPES)),
            store=store,
            raw_store=raw,
            raw_command=await raw_authorize(raw_url, SIMPLEST.wallets),
            echo=await opened.enter_async_context(script("echo")),
            postgres=postgres(connection, database.pid),
            postgres_lock=await opened.enter_async_context(script("postgres_lock", urls["rival"], wallets)),
            fastapi=await opened.enter_async_context(script("fastapi_lua", fastapi_url, wallets)),
            fastapi_store=fastapi_store,
            memory_url=memory.url,
            outboxes=await open_outboxes(opened, (await valkey("flush"))[1], urls["flush"]),
        )


async def open_outboxes(opened: AsyncExitStack, valkey_url: str, postgres_url: str) -> Outboxes:
    """A flusher in this process, with nothing in its way but its stores."""
    await migrate(postgres_url)
    pool = await opened.enter_async_context(open_pool(Config(postgres_url=postgres_url, valkey_url=valkey_url)))
    client = await opened.enter_async_context(open_client(valkey_url, timeout_ms=CLIENT_TIMEOUT_MS))
    outboxes = Outboxes(client, LedgerStore(pool), wallets=FLUSH_WALLETS, assets=2, batch_max=FLUSH_BATCH)
    await outboxes.open()
    return outboxes
