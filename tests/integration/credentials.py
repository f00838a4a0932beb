"""Keys for tests: made as `drawdown-server create-key` makes them, without its process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drawdown_server.identity.caller import Caller
from drawdown_server.identity.scopes import ALL_SCOPES, Scope
from drawdown_server.identity.startup import open_identity
from drawdown_server.ledger.database import open_pool
from drawdown_server.ledger.store import LedgerStore
from drawdown_server.wallets.keys import KeyAdmin

if TYPE_CHECKING:
    from collections.abc import Iterable

    from drawdown_server.config import Config

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
