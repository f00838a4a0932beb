"""A wallet to which nothing has happened for long, without the wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from drawdown_server.holds.model import WalletHead

if TYPE_CHECKING:
    from redis.asyncio import Redis

IDLE_S: Final = 100_000


async def make_idle(redis: Redis, name: str, idle_s: int = IDLE_S) -> None:
    """Make a wallet as if it had been loaded, and its last event appended, so many seconds ago."""
    packed = await redis.hget(name, "head")
    assert packed is not None, "the wallet is not in Valkey"
    head = msgspec.msgpack.decode(packed, type=WalletHead)
    appended_ms = max(0, head.appended_ms - idle_s * 1000)
    idle = msgspec.structs.replace(head, loaded_ms=head.loaded_ms - idle_s * 1000, appended_ms=appended_ms)
    await redis.hset(name, "head", msgspec.msgpack.encode(idle))
