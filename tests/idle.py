"""Wallets as time and rollouts leave them, without the wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from drawdown_server.holds import keys
from drawdown_server.holds.model import WalletHead
from drawdown_server.ledger import streams
from drawdown_server.wallets.changes import ChangeApplier
from drawdown_server.wallets.loader import WalletLoader

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from drawdown_server.stores import Stores

IDLE_S: Final = 100_000


async def make_idle(redis: Redis, name: str, idle_s: int = IDLE_S) -> None:
    """Make a wallet as if it had been loaded, and its last event appended, so many seconds ago."""
    head = await _head(redis, name)
    appended_ms = max(0, head.appended_ms - idle_s * 1000)
    idle = msgspec.structs.replace(head, loaded_ms=head.loaded_ms - idle_s * 1000, appended_ms=appended_ms)
    await redis.hset(name, "head", msgspec.msgpack.encode(idle))


async def be_of_another_version(redis: Redis, name: str) -> None:
    """Make a wallet as if a server of a newer release had written it: our scripts refuse it, with TRYAGAIN."""
    head = await _head(redis, name)
    await redis.hset(name, "head", msgspec.msgpack.encode(msgspec.structs.replace(head, format=head.format + 1)))


async def _head(redis: Redis, name: str) -> WalletHead:
    packed = await redis.hget(name, "head")
    assert packed is not None, "the wallet is not in Valkey"
    return msgspec.msgpack.decode(packed, type=WalletHead)


def load_on_first_use(stores: Stores) -> None:
    """Wallets that are not in Valkey are loaded, as a server does it."""
    changes = ChangeApplier(stores.holds, stores.ledger)
    loader = WalletLoader(stores.holds, stores.ledger, changes, loads_max=4, unknown_ttl_ms=1_000)
    stores.holds.on_missing_wallet(loader.load)


async def forget(stores: Stores, tenant_id: str, *wallet_ids: str) -> None:
    """Wallets are not in Valkey any more, as if nobody had used them for long; all of them are recorded."""
    names: list[str] = []
    for wallet_id in wallet_ids:
        partition = keys.partition_of(tenant_id, wallet_id, stores.holds.partitions)
        names += keys.wallet_keys(partition, stores.holds.epochs[partition], tenant_id, wallet_id)[keys.WALLET :]
    await streams.unlink(stores.nodes, names)


async def expire_unseen(stores: Stores, grant_id: str) -> None:
    """Grants with this id expire while nobody looks, as if no server had run for an hour."""
    async with stores.ledger._connection() as connection:
        await connection.execute(
            "UPDATE grants SET applied_expire_time = date_trunc('milliseconds', now()) WHERE grant_id = $1", grant_id
        )
