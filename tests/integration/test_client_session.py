"""The client over Sessions, on a real server: a caller never notices what its calls travel in."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any, Final

import pytest

import drawdown
from drawdown_server.app import open_stores
from drawdown_server.dev.process import free_port
from fake_drawdown import FakeDrawdown, committed
from faults.processes import program
from faults.tcp_proxy import TcpProxy
from integration.audit import open_audit
from integration.credentials import create_key, with_keys
from integration.server import Rpc, open_channel, run_server, until
from transports import wait_for_sessions

if TYPE_CHECKING:
    from pathlib import Path

    from drawdown_server.config import Config
    from drawdown_server.dev.valkey import ValkeyProcess

CALLERS: Final = 64
CALLS: Final = 10


@pytest.fixture(autouse=True)
def _wait_for_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for_sessions(monkeypatch)


def session_client(port: int, **settings: Any) -> drawdown.AsyncClient:  # noqa: ANN401
    return drawdown.AsyncClient(f"127.0.0.1:{port}", transport="session", **settings)


@pytest.mark.parametrize("connections", [1, 3])
async def test_many_callers_at_once_each_get_their_own_answer(config: Config, connections: int) -> None:
    async with (
        run_server(config) as server,
        session_client(server.port, timeout_s=30, connections=connections) as client,
    ):
        wallets = [await server.wallet(USD=1_000_000) for _ in range(4)]

        async def caller(number: int) -> int:
            wallet, used = wallets[number % 4], 0
            for call in range(CALLS):
                hold_id = f"h{number}-{call}"
                answer = await client.authorize(wallet_id=wallet, hold_id=hold_id, amounts={"USD": 10 + number})
                assert answer.approved
                assert answer.hold is not None
                assert answer.hold.hold_id == hold_id
                result = await client.commit(wallet_id=wallet, hold_id=hold_id, amounts={"USD": number + 1})
                assert result.debited == {"USD": number + 1}
                used += number + 1
            with pytest.raises(drawdown.NotFoundError) as caught:
                await client.commit(wallet_id=wallet, hold_id=f"never-{number}", amounts={"USD": 1})
            assert caught.value.metadata["hold_id"] == f"never-{number}"
            return used

        used = await asyncio.gather(*(caller(number) for number in range(CALLERS)))
        for index, wallet in enumerate(wallets):
            assert (await server.balance(wallet)).settled_units == 1_000_000 - sum(used[index::4])
        await server.assert_conserved(*wallets)


async def test_a_deadline_and_a_cancelled_caller_end_their_own_calls_alone(
    config: Config, valkey_server: ValkeyProcess
) -> None:
    config = config.model_copy(update={"valkey_timeout_ms": 60_000})
    async with run_server(config) as server, session_client(server.port, timeout_s=30) as client:
        wallet = await server.wallet(USD=100)

        def authorize(hold_id: str, **options: Any) -> asyncio.Task[drawdown.Authorization]:  # noqa: ANN401
            call = client.authorize(wallet_id=wallet, hold_id=hold_id, amounts={"USD": 1}, **options)
            return asyncio.create_task(call)

        assert (await authorize("first")).approved
        os.kill(valkey_server.pid, signal.SIGSTOP)
        try:
            patient, hasty, given_up = authorize("patient"), authorize("hasty", timeout_s=0.3), authorize("given-up")
            with pytest.raises(drawdown.DeadlineExceededError):
                await hasty
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            assert not patient.done()
        finally:
            os.kill(valkey_server.pid, signal.SIGCONT)
        assert (await patient).approved
        await server.assert_conserved(wallet)


async def test_an_answer_that_was_lost_with_its_connection_is_asked_for_again(config: Config) -> None:
    async with run_server(config) as server, TcpProxy(server.port, counts_replies=False) as proxy:
        wallet = await server.wallet(USD=100)
        async with session_client(proxy.port, timeout_s=30) as client:
            assert await client.authorize(wallet_id=wallet, hold_id="first", amounts={"USD": 1})
            proxy.stall("replies")
            lost = asyncio.create_task(client.authorize(wallet_id=wallet, hold_id="lost", amounts={"USD": 1}))

            async def is_held() -> bool:
                return (await server.balance(wallet)).held_units == 2

            await until(is_held)
            proxy.cut()
            proxy.resume()
            answer = await lost
            assert answer.approved
            assert answer.replayed
        await server.assert_conserved(wallet)


async def test_kill_9_of_the_server_loses_and_doubles_nothing(config: Config, directory: Path) -> None:
    port = free_port()
    async with (
        program("serve", config.model_copy(update={"grpc_port": port}), directory) as server,
        open_channel(port) as channel,
        open_audit(config) as audit,
        session_client(port, timeout_s=60) as client,
    ):
        rpc = Rpc(channel)
        await rpc.create_assets()
        wallet = await rpc.wallet(USD=1_000_000)
        debited = 0

        async def pay(number: int) -> None:
            nonlocal debited
            while True:  # a platform does not give up: what it was not told it asks again
                try:
                    await client.charge(wallet_id=wallet, charge_id=f"c{number}", amounts={"USD": 3})
                except drawdown.UnavailableError:
                    continue
                debited += 3
                return

        paying = [asyncio.create_task(pay(number)) for number in range(300)]

        async def some_are_paid() -> bool:
            return debited > 100

        await until(some_are_paid)
        server.send(signal.SIGKILL)
        await server.exit_code()
        await server.start()
        await asyncio.gather(*paying)
        await audit.assert_conserved(wallet)
        assert (await rpc.balance(wallet)).settled_units == 1_000_000 - 900


async def test_a_revoked_key_is_told_as_by_a_call_of_its_own(config: Config) -> None:
    config = with_keys(config)
    key = await create_key(config, "gateway")
    async with run_server(config, credential=key) as server:
        wallet = await server.wallet(USD=100)
        async with session_client(server.port, api_key=key, timeout_s=10) as client:
            assert await client.authorize(wallet_id=wallet, hold_id="h", amounts={"USD": 1})
            async with open_stores(config) as opened:
                await opened.ledger.revoke_api_key("default", "gateway")

            async def is_refused() -> bool:
                try:
                    await client.release(wallet_id=wallet, hold_id="h")
                except drawdown.UnauthenticatedError as error:
                    return error.reason == "UNAUTHENTICATED"
                return False

            await until(is_refused, timeout_s=5)
        async with session_client(server.port, api_key=key) as refused:
            with pytest.raises(drawdown.UnauthenticatedError):
                await refused.release(wallet_id=wallet, hold_id="h")
        await server.audit.assert_conserved(wallet)


@pytest.mark.parametrize("flavour", ["async", "sync"])
async def test_a_server_without_sessions_is_called_as_ever(flavour: str) -> None:
    with FakeDrawdown(sessions=False) as fake:
        fake.answer("Commit", committed({"USD": 5}, {"USD": 5}))
        call = {"wallet_id": "demo", "hold_id": "h", "amounts": {"USD": 5}}
        for _ in range(2):
            if flavour == "async":
                async with drawdown.AsyncClient(fake.target, transport="session") as client:
                    assert (await client.commit(**call)).debited == {"USD": 5}
                    assert (await client.commit(**call)).debited == {"USD": 5}
            else:

                def twice() -> None:
                    with drawdown.Client(fake.target, transport="session") as client:
                        assert client.commit(**call).debited == {"USD": 5}
                        assert client.commit(**call).debited == {"USD": 5}

                await asyncio.to_thread(twice)
        assert len(fake.calls("Commit")) == 4
