"""Callers with certificates: every method, by every way to come in. The table in server/README.md is the test."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import grpc
import pytest
import pytest_asyncio
from cryptography import x509
from google.protobuf.message_factory import GetMessageClass

import stores
from certificates import DAY, Authority, Issued
from drawdown_server.dev.process import free_port
from drawdown_server.identity.api_keys import new_key
from drawdown_server.identity.scopes import SCOPES, Scope
from integration.certified import CA, CONSOLE, EDGE, trusting, with_certificates
from integration.credentials import create_key
from integration.server import DEADLINE_S, Rpc, open_channel, run_server, settings
from integration.test_identity_scan import ANSWERED, METHODS, REFUSALS, SECTION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from drawdown_server.dev.postgres import PostgresProcess
    from drawdown_server.dev.valkey import ValkeyProcess
    from integration.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROWS: Final = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in SECTION.splitlines()]
TABLE: Final = [row for row in ROWS if len(row) == 4 and row[0] not in {"a caller connects", "---"}]
"""How a caller connects, what it brings, how methods of its scope are answered, and all others."""
NO_CONNECTION: Final = "no connection"
OF_ITS_SCOPE: Final = {method for method, scope in SCOPES.items() if scope is Scope.AUTHORIZE}
CERTIFICATES: Final[dict[str, Issued | None]] = {
    "nothing": None,
    "a key": None,
    "a key and no certificate": None,
    "a certificate, which nobody asked for": CA.issue_spiffe(EDGE),
    "a certificate of another authority": Authority("another").issue_spiffe(EDGE),
    "an expired certificate": CA.issue([x509.UniformResourceIdentifier(EDGE)], lives=-DAY),
    "a certificate that names nobody": CA.issue_spiffe("spiffe://test/edge/nobody"),
    "a certificate that names two callers": CA.issue(
        [x509.UniformResourceIdentifier(EDGE), x509.UniformResourceIdentifier("spiffe://test/others/1")]
    ),
    "a certificate with the name of a caller in its common name": CA.issue((), common_name=CONSOLE),
    "a certificate of a caller": CA.issue_spiffe(EDGE),
    "a certificate of a caller by its DNS name": CA.issue_dns(CONSOLE),
    "a certificate of a caller and an unknown key": CA.issue_spiffe("spiffe://test/others/1"),
    "a certificate of a caller and a key of another tenant": CA.issue_spiffe("spiffe://test/others/1"),
    "a certificate of a caller and a key of its tenant, whose scopes count": CA.issue_spiffe(EDGE),
    "a certificate that names nobody and a key": CA.issue_spiffe("spiffe://test/nobody"),
}
PORT_FOR_CERTIFICATES: Final = "to the port for certificates"


@dataclass(frozen=True)
class Scanned:
    """A server with two ports, and a key of the tenant default with the scope authorize."""

    server: Server
    certificate_port: int
    key: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scanned(
    valkey_process: ValkeyProcess, postgres_process: PostgresProcess, worker_directory: Path
) -> AsyncIterator[Scanned]:
    stores.empty(valkey_process)
    name = f"certificates_{uuid4().hex[:12]}"
    postgres_url = await postgres_process.create_database(name, template=stores.TEMPLATE_DATABASE)
    directory = worker_directory / name
    directory.mkdir()
    config = with_certificates(settings(valkey_process.url, postgres_url), directory, "either")
    config = config.model_copy(update={"grpc_certificate_port": free_port()})
    async with run_server(config, assets=False, credentials=trusting()) as server:
        assert config.grpc_certificate_port is not None
        secret = await create_key(config, "edge", scopes=[Scope.AUTHORIZE])
        yield Scanned(server, config.grpc_certificate_port, secret)
    await postgres_process.drop_database(name)


@asynccontextmanager
async def connected(scanned: Scanned, connects: str, brings: str) -> AsyncIterator[Rpc]:
    """As the table says."""
    port = scanned.certificate_port if PORT_FOR_CERTIFICATES in connects else scanned.server.port
    credentials = None if "plain text" in connects else trusting(CERTIFICATES[brings])
    key = new_key() if "unknown key" in brings else scanned.key if "key" in brings else ""
    async with open_channel(port, credentials) as channel:
        yield Rpc(channel, key)


async def answer(rpc: Rpc, method: str) -> str:
    """How a request without content is answered."""
    request = GetMessageClass(METHODS[method].input_type)()
    call = rpc.channel.unary_unary(f"/{method}", request_serializer=lambda message: message.SerializeToString())
    try:
        await call(request, timeout=DEADLINE_S, metadata=rpc.metadata)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return NO_CONNECTION
        assert error.code() is not grpc.StatusCode.INTERNAL, method
        return error.code().name if error.code() in REFUSALS else ANSWERED
    return ANSWERED


@pytest.mark.parametrize(
    ("connects", "brings", "of_its_scope", "others"), TABLE, ids=[f"{r[0]}: {r[1]}" for r in TABLE]
)
async def test_every_method_answers_as_the_table_says(
    scanned: Scanned, connects: str, brings: str, of_its_scope: str, others: str
) -> None:
    async with connected(scanned, connects, brings) as rpc:
        methods = list(METHODS)
        answers = await asyncio.gather(*(answer(rpc, method) for method in methods))
    for method, answered in zip(methods, answers, strict=True):
        assert answered == (of_its_scope if method in OF_ITS_SCOPE else others), method


async def test_every_way_to_come_in_has_a_row() -> None:
    assert {row[1] for row in TABLE} == set(CERTIFICATES)
    assert len({row[0] for row in TABLE}) == 4
