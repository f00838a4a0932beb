"""kill -9 of the server and of the flusher while a gateway works: what was acknowledged is in the ledger once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import grpc
import pytest

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown_server.dev.process import free_port
from faults.gateway import Gateway
from faults.processes import Program, program
from faults.tcp_proxy import TcpProxy
from integration.audit import open_audit
from integration.server import Rpc, authorize_request, open_channel, run_server, until

if TYPE_CHECKING:
    from pathlib import Path

    from drawdown_server.config import Config
    from drawdown_server.dev.valkey import ValkeyProcess
    from integration.server import Server

WALLETS = 6
FUNDS = 10_000_000
COMMITS_BETWEEN_KILLS = 75
MOMENTS: Final = ("before", "after", "anywhere")
"""Of the kill, as the scripts of the calls in flight see it."""
IN_FLIGHT: Final = 30
STALLED_S: Final = 0.1


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


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(3, id="short"),
        pytest.param(60, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ],
)
async def test_kill_9_in_the_middle_of_authorize_leaves_one_hold_of_each_id(
    config: Config, directory: Path, valkey_server: ValkeyProcess, kills: int
) -> None:
    """Before the scripts ran, after they ran, or somewhere between: another server gets the same ids again."""
    async with TcpProxy(valkey_server.port) as proxy, run_server(config) as other:
        wallet, port = await other.wallet(USD=FUNDS), free_port()
        victim = Program("serve", config.model_copy(update={"valkey_url": proxy.url, "grpc_port": port}), directory)
        try:
            for number in range(kills):
                moment = MOMENTS[number % len(MOMENTS)]
                requests = [authorize_request(wallet, f"h{number}-{each}", 600, USD=10) for each in range(IN_FLIGHT)]
                await victim.start()
                async with open_channel(port) as channel:
                    await killed_amid(victim, Rpc(channel), requests, moment, proxy, other)
                again = await asyncio.gather(*(other.call(request) for request in requests))
                assert all(reply.decision == pb.DECISION_APPROVED for reply in again)
                replayed = {reply.replayed for reply in again}
                assert moment == "anywhere" or replayed == {moment == "after"}
                assert (await other.balance(wallet)).held_units == 10 * IN_FLIGHT
                await asyncio.gather(*(other.commit(wallet, request.hold_id, USD=10) for request in requests))
        finally:
            victim.close()
        assert (await other.balance(wallet)).settled_units == FUNDS - 10 * IN_FLIGHT * kills
        await other.assert_conserved(wallet)


async def killed_amid(
    victim: Program, rpc: Rpc, requests: list[pb.AuthorizeRequest], moment: str, proxy: TcpProxy, other: Server
) -> None:
    """Kill a server while it has these calls in flight."""
    wallet = requests[0].wallet_id
    await rpc.balance(wallet)  # connected
    if moment == "before":
        proxy.stall("requests")
    elif moment == "after":
        proxy.stall("replies")
    calls = asyncio.gather(*(rpc.call(request) for request in requests), return_exceptions=True)

    async def ran() -> bool:
        reading = await other.audit.read_live(other.config.tenant, wallet)
        return reading is not None and reading.open_holds >= (1 if moment == "anywhere" else len(requests))

    if moment == "before":
        await asyncio.wait([calls], timeout=STALLED_S)  # time for the requests to reach the line that stands still
    else:
        await until(ran)
    victim.kill()
    proxy.cut()
    proxy.resume()
    ends = await calls
    assert moment == "anywhere" or {type(end) for end in ends} == {grpc.aio.AioRpcError}
