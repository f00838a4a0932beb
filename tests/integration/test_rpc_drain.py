"""The end of a server: calls in flight are answered, everything is recorded, and it exits with 0."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown_server.holds import keys
from drawdown_server.ledger import streams
from drawdown_server.rpc.health import LIVENESS
from drawdown_server.rpc.services import service_names
from faults.processes import Program, program
from integration.audit import open_audit
from integration.server import Rpc, authorize_request, open_channel, run_server, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from drawdown_server.config import Config
    from drawdown_server.dev.valkey import ValkeyProcess
    from integration.audit import Audit

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
IN_FLIGHT = 5


async def health(rpc: Rpc, service: str = "") -> int:
    reply = await rpc.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    return int(reply.status)


@asynccontextmanager
async def process(config: Config, directory: Path) -> AsyncIterator[tuple[Program, Rpc]]:
    async with program("serve", config, directory) as server, open_channel(await server.ready()) as channel:
        rpc = Rpc(channel)
        await rpc.create_assets()
        yield server, rpc


@asynccontextmanager
async def frozen(valkey: ValkeyProcess) -> AsyncIterator[None]:
    """Valkey answers nobody: a call stays in flight for as long as the test wants."""
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(valkey.pid, signal.SIGCONT)


async def in_flight(rpc: Rpc, wallet: str, valkey: ValkeyProcess) -> list[asyncio.Task[Any]]:
    """Calls that the server has sent to Valkey and has no answer to."""
    calls = [asyncio.create_task(rpc.authorize(wallet, f"slow{n}", USD=1)) for n in range(IN_FLIGHT)]

    async def unread() -> bool:
        # Valkey is stopped, so what the server has sent waits in its socket.
        with open("/proc/net/tcp", encoding="ascii") as lines:  # noqa: ASYNC230, PTH123 - the kernel answers at once
            return any(
                int(columns[1].split(":")[1], 16) == valkey.port and int(columns[4].split(":")[1], 16) > 1000
                for columns in (line.split() for line in lines)
                if columns[0] != "sl"
            )

    await until(unread)
    return calls


async def unrecorded(audit: Audit, config: Config) -> list[int]:
    """Partitions whose outbox goes on after the position in Postgres."""
    rows = await audit.stores.ledger.read_partitions()
    infos = await streams.read_infos(audit.stores.nodes, [keys.outbox(row.partition, row.epoch) for row in rows])
    assert len(rows) == config.partitions
    return [
        row.partition
        for row, info in zip(rows, infos, strict=True)
        if streams.id_key(info.last_id) != streams.id_key(row.position)
    ]


async def test_sigterm_answers_calls_in_flight_and_records_everything(
    config: Config, valkey_server: ValkeyProcess, directory: Path
) -> None:
    slow = config.model_copy(update={"drain_delay_s": 0.3, "valkey_timeout_ms": 20_000})
    async with open_audit(slow) as audit, process(slow, directory) as (server, rpc):
        wallet = await rpc.wallet(USD=1000)
        assert {await health(rpc, name) for name in ("", LIVENESS, *service_names())} == {SERVING}
        for number in range(30):
            await rpc.authorize(wallet, f"h{number}", USD=2)
        await asyncio.gather(*(rpc.commit(wallet, f"h{number}", USD=1) for number in range(30)))
        async with frozen(valkey_server):
            calls = await in_flight(rpc, wallet, valkey_server)
            server.send(signal.SIGTERM)

            async def leaving() -> bool:
                return await health(rpc) == NOT_SERVING

            await until(leaving)
            # Load balancers look away now; the server still answers.
            assert await health(rpc, service_names()[0]) == NOT_SERVING
            assert await health(rpc, LIVENESS) == SERVING

            async def refused() -> bool:
                try:
                    await health(rpc)
                except grpc.aio.AioRpcError as error:
                    return error.code() is grpc.StatusCode.UNAVAILABLE
                return False

            await until(refused)
            assert (await rpc.failure(authorize_request(wallet, "new", USD=1))).code is grpc.StatusCode.UNAVAILABLE
            assert not any(call.done() for call in calls)
        replies = await asyncio.gather(*calls)
        assert {reply.decision for reply in replies} == {pb.DECISION_APPROVED}
        assert await server.exit_code() == 0
        events = [line["event"] for line in server.log_lines()]
        assert events.index("server.draining") < events.index("server.stopped")
        assert not [line for line in server.log_lines() if line["level"] in ("error", "critical")]
        assert await unrecorded(audit, slow) == []
        await audit.assert_conserved(wallet)


async def test_who_is_connected_goes_on_while_load_balancers_look_away(config: Config) -> None:
    patient = config.model_copy(update={"drain_delay_s": 1.0})
    async with run_server(patient) as server:
        wallet = await server.wallet(USD=1000)
        watch = server.health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        server.stop.set()

        async def leaving() -> bool:
            return await health(server) == NOT_SERVING

        await until(leaving)
        told = asyncio.ensure_future(watch.read())
        reply = await server.authorize(wallet, "h", USD=1)
        assert reply.decision == pb.DECISION_APPROVED
        assert not told.done(), "a client that follows health would have failed this call"
        assert (await told).status == NOT_SERVING
        await server.assert_conserved(wallet)


async def test_sigint_right_after_the_answers_still_records_them(config: Config, directory: Path) -> None:
    async with open_audit(config) as audit, process(config, directory) as (server, rpc):
        wallet = await rpc.wallet(USD=1000)
        await asyncio.gather(*(rpc.authorize(wallet, f"h{n}", USD=2) for n in range(100)))
        await asyncio.gather(*(rpc.commit(wallet, f"h{n}", USD=1) for n in range(100)))
        server.send(signal.SIGINT)
        assert await server.exit_code() == 0
        assert await unrecorded(audit, config) == []
        assert sum(entry.units for entry in await audit.entries(wallet) if entry.hold_id) == 100
        await audit.assert_conserved(wallet)


async def test_a_second_sigterm_ends_it_at_once_and_loses_nothing(
    config: Config, valkey_server: ValkeyProcess, directory: Path
) -> None:
    slow = config.model_copy(update={"drain_grace_s": 60.0, "valkey_timeout_ms": 60_000})
    async with open_audit(slow) as audit, process(slow, directory) as (server, rpc):
        wallet = await rpc.wallet(USD=1000)
        await rpc.authorize(wallet, "h", USD=10)
        await rpc.commit(wallet, "h", USD=7)
        async with frozen(valkey_server):
            calls = await in_flight(rpc, wallet, valkey_server)
            server.send(signal.SIGTERM)

            async def draining() -> bool:
                return any(line["event"] == "server.draining" for line in server.log_lines())

            await until(draining)
            server.send(signal.SIGTERM)
            assert await server.exit_code() == -signal.SIGTERM
        failures = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(failure, grpc.aio.AioRpcError) for failure in failures)
        async with run_server(config) as next_server:
            for number in range(IN_FLIGHT):
                assert (await next_server.authorize(wallet, f"slow{number}", USD=1)).hold.hold_id == f"slow{number}"
            await next_server.debits(wallet, at_least=1)
        await audit.assert_conserved(wallet)


async def test_sigterm_ends_a_flusher_once_everything_is_recorded(config: Config, directory: Path) -> None:
    separate = config.model_copy(update={"flusher": False})
    async with run_server(separate) as server, program("flush", separate, directory) as flusher:
        wallet = await server.wallet(USD=1000)
        await asyncio.gather(*(server.authorize(wallet, f"h{n}", USD=2) for n in range(50)))
        await asyncio.gather(*(server.commit(wallet, f"h{n}", USD=1) for n in range(50)))
        flusher.send(signal.SIGTERM)
        assert await flusher.exit_code() == 0
        assert await unrecorded(server.audit, separate) == []
        await server.assert_conserved(wallet)


async def test_a_call_during_the_end_is_answered_or_was_not_begun(config: Config) -> None:
    codes: Counter[grpc.StatusCode] = Counter()
    async with run_server(config) as server:
        wallet = await server.wallet(USD=1_000_000)

        async def caller(number: int) -> None:
            calls = 0
            while True:
                calls += 1
                try:
                    await server.authorize(wallet, f"h{number}-{calls}", USD=1)
                    codes[grpc.StatusCode.OK] += 1
                except grpc.aio.AioRpcError as error:
                    codes[error.code()] += 1
                    return

        callers = [asyncio.create_task(caller(number)) for number in range(32)]

        async def busy() -> bool:
            return codes[grpc.StatusCode.OK] > 200

        await until(busy)
        server.stop.set()
        await asyncio.gather(*callers)
        await server.assert_conserved(wallet)
        live = await server.audit.read_live(config.tenant, wallet)
    # CANCELLED is gRPC's word for a call that it has taken and not handed to us yet when it ends. Our client sends it
    # again like UNAVAILABLE: nothing was held for either.
    assert live is not None
    assert live.open_holds == codes[grpc.StatusCode.OK]
    refused = set(codes) - {grpc.StatusCode.OK}
    assert refused <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}, codes
    assert refused


async def test_a_client_that_watches_health_does_not_hold_up_the_end(config: Config) -> None:
    patient = config.model_copy(update={"drain_grace_s": 20.0})
    async with run_server(patient, assets=False) as server:
        watch = server.health.Watch(health_pb2.HealthCheckRequest())
        seen = [(await watch.read()).status]
        server.stop.set()
        async with asyncio.timeout(5):
            with suppress(grpc.aio.AioRpcError):
                while (message := await watch.read()) is not grpc.aio.EOF:
                    seen.append(message.status)
            assert await watch.code() in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
            await asyncio.wait([server.task])
        assert seen == [SERVING, NOT_SERVING]
