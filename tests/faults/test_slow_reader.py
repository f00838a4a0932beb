"""A client that stops reading: what waits for it is bounded, it is dropped in the end, and nobody else notices."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import ledger_service_pb2 as ledger_pb
from drawdown_server.dev.process import free_port
from drawdown_server.rpc.transport import KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS, STREAMS_MAX
from faults.processes import program
from faults.tcp_proxy import TcpProxy
from integration.audit import open_audit
from integration.server import Rpc, amounts, open_channel, run_server, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from drawdown_server.config import Config

CHARGES: Final = 20
LABELS: Final = {f"label-{number}": "x" * 256 for number in range(16)}
CALLS: Final = 3 * STREAMS_MAX
"""On one connection; a server without a limit would keep all their answers."""
COPIES_MAX: Final = 4
"""Of an answer that waits: the message, its bytes, what is on its way to the socket."""
STEADY_S: Final = 0.5


def resident_bytes(pid: int) -> int:
    """The memory of a process."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


async def steady(pid: int) -> int:
    """The memory of a process once it has not grown for a while."""
    most, since_s = resident_bytes(pid), time.monotonic()
    while time.monotonic() - since_s < STEADY_S:
        await asyncio.sleep(0.02)
        if resident_bytes(pid) > most * 1.005:
            most, since_s = resident_bytes(pid), time.monotonic()
    return most


async def test_what_waits_for_a_client_that_reads_nothing_is_bounded(config: Config, directory: Path) -> None:
    port = free_port()
    settings = config.model_copy(update={"grpc_port": port, "reflection": True})
    async with (
        program("serve", settings, directory) as server,
        TcpProxy(port, counts_replies=False) as proxy,
        open_channel(port) as channel,
        open_channel(proxy.port) as slow_channel,
        open_audit(config) as audit,
    ):
        rpc, slow = Rpc(channel), Rpc(slow_channel)
        await rpc.create_assets()
        wallet = await rpc.wallet(USD=10_000)
        await asyncio.gather(
            *(
                rpc.call(pb.ChargeRequest(wallet_id=wallet, charge_id=f"c{n}", amounts=amounts(USD=1), labels=LABELS))
                for n in range(CHARGES)
            )
        )
        await audit.assert_conserved(wallet)
        page = ledger_pb.ListEntriesRequest(wallet_id=wallet, page_size=1_000)
        page_bytes = (await slow.call(page)).ByteSize()
        streams = [
            slow.health.Watch(health_pb2.HealthCheckRequest()),
            reflection_pb2_grpc.ServerReflectionStub(slow_channel).ServerReflectionInfo(requests()),  # type: ignore[no-untyped-call]
        ]
        assert [bool(await stream.read()) for stream in streams] == [True, True]

        before = await steady(server.process.pid)
        proxy.stall("replies")
        calls = [asyncio.ensure_future(slow.call(page, deadline_s=60)) for _ in range(CALLS)]
        grown = await steady(server.process.pid) - before
        assert grown < STREAMS_MAX * page_bytes * COPIES_MAX, f"{grown} bytes wait for a client that does not read"
        for number in range(20):  # meanwhile, for others
            await rpc.authorize(wallet, f"h{number}", USD=1)
            await rpc.commit(wallet, f"h{number}", USD=1)

        proxy.resume()
        for reply in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(
                reply, grpc.aio.AioRpcError
            ):  # on a slow machine it was silent for so long that it was dropped
                assert reply.code() is grpc.StatusCode.UNAVAILABLE, reply
            else:
                assert reply.ByteSize() >= page_bytes
        for stream in streams:
            stream.cancel()
        await audit.assert_conserved(wallet)


@pytest.mark.soak
async def test_a_client_that_is_silent_is_dropped(config: Config) -> None:
    """It has a call, and its machine is gone; takes as long as a server waits for it."""
    async with (
        run_server(config) as server,
        TcpProxy(server.port, counts_replies=False) as proxy,
        open_channel(proxy.port) as channel,
    ):
        watch = Rpc(channel).health.Watch(health_pb2.HealthCheckRequest())
        assert await watch.read()
        proxy.stall("requests")

        async def dropped() -> bool:
            return proxy.connections == 0

        await until(dropped, timeout_s=2 * (KEEPALIVE_MS + KEEPALIVE_TIMEOUT_MS) / 1000)
        watch.cancel()


async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    """One question to reflection, and the stream stays open."""
    yield reflection_pb2.ServerReflectionRequest(list_services="")
    await asyncio.Event().wait()
