"""What many build next: an endpoint of FastAPI, redis-py and a small Lua script that takes units from a counter.

One asset per wallet, no grants, no caps, no expiry, nothing that remembers who held what but a key per hold. Takes the
store's URL and the number of wallets; prints its port.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from redis.asyncio import Redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SCRIPT = """
    local available = tonumber(redis.call('GET', KEYS[1]) or '0')
    local units = tonumber(ARGV[1])
    if redis.call('EXISTS', KEYS[2]) == 1 then return {1, available} end
    if available < units then return {0, available} end
    redis.call('SET', KEYS[2], units, 'EX', ARGV[2])
    return {1, redis.call('DECRBY', KEYS[1], units)}
"""


class Authorize(BaseModel):
    """What comes in."""

    wallet_id: str
    hold_id: str
    asset: str
    units: int
    ttl_s: int = 300


class Decision(BaseModel):
    """What goes out."""

    approved: bool
    available_units: int


def build(redis: Redis) -> FastAPI:
    """The application."""
    take = redis.register_script(SCRIPT)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001
        yield
        await redis.aclose()

    app = FastAPI(lifespan=lifespan)

    @app.post("/authorize")
    async def authorize(request: Authorize) -> Decision:
        if request.units <= 0:
            raise HTTPException(422, "units must be positive")
        wallet = f"balance:{{{request.wallet_id}}}:{request.asset}"
        hold = f"hold:{{{request.wallet_id}}}:{request.hold_id}"
        approved, available = await take(keys=[wallet, hold], args=[request.units, request.ttl_s])
        return Decision(approved=bool(approved), available_units=available)

    return app


async def main(url: str, wallets: int) -> None:
    redis = Redis.from_url(url)
    pipeline = redis.pipeline(transaction=False)
    for number in range(wallets):
        pipeline.set(f"balance:{{wallet-{number:06d}}}:USD", 10**12)
    await pipeline.execute()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(build(redis), log_level="warning", access_log=False)
        sys.stdout.write(f"{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        await uvicorn.Server(config).serve([listening])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
