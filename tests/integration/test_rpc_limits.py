"""Too many calls, too large ones, too many connections: who is refused, how, and that the others notice nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

import grpc
from structlog.testing import capture_logs

import drawdown
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import balance_service_pb2 as balance_pb
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from drawdown_server.rpc.admission import OVERLOADED_RETRY_MS
from drawdown_server.rpc.statuses import PUSHBACK
from drawdown_server.rpc.transport import CARRIER_BYTES_MAX, METADATA_BYTES_MAX, OPERATION_BYTES_MAX
from integration.server import (
    authorize_request,
    commit_request,
    failure_in,
    failure_of,
    open_channel,
    run_server,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from drawdown_server.config import Config
    from drawdown_server.dev.valkey import ValkeyProcess
    from integration.server import Server

CALLS_MAX: Final = 8
CALLS_MAX_THAT_BEGIN: Final = 6
CONNECTIONS_MAX: Final = 4


@asynccontextmanager
async def frozen(valkey: ValkeyProcess) -> AsyncIterator[None]:
    """Valkey answers nobody: calls stay in flight for as long as the test wants."""
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(valkey.pid, signal.SIGCONT)


async def test_a_server_with_too_many_calls_refuses_new_holds_before_those_that_settle(
    config: Config, valkey_server: ValkeyProcess
) -> None:
    config = config.model_copy(update={"calls_max": CALLS_MAX, "valkey_timeout_ms": 60_000})
    async with run_server(config) as server:
        wallet = await server.wallet(USD=100)
        for n in range(CALLS_MAX):
            await server.authorize(wallet, f"h{n}", USD=1)
        async with frozen(valkey_server):
            begun = [asyncio.create_task(server.authorize(wallet, f"n{n}", USD=1)) for n in range(CALLS_MAX)]
            refused = [await failure_of(task) for task in await done(begun, CALLS_MAX - CALLS_MAX_THAT_BEGIN)]
            read = await server.failure(balance_pb.GetBalanceRequest(wallet_id=wallet))
            settled = [asyncio.create_task(server.commit(wallet, f"h{n}", USD=1)) for n in range(CALLS_MAX)]
            left_out = [await failure_of(task) for task in await done(settled, CALLS_MAX_THAT_BEGIN)]
        for failure in (*refused, read, *left_out):
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "OVERLOADED")
            assert failure.retry_ms == OVERLOADED_RETRY_MS
        answers = await asyncio.gather(*begun, *settled, return_exceptions=True)
        assert sum(isinstance(answer, pb.AuthorizeResponse) for answer in answers) == CALLS_MAX_THAT_BEGIN
        assert sum(isinstance(answer, pb.CommitResponse) for answer in answers) == CALLS_MAX - CALLS_MAX_THAT_BEGIN
        assert (await server.balance(wallet)).settled_units == 100 - (CALLS_MAX - CALLS_MAX_THAT_BEGIN)
        await server.assert_conserved(wallet)


async def done(tasks: list[asyncio.Task[object]], count: int) -> list[asyncio.Task[object]]:
    """The first tasks that end, exactly so many."""

    async def ended() -> list[asyncio.Task[object]]:
        found = [task for task in tasks if task.done()]
        return found if len(found) >= count else []

    found: list[asyncio.Task[object]] = await until(ended)
    assert len(found) == count
    return found


async def test_a_client_comes_again_when_an_overloaded_server_asks_it_to(
    config: Config, valkey_server: ValkeyProcess
) -> None:
    config = config.model_copy(update={"calls_max": 1, "valkey_timeout_ms": 60_000, "log_sample_ratio": 1.0})
    with capture_logs() as logs:
        async with run_server(config) as server, drawdown.AsyncClient(f"127.0.0.1:{server.port}") as client:
            wallet = await server.wallet(USD=100)
            async with frozen(valkey_server):
                firsts = [asyncio.create_task(server.authorize(wallet, f"h{n}", USD=1)) for n in range(2)]
                await failure_of((await done(firsts, 1))[0])
                trailers = await overloaded_trailers(server, wallet)
                assert OVERLOADED_RETRY_MS <= int(trailers[PUSHBACK]) <= OVERLOADED_RETRY_MS * 1.5
                before = sum(line.get("reason") == "OVERLOADED" for line in logs)
                second = asyncio.create_task(
                    client.authorize(wallet_id=wallet, hold_id="second", amounts={"USD": 1}, timeout_s=30)
                )

                async def is_refused() -> bool:
                    return sum(line.get("reason") == "OVERLOADED" for line in logs) > before

                await until(is_refused)
            await asyncio.gather(*firsts, return_exceptions=True)
            assert (await second).approved
            await server.assert_conserved(wallet)


async def overloaded_trailers(server: Server, wallet: str) -> dict[str, str]:
    call = server.method("Authorize")(authorize_request(wallet, "probe", USD=1), timeout=10)
    await failure_of(call)
    return dict(await call.trailing_metadata())


async def test_a_caller_above_its_rate_is_told_when_to_come_again_and_may_still_settle(config: Config) -> None:
    config = config.model_copy(update={"caller_calls_per_s": 20})
    async with run_server(config, assets=False) as server:
        await server.call(wallet_pb.CreateWalletRequest(wallet_id="w"))
        unknown = commit_request("w", "nobody", USD=1)
        while True:
            call = server.call(balance_pb.GetBalanceRequest(wallet_id="w"))
            try:
                await call
            except grpc.aio.AioRpcError as error:  # a moment later there may be room again
                refused = failure_in(error)
                break
        settling = await server.failure(unknown)
        assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert refused.metadata == {"calls_per_second": "20"}
        assert refused.retry_ms is not None
        assert 1 <= refused.retry_ms <= 51
        assert settling.reason == "HOLD_NOT_FOUND"


async def test_a_message_or_metadata_beyond_the_limits_is_refused_and_the_connection_goes_on(config: Config) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=10)
        for bytes_max, reason in ((OPERATION_BYTES_MAX, "REQUEST_TOO_LARGE"), (CARRIER_BYTES_MAX, "")):
            large = pb.AuthorizeRequest(wallet_id=wallet, hold_id="x" * bytes_max)
            failure = await server.failure(large)
            assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert failure.reason == reason  # gRPC itself refuses what is larger than any message of ours
        much = (("x-noise", "x" * (2 * METADATA_BYTES_MAX)),)
        call = server.method("GetBalance")(balance_pb.GetBalanceRequest(wallet_id=wallet), metadata=much, timeout=10)
        assert (await failure_of(call)).code is grpc.StatusCode.RESOURCE_EXHAUSTED
        await server.authorize(wallet, "h", USD=1)
        await server.assert_conserved(wallet)


async def test_connections_beyond_the_limit_are_closed_and_those_within_it_go_on(config: Config) -> None:
    config = config.model_copy(update={"connections_max": CONNECTIONS_MAX})
    async with run_server(config) as server, AsyncExitStack() as opened:
        wallet = await server.wallet(USD=10)  # over one connection
        for n in range(CONNECTIONS_MAX - 1):
            channel = await opened.enter_async_context(open_channel(server.port))
            await asyncio.wait_for(channel.channel_ready(), 10)
            await server.authorize(wallet, f"h{n}", USD=1)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert await asyncio.wait_for(reader.read(), 10) == b""  # the server's settings would come first
        writer.close()
        await server.authorize(wallet, "last", USD=1)
        await server.assert_conserved(wallet)
