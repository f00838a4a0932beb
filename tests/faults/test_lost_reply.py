"""A reply or a request was lost on the way to Valkey: the same call again has the same effect as one call."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest

from drawdown_server.holds import connection
from faults.mutations import MUTATIONS, anonymous, patiently, prepared, story
from faults.tcp_proxy import TcpProxy
from integration.server import authorize_request, grant_request, run_server, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from drawdown_server.config import Config
    from drawdown_server.dev.valkey import ValkeyProcess
    from faults.tcp_proxy import Loss, Way
    from integration.server import Server

VALKEY_TIMEOUT_MS = 300
PATIENT_MS = 60_000
"""Of a server whose line is cut by the test, not given up by the server."""
PAUSE_MAX_S = 0.05
"""Between attempts to connect: so many breaks in a row look like a store that is down."""
BY_SCRIPT = [name for name, mutation in MUTATIONS.items() if mutation.verb]


@asynccontextmanager
async def lossy_server(
    config: Config, valkey: ValkeyProcess, *, timeout_ms: int = VALKEY_TIMEOUT_MS
) -> AsyncIterator[tuple[Server, TcpProxy]]:
    """A server whose line to Valkey is a proxy."""
    async with TcpProxy(valkey.port) as proxy:
        lossy = config.model_copy(update={"valkey_url": proxy.url, "valkey_timeout_ms": timeout_ms})
        async with run_server(lossy) as server:
            yield server, proxy


@pytest.mark.parametrize(("way", "loss"), [("replies", "cut"), ("replies", "silence"), ("requests", "silence")])
async def test_every_verb_and_its_retry_have_one_effect(
    config: Config, valkey_server: ValkeyProcess, monkeypatch: pytest.MonkeyPatch, way: Way, loss: Loss
) -> None:
    """Each is lost once, then sent again; afterwards its wallet has the story of a twin that lost nothing."""
    monkeypatch.setattr(connection, "RECONNECT_PAUSE_MAX_S", PAUSE_MAX_S)
    async with lossy_server(config, valkey_server) as (server, proxy):
        twins: dict[str, tuple[str, str]] = {}
        for name in BY_SCRIPT:
            mutation = MUTATIONS[name]
            wallet, twin = await prepared(server, mutation), await prepared(server, mutation)
            twins[name] = (wallet, twin)
            proxy.lose(mutation.verb, loss, way)
            failure = await server.failure(mutation.request(wallet))
            assert proxy.lost.is_set(), name
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"), name
            assert (failure.metadata, failure.retry_ms) == ({"store": "valkey"}, 50), name

            again = await patiently(server, mutation.request(wallet))
            once = await server.call(mutation.request(twin))
            # A change is in Postgres before the script runs, so its repeat is one in any case. A Release that finds
            # no hold asks the ledger before it buries: what was lost is its first script, which writes nothing.
            ran_before = mutation.verb == b"apply_" or (way == "replies" and name != "Release.unknown")
            if hasattr(again, "replayed"):
                assert again.replayed == ran_before, f"{name}: whether the first one had run"
                again.replayed = once.replayed
            assert anonymous(again, wallet) == anonymous(once, twin), name
        for name, (wallet, twin) in twins.items():
            await server.assert_conserved(wallet, twin)
            assert await story(server, wallet) == await story(server, twin), name


@pytest.mark.parametrize("loss", ["cut", "silence"])
async def test_a_grant_whose_reply_was_lost_is_one_grant(
    config: Config, valkey_server: ValkeyProcess, loss: Loss
) -> None:
    async with lossy_server(config, valkey_server) as (server, proxy):
        wallet = await server.wallet(USD=100)
        proxy.lose(b"apply_", loss)
        failure = await server.failure(grant_request(wallet, "more", "USD", 5))
        assert failure.code is grpc.StatusCode.UNAVAILABLE
        reply = await server.grant(wallet, "more", "USD", 5)
        assert (reply.replayed, reply.balance.available_units) == (True, 105)
        await server.assert_conserved(wallet)


async def test_a_server_is_gone_between_the_script_and_the_reply_of_many_calls(
    config: Config, valkey_server: ValkeyProcess
) -> None:
    """The line is cut under a hundred calls whose scripts have run; another server gets all of them again."""
    async with (
        lossy_server(config, valkey_server, timeout_ms=PATIENT_MS) as (server, proxy),
        run_server(config) as other,
    ):
        wallet = await server.wallet(USD=1_000)
        requests = [authorize_request(wallet, f"h{number}", USD=10) for number in range(100)]
        proxy.stall("replies")
        calls = asyncio.gather(*(server.call(request) for request in requests), return_exceptions=True)

        async def have_run() -> bool:
            return await holds_of(other, wallet) == len(requests)

        await until(have_run)
        proxy.cut()
        proxy.resume()
        errors = await calls
        assert {type(error) for error in errors} == {grpc.aio.AioRpcError}
        again = await asyncio.gather(*(other.call(request) for request in requests))
        assert all(reply.replayed for reply in again)
        assert (await other.balance(wallet)).held_units == 1_000
        await other.assert_conserved(wallet)


async def holds_of(server: Server, wallet: str) -> int:
    """How many open holds Valkey has, asked past every server."""
    reading = await server.audit.read_live(server.config.tenant, wallet)
    return 0 if reading is None else reading.open_holds


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
