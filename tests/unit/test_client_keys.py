"""Credentials in both clients and on the command line: what is sent, to whom, and what is never shown."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest

import drawdown
from drawdown._channel import Settings, is_local
from drawdown.v1 import balance_service_pb2, key_service_pb2, types_pb2
from fake_drawdown import Caller, Failure, FakeDrawdown

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET: Final = "ddk_0123456789ab_hunter2"  # noqa: S105
CREATED: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TLS: Final = grpc.ssl_channel_credentials()


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DRAWDOWN_API_KEY", "DRAWDOWN_PLAINTEXT_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["async", "sync"])
def call(request: pytest.FixtureRequest, fake: FakeDrawdown) -> Caller:
    return Caller(request.param, fake.target)


def sent(target: str = "127.0.0.1:1", **settings: Any) -> list[tuple[str, str | bytes]]:  # noqa: ANN401
    """The metadata of every call of a client with these settings."""
    credentials = settings.pop("credentials", None)
    return list(Settings.of(target, 1, credentials, settings.pop("metadata", ()), **settings).metadata)


def a_key(**fields: Any) -> types_pb2.ApiKey:  # noqa: ANN401
    key = types_pb2.ApiKey(key_id="gateway", scopes=[types_pb2.SCOPE_AUTHORIZE, types_pb2.SCOPE_READ], **fields)
    key.create_time.FromDatetime(CREATED)
    secret = key.secrets.add(secret_id="0123456789ab")  # noqa: S106
    secret.create_time.FromDatetime(CREATED)
    return key


# --- which key is sent ---


def test_a_key_is_sent_with_every_call() -> None:
    assert sent(api_key=SECRET, metadata=[("a", "b")]) == [("a", "b"), ("authorization", f"Bearer {SECRET}")]


def test_the_environment_gives_a_key_unless_the_program_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sent() == []
    monkeypatch.setenv("DRAWDOWN_API_KEY", "from-environment")
    assert sent() == [("authorization", "Bearer from-environment")]
    assert sent(api_key=SECRET) == [("authorization", f"Bearer {SECRET}")]
    assert sent(api_key="") == []
    assert sent(metadata=[("authorization", "Bearer mine")]) == [("authorization", "Bearer mine")]


def test_two_credentials_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="one of them"):
        sent(api_key=SECRET, metadata=[("authorization", "Bearer mine")])


@pytest.mark.parametrize("key", [f"{SECRET}\n", f" {SECRET}", "hünter2", "a b"])
def test_what_no_header_can_carry_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ValueError, match="no spaces") as caught:
        sent(api_key=key)
    assert "nter2" not in str(caught.value)


@pytest.mark.parametrize("make", [drawdown.Client, drawdown.AsyncClient])
def test_a_key_goes_to_another_machine_over_tls_only(make: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match=r"drawdown.internal:50051 in plain text"):
        make("drawdown.internal:50051", api_key=SECRET)
    make("drawdown.internal:50051")
    for settings in ({"credentials": TLS}, {"plaintext_api_key": True}):
        assert SECRET not in repr(make("drawdown.internal:50051", api_key=SECRET, **settings))


@pytest.mark.parametrize("make", [drawdown.Client, drawdown.AsyncClient])
@pytest.mark.parametrize("value", [f"Bearer {SECRET}", f"Bearer {SECRET}".encode()], ids=["text", "bytes"])
def test_a_key_in_the_metadata_does_so_too(make: Callable[..., object], value: str | bytes) -> None:
    metadata = [("x-request-source", "gateway-3"), ("authorization", value)]
    with pytest.raises(ValueError, match=r"drawdown.internal:50051 in plain text") as caught:
        make("drawdown.internal:50051", metadata=metadata)
    assert SECRET not in str(caught.value)
    make("127.0.0.1:50051", metadata=metadata)
    for settings in ({"credentials": TLS}, {"plaintext_api_key": True}):
        make("drawdown.internal:50051", metadata=metadata, **settings)


@pytest.mark.parametrize(("target", "local"), [
    ("127.0.0.1:50051", True), ("127.8.8.8:1", True), ("localhost:50051", True), ("[::1]:50051", True), ("::1", True),
    ("localhost", True), ("dns:///localhost:1", True), ("dns:localhost:1", True), ("ipv4:127.0.0.1:1", True),
    ("ipv4:127.0.0.1:1,127.0.0.2:1", True), ("ipv6:[::1]:1", True), ("unix:/run/drawdown.sock", True),
    ("unix-abstract:drawdown", True),
    ("10.0.0.1:50051", False), ("drawdown:50051", False), ("dns:///drawdown:50051", False), ("dns:drawdown:1", False),
    ("dns://127.0.0.1/drawdown:1", False), ("ipv4:127.0.0.1:1,10.0.0.1:1", False), ("[2001:db8::1]:1", False),
    ("localhost.evil.example:1", False), ("127.0.0.1.evil.example:1", False), ("xds:///localhost", False),
    ("0.0.0.0:1", False), ("", False), ("passthrough:///127.0.0.1:1", False),
])  # fmt: skip
def test_only_what_is_surely_this_machine_counts_as_it(target: str, local: bool) -> None:
    assert is_local(target) is local


# --- the calls ---


async def test_a_new_key_says_everything_and_hides_its_secret(fake: FakeDrawdown, call: Caller) -> None:
    fake.answer(
        "CreateApiKey", key_service_pb2.CreateApiKeyResponse(key=a_key(display_name="The gateway"), secret=SECRET)
    )
    result = await call(
        "create_api_key",
        key_id="gateway",
        scopes=[drawdown.Scope.AUTHORIZE, drawdown.Scope.READ],
        display_name="The gateway",
        expire_time=CREATED + timedelta(days=1),
    )
    assert (result.secret, result.replayed) == (SECRET, False)
    assert result.key.scopes == (drawdown.Scope.AUTHORIZE, drawdown.Scope.READ)
    assert (result.key.create_time, result.key.expire_time, result.key.revoke_time) == (CREATED, None, None)
    assert [secret.secret_id for secret in result.key.secrets] == ["0123456789ab"]
    assert SECRET not in repr(result)
    expected = key_service_pb2.CreateApiKeyRequest(
        key_id="gateway", display_name="The gateway", scopes=[types_pb2.SCOPE_AUTHORIZE, types_pb2.SCOPE_READ]
    )
    expected.expire_time.FromDatetime(CREATED + timedelta(days=1))
    assert fake.calls("CreateApiKey")[0].request == expected


async def test_keys_are_listed_page_by_page(fake: FakeDrawdown, call: Caller) -> None:
    first = key_service_pb2.ListApiKeysResponse(keys=[a_key()], next_page_token="t")  # noqa: S106
    fake.answer("ListApiKeys", first, key_service_pb2.ListApiKeysResponse(keys=[a_key()]))
    assert [key.key_id for key in await call("iter_api_keys", page_size=1)] == ["gateway"] * 2
    assert [arrived.request.page_token for arrived in fake.calls("ListApiKeys")] == ["", "t"]


async def test_an_overlap_of_nothing_is_not_the_default(fake: FakeDrawdown, call: Caller) -> None:
    fake.answer("RotateApiKey", key_service_pb2.RotateApiKeyResponse(key=a_key(), secret=SECRET))
    await call("rotate_api_key", key_id="gateway", rotation_id="r", overlap_s=0)
    request = fake.calls("RotateApiKey")[0].request
    assert request.HasField("overlap")
    assert request.overlap.seconds == 0


async def test_a_missing_scope_is_named(fake: FakeDrawdown, call: Caller) -> None:
    denied = Failure(grpc.StatusCode.PERMISSION_DENIED, reason="PERMISSION_DENIED", metadata={"scope": "funds"})
    fake.answer("RevokeApiKey", denied)
    with pytest.raises(drawdown.PermissionDeniedError) as caught:
        await call("revoke_api_key", key_id="gateway")
    assert caught.value.scope == "funds"


# --- the command line ---


def test_key_create_shows_the_secret_this_once(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    fake.answer(
        "CreateApiKey",
        key_service_pb2.CreateApiKeyResponse(key=a_key(), secret=SECRET),
        key_service_pb2.CreateApiKeyResponse(key=a_key(), replayed=True),
    )
    words = ("key", "create", "gateway", "--scope", "authorize", "--scope", "read", "--expires", "30d")
    result = run(*words)
    assert (result.code, result.out.splitlines()[-1]) == (0, f"secret, shown this once: {SECRET}")
    assert "authorize,read" in result.out
    request = fake.calls("CreateApiKey")[0].request
    assert list(request.scopes) == [types_pb2.SCOPE_AUTHORIZE, types_pb2.SCOPE_READ]
    assert request.HasField("expire_time")
    assert "this key was made before" in run(*words).out
    assert run("key", "create", "gateway").code == 2, "a key without a scope"
    assert run("key", "create", "gateway", "--scope", "root").code == 2
    as_json = run(*words, "--json").json
    assert (as_json["replayed"], as_json["key"]["scopes"]) == (True, ["AUTHORIZE", "READ"])


def test_key_rotate_revoke_and_list(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    old = a_key()
    old.secrets[0].expire_time.FromDatetime(CREATED)
    fake.answer("RotateApiKey", key_service_pb2.RotateApiKeyResponse(key=old, secret=SECRET))
    result = run("key", "rotate", "gateway", "--overlap", "12h")
    assert "until 2026-01-02T03:04:05Z" in result.out
    assert result.out.splitlines()[-1].endswith(SECRET)
    request = fake.calls("RotateApiKey")[0].request
    assert (request.overlap.seconds, len(request.rotation_id)) == (12 * 3_600, 32)

    revoked = a_key()
    revoked.revoke_time.FromDatetime(CREATED)
    fake.answer("RevokeApiKey", key_service_pb2.RevokeApiKeyResponse(key=revoked))
    assert "revoked" in run("key", "revoke", "gateway").out

    expired = a_key()
    expired.expire_time.FromDatetime(CREATED)
    fake.answer("ListApiKeys", key_service_pb2.ListApiKeysResponse(keys=[a_key(), revoked, expired]))
    lines = run("key", "list").out.splitlines()
    assert [line.split()[2] for line in lines] == ["STATE", "active", "revoked", "expired"]
    assert all("0123456789ab" in line for line in lines[1:])
    assert len(run("key", "list", "--json").json["keys"]) == 3


def test_wallet_token_prints_the_token_alone(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    made = key_service_pb2.CreateWalletTokenResponse(token="ddw_x")  # noqa: S106
    fake.answer("CreateWalletToken", made)
    assert run("wallet", "token", "demo", "--ttl", "2h").out == "ddw_x\n"
    assert fake.calls("CreateWalletToken")[0].request.ttl.seconds == 7_200
    assert run("wallet", "token", "demo", "--json").json["token"] == "ddw_x"  # noqa: S105


def test_the_command_line_sends_the_key_that_it_was_given(
    fake: FakeDrawdown,
    run: Any,  # noqa: ANN401
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake.answer("GetBalance", balance_service_pb2.GetBalanceResponse())
    monkeypatch.setenv("DRAWDOWN_API_KEY", "from-environment")
    assert run("balance", "demo").code == 0
    assert run("--api-key", SECRET, "balance", "demo").code == 0
    headers = [arrived.metadata["authorization"] for arrived in fake.calls("GetBalance")]
    assert headers == ["Bearer from-environment", f"Bearer {SECRET}"]


def test_the_command_line_tells_what_is_missing(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    fake.answer(
        "GetBalance", Failure(grpc.StatusCode.UNAUTHENTICATED, "a valid credential is needed", "UNAUTHENTICATED")
    )
    result = run("balance", "demo")
    assert (result.code, result.err) == (
        1,
        "error: a valid credential is needed; give an API key with --api-key or DRAWDOWN_API_KEY\n",
    )
    assert json.loads(run("balance", "demo", "--json").err)["error"]["reason"] == "UNAUTHENTICATED"
    result = run("--target", "drawdown.internal:50051", "--api-key", SECRET, "balance", "demo")
    assert result.code == 2
    assert "--plaintext-api-key" in result.err.replace("\n", " ")
    assert SECRET not in result.err
