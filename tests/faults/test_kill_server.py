"""kill -9 of the server and of the flusher while a gateway works: what was acknowledged is in the ledger once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from drawdown_server.dev.process import free_port
from faults.gateway import Gateway
from faults.processes import program
from integration.audit import open_audit
from integration.server import Rpc, open_channel

if TYPE_CHECKING:
    from pathlib import Path

    from drawdown_server.config import Config

WALLETS = 6
FUNDS = 10_000_000
COMMITS_BETWEEN_KILLS = 75


async def test_kill_9_under_load_loses_and_doubles_nothing(config: Config, directory: Path) -> None:
    port = free_port()
    settings = config.model_copy(update={"flusher": False, "grpc_port": port, "lease_ttl_ms": 500})
    async with (
        program("serve", settings, directory) as server,
        program("flush", settings, directory) as flusher,
        open_channel(port) as channel,
        open_audit(settings) as audit,
    ):
        rpc = Rpc(channel)
        await rpc.create_assets()
        gateway = Gateway(rpc, [await rpc.wallet(USD=FUNDS) for _ in range(WALLETS)])
        load = asyncio.create_task(gateway.run())
        for victims in ([server], [flusher], [server, flusher]):
            await gateway.reaches(COMMITS_BETWEEN_KILLS)
            retries = gateway.retries
            for victim in victims:
                victim.kill()
            for victim in victims:
                victim.launch()
            for victim in victims:
                await victim.ready()
            await gateway.reaches(1)
            assert (gateway.retries > retries) == (server in victims)
        await gateway.reaches(COMMITS_BETWEEN_KILLS)
        gateway.stop.set()
        await load
        await gateway.assert_recorded(audit)
