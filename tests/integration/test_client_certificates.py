"""Certificates as the only credential, and the file that says whom they name."""

from __future__ import annotations

import random
import string
from typing import TYPE_CHECKING, Final

import grpc
import pytest

from drawdown.v1 import wallet_service_pb2 as wallet_pb
from drawdown_server.errors import ConfigurationError
from drawdown_server.identity.certificates import URI_CHARS_MAX
from integration.certified import CA, CALLERS, EDGE, trusting, with_certificates
from integration.credentials import create_key
from integration.server import Rpc, failure_of, open_channel, run_server, until

if TYPE_CHECKING:
    from pathlib import Path

    from drawdown_server.config import Config

CALLER: Final = CA.issue_spiffe(EDGE)
NOBODY: Final = CA.issue_spiffe("spiffe://test/nobody")
READ: Final = wallet_pb.ListWalletsRequest()


async def test_with_certificates_alone_a_key_is_not_looked_at(config: Config, directory: Path) -> None:
    config = with_certificates(config, directory, "certificates")
    async with run_server(config, assets=False, credentials=trusting(CALLER)) as server:
        key = await create_key(config, "all")
        async with open_channel(server.port, trusting()) as channel:
            assert (await failure_of(Rpc(channel, key).call(READ))).code is grpc.StatusCode.UNAVAILABLE
        async with open_channel(server.port, trusting(NOBODY)) as channel:
            nobody = await Rpc(channel, key).failure(READ)
        assert nobody.code is grpc.StatusCode.UNAUTHENTICATED
        failure = await server.failure(READ)
        assert (failure.code, failure.metadata) == (grpc.StatusCode.PERMISSION_DENIED, {"scope": "read"})


async def test_a_name_that_is_longer_than_any_that_is_recorded_names_nobody(config: Config, directory: Path) -> None:
    config = with_certificates(config, directory, "certificates")
    name, refused = "spiffe://test/others/", wallet_pb.FreezeWalletRequest(wallet_id="w")
    for length, code in (
        (URI_CHARS_MAX, grpc.StatusCode.PERMISSION_DENIED),
        (URI_CHARS_MAX + 1, grpc.StatusCode.UNAUTHENTICATED),
        (4_000, grpc.StatusCode.UNAUTHENTICATED),
    ):
        # Of one letter it would be compressed to almost nothing.
        rest = "".join(random.Random(length).choices(string.ascii_letters, k=length - len(name)))  # noqa: S311
        certificate = CA.issue_spiffe(name + rest)
        async with run_server(config, assets=False, credentials=trusting(certificate)) as server:
            assert (await server.failure(refused)).code is code


async def test_who_is_taken_out_of_the_file_is_refused_on_the_connection_that_stands(
    config: Config, directory: Path
) -> None:
    config = with_certificates(config, directory, "certificates")
    (directory / "callers.toml").write_text(CALLERS.replace("authorize", "read"))
    async with run_server(config, assets=False, credentials=trusting(CALLER)) as server:
        await server.call(READ)
        (directory / "callers.toml").write_text(CALLERS.replace(EDGE, "spiffe://test/somebody"))

        async def refused() -> bool:
            try:
                await server.call(READ)
            except grpc.aio.AioRpcError as error:
                return error.code() is grpc.StatusCode.UNAUTHENTICATED
            return False

        await until(refused)


async def test_what_is_missing_is_named_at_start(config: Config, directory: Path) -> None:
    whole = with_certificates(config, directory, "either")
    for update, said in (
        ({"tls_client_ca": None}, "DRAWDOWN_TLS_CLIENT_CA"),
        ({"certificate_callers": None}, "set DRAWDOWN_CERTIFICATE_CALLERS"),
        ({"certificate_callers": directory / "missing"}, "DRAWDOWN_CERTIFICATE_CALLERS: .*cannot be read"),
        ({"api_key_pepper": ""}, "DRAWDOWN_API_KEY_PEPPER"),
        ({"identity": "keys"}, "DRAWDOWN_CERTIFICATE_CALLERS: has no effect"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            async with run_server(whole.model_copy(update=update)):
                pass
