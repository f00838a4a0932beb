"""A port scan of our own: every method with every kind of credential. The table in server/README.md is the test."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest
import pytest_asyncio
from google.protobuf.message_factory import GetMessageClass

from drawdown_server.app import open_stores
from drawdown_server.identity.api_keys import Peppers, new_key
from drawdown_server.identity.scopes import SCOPES, Scope
from drawdown_server.identity.wallet_tokens import WalletTokenContent, WalletTokens
from faults.mutations import SERVICE_FILES
from integration.credentials import create_key, run_keyed_server
from integration.server import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from drawdown_server.config import Config
    from drawdown_server.dev.postgres import PostgresProcess
    from drawdown_server.dev.valkey import ValkeyProcess
    from integration.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

README: Final = (Path(__file__).parents[2] / "server/README.md").read_text()
SECTION: Final = README.partition("\n## Who may call\n")[2].partition("\n## ")[0]
ROWS: Final = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in SECTION.splitlines() if line[:1] == "|"
]
SCOPE_ROWS: Final = {row[0].strip("`"): row[1] for row in ROWS if re.fullmatch(r"`\w+`", row[0])}
CREDENTIAL_ROWS: Final = {row[0]: row[1:] for row in ROWS if len(row) == 3 and row[0] not in {"a call brings", "---"}}
"""By what a call brings: how the methods of its scope are answered, and how all others are."""
ANSWERED: Final = "answered"
REFUSALS: Final = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
WALLET: Final = "w"
GET_BALANCE: Final = "drawdown.v1.BalanceService/GetBalance"
IN_2100_MS: Final = 4_102_444_800_000
METHODS: Final = {
    f"{service.full_name}/{method.name}": method
    for file in SERVICE_FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def wallet_token(expire_ms: int) -> str:
    return WalletTokens({"test": bytes(32)}).make(WalletTokenContent("default", WALLET, expire_ms))


async def expired(config: Config) -> str:
    return await create_key(config, "expired", expire_ms=1)


async def revoked(config: Config) -> str:
    secret = await create_key(config, "revoked")
    async with open_stores(config) as opened:
        await opened.ledger.revoke_api_key("default", "revoked")
    return secret


async def rotated(config: Config) -> str:
    secret, peppers = await create_key(config, "rotated"), Peppers({"test": bytes(32)})
    async with open_stores(config) as opened:
        await opened.ledger.rotate_api_key("default", "rotated", "r1", overlap_ms=0, secret=peppers.digest(new_key()))
    return secret


def of_scope(scope: Scope) -> Callable[[Config], Any]:
    async def make(config: Config) -> str:
        return await create_key(config, f"only-{scope}", scopes=[scope])

    return make


async def always(value: str) -> str:
    return value


CREDENTIALS: Final[dict[str, Callable[[Config], Any]]] = {
    "nothing": lambda _: always(""),
    "a malformed key": lambda _: always("hunter2"),
    "an unknown key": lambda _: always(new_key()),
    "an expired key": expired,
    "a revoked key": revoked,
    "a key that was rotated, after its overlap": rotated,
    "an expired wallet token": lambda _: always(wallet_token(1)),
    "a wallet token": lambda _: always(wallet_token(IN_2100_MS)),
} | {f"a key with the scope `{scope}`": of_scope(scope) for scope in Scope}
OF_ITS_SCOPE: Final = {"a wallet token": {GET_BALANCE}} | {
    f"a key with the scope `{scope}`": {method for method, needed in SCOPES.items() if needed is scope}
    for scope in Scope
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scanned(valkey_process: ValkeyProcess, postgres_process: PostgresProcess) -> AsyncIterator[Server]:
    async with run_keyed_server(valkey_process, postgres_process, assets=False) as server:
        yield server


async def answer(server: Server, method: str, credential: str) -> grpc.StatusCode:
    """How a request without content is answered; with the token's wallet where that is what a token is for."""
    request = GetMessageClass(METHODS[method].input_type)()
    if method == GET_BALANCE:
        request.wallet_id = WALLET  # type: ignore[attr-defined]
    metadata = [("authorization", f"Bearer {credential}")] if credential else []
    path, options = f"/{method}", {"timeout": DEADLINE_S, "metadata": metadata}
    try:
        if METHODS[method].client_streaming:
            stream = server.channel.stream_stream(path)(iter([request.SerializeToString()]), **options)
            return await stream.code()
        await server.channel.unary_unary(path)(request.SerializeToString(), **options)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("brings", CREDENTIALS)
async def test_every_method_answers_as_the_table_says(scanned: Server, brings: str) -> None:
    of_its_scope, others = CREDENTIAL_ROWS[brings]
    credential = await CREDENTIALS[brings](scanned.config)
    methods = list(METHODS)
    codes = await asyncio.gather(*(answer(scanned, method, credential) for method in methods))
    for method, code in zip(methods, codes, strict=True):
        wanted = of_its_scope if method in OF_ITS_SCOPE.get(brings, set()) else others
        assert (code.name if code in REFUSALS else ANSWERED) == wanted, f"{method} is answered {code.name}"
        assert code is not grpc.StatusCode.INTERNAL, method


async def test_every_row_of_the_table_is_tried() -> None:
    assert set(CREDENTIAL_ROWS) == set(CREDENTIALS)


async def test_the_table_of_scopes_is_the_one_that_is_enforced() -> None:
    documented = {scope: set(re.findall(r"\w+", methods)) for scope, methods in SCOPE_ROWS.items()}
    enforced: dict[str, set[str]] = {scope.value: set() for scope in Scope}
    for method, scope in SCOPES.items():
        enforced[scope.value].add(method.partition("/")[2])
    assert documented == enforced
    assert set(SCOPES) == set(METHODS)
