"""A wallet that nobody has touched for long, without the wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from redis.asyncio import Redis

IDLE_S: Final = 100_000
LOADED_MS: Final = 4
"""Place of the time of the load in a wallet's head (store.lua)."""


async def make_idle(redis: Redis, name: str, idle_s: int = IDLE_S) -> None:
    """Make a wallet's hash as if it had been loaded, and last touched, so many seconds ago."""
    packed = await redis.hget(name, "head")
    assert packed is not None, "the wallet is not in Valkey"
    head = msgspec.msgpack.decode(packed)
    head[LOADED_MS] -= idle_s * 1000
    await redis.hset(name, "head", msgspec.msgpack.encode(head))
    await redis.restore(name, 0, await redis.dump(name), replace=True, idletime=idle_s)
