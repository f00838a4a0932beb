"""TLS to the stores: what the URLs say is what happens, on the pipelined connection, redis-py's and asyncpg's."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

import pytest

import stores
from certificates import Authority
from drawdown_server.config import Config
from drawdown_server.dev.process import free_port
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds.connection import open_connection
from drawdown_server.holds.startup import check_store, open_client
from drawdown_server.ledger.database import open_pool
from drawdown_server.ledger.migrations import pending
from tls_proxy import server_context, tls_proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from drawdown_server.dev.postgres import PostgresProcess

PATIENT_MS: Final = 10_000


@pytest.fixture
def files(data_dir: Path) -> Path:
    """Authorities (ca, other), and of the first: servers (server, for localhost; elsewhere), and a client."""
    data_dir.mkdir()
    ca = Authority()
    (data_dir / "ca.crt").write_bytes(ca.pem)
    (data_dir / "other.crt").write_bytes(Authority().pem)
    ca.issue().write(data_dir, "server")
    ca.issue_dns("elsewhere.internal").write(data_dir, "elsewhere")
    ca.issue_dns("drawdown.internal").write(data_dir, "client")
    return data_dir


@pytest.fixture(params=["valkey", "redis7"])
def open_port(
    request: pytest.FixtureRequest, files: Path, valkey_url: str
) -> Callable[..., AbstractAsyncContextManager[int]]:
    """Opens a port of a store that speaks TLS: the embedded Valkey behind a proxy, a Redis 7 that does it itself."""

    @asynccontextmanager
    async def valkey(server: str = "server", client_ca: Path | None = None) -> AsyncIterator[int]:
        context = server_context(files / f"{server}.crt", files / f"{server}.key", client_ca)
        async with tls_proxy(int(valkey_url.rpartition(":")[2].partition("/")[0]), context) as port:
            yield port

    @asynccontextmanager
    async def redis7(server: str = "server", client_ca: Path | None = None) -> AsyncIterator[int]:
        binary = stores.redis_binary()
        if binary is None:
            pytest.skip(stores.REDIS_MISSING)
        port = free_port()
        lines = [
            f"tls-port {port}",
            f"tls-cert-file {files / f'{server}.crt'}",
            f"tls-key-file {files / f'{server}.key'}",
            f"tls-ca-cert-file {client_ca or files / 'ca.crt'}",
            f"tls-auth-clients {'no' if client_ca is None else 'yes'}",
        ]
        with ValkeyProcess(files / "redis", binary=binary, appendfsync="no", extra=lines):
            yield port

    return {"valkey": valkey, "redis7": redis7}[request.param]


async def talk(url: str) -> None:
    """Both connections of a server do their work."""
    async with open_connection(url, timeout_ms=PATIENT_MS, in_flight_max=8) as connection:
        assert await connection.call("ECHO", "hot path") == b"hot path"
    async with open_client(url, timeout_ms=PATIENT_MS) as client:
        await check_store(client)
        assert await client.echo("administration") == b"administration"


async def refused(url: str) -> None:
    """Neither connection is made."""
    with pytest.raises(StoreUnavailableError):
        async with open_connection(url, timeout_ms=PATIENT_MS, in_flight_max=8):
            pass
    with pytest.raises(StoreUnavailableError):
        async with open_client(url, timeout_ms=PATIENT_MS) as client:
            await check_store(client)


async def test_rediss_trusts_the_named_authority_and_no_other(
    open_port: Callable[..., AbstractAsyncContextManager[int]], files: Path
) -> None:
    async with open_port() as port:
        await talk(f"rediss://localhost:{port}/0?ssl_ca_certs={quote(str(files / 'ca.crt'))}")
        await refused(f"rediss://localhost:{port}/0?ssl_ca_certs={quote(str(files / 'other.crt'))}")
        await refused(f"rediss://localhost:{port}/0")  # the system's authorities
        await refused(f"redis://localhost:{port}/0")  # plain text


async def test_rediss_checks_the_name_in_the_certificate_unless_told_not_to(
    open_port: Callable[..., AbstractAsyncContextManager[int]], files: Path
) -> None:
    async with open_port(server="elsewhere") as port:
        url = f"rediss://localhost:{port}/0?ssl_ca_certs={quote(str(files / 'ca.crt'))}"
        await refused(url)
        await talk(f"{url}&ssl_check_hostname=false")
        await talk(f"rediss://localhost:{port}/0?ssl_cert_reqs=none")


async def test_rediss_brings_a_certificate_to_a_store_that_asks_for_one(
    open_port: Callable[..., AbstractAsyncContextManager[int]], files: Path
) -> None:
    url = "rediss://localhost:{}/0?ssl_ca_certs=" + quote(str(files / "ca.crt"))
    ours = f"&ssl_certfile={quote(str(files / 'client.crt'))}&ssl_keyfile={quote(str(files / 'client.key'))}"
    async with open_port(client_ca=files / "ca.crt") as port:
        await talk(url.format(port) + ours)
        await refused(url.format(port))
    async with open_port(client_ca=files / "other.crt") as port:
        await refused(url.format(port) + ours)


async def test_sslmode_of_the_postgres_url_decides_whom_the_pool_and_the_migrations_trust(
    postgres_process: PostgresProcess, postgres_url: str, files: Path
) -> None:
    parts = urlsplit(postgres_url)
    context = server_context(files / "server.crt", files / "server.key", files / "ca.crt")
    async with tls_proxy(postgres_process.port, context, is_postgres=True) as port:
        base = f"postgresql://{parts.username}:{parts.password}@localhost:{port}{parts.path}"
        ours = f"sslcert={quote(str(files / 'client.crt'))}&sslkey={quote(str(files / 'client.key'))}"
        trusted = f"{base}?sslmode=verify-full&sslrootcert={quote(str(files / 'ca.crt'))}&{ours}"
        assert await pending(trusted) == []
        async with open_pool(Config(postgres_url=trusted)) as pool:
            assert await pool.fetchval("SELECT 1") == 1
        for refused_url in (
            f"{base}?sslmode=verify-full&sslrootcert={quote(str(files / 'other.crt'))}&{ours}",
            f"{base}?sslmode=verify-full&sslrootcert={quote(str(files / 'ca.crt'))}",  # no certificate of ours
            f"{base}?sslmode=disable",
        ):
            with pytest.raises(StoreUnavailableError):
                await pending(refused_url)
    with pytest.raises(StoreUnavailableError):
        await pending(postgres_url.replace("sslmode=disable", "sslmode=require"))  # a server without TLS
