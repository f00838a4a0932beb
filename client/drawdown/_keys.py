"""API keys and wallet tokens: what the clients take and give, and how it is sent and read. Shared by both clients."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime  # noqa: TC003 - users resolve the annotations of these dataclasses
from typing import TYPE_CHECKING

from drawdown._enums import Scope
from drawdown._requests import _checked, _duration, _int32, _texts, _timestamp
from drawdown._responses import _reader, _time
from drawdown._types import Page
from drawdown.v1 import key_service_pb2, types_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class ApiKeySecret:
    """One secret of a key, without what is secret of it."""

    secret_id: str
    """A secret begins with ``ddk_`` and this."""
    create_time: datetime | None
    expire_time: datetime | None
    """When it ends, after a newer one took its place; None for the newest."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A credential of the tenant."""

    key_id: str
    display_name: str
    scopes: tuple[Scope, ...]
    create_time: datetime | None
    expire_time: datetime | None
    revoke_time: datetime | None
    secrets: tuple[ApiKeySecret, ...]
    """Those that count, oldest first; more than one while the key is rotated."""


@dataclass(frozen=True, slots=True)
class ApiKeyResult:
    """The answer of ``create_api_key`` and ``rotate_api_key``."""

    key: ApiKey
    secret: str = field(repr=False)
    """What calls bring, ``Client(api_key=...)``. It is told this once; empty for a repeat."""
    replayed: bool
    """Whether an earlier call had done it."""


@dataclass(frozen=True, slots=True)
class WalletToken:
    """The answer of ``create_wallet_token``."""

    token: str = field(repr=False)
    """What calls bring, as an API key."""
    expire_time: datetime | None


@_checked
def create_api_key(
    *, key_id: str, scopes: Iterable[Scope], display_name: str, expire_time: datetime | None
) -> key_service_pb2.CreateApiKeyRequest:
    return key_service_pb2.CreateApiKeyRequest(
        key_id=key_id,
        display_name=display_name,
        scopes=[f"SCOPE_{Scope(scope)}" for scope in _texts(scopes, "scopes")],
        expire_time=_timestamp(expire_time, "expire_time"),
    )


@_checked
def list_api_keys(*, page_size: int, page_token: str) -> key_service_pb2.ListApiKeysRequest:
    return key_service_pb2.ListApiKeysRequest(page_size=_int32(page_size, "page_size"), page_token=page_token)


@_checked
def rotate_api_key(*, key_id: str, rotation_id: str, overlap_s: float | None) -> key_service_pb2.RotateApiKeyRequest:
    return key_service_pb2.RotateApiKeyRequest(key_id=key_id, rotation_id=rotation_id, overlap=_duration(overlap_s))


@_checked
def revoke_api_key(*, key_id: str) -> key_service_pb2.RevokeApiKeyRequest:
    return key_service_pb2.RevokeApiKeyRequest(key_id=key_id)


@_checked
def create_wallet_token(*, wallet_id: str, ttl_s: float | None) -> key_service_pb2.CreateWalletTokenRequest:
    return key_service_pb2.CreateWalletTokenRequest(wallet_id=wallet_id, ttl=_duration(ttl_s))


def read_key_result(
    response: key_service_pb2.CreateApiKeyResponse | key_service_pb2.RotateApiKeyResponse,
) -> ApiKeyResult:
    return ApiKeyResult(_key(response.key), response.secret, response.replayed)


def read_keys(response: key_service_pb2.ListApiKeysResponse) -> Page[ApiKey]:
    return Page(tuple(map(_key, response.keys)), response.next_page_token)


def read_key(response: key_service_pb2.RevokeApiKeyResponse) -> ApiKey:
    return _key(response.key)


def read_wallet_token(response: key_service_pb2.CreateWalletTokenResponse) -> WalletToken:
    return WalletToken(response.token, _time(response.expire_time))


_scope = _reader(Scope, types_pb2.Scope.DESCRIPTOR, "SCOPE_")


def _key(message: types_pb2.ApiKey) -> ApiKey:
    return ApiKey(
        key_id=message.key_id,
        display_name=message.display_name,
        scopes=tuple(map(_scope, message.scopes)),
        create_time=_time(message.create_time),
        expire_time=_time(message.expire_time),
        revoke_time=_time(message.revoke_time),
        secrets=tuple(
            ApiKeySecret(secret.secret_id, _time(secret.create_time), _time(secret.expire_time))
            for secret in message.secrets
        ),
    )
