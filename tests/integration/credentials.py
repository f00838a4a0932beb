"""Keys for tests: made as `drawdown-server create-key` makes them, without its process."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import stores
from drawdown_server.identity.caller import Caller
from drawdown_server.identity.scopes import ALL_SCOPES, Scope
from drawdown_server.identity.startup import open_identity
from drawdown_server.ledger.database import open_pool
from drawdown_server.ledger.store import LedgerStore
from drawdown_server.wallets.keys import KeyAdmin
from integration.server import run_server, settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from drawdown_server.config import Config
    from drawdown_server.dev.postgres import PostgresProcess
    from drawdown_server.dev.valkey import ValkeyProcess
    from integration.server import Server

PEPPER: Final = f"test:{'A' * 43}="


def with_keys(config: Config) -> Config:
    """The settings of a server that wants API keys."""
    return config.model_copy(update={"identity": "keys", "api_key_pepper": PEPPER})


async def create_key(
    config: Config,
    key_id: str = "all",
    *,
    tenant: str = "default",
    scopes: Iterable[Scope] = ALL_SCOPES,
    expire_ms: int = 0,
) -> str:
    """A new key."""
    async with open_pool(config) as pool:
        ledger = LedgerStore(pool)
        admin = KeyAdmin(ledger, (await open_identity(config, ledger)).secrets)
        _, secret = await admin.create_key(
            Caller(tenant, "test", ALL_SCOPES),
            key_id=key_id,
            display_name="",
            scopes=frozenset(scopes),
            expire_ms=expire_ms,
        )
    return secret


@asynccontextmanager
async def run_keyed_server(
    valkey_process: ValkeyProcess, postgres_process: PostgresProcess, *, assets: bool = True
) -> AsyncIterator[Server]:
    """A server that wants API keys, on emptied stores, called with a key that has every scope."""
    stores.empty(valkey_process)
    name = f"keyed_{uuid4().hex[:12]}"
    postgres_url = await postgres_process.create_database(name, template=stores.TEMPLATE_DATABASE)
    config = with_keys(
        settings(
            stores.as_user(valkey_process.url, stores.SERVER_USER), stores.as_user(postgres_url, stores.SERVER_ROLE)
        )
    )
    async with run_server(config, assets=assets, credential=await create_key(config)) as server:
        yield server
    await postgres_process.drop_database(name)
