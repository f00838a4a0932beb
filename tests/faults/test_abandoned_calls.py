"""Fault 22, and calls that end badly: the deadline passes, the client goes, the server is stopped in the middle."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import grpc
import pytest
from structlog.testing import capture_logs

from drawdown.v1 import types_pb2
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from drawdown_server import deadline
from drawdown_server.errors import DrawdownError, ErrorReason
from drawdown_server.holds.connection import open_connection
from faults.tcp_proxy import TcpProxy
from integration.audit import open_audit
from integration.server import authorize_request, grant_request, run_server, until
from integration.test_admin_port import run_with_admin

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from typing import Any

    from drawdown_server.config import Config
    from drawdown_server.dev.valkey import ValkeyProcess
    from drawdown_server.holds.connection import PipelinedConnection

PATIENT_MS: Final = 20_000
SENT_BY_S: Final = 0.5
"""By then a server has sent a call on, also on a loaded machine."""
CALLS: Final = 5_000
PIECE_BYTES: Final = 7
SEED: Final = 22


@contextmanager
def frozen(valkey: ValkeyProcess) -> Iterator[None]:
    """Valkey answers nobody inside the block."""
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(valkey.pid, signal.SIGCONT)


async def in_flight(connection: PipelinedConnection, calls: int) -> bool:
    return connection.in_flight == calls


async def noticed(logs: list[MutableMapping[str, Any]], method: str) -> bool:
    """Whether the server knows that a caller has gone."""
    return any(line.get("code") == "CANCELLED" and line["method"].endswith(method) for line in logs)


async def abandoned(logs: list[MutableMapping[str, Any]], count: int) -> list[tuple[str, str]]:
    """(verb or method, outcome) of the first calls that went on without their caller."""

    async def told() -> list[tuple[str, str]]:
        found = [
            (line.get("verb") or line["method"].rpartition("/")[2], line["outcome"])
            for line in logs
            if line["event"] == "rpc.abandoned"
        ]
        return found if len(found) >= count else []

    result: list[tuple[str, str]] = await until(told)
    return result


async def test_5000_calls_that_are_given_up_at_random_mix_no_replies_up(valkey_server: ValkeyProcess) -> None:
    rng = random.Random(SEED)  # noqa: S311 - a test's dice
    async with (
        TcpProxy(valkey_server.port) as proxy,
        open_connection(proxy.url, timeout_ms=PATIENT_MS, in_flight_max=200) as connection,
    ):
        proxy.piece_bytes = PIECE_BYTES
        answered: set[int] = set()

        async def echo(number: int) -> None:
            async with asyncio.timeout(rng.choice([None, None, rng.random() / 50])):
                assert await connection.call("ECHO", f"<{number}>") == f"<{number}>".encode()
                answered.add(number)

        calls = []
        for number in range(CALLS):
            calls.append(asyncio.create_task(echo(number)))
            if rng.random() < 0.3:
                rng.choice(calls[-50:]).cancel()
            if rng.random() < 0.05:
                await asyncio.sleep(0)
        results = await asyncio.gather(*calls, return_exceptions=True)
        given_up = [result for result in results if isinstance(result, asyncio.CancelledError | TimeoutError)]
        assert len(given_up) + len(answered) == CALLS, [r for r in results if r is not None and r not in given_up][:3]
        assert min(len(given_up), len(answered)) > CALLS / 10
        assert await connection.call("ECHO", "after") == b"after"
        assert (connection.in_flight, proxy.accepted) == (0, 1), "one connection served them all"
        assert sum(connection.abandoned.counts.values()) == connection.abandoned.counts["ECHO", "OK"] > 0


async def test_a_call_that_is_given_up_while_it_waits_is_never_sent(valkey_server: ValkeyProcess) -> None:
    async with (
        TcpProxy(valkey_server.port) as proxy,
        open_connection(proxy.url, timeout_ms=PATIENT_MS, in_flight_max=1) as connection,
    ):
        proxy.stall()
        first = asyncio.create_task(connection.call("SET", "sent", "1"))
        await until(lambda: in_flight(connection, 1))
        waiting = asyncio.create_task(connection.call("SET", "given-up", "1"))
        await asyncio.sleep(0)
        waiting.cancel()
        proxy.resume()
        assert await first == b"OK"
        await asyncio.gather(waiting, return_exceptions=True)
        assert await connection.call("EXISTS", "sent", "given-up") == 1


async def test_a_call_that_waited_until_its_time_was_over_is_not_sent(valkey_server: ValkeyProcess) -> None:
    async with (
        TcpProxy(valkey_server.port) as proxy,
        open_connection(proxy.url, timeout_ms=PATIENT_MS, in_flight_max=1) as connection,
    ):

        async def late() -> None:
            deadline.begin(deadline.CALL_TAKES_S * 2)
            await connection.call("SET", "late", "1")

        proxy.stall()
        first = asyncio.create_task(connection.call("SET", "sent", "1"))
        await until(lambda: in_flight(connection, 1))
        waiting = asyncio.create_task(late())
        await asyncio.wait([waiting], timeout=deadline.CALL_TAKES_S * 3)
        proxy.resume()
        assert await first == b"OK"
        with pytest.raises(DrawdownError) as refused:
            await waiting
        assert refused.value.reason is ErrorReason.DEADLINE_EXCEEDED
        assert await connection.call("EXISTS", "sent", "late") == 1


@pytest.mark.parametrize("left_s", [0.0, deadline.CALL_TAKES_S / 2])
def test_a_call_with_too_little_time_left_is_not_begun(left_s: float) -> None:
    with pytest.raises(DrawdownError) as refused:
        deadline.begin(left_s)
    assert refused.value.reason is ErrorReason.DEADLINE_EXCEEDED
    deadline.begin(None)
    deadline.check()


@pytest.mark.parametrize("how", ["deadline", "client"])
async def test_the_outcome_of_a_call_whose_caller_has_gone_is_told(
    config: Config, valkey_server: ValkeyProcess, how: str
) -> None:
    patient = config.model_copy(update={"valkey_timeout_ms": PATIENT_MS})
    async with run_server(patient) as server:
        wallet = await server.wallet(USD=100)
        with capture_logs() as logs:
            with frozen(valkey_server):
                authorize = authorize_request(wallet, "h", USD=10)
                call = asyncio.create_task(server.call(authorize, deadline_s=SENT_BY_S * 2))
                if how == "client":
                    await asyncio.wait([call], timeout=SENT_BY_S)
                    call.cancel()
                (result,) = await asyncio.gather(call, return_exceptions=True)
                await until(lambda: noticed(logs, "AuthorizationService/Authorize"))
            assert await abandoned(logs, 1) == [("authorize", "OK")]
        if how == "deadline":
            assert isinstance(result, grpc.aio.AioRpcError)
            assert result.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        again = await server.authorize(wallet, "h", USD=10)
        assert again.replayed
        await server.assert_conserved(wallet)


async def test_what_an_administrator_began_goes_on_to_its_end_without_the_caller(
    config: Config, valkey_server: ValkeyProcess
) -> None:
    patient = config.model_copy(update={"valkey_timeout_ms": PATIENT_MS, "admin_port": 0})
    async with run_with_admin(patient) as (server, admin):
        wallet = await server.wallet(USD=100)
        freeze = wallet_pb.FreezeWalletRequest(wallet_id=wallet, reason="lost card")
        with capture_logs() as logs:
            with frozen(valkey_server):
                for request in (grant_request(wallet, "more", "USD", 5), freeze):
                    failure = await server.failure(request, deadline_s=0.3)
                    assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
            told = await abandoned(logs, 2)
        assert sorted(each for each in told if each[0][0].isupper()) == [("CreateGrant", "OK"), ("FreezeWallet", "OK")]
        lines = {(line["event"], line.get("method")) for line in logs}
        for method in ("drawdown.v1.GrantService/CreateGrant", "drawdown.v1.WalletService/FreezeWallet"):
            assert lines >= {("rpc", method), ("rpc.abandoned", method)}
            labels = {"rpc_method": method, "rpc_response_status_code": "OK"}
            assert await admin.value("drawdown_calls_abandoned_total", **labels) == 1
        assert (await server.balance(wallet)).available_units == 105
        found = await server.call(wallet_pb.GetWalletRequest(wallet_id=wallet))
        assert found.wallet.state == types_pb2.WALLET_STATE_FROZEN
        await server.assert_conserved(wallet)


async def test_a_server_that_is_stopped_waits_for_what_goes_on_without_its_caller(
    config: Config, valkey_server: ValkeyProcess
) -> None:
    patient = config.model_copy(update={"valkey_timeout_ms": PATIENT_MS})
    async with open_audit(patient) as audit:
        with capture_logs() as logs:
            async with run_server(patient) as server:
                wallet = await server.wallet(USD=100)
                with frozen(valkey_server):
                    failure = await server.failure(grant_request(wallet, "more", "USD", 5), deadline_s=0.3)
                    assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
                    server.stop.set()

                    async def is_draining() -> bool:
                        return any(line["event"] == "server.draining" for line in logs)

                    await until(is_draining)
                    assert not server.task.done()
        events = [line["event"] for line in logs]
        assert events.index("rpc.abandoned") < events.index("server.stopped")
        assert ("CreateGrant", "OK") in await abandoned(logs, 1)
        await audit.assert_conserved(wallet)
        assert {entry.grant_id for entry in await audit.entries(wallet)} == {"g-USD", "more"}
