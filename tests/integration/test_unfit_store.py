"""A store that must not hold money is refused, at start and when it comes back as such, and the message says why."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import asyncpg
import grpc
import hiredis
import pytest
from structlog.testing import capture_logs

from drawdown_server.commands.check_config import find_problems
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.errors import ConfigurationError, StoreUnavailableError
from drawdown_server.holds.opening import open_nodes
from drawdown_server.holds.startup import check_store, open_client
from integration.audit import open_audit
from integration.server import authorize_request, failure_of, run_server, settings, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from drawdown_server.dev.postgres import PostgresProcess

PATIENT_MS: Final = 10_000
EVICTING: Final = ("maxmemory-policy allkeys-lru", "maxmemory 200mb")


@asynccontextmanager
async def fake_store(info: str) -> AsyncIterator[str]:
    """URL of something that answers INFO with this, and everything else with OK."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        while data := await reader.read(65_536):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                writer.write(f"${len(info)}\r\n{info}\r\n".encode() if command[0] == b"INFO" else b"+OK\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    finally:
        server.close()
        await server.wait_closed()


async def refusal(url: str) -> str:
    """Why it must not be used."""
    with pytest.raises(ConfigurationError) as refused:
        async with open_client(url, timeout_ms=PATIENT_MS) as client:
            await check_store(client)
    return str(refused.value)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ("redis_version:6.2.14", "Redis 6.2.14 is too old: 7 or later is needed"),
        ("redis_version:7.2.4\r\nvalkey_version:7.2.9", "Valkey 7.2.9 is too old: 8 or later is needed"),
    ],
)
async def test_a_version_that_lacks_something(info: str, expected: str) -> None:
    async with fake_store(info) as url:
        assert expected in await refusal(url)


async def unopened(url: str) -> str:
    """Why its nodes cannot be used."""
    with pytest.raises((ConfigurationError, StoreUnavailableError)) as refused:
        async with open_nodes(url, timeout_ms=PATIENT_MS, partitions=4):
            pass
    return str(refused.value)


async def test_a_cluster_of_which_nobody_has_the_slots_or_with_a_database_or_behind_a_socket(data_dir: Path) -> None:
    extra = ["cluster-enabled yes", f"unixsocket {data_dir}/s"]
    async with ValkeyProcess(data_dir, appendfsync="no", extra=extra) as valkey:
        assert "has the slots of 4 partitions (0, ...)" in await unopened(valkey.url)
        assert "has database 0 alone: the URL names 3" in await unopened(valkey.url.replace("/0", "/3"))
        assert "the other nodes have no unix socket" in await unopened(f"unix://{data_dir}/s")


@pytest.mark.parametrize("mode", ["redis_mode:standalone", "valkey_version:9.0.0\r\nserver_mode:standalone"])
async def test_two_servers_that_are_no_cluster(mode: str) -> None:
    async with fake_store(f"redis_version:7.2.4\r\n{mode}") as url:
        found = await unopened(url.replace("127.0.0.1", "127.0.0.1:1,127.0.0.1"))
    assert found.startswith("2 addresses of valkey are given, and 127.0.0.1:")
    assert "is no node of a cluster: name the one primary alone" in found


async def test_a_replica(data_dir: Path, valkey_server: ValkeyProcess) -> None:
    extra = [f"replicaof 127.0.0.1 {valkey_server.port}"]
    async with ValkeyProcess(data_dir, appendfsync="no", extra=extra) as replica:
        refused = await refusal(replica.url)
        assert f"a replica of 127.0.0.1:{valkey_server.port}" in refused
        assert "Use its primary" in refused


async def test_no_password_a_wrong_one_and_a_user_that_may_too_little(data_dir: Path) -> None:
    async with ValkeyProcess(data_dir, appendfsync="no", extra=["user gate on >hunter2 ~* +ping"]) as valkey:
        async with open_client(valkey.url, timeout_ms=PATIENT_MS) as admin:
            await admin.config_set("requirepass", "swordfish")
        for credentials in ("", ":hunter3@", "gate:hunter3@", "nobody:x@", "gate:hunter2@"):
            refused = await refusal(valkey.url.replace("redis://", f"redis://{credentials}"))
            assert "valkey refuses us" in refused
            assert "redis://user:password@host:port/0" in refused
            assert "hunter" not in refused
        async with open_client(valkey.url.replace("redis://", "redis://:swordfish@"), timeout_ms=PATIENT_MS) as admin:
            await admin.config_set("requirepass", "")


async def test_what_is_no_redis_at_all() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    with pytest.raises(StoreUnavailableError, match="valkey cannot be reached"):
        async with open_client(url, timeout_ms=PATIENT_MS) as client:
            await check_store(client)
    server.close()
    await server.wait_closed()


async def test_check_config_refuses_it_as_well(data_dir: Path, postgres_url: str) -> None:
    async with ValkeyProcess(data_dir, appendfsync="no", extra=list(EVICTING)) as valkey:
        (problem,) = await find_problems(settings(valkey.url, postgres_url))
        assert problem.startswith("DRAWDOWN_VALKEY_URL: ")
        assert "maxmemory-policy allkeys-lru" in problem


@pytest.mark.parametrize("setting", ["valkey_url", "postgres_url"])
@pytest.mark.parametrize("rest", ["u:hunter/2@h/0", "u@h:hunter2/0", "127.0.0.1:1/0?sslmode=hunter2"])
async def test_a_url_that_cannot_be_read_is_named_and_not_shown(
    valkey_url: str, postgres_url: str, setting: str, rest: str
) -> None:
    urls = {"valkey_url": valkey_url, "postgres_url": postgres_url}
    urls[setting] = urls[setting].partition("//")[0] + "//" + rest
    (problem,) = await find_problems(settings(**urls))
    name = setting.removesuffix("_url")
    assert problem.startswith(f"DRAWDOWN_{setting.upper()}: the URL of {name} is not of the form ")
    assert "hunter" not in problem


async def test_one_that_comes_back_with_a_policy_that_evicts_serves_nobody_until_it_is_mended(
    data_dir: Path, postgres_url: str
) -> None:
    async with ValkeyProcess(data_dir, appendfsync="always") as valkey:
        config = settings(valkey.url, postgres_url, valkey_timeout_ms=500)
        async with run_server(config) as server:
            wallet = await server.wallet(USD=100)
            await server.authorize(wallet, "h", USD=10)
            with capture_logs() as logs:
                valkey.extra = EVICTING
                await asyncio.to_thread(valkey.restart)

                async def is_refused() -> bool:
                    refusals = [line["error"] for line in logs if line["event"] == "valkey.unfit"]
                    return any("maxmemory-policy allkeys-lru" in refusal for refusal in refusals)

                await until(is_refused)
            failure = await server.failure(authorize_request(wallet, "new", USD=1))
            assert failure.code is grpc.StatusCode.UNAVAILABLE
            valkey.extra = ()
            await asyncio.to_thread(valkey.restart)

            async def is_served() -> bool:
                try:
                    return bool((await server.commit(wallet, "h", USD=10)).wallet_sequence)
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE
                    return False

            await until(is_served)
            await server.debits(wallet, at_least=1)
            assert not server.task.done()
            async with open_audit(config) as audit:
                await audit.assert_conserved(wallet)


async def test_a_postgres_that_refuses_us_for_a_while_ends_no_server(
    valkey_url: str, postgres_url: str, postgres_process: PostgresProcess
) -> None:
    """As when a password is being changed; here the database has another name for a while."""
    name = urlsplit(postgres_url).path.removeprefix("/")
    server_url = postgres_process.url
    async with run_server(settings(valkey_url, postgres_url)) as server:
        wallet = await server.wallet(USD=100)
        with capture_logs() as logs:
            await rename(server_url, name, f"{name}_away")

            async def is_refused() -> bool:
                heard = {line["event"] for line in logs}
                return heard >= {"postgres.refused", "flusher_waits", "changes.store_unavailable"}

            await until(is_refused)
            await server.authorize(wallet, "h", USD=40)
            await server.commit(wallet, "h", USD=40)
            assert (await failure_of(server.grant(wallet, "g2", "USD", 1))).code is grpc.StatusCode.UNAVAILABLE
            await rename(server_url, f"{name}_away", name)
        await server.grant(wallet, "g2", "USD", 1)
        await server.audit.assert_conserved(wallet)


async def rename(server_url: str, name: str, new_name: str) -> None:
    """Rename a database, with everybody thrown out."""
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await connection.execute("SELECT pg_terminate_backend(pid, 9000) FROM pg_stat_activity WHERE datname=$1", name)
        await connection.execute(f"ALTER DATABASE {name} RENAME TO {new_name}")
        await connection.execute(f"ALTER DATABASE {new_name} ALLOW_CONNECTIONS true")
    finally:
        await connection.close()
