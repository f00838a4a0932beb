"""The pipelined connection against a real store, and against a network on a bad day."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.errors import DrawdownError, ErrorReason, StoreUnavailableError
from drawdown_server.holds.connection import PipelinedConnection, open_connection
from drawdown_server.holds.socket import ConnectionLostError, FunctionMissingError
from drawdown_server.holds.startup import open_client
from drawdown_server.holds.store import HoldStore
from faults.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from contract.wallets import Stage

WAIT_S = 10.0
PATIENT_MS = 10_000


@pytest.fixture
async def proxy(store_server: ValkeyProcess) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(store_server.port) as proxy:
        yield proxy


async def until_back(connection: PipelinedConnection) -> None:
    """Wait until the connection serves again."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                assert await connection.call("ECHO", "back") == b"back"
            except StoreUnavailableError:
                await turn()
            else:
                return


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await turn()


async def turn() -> None:
    """Let everything else that is ready run."""
    await asyncio.sleep(0)


# --- on a good day -----------------------------------------------------------------------------------------------


async def test_replies_of_every_kind(store_server: ValkeyProcess) -> None:
    async with open_connection(store_server.url, timeout_ms=PATIENT_MS, in_flight_max=10) as connection:
        assert await connection.call("ECHO", b"\x00\r\n\xff") == b"\x00\r\n\xff"
        assert await connection.call(b"SET", "key", 7) == b"OK"
        assert await connection.call("INCRBY", "key", 2) == 9
        assert await connection.call("GET", "nothing") is None
        assert await connection.call("MGET", "key", "nothing") == [b"9", None]
        assert await connection.call("ECHO", "") == b""
        assert await connection.call("ECHO", b"x" * 5_000_000) == b"x" * 5_000_000
        assert await connection.call("CLIENT", "GETNAME") == b"drawdown"
        assert connection.in_flight == 0


async def test_an_error_is_its_own_calls_alone(store_server: ValkeyProcess) -> None:
    async with open_connection(store_server.url, timeout_ms=PATIENT_MS, in_flight_max=10) as connection:
        echo, wrong, missing, again = await asyncio.gather(
            connection.call("ECHO", "1"),
            connection.call("NOSUCHCOMMAND", "secret-argument"),
            connection.call("FCALL", "nosuchfunction", 0),
            connection.call("ECHO", "2"),
            return_exceptions=True,
        )
    assert (echo, again) == (b"1", b"2")
    assert isinstance(wrong, DrawdownError)
    assert (wrong.reason, wrong.message, wrong.metadata) == (ErrorReason.INTERNAL, "internal error", {})
    assert isinstance(missing, FunctionMissingError)


async def test_each_call_gets_its_own_reply_whoever_gives_up(store_server: ValkeyProcess) -> None:
    rng = random.Random(2)  # noqa: S311 - a test's dice
    async with open_connection(store_server.url, timeout_ms=PATIENT_MS, in_flight_max=64) as connection:

        async def echo(number: int) -> bool:
            payload = f"{number}:{'x' * rng.randrange(2_000)}"
            assert await connection.call("ECHO", payload) == payload.encode()
            return True

        tasks = [asyncio.create_task(echo(number)) for number in range(1000)]
        for task in rng.sample(tasks, 400):
            if rng.random() < 0.5:
                await turn()
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        kept = [result for result in results if not isinstance(result, asyncio.CancelledError)]
        assert kept == [True] * len(kept)
        assert 600 <= len(kept) < 1000
        assert await connection.call("ECHO", "after") == b"after"
        assert connection.in_flight == 0


async def test_calls_in_flight_are_limited(proxy: TcpProxy) -> None:
    async with open_connection(proxy.url, timeout_ms=PATIENT_MS, in_flight_max=8) as connection:
        proxy.stall()
        calls = [asyncio.create_task(connection.call("ECHO", str(number))) for number in range(30)]
        await until(lambda: connection.in_flight == 8)
        for _ in range(100):
            await turn()
            assert connection.in_flight == 8
        proxy.resume()
        assert await asyncio.gather(*calls) == [str(number).encode() for number in range(30)]


async def test_calls_that_were_given_up_still_count_as_in_flight(proxy: TcpProxy) -> None:
    async with open_connection(proxy.url, timeout_ms=PATIENT_MS, in_flight_max=8) as connection:
        proxy.stall()
        for _ in range(5):
            calls = [asyncio.create_task(connection.call("ECHO", "x")) for _ in range(8)]
            for _ in range(10):
                await turn()
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        assert connection.in_flight <= 8
        proxy.resume()
        assert await connection.call("ECHO", "on") == b"on"


async def test_close_twice_and_call_afterwards(store_server: ValkeyProcess) -> None:
    connection = PipelinedConnection(store_server.url, timeout_ms=PATIENT_MS, in_flight_max=10)
    await connection.open()
    await connection.close()
    await connection.close()
    with pytest.raises(StoreUnavailableError):
        await connection.call("ECHO", "x")


async def test_close_before_open() -> None:
    await PipelinedConnection("redis://127.0.0.1:1/0", timeout_ms=1_000, in_flight_max=10).close()


async def test_close_fails_the_calls_in_flight(proxy: TcpProxy) -> None:
    connection = PipelinedConnection(proxy.url, timeout_ms=PATIENT_MS, in_flight_max=10)
    await connection.open()
    proxy.stall()
    call = asyncio.create_task(connection.call("ECHO", "x"))
    await until(lambda: connection.in_flight == 1)
    await connection.close()
    with pytest.raises(StoreUnavailableError):
        await call


async def test_close_does_not_wait_for_a_store_that_reads_nothing(proxy: TcpProxy) -> None:
    connection = PipelinedConnection(proxy.url, timeout_ms=PATIENT_MS, in_flight_max=10)
    await connection.open()
    proxy.stall()
    call = asyncio.create_task(connection.call("ECHO", b"x" * 50_000_000))  # more than the kernel's buffers take
    await until(lambda: connection.in_flight == 1)
    try:
        async with asyncio.timeout(2):
            await connection.close()
    finally:
        proxy.cut()
        await asyncio.gather(call, return_exceptions=True)
    with pytest.raises(StoreUnavailableError):
        call.result()


# --- the door ----------------------------------------------------------------------------------------------------


async def test_a_user_and_a_password(store_server: ValkeyProcess) -> None:
    async with open_client(store_server.url, timeout_ms=PATIENT_MS) as admin:
        await admin.execute_command("ACL", "SETUSER", "gate", "on", ">p@ss:/word", "~*", "+@all")
        try:
            url = f"redis://gate:p%40ss%3A%2Fword@127.0.0.1:{store_server.port}/0"
            async with open_connection(url, timeout_ms=PATIENT_MS, in_flight_max=10) as connection:
                assert await connection.call("ACL", "WHOAMI") == b"gate"
        finally:
            await admin.execute_command("ACL", "DELUSER", "gate")


async def test_a_password_alone(store_server: ValkeyProcess) -> None:
    async with open_client(store_server.url, timeout_ms=PATIENT_MS) as admin:
        await admin.config_set("requirepass", "hunter2")
        try:
            url = f"redis://:hunter2@127.0.0.1:{store_server.port}/0"
            async with open_connection(url, timeout_ms=PATIENT_MS, in_flight_max=10) as connection:
                assert await connection.call("ECHO", "in") == b"in"
            wrong = url.replace("hunter2", "hunter3"), url.replace(":hunter2", "nobody:hunter2")
            for refused in (store_server.url, *wrong):
                await assert_refused(refused)
        finally:
            await admin.config_set("requirepass", "")


async def assert_refused(url: str) -> None:
    """Without a word of the store's, and without the password in the log."""
    connection = PipelinedConnection(url, timeout_ms=PATIENT_MS, in_flight_max=10)
    with capture_logs() as logs, pytest.raises(StoreUnavailableError) as refused:
        await connection.open()
    assert refused.value.message == "valkey refused the connection"
    assert refused.value.metadata == {"store": "valkey"}
    assert "hunter" not in str(logs)
    await connection.close()


async def test_a_database_that_is_not_there(store_server: ValkeyProcess) -> None:
    await assert_refused(f"redis://127.0.0.1:{store_server.port}/7")


async def test_nobody_listens() -> None:
    connection = PipelinedConnection("redis://127.0.0.1:1/0", timeout_ms=1_000, in_flight_max=10)
    with pytest.raises(StoreUnavailableError) as refused:
        await connection.open()
    assert refused.value.message == "valkey cannot be reached"


async def test_a_unix_socket(data_dir: Path) -> None:
    with ValkeyProcess(data_dir, appendfsync="no", extra=[f"unixsocket {data_dir}/s"]):
        async with open_connection(f"unix://{data_dir}/s", timeout_ms=PATIENT_MS, in_flight_max=10) as connection:
            assert await connection.call("ECHO", "in") == b"in"


# --- on a bad day ------------------------------------------------------------------------------------------------


async def test_replies_in_slices(proxy: TcpProxy) -> None:
    async with open_connection(proxy.url, timeout_ms=PATIENT_MS, in_flight_max=100) as connection:
        proxy.piece_bytes = 1
        replies = await asyncio.gather(*(connection.call("ECHO", f"{n}\r\n$3\r\n") for n in range(100)))
        assert replies == [f"{n}\r\n$3\r\n".encode() for n in range(100)]


async def test_a_cut_fails_what_is_in_flight_and_the_next_call_works(proxy: TcpProxy) -> None:
    async with open_connection(proxy.url, timeout_ms=PATIENT_MS, in_flight_max=100) as connection:
        proxy.stall()
        calls = [asyncio.create_task(connection.call("ECHO", str(n))) for n in range(20)]
        await until(lambda: connection.in_flight == 20)
        proxy.cut()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [ConnectionLostError] * 20
        proxy.resume()
        await until_back(connection)
        assert proxy.accepted == 2
        assert connection.in_flight == 0


async def test_a_stalled_store_fails_all_in_flight_after_the_timeout(proxy: TcpProxy) -> None:
    loop = asyncio.get_running_loop()
    async with open_connection(proxy.url, timeout_ms=300, in_flight_max=100) as connection, asyncio.timeout(WAIT_S):
        proxy.stall()
        start_s = loop.time()
        results = await asyncio.gather(*(connection.call("ECHO", str(n)) for n in range(20)), return_exceptions=True)
        assert [type(result) for result in results] == [ConnectionLostError] * 20
        assert loop.time() - start_s >= 0.3
        proxy.resume()
        await until_back(connection)


async def test_a_process_that_stood_still_does_not_take_the_store_for_dead(proxy: TcpProxy) -> None:
    async with open_connection(proxy.url, timeout_ms=300, in_flight_max=100) as connection:
        proxy.stall()
        calls = [asyncio.create_task(connection.call("ECHO", str(n))) for n in range(20)]
        await until(lambda: connection.in_flight == 20)
        time.sleep(0.5)  # noqa: ASYNC251 - nothing of this process runs, as when its machine is suspended
        proxy.resume()
        assert await asyncio.gather(*calls) == [str(n).encode() for n in range(20)]
        assert proxy.accepted == 1


async def test_a_call_that_was_given_up_does_not_hide_a_stalled_store(proxy: TcpProxy) -> None:
    async with open_connection(proxy.url, timeout_ms=300, in_flight_max=100) as connection:
        proxy.stall()
        call = asyncio.create_task(connection.call("ECHO", "x"))
        await until(lambda: connection.in_flight == 1)
        call.cancel()
        await until(lambda: connection.in_flight == 0)
        proxy.resume()
        await until_back(connection)
        assert proxy.accepted == 2


async def test_attempts_against_a_stalled_store_leave_no_connections_behind(proxy: TcpProxy) -> None:
    async with open_connection(proxy.url, timeout_ms=300, in_flight_max=100) as connection:
        proxy.stall()
        with pytest.raises(StoreUnavailableError):
            await connection.call("ECHO", "x")
        await until(lambda: proxy.accepted >= 4)
        proxy.resume()
        await until_back(connection)
        await until(lambda: proxy.connections == 1)
    await until(lambda: proxy.connections == 0)


async def test_close_while_connecting_leaves_no_connection_behind(proxy: TcpProxy) -> None:
    async with open_connection(proxy.url, timeout_ms=PATIENT_MS, in_flight_max=100):
        proxy.stall()
        proxy.cut()
        await until(lambda: proxy.accepted == 2 and proxy.connections == 1)
        for _ in range(100):  # by now it waits for the answer to its greeting
            await turn()
    proxy.resume()
    await until(lambda: proxy.connections == 0)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n+OK\r\n+OK\r\n", b"$-7\r\n"])
async def test_a_server_that_is_no_store_is_left_at_once(answer: bytes) -> None:
    writers: list[asyncio.StreamWriter] = []

    async def greet_and_then_talk_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while data := await reader.read(1_000):
            writer.write(b"+OK\r\n" if b"SETNAME" in data or b"INFO" in data else answer)
        writer.close()

    server = await asyncio.start_server(greet_and_then_talk_nonsense, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    async with open_connection(url, timeout_ms=PATIENT_MS, in_flight_max=10) as connection:
        calls = (connection.call("ECHO", "1"), connection.call("ECHO", "2"))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(result == b"OK" or isinstance(result, StoreUnavailableError) for result in results)
        await until(lambda: len(writers) == 2)  # it has let go of the first one
    server.close()
    await until(lambda: all(writer.transport.is_closing() for writer in writers))
    await server.wait_closed()


async def test_latency_is_paid_once_by_calls_that_are_in_flight_together(proxy: TcpProxy) -> None:
    loop = asyncio.get_running_loop()
    async with open_connection(proxy.url, timeout_ms=PATIENT_MS, in_flight_max=1_000) as connection:
        proxy.latency_s = 0.02
        start = loop.time()
        await asyncio.gather(*(connection.call("ECHO", str(n)) for n in range(500)))
        assert loop.time() - start < 500 * proxy.latency_s / 4


async def test_a_store_that_was_killed_and_started_again(store_server: ValkeyProcess) -> None:
    async with open_connection(store_server.url, timeout_ms=PATIENT_MS, in_flight_max=10) as connection:
        store_server.kill()
        try:
            with pytest.raises(StoreUnavailableError):
                await connection.call("ECHO", "x")
        finally:
            await asyncio.to_thread(store_server.start)
        await until_back(connection)


@pytest.mark.parametrize(
    ("verb", "cut"),
    [
        ("authorize", True),
        ("commit", True),
        ("release", True),
        ("grant", True),
        ("authorize", False),
        ("commit", False),
    ],
)
async def test_a_lost_reply_and_then_a_retry_is_one_effect(
    stage: Stage, store_server: ValkeyProcess, verb: str, cut: bool
) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.hold("h1", USD=3)
    calls = {
        "authorize": lambda: wallet.authorize("h2", USD=4),
        "commit": lambda: wallet.commit("h1", USD=2),
        "release": lambda: wallet.release("h1"),
        "grant": lambda: wallet.grant("USD", 5, number=2),
    }
    async with TcpProxy(store_server.port) as proxy:
        timeout_ms = PATIENT_MS if cut else 500  # silence is noticed by the timeout
        async with open_connection(proxy.url, timeout_ms=timeout_ms, in_flight_max=10) as connection:
            wallet.store = HoldStore(connection, stage.library, stage.epochs)
            await wallet.read()
            proxy.cut_after_replies = cut
            proxy.replies_max = 1  # its greeting, and no more
            at_rest = await wallet.at_rest()
            with pytest.raises(StoreUnavailableError):
                await calls[verb]()
            after = await wallet.at_rest()
            assert after != at_rest  # it ran, and nobody heard of it

            proxy.replies_max = None
            await until_back(connection)
            reply = await calls[verb]()
            assert reply.status == "OK"
            assert getattr(reply, "replayed", True)
            assert not getattr(reply, "applied", False)
            assert await wallet.at_rest() == after
        wallet.store = stage.store
