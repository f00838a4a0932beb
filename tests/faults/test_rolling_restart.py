"""Two servers are restarted one after the other while a client works on both: it notices nothing."""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest

import drawdown
from drawdown_server.config import Config
from drawdown_server.dev.process import free_port
from faults.processes import program, sockets_to
from faults.work import Work
from integration.audit import open_audit
from integration.server import Rpc, open_channel, until
from transports import transport  # noqa: F401 - the client over both transports

if TYPE_CHECKING:
    from pathlib import Path


CALLS_BETWEEN: Final = 60
TIMEOUT_S: Final = 10.0
"""Of a call: the machine of the tests is slow, and what is measured is failures, not time."""


async def is_used(port: int) -> bool:
    """Whether the client has its connection to a server again."""
    return sockets_to(port) > 0


@pytest.mark.parametrize(
    "restarts",
    [
        pytest.param(4, id="short", marks=pytest.mark.timeout(300)),  # ten starts of a server
        pytest.param(20, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(900)]),
    ],
)
async def test_no_call_fails_while_servers_are_restarted_in_turn(
    config: Config, directory: Path, restarts: int
) -> None:
    ports = [free_port(), free_port()]
    delay_s = Config.model_fields["drain_delay_s"].default
    settings = [config.model_copy(update={"grpc_port": port, "drain_delay_s": delay_s}) for port in ports]
    async with (
        program("serve", settings[0], directory) as first,
        program("serve", settings[1], directory) as second,
        open_channel(ports[0]) as channel,
        open_audit(config) as audit,
        drawdown.AsyncClient(f"ipv4:127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}", timeout_s=TIMEOUT_S) as client,
    ):
        rpc = Rpc(channel)
        await rpc.create_assets()
        wallet = await rpc.wallet(USD=10_000_000)
        work = Work(client, wallet)
        load = asyncio.create_task(work.run())
        try:
            for number in range(restarts):
                await work.reaches(CALLS_BETWEEN)
                victim, port = ((first, ports[0]), (second, ports[1]))[number % 2]
                victim.send(signal.SIGTERM)
                assert await victim.exit_code() == 0
                await victim.start()
                await until(partial(is_used, port))  # as a rollout waits for one before it ends the next
                assert work.failures == [], f"restart {number}"
            await work.reaches(CALLS_BETWEEN)
        finally:
            work.stop.set()
            await load
        assert work.failures == []
        await audit.assert_conserved(wallet)
        assert (await rpc.balance(wallet)).settled_units == 10_000_000 - work.debited
