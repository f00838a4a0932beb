"""KeyService: keys made, rotated and revoked by those who may, and tokens for one wallet."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from drawdown.v1 import balance_service_pb2 as balance_pb
from drawdown.v1 import key_service_pb2 as pb
from drawdown.v1 import types_pb2
from drawdown_server.identity.scopes import Scope
from integration.credentials import create_key, run_keyed_server
from integration.server import Rpc, pages, run_server, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from drawdown_server.dev.postgres import PostgresProcess
    from drawdown_server.dev.valkey import ValkeyProcess
    from integration.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

READ: Final = [types_pb2.SCOPE_READ]
COPIES: Final = 50
IN_2100: Final = Timestamp(seconds=4_102_444_800)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(valkey_process: ValkeyProcess, postgres_process: PostgresProcess) -> AsyncIterator[Server]:
    async with run_keyed_server(valkey_process, postgres_process) as running:
        yield running


async def code_of(server: Server, secret: str) -> grpc.StatusCode:
    """How a read with this secret is answered: NOT_FOUND when it is let in."""
    return (await Rpc(server.channel, secret).failure(balance_pb.GetBalanceRequest(wallet_id="nobody"))).code


async def made(server: Server, key_id: str, scopes: list[types_pb2.Scope] | None = None) -> str:
    reply = await server.call(pb.CreateApiKeyRequest(key_id=key_id, scopes=scopes or READ))
    assert not reply.replayed
    return str(reply.secret)


async def test_a_key_that_was_made_works_and_its_secret_is_told_once(server: Server) -> None:
    request = pb.CreateApiKeyRequest(
        key_id="gateway", display_name="The gateway", scopes=[*READ, types_pb2.SCOPE_AUTHORIZE], expire_time=IN_2100
    )
    reply = await server.call(request)
    assert not reply.replayed
    assert reply.secret.startswith(f"ddk_{reply.key.secrets[0].secret_id}_")
    assert await code_of(server, reply.secret) is grpc.StatusCode.NOT_FOUND
    again = await server.call(request)
    assert (again.secret, again.replayed, again.key) == ("", True, reply.key)
    assert (reply.key.key_id, reply.key.display_name, reply.key.expire_time) == ("gateway", "The gateway", IN_2100)
    assert list(reply.key.scopes) == [types_pb2.SCOPE_AUTHORIZE, types_pb2.SCOPE_READ]


@pytest.mark.parametrize(("other", "field"), [
    ({"display_name": "x"}, "display_name"), ({"scopes": [types_pb2.SCOPE_ADMIN]}, "scopes"),
    ({"expire_time": IN_2100}, "expire_time"),
])  # fmt: skip
async def test_the_same_id_with_other_content_is_refused(server: Server, other: dict[str, Any], field: str) -> None:
    request: dict[str, Any] = {"key_id": f"taken-{field}", "scopes": READ}
    await server.call(pb.CreateApiKeyRequest(**request))
    failure = await server.failure(pb.CreateApiKeyRequest(**(request | other)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ID_REUSED")
    assert failure.metadata == {"resource": "key", "id": f"taken-{field}", "field": field}


@pytest.mark.parametrize(("request_", "field"), [
    (pb.CreateApiKeyRequest(scopes=READ), "key_id"),
    (pb.CreateApiKeyRequest(key_id="a b", scopes=READ), "key_id"),
    (pb.CreateApiKeyRequest(key_id="k"), "scopes"),
    (pb.CreateApiKeyRequest(key_id="k", scopes=[0]), "scopes[0]"),
    (pb.CreateApiKeyRequest(key_id="k", scopes=[99]), "scopes[0]"),
    (pb.CreateApiKeyRequest(key_id="k", scopes=READ * 2), "scopes"),
    (pb.CreateApiKeyRequest(key_id="k", scopes=READ, display_name="\n"), "display_name"),
    (pb.CreateApiKeyRequest(key_id="k", scopes=READ, expire_time=Timestamp(seconds=-1)), "expire_time"),
    (pb.RotateApiKeyRequest(rotation_id="r"), "key_id"),
    (pb.RotateApiKeyRequest(key_id="k"), "rotation_id"),
    (pb.RotateApiKeyRequest(key_id="k", rotation_id="r", overlap=Duration(seconds=-1)), "overlap"),
    (pb.RotateApiKeyRequest(key_id="k", rotation_id="r", overlap=Duration(seconds=30 * 86_400 + 1)), "overlap"),
    (pb.RevokeApiKeyRequest(), "key_id"),
    (pb.ListApiKeysRequest(page_size=-1), "page_size"),
    (pb.ListApiKeysRequest(page_token="x"), "page_token"),  # noqa: S106
    (pb.CreateWalletTokenRequest(), "wallet_id"),
    (pb.CreateWalletTokenRequest(wallet_id="w", ttl=Duration(seconds=0)), "ttl"),
    (pb.CreateWalletTokenRequest(wallet_id="w", ttl=Duration(seconds=86_401)), "ttl"),
])  # fmt: skip
async def test_a_bad_request_names_its_field(server: Server, request_: Any, field: str) -> None:  # noqa: ANN401
    failure = await server.failure(request_)
    assert (failure.code, failure.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,))


async def test_nobody_gives_a_scope_that_they_lack_nor_gets_one_by_a_rotation(server: Server) -> None:
    admin = Rpc(server.channel, await create_key(server.config, "admin", scopes=[Scope.ADMIN]))
    await made(server, "powerful", [types_pb2.SCOPE_ADMIN, types_pb2.SCOPE_FUNDS])
    for request in (
        pb.CreateApiKeyRequest(key_id="mine", scopes=[types_pb2.SCOPE_ADMIN, types_pb2.SCOPE_FUNDS]),
        pb.RotateApiKeyRequest(key_id="powerful", rotation_id="r"),
    ):
        failure = await admin.failure(request)
        assert (failure.code, failure.metadata) == (grpc.StatusCode.PERMISSION_DENIED, {"scope": "funds"})
    assert "mine" not in {key.key_id for key in (await server.call(pb.ListApiKeysRequest(page_size=1000))).keys}
    assert (await admin.call(pb.CreateApiKeyRequest(key_id="peer", scopes=[types_pb2.SCOPE_ADMIN]))).secret
    assert (await admin.call(pb.RevokeApiKeyRequest(key_id="powerful"))).key.revoke_time.seconds > 0


async def test_copies_of_a_call_make_one_key_one_rotation_and_tell_one_secret(server: Server) -> None:
    async with run_server(server.config, assets=False, credential=server.metadata[0][1][7:]) as other:
        for request in (
            pb.CreateApiKeyRequest(key_id="copied", scopes=READ),
            pb.RotateApiKeyRequest(key_id="copied", rotation_id="r1"),
        ):
            replies = await asyncio.gather(*((server, other)[n % 2].call(request) for n in range(COPIES)))
            secrets = [reply.secret for reply in replies if not reply.replayed]
            assert len(secrets) == 1
            assert [reply.secret for reply in replies if reply.replayed] == [""] * (COPIES - 1)
            assert await code_of(server, secrets[0]) is grpc.StatusCode.NOT_FOUND
        replies = await asyncio.gather(
            *((server, other)[n % 2].call(pb.RevokeApiKeyRequest(key_id="copied")) for n in range(COPIES))
        )
        assert all(reply == replies[0] for reply in replies)


async def test_a_rotated_key_has_two_secrets_until_the_overlap_is_over(server: Server) -> None:
    old = await made(server, "rotated")
    request = pb.RotateApiKeyRequest(key_id="rotated", rotation_id="r1", overlap=Duration(seconds=3_600))
    before_s = datetime.now(UTC).timestamp()
    reply = await server.call(request)
    assert await code_of(server, old) is await code_of(server, reply.secret) is grpc.StatusCode.NOT_FOUND
    first, second = reply.key.secrets
    assert (old[4:16], reply.secret[4:16]) == (first.secret_id, second.secret_id)
    assert abs(first.expire_time.seconds - before_s - 3_600) < 600, "by Postgres' clock, on this machine"
    assert not second.HasField("expire_time")

    again = await server.call(request)
    assert (again.secret, again.replayed, again.key) == ("", True, reply.key)
    failure = await server.failure(pb.RotateApiKeyRequest(key_id="rotated", rotation_id="r1"))
    assert (failure.reason, failure.metadata) == (
        "ID_REUSED",
        {"resource": "rotation", "id": "r1", "field": "overlap"},
    )

    at_once = pb.RotateApiKeyRequest(key_id="rotated", rotation_id="r2", overlap=Duration())
    newest = await server.call(at_once)
    assert [secret.secret_id for secret in newest.key.secrets] == [newest.secret[4:16]]

    async def both_old_ones_end() -> bool:
        codes = {await code_of(server, secret) for secret in (old, reply.secret)}
        return codes == {grpc.StatusCode.UNAUTHENTICATED}

    await until(both_old_ones_end, timeout_s=5)
    assert await code_of(server, newest.secret) is grpc.StatusCode.NOT_FOUND


async def test_what_ended_cannot_be_rotated_and_what_never_was_is_not_found(server: Server) -> None:
    await made(server, "ended")
    await server.call(pb.RotateApiKeyRequest(key_id="ended", rotation_id="before"))
    revoked = await server.call(pb.RevokeApiKeyRequest(key_id="ended"))
    assert list(revoked.key.secrets) == []
    assert await server.call(pb.RevokeApiKeyRequest(key_id="ended")) == revoked
    failure = await server.failure(pb.RotateApiKeyRequest(key_id="ended", rotation_id="r"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "KEY_INACTIVE")
    replayed = await server.call(pb.RotateApiKeyRequest(key_id="ended", rotation_id="before"))
    assert (replayed.secret, replayed.replayed) == ("", True)
    await server.call(pb.CreateApiKeyRequest(key_id="expired", scopes=READ, expire_time=Timestamp(seconds=1)))
    assert (await server.failure(pb.RotateApiKeyRequest(key_id="expired", rotation_id="r"))).reason == "KEY_INACTIVE"
    for request in (
        pb.RotateApiKeyRequest(key_id="never-was", rotation_id="r"),
        pb.RevokeApiKeyRequest(key_id="never-was"),
    ):
        failure = await server.failure(request)
        assert (failure.code, failure.reason, failure.metadata) == (
            grpc.StatusCode.NOT_FOUND,
            "KEY_NOT_FOUND",
            {"key_id": "never-was"},
        )


async def test_the_list_has_every_key_once_and_no_secret(server: Server) -> None:
    secrets = [await made(server, f"listed-{n}") for n in range(5)]
    await server.call(pb.RotateApiKeyRequest(key_id="listed-0", rotation_id="r"))
    found = [key for page in await pages(server, pb.ListApiKeysRequest(page_size=2), "keys") for key in page]
    ids = [key.key_id for key in found]
    assert ids == sorted(set(ids))
    listed = [key for key in found if key.key_id.startswith("listed-")]
    assert [len(key.secrets) for key in listed] == [2, 1, 1, 1, 1]
    assert not any(secret[17:-6] in str(found) for secret in secrets)


async def test_a_wallet_token_is_for_its_wallet_and_its_time(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    before_s = datetime.now(UTC).timestamp()
    reply = await server.call(pb.CreateWalletTokenRequest(wallet_id=wallet, ttl=Duration(seconds=1_000)))
    assert abs(reply.expire_time.seconds - before_s - 1_000) < 600
    customer = Rpc(server.channel, reply.token)
    assert (await customer.balance(wallet)).available_units == 100
    assert (await customer.failure(pb.CreateWalletTokenRequest(wallet_id=wallet))).code is (
        grpc.StatusCode.PERMISSION_DENIED
    ), "a token makes no token"
    failure = await server.failure(pb.CreateWalletTokenRequest(wallet_id="never-was"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "WALLET_NOT_FOUND")
    default = await server.call(pb.CreateWalletTokenRequest(wallet_id=wallet))
    assert abs(default.expire_time.seconds - before_s - 900) < 600
    short = await server.call(pb.CreateWalletTokenRequest(wallet_id=wallet, ttl=Duration(seconds=1)))

    async def ended() -> bool:
        try:
            await Rpc(server.channel, short.token).balance(wallet)
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNAUTHENTICATED
        return False

    await until(ended)
    await server.assert_conserved(wallet)


async def test_a_server_without_a_pepper_makes_no_credentials(server: Server) -> None:
    plain = server.config.model_copy(update={"identity": "none", "api_key_pepper": ""})
    async with run_server(plain, assets=False) as other:
        wallet = await server.wallet()
        for request in (
            pb.CreateApiKeyRequest(key_id="k", scopes=READ),
            pb.RotateApiKeyRequest(key_id="all", rotation_id="r"),
            pb.CreateWalletTokenRequest(wallet_id=wallet),
        ):
            failure = await other.failure(request)
            assert failure.code is grpc.StatusCode.UNIMPLEMENTED
            assert "DRAWDOWN_API_KEY_PEPPER" in failure.message
        await server.assert_conserved(wallet)
