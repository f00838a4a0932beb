"""Fault 24, between client and server: the line that carries a client's stream goes dead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import drawdown
from drawdown import _channel
from faults.tcp_proxy import TcpProxy
from integration.server import run_server, until

if TYPE_CHECKING:
    import pytest

    from drawdown_server.config import Config

TIMEOUT_S: Final = 1.5
"""Of a call: two of them are silence enough to leave a stream."""
USD: Final = 1_000


async def test_calls_leave_a_dead_line_before_grpc_does_and_none_counts_twice(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    pings = ("keepalive", "ping")  # without them gRPC does not notice at all, however slow the machine is
    options = [option for option in _channel.CHANNEL_OPTIONS if not any(word in option[0] for word in pings)]
    monkeypatch.setattr(_channel, "CHANNEL_OPTIONS", options)
    async with (
        run_server(config) as server,
        TcpProxy(server.port, counts_replies=False) as first,
        TcpProxy(server.port, counts_replies=False) as second,
        drawdown.AsyncClient(f"ipv4:127.0.0.1:{first.port},127.0.0.1:{second.port}", timeout_s=TIMEOUT_S) as client,
    ):
        wallet = await server.wallet(USD=USD)
        told: list[bool] = []

        async def charge() -> bool:
            try:
                await client.charge(wallet_id=wallet, amounts={"USD": 1})
            except drawdown.DeadlineExceededError:
                told.append(False)
            else:
                told.append(True)
            return told[-1]

        async def is_on_a_stream() -> bool:
            await charge()
            assert client._sessions is not None
            return (first.accepted, second.accepted) == (1, 1) and client._sessions._session() is not None

        await until(is_on_a_stream)
        for line in (first, second):
            line.stall()
            if not await charge():
                break
            line.resume()
        assert not told[-1], "one of them carries the stream"
        await until(charge)
        assert (first.accepted, second.accepted) == (1, 1), "and gRPC has not connected anew"
        assert line.connections == 1
        settled = (await server.balance(wallet)).settled_units
        assert told.count(True) <= USD - settled <= len(told)
        await server.assert_conserved(wallet)
