"""Calls over TLS: who is let in by which port, and certificates that are renewed while the server serves."""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import subprocess
import sys
import warnings
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import grpc
import pytest
from cryptography import x509
from structlog.testing import capture_logs

import drawdown
from certificates import DAY, Authority, Issued
from drawdown.v1 import asset_service_pb2 as asset_pb
from drawdown_server.commands.check_config import find_problems
from drawdown_server.dev.process import free_port
from drawdown_server.errors import ConfigurationError
from integration.server import Rpc, open_channel, run_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from drawdown_server.config import Config

CA: Final = Authority()
OTHER_CA: Final = Authority("another authority")
CALLER: Final = CA.issue_spiffe("spiffe://test/gateway")
STRANGER: Final = OTHER_CA.issue_spiffe("spiffe://test/gateway")
PROMPT_S: Final = 30.0
"""Longest wait for a process that only starts, calls and ends."""


@pytest.fixture
def tls_config(config: Config, directory: Path) -> Config:
    """Settings of a server with a certificate, which asks its callers for none."""
    certificate, key = CA.issue().write(directory, "server")
    (directory / "ca.crt").write_bytes(CA.pem)
    CALLER.write(directory, "caller")
    return config.model_copy(update={"tls_certificate": certificate, "tls_key": key})


def trusting(ca: Authority = CA, own: Issued | None = None) -> grpc.ChannelCredentials:
    """Credentials of a caller."""
    own_files = (None, None) if own is None else (own.key, own.certificate)
    return grpc.ssl_channel_credentials(ca.pem, *own_files)


async def is_let_in(port: int, credentials: grpc.ChannelCredentials | None) -> bool:
    """Whether a call on a connection of its own is answered; if it is not, the handshake failed."""
    async with open_channel(port, credentials) as channel:
        try:
            await Rpc(channel).call(asset_pb.ListAssetsRequest())
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE, error
            return False
        return True


async def served_certificate(port: int) -> bytes:
    """The certificate that a new connection is shown, in PEM."""
    context = ssl.create_default_context(cadata=CA.pem.decode())
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return ssl.DER_cert_to_PEM_cert(shown).encode()


async def test_who_is_let_in_without_certificates_of_callers(tls_config: Config) -> None:
    async with run_server(tls_config, credentials=trusting()) as server:
        assert await is_let_in(server.port, trusting())
        assert await is_let_in(server.port, trusting(own=CALLER)), "what was not asked for does no harm"
        assert not await is_let_in(server.port, None), "plain text"
        assert not await is_let_in(server.port, trusting(OTHER_CA)), "the caller does not trust this server"
        await server.assert_conserved(await server.wallet(USD=10))


async def test_who_is_let_in_with_certificates_of_callers(tls_config: Config, directory: Path) -> None:
    config = tls_config.model_copy(update={"tls_client_ca": directory / "ca.crt"})
    expired = CA.issue([x509.UniformResourceIdentifier("spiffe://test/gateway")], lives=-DAY)
    async with run_server(config, credentials=trusting(own=CALLER)) as server:
        assert await is_let_in(server.port, trusting(own=CALLER))
        assert not await is_let_in(server.port, trusting()), "no certificate"
        assert not await is_let_in(server.port, trusting(own=STRANGER)), "of another authority"
        assert not await is_let_in(server.port, trusting(own=expired)), "expired"
        assert not await is_let_in(server.port, None), "plain text"


async def test_a_port_for_callers_with_certificates_beside_one_for_those_without(
    tls_config: Config, directory: Path
) -> None:
    other_port = free_port()
    config = tls_config.model_copy(update={"tls_client_ca": directory / "ca.crt", "grpc_certificate_port": other_port})
    async with run_server(config, credentials=trusting()) as server:
        assert await is_let_in(server.port, trusting())
        assert await is_let_in(other_port, trusting(own=CALLER))
        assert not await is_let_in(other_port, trusting())
        with pytest.raises(ConfigurationError, match="DRAWDOWN_GRPC_CERTIFICATE_PORT"):
            async with run_server(config):
                pass


async def test_tls_is_1_2_or_newer(tls_config: Config) -> None:
    async def speaks(version: ssl.TLSVersion) -> bool:
        context = ssl.create_default_context(cadata=CA.pem.decode())
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that old versions are deprecated is the point
            context.minimum_version = context.maximum_version = version
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
        except (ssl.SSLError, ConnectionError):
            return False
        writer.transport.abort()
        return True

    async with run_server(tls_config, credentials=trusting()) as server:
        assert [await speaks(version) for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2)] == [True, True]
        assert [await speaks(version) for version in (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1)] == [False, False]


async def test_36_a_renewed_certificate_is_served_at_once_and_no_connection_is_dropped(
    tls_config: Config, directory: Path
) -> None:
    async with run_server(tls_config, credentials=trusting()) as server:
        first = await served_certificate(server.port)
        wallet_id = await server.wallet(USD=10)

        async def work(number: int) -> None:
            await server.authorize(wallet_id, f"h-{number}", USD=1)
            await server.release(wallet_id, f"h-{number}")

        shown = [first]
        for number in range(5):
            renewed = CA.issue()
            await asyncio.gather(work(2 * number), asyncio.to_thread(renewed.write, directory, "server"))
            shown.append(await served_certificate(server.port))
            assert shown[-1] == renewed.certificate
            await work(2 * number + 1)  # on the connection that stands since the start
        assert len(set(shown)) == len(shown)
        await server.assert_conserved(wallet_id)


async def test_the_authorities_of_callers_are_reloaded_too(tls_config: Config, directory: Path) -> None:
    config = tls_config.model_copy(update={"tls_client_ca": directory / "ca.crt"})
    async with run_server(config, credentials=trusting(own=CALLER)) as server:
        assert not await is_let_in(server.port, trusting(own=STRANGER))
        (directory / "ca.crt").write_bytes(CA.pem + OTHER_CA.pem)
        assert await is_let_in(server.port, trusting(own=STRANGER))
        (directory / "ca.crt").write_bytes(OTHER_CA.pem)
        assert not await is_let_in(server.port, trusting(own=CALLER))


async def test_a_broken_renewal_leaves_the_old_certificate_in_force_and_says_so(
    tls_config: Config, directory: Path
) -> None:
    async with run_server(tls_config, credentials=trusting()) as server:
        first = await served_certificate(server.port)
        with capture_logs() as logs:
            (directory / "server.key").write_bytes(CA.issue().key)
            assert await served_certificate(server.port) == first
            assert await is_let_in(server.port, trusting())
        told = [line for line in logs if line["event"] == "tls.not_reloaded"]
        assert len(told) == 1
        assert "tls_key" in told[0]["problem"]


async def test_what_cannot_be_served_is_refused_by_check_config_and_at_start(
    tls_config: Config, directory: Path
) -> None:
    (directory / "server.key").unlink()
    (problem,) = await find_problems(tls_config)
    assert re.fullmatch(r"DRAWDOWN_TLS_KEY: .* cannot be read.*", problem)
    with pytest.raises(ConfigurationError, match=r"tls_key: .* cannot be read"):
        async with run_server(tls_config):
            pass


@asynccontextmanager
async def server_with_both(config: Config, directory: Path) -> AsyncIterator[int]:
    """A server that asks for certificates; its port."""
    config = config.model_copy(update={"tls_client_ca": directory / "ca.crt"})
    async with run_server(config, credentials=trusting(own=CALLER)) as server:
        await server.wallet("demo", USD=5_000_000)
        yield server.port


async def test_both_clients_bring_their_certificate(tls_config: Config, directory: Path) -> None:
    credentials = drawdown.tls_credentials(
        directory / "ca.crt", certificate=directory / "caller.crt", key=str(directory / "caller.key")
    )
    async with server_with_both(tls_config, directory) as port:
        target = f"127.0.0.1:{port}"
        async with drawdown.AsyncClient(target, credentials=credentials) as client:
            assert (await client.get_balance(wallet_id="demo")).balances["USD"].available_units == 5_000_000

        def synchronous() -> int:
            with drawdown.Client(target, credentials=credentials) as client:
                return client.get_balance(wallet_id="demo").balances["USD"].available_units

        assert await asyncio.to_thread(synchronous) == 5_000_000


async def test_the_command_line_takes_tls_from_options_and_from_the_environment(
    tls_config: Config, directory: Path
) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DRAWDOWN_")}
    files = {
        "DRAWDOWN_TLS_CA": directory / "ca.crt",
        "DRAWDOWN_CLIENT_CERTIFICATE": directory / "caller.crt",
        "DRAWDOWN_CLIENT_KEY": directory / "caller.key",
    }
    environment = {name: str(value) for name, value in files.items()}
    flags = [part for name, value in environment.items() for part in (f"--{_flag(name)}", value)]
    async with server_with_both(tls_config, directory) as port:

        async def balance(flags: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "drawdown", *flags, "balance", "demo", "--target", f"127.0.0.1:{port}"]
            return await asyncio.to_thread(
                subprocess.run,
                [*command, "--json", "--timeout", "10"],
                env=clean | environment,
                capture_output=True,
                text=True,
                timeout=PROMPT_S,
                check=False,
            )

        for done in (await balance(flags, {}), await balance([], environment)):
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["balances"][0]["available_units"] == 5_000_000
        refused = await balance(flags[:2], {})
        assert refused.returncode == 1
        assert json.loads(refused.stderr)["error"]["code"] == "UNAVAILABLE"
        assert (await balance(flags[:4], {})).returncode == 2  # a certificate without its key


def _flag(variable: str) -> str:
    return variable.removeprefix("DRAWDOWN_").lower().replace("_", "-")
