"""A server that wants API keys: the first one, the way in, and what counts on every server within seconds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import grpc
import pytest
from grpc_health.v1 import health_pb2
from structlog.testing import capture_logs

from drawdown.v1 import audit_service_pb2 as audit_pb
from drawdown.v1 import balance_service_pb2 as balance_pb
from drawdown.v1 import grant_service_pb2 as grant_pb
from drawdown_server.app import open_stores
from drawdown_server.identity.scopes import Scope
from drawdown_server.identity.wallet_tokens import WalletTokenContent, WalletTokens
from integration.credentials import PEPPER, create_key, with_keys
from integration.server import Rpc, Server, authorize_request, failure_of, run_server, until
from integration.test_commands import command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from drawdown_server.config import Config
    from drawdown_server.dev.postgres import PostgresProcess

REVOKED_WITHIN_S: Final = 5.0
"""The contract."""


@pytest.fixture
def keyed(config: Config) -> Config:
    return with_keys(config)


@pytest.fixture
async def keyed_server(keyed: Config) -> AsyncIterator[Server]:
    """A server, and a key with every scope."""
    async with run_server(keyed, credential=await create_key(keyed)) as server:
        yield server


async def test_the_first_key_is_made_by_an_operator_and_works_at_once(keyed: Config) -> None:
    async with run_server(keyed, assets=False) as server:
        made = await command(keyed, "create-key", "--tenant", "acme", "--scopes", "admin,read")
        assert (made.code, len(made.lines)) == (0, 1), made.err
        rpc = Rpc(server.channel, made.lines[0])
        balance = balance_pb.GetBalanceRequest(wallet_id="nobody")
        assert (await rpc.failure(balance)).code is grpc.StatusCode.NOT_FOUND
        failure = await rpc.failure(authorize_request("w", "h", USD=1))
        assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
        assert failure.metadata == {"scope": "authorize"}
        again = await command(keyed, "create-key", "--tenant", "acme", "--scopes", "admin,read")
        assert (again.code, again.out) == (1, "")
        assert "key bootstrap exists" in again.err


async def test_the_first_key_is_in_the_audit_log_of_its_tenant(keyed: Config) -> None:
    async with run_server(keyed, assets=False) as server:
        made = await command(keyed, "create-key", "--tenant", "acme", "--scopes", "admin")
        listed = await Rpc(server.channel, made.lines[0]).call(audit_pb.ListAuditRecordsRequest())
        (record,) = listed.records
        assert (record.principal, record.method, record.target) == ("operator", "create-key", "key:bootstrap")
        assert made.lines[0].rpartition("_")[2] not in str(record)


async def test_a_first_key_that_breaks_a_rule_is_refused(keyed: Config) -> None:
    for arguments, said in (
        (("--tenant", "a b"), "--tenant must be"),
        (("--tenant", "acme", "--key-id", ""), "--key-id must be"),
        (("--tenant", "acme", "--scopes", "admin,root"), "--scopes must be some of authorize,read,wallets,funds,admin"),
    ):
        done = await command(keyed, "create-key", *arguments)
        assert (done.code, done.out) == (1, "")
        assert said in done.err
    done = await command(keyed.model_copy(update={"api_key_pepper": ""}), "create-key", "--tenant", "acme")
    assert (done.code, done.out) == (1, "")
    assert "DRAWDOWN_API_KEY_PEPPER" in done.err


async def test_the_tenant_is_that_of_the_key(keyed_server: Server) -> None:
    other = Rpc(keyed_server.channel, await create_key(keyed_server.config, tenant="other"))
    wallet = await keyed_server.wallet(USD=100)
    assert (await keyed_server.authorize(wallet, "h", USD=10)).hold.hold_id == "h"
    assert (await other.failure(balance_pb.GetBalanceRequest(wallet_id=wallet))).reason == "WALLET_NOT_FOUND"
    await keyed_server.assert_conserved(wallet)


async def test_without_a_credential_nothing_but_health_is_open(keyed_server: Server) -> None:
    nobody = Rpc(keyed_server.channel)
    failure = await nobody.failure(balance_pb.GetBalanceRequest(wallet_id="w"))
    assert (failure.code, failure.reason, failure.metadata) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "UNAUTHENTICATED",
        {},
    )
    health = await nobody.health.Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    garbage = keyed_server.channel.unary_unary("/drawdown.v1.BalanceService/GetBalance")
    assert (await failure_of(garbage(b"\xff\xff"))).code is grpc.StatusCode.UNAUTHENTICATED, "before it is parsed"


async def test_a_wallet_token_shows_one_balance_and_nothing_else(keyed_server: Server) -> None:
    wallet, other = await keyed_server.wallet(USD=100), await keyed_server.wallet(USD=100)
    tokens = WalletTokens({"test": bytes(32)})
    customer = Rpc(keyed_server.channel, tokens.make(WalletTokenContent("default", wallet, 2**50)))
    assert (await customer.balance(wallet)).available_units == 100
    refused = [
        await customer.failure(request)
        for request in (
            balance_pb.GetBalanceRequest(wallet_id=other),
            balance_pb.GetBalanceRequest(wallet_id="never-was"),
            balance_pb.GetBalanceRequest(),
            grant_pb.ListGrantsRequest(wallet_id=wallet),
        )
    ]
    assert {(failure.code, failure.reason) for failure in refused} == {
        (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    }
    assert all(failure.metadata == {"wallet_id": wallet} for failure in refused)
    foreign = Rpc(keyed_server.channel, tokens.make(WalletTokenContent("other", wallet, 2**50)))
    assert (await foreign.failure(balance_pb.GetBalanceRequest(wallet_id=wallet))).reason == "WALLET_NOT_FOUND"
    await keyed_server.assert_conserved(wallet, other)


async def test_a_revocation_counts_on_every_server_in_time(keyed_server: Server) -> None:
    config = keyed_server.config
    secret = await create_key(config, "leaked", scopes=[Scope.READ])
    request = balance_pb.GetBalanceRequest(wallet_id="nobody")
    async with run_server(config, assets=False) as second, open_stores(config) as stores:
        thieves = [Rpc(server.channel, secret) for server in (keyed_server, second)]
        for thief in thieves:
            assert (await thief.failure(request)).code is grpc.StatusCode.NOT_FOUND

        async def locked_out() -> bool:
            codes = [(await thief.failure(request)).code for thief in thieves]
            assert set(codes) <= {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAUTHENTICATED}
            return set(codes) == {grpc.StatusCode.UNAUTHENTICATED}

        await stores.ledger.revoke_api_key("default", "leaked")
        await until(locked_out, timeout_s=REVOKED_WITHIN_S)


async def test_while_postgres_is_down_known_keys_work_and_unknown_ones_wait(
    keyed_server: Server, postgres_process: PostgresProcess
) -> None:
    config = keyed_server.config
    unknown = Rpc(keyed_server.channel, await create_key(config, "unused"))
    wallet = await keyed_server.wallet(USD=100)
    await keyed_server.authorize(wallet, "h1", USD=10)
    await asyncio.to_thread(postgres_process.kill)
    try:
        assert (await keyed_server.authorize(wallet, "h2", USD=10)).hold.hold_id == "h2"
        failure = await unknown.failure(authorize_request(wallet, "h3", USD=10))
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    finally:
        await asyncio.to_thread(postgres_process.start)

    async def known_by_now() -> bool:
        try:
            return bool(await unknown.authorize(wallet, "h3", USD=10))
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            return False

    await until(known_by_now)
    await keyed_server.assert_conserved(wallet)


async def test_the_log_names_who_called_and_never_a_secret(keyed: Config) -> None:
    secret = await create_key(keyed)
    with capture_logs() as logs:
        async with run_server(keyed, credential=secret) as server:
            await server.wallet(USD=1)
            await Rpc(server.channel, secret[:-1]).failure(balance_pb.GetBalanceRequest(wallet_id="w"))
    calls = [line for line in logs if line["event"] == "rpc"]
    assert {line.get("principal") for line in calls if line["code"] == "OK"} == {"key:all"}
    assert [line.get("principal") for line in calls if line["code"] == "UNAUTHENTICATED"] == [None]
    assert secret[17:-6] not in str(logs)
    assert PEPPER.partition(":")[2] not in str(logs)


@pytest.mark.parametrize(("settings", "said"), [
    ({"identity": "keys", "api_key_pepper": ""}, "DRAWDOWN_API_KEY_PEPPER"),
    ({"grpc_host": "0.0.0.0"}, "without identity"),  # noqa: S104
    ({"grpc_host": "0.0.0.0", "identity": "keys"}, "without TLS"),  # noqa: S104
    ({"grpc_host": "db.internal"}, "DRAWDOWN_INSECURE_NETWORK=true"),
])  # fmt: skip
async def test_a_server_does_not_listen_unprotected(keyed: Config, settings: dict[str, str], said: str) -> None:
    config = keyed.model_copy(update={"identity": "none"} | settings)
    for name in ("serve", "check-config"):
        done = await command(config, name)
        assert done.code == 1, done
        assert said in done.err.splitlines()[-1]


async def test_a_server_listens_unprotected_when_it_is_told_to(config: Config) -> None:
    open_to_all = {"grpc_host": "0.0.0.0", "insecure_network": True}  # noqa: S104
    async with run_server(config.model_copy(update=open_to_all)) as server:
        wallet = await server.wallet(USD=1)
        await server.assert_conserved(wallet)
