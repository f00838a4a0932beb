"""The script ran and its reply was lost: the same call again has the same effect as one call."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import grpc
import pytest

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import balance_service_pb2 as balance_pb
from faults.tcp_proxy import TcpProxy
from integration.server import authorize_request, commit_request, grant_request, run_server

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from drawdown_server.config import Config
    from drawdown_server.dev.valkey import ValkeyProcess
    from faults.tcp_proxy import Loss

VALKEY_TIMEOUT_MS = 300


@pytest.mark.parametrize("loss", ["cut", "silence"])
@pytest.mark.parametrize("verb", ["authorize", "commit", "release"])
async def test_a_lost_reply_and_a_retry_have_one_effect(
    config: Config, valkey_server: ValkeyProcess, verb: str, loss: Loss
) -> None:
    async with TcpProxy(valkey_server.port) as proxy:
        lossy = config.model_copy(update={"valkey_url": proxy.url, "valkey_timeout_ms": VALKEY_TIMEOUT_MS})
        async with run_server(lossy) as server:
            wallet = await server.wallet(USD=100)
            requests: dict[str, Message] = {
                "authorize": authorize_request(wallet, "h", USD=10),
                "commit": commit_request(wallet, "h", USD=7),
                "release": pb.ReleaseRequest(wallet_id=wallet, hold_id="h"),
            }
            if verb != "authorize":
                await server.call(requests["authorize"])
            proxy.lose(f"{verb}_".encode(), loss)
            failure = await server.failure(requests[verb])
            assert proxy.lost.is_set()
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
            assert (failure.metadata, failure.retry_ms) == ({"store": "valkey"}, 50)

            again = await server.call(requests[verb])
            assert again.replayed, "the first one had run"
            reply = await server.call(balance_pb.GetBalanceRequest(wallet_id=wallet))
            usd = reply.balances[0]
            settled, held, sequence = {"authorize": (100, 10, 1), "commit": (93, 0, 2), "release": (100, 0, 1)}[verb]
            assert (usd.settled_units, usd.held_units, reply.wallet_sequence) == (settled, held, sequence)
            if verb == "commit":
                assert [entry.units for entry in await server.debits(wallet, at_least=1)] == [7]
            await server.assert_conserved(wallet)


@pytest.mark.parametrize("loss", ["cut", "silence"])
async def test_a_grant_whose_reply_was_lost_is_one_grant(
    config: Config, valkey_server: ValkeyProcess, loss: Loss
) -> None:
    async with TcpProxy(valkey_server.port) as proxy:
        lossy = config.model_copy(update={"valkey_url": proxy.url, "valkey_timeout_ms": VALKEY_TIMEOUT_MS})
        async with run_server(lossy) as server:
            wallet = await server.wallet(USD=100)
            proxy.lose(b"apply_", loss)
            failure = await server.failure(grant_request(wallet, "more", "USD", 5))
            assert failure.code is grpc.StatusCode.UNAVAILABLE
            reply = await server.grant(wallet, "more", "USD", 5)
            assert (reply.replayed, reply.balance.available_units) == (True, 105)
            await server.assert_conserved(wallet)


async def test_a_caller_that_gives_up_and_comes_back_finds_its_hold(
    config: Config, valkey_server: ValkeyProcess
) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=100)
        os.kill(valkey_server.pid, signal.SIGSTOP)
        try:
            failure = await server.failure(authorize_request(wallet, "h", USD=10), deadline_s=0.2)
            assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
        finally:
            os.kill(valkey_server.pid, signal.SIGCONT)
        # Replies are matched in order: the one that nobody waits for must not reach the next caller.
        other = await server.authorize(wallet, "other", USD=1)
        assert other.hold.hold_id == "other"
        again = await server.authorize(wallet, "h", USD=10)
        assert (again.hold.hold_id, again.replayed) == ("h", True)
        assert (await server.balance(wallet)).held_units == 11
        await server.assert_conserved(wallet)
