"""KeyService: the tenant's credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drawdown.v1 import key_service_pb2 as pb
from drawdown.v1 import key_service_pb2_grpc as pb_grpc
from drawdown.v1 import types_pb2
from drawdown_server.identity.caller import current_caller
from drawdown_server.identity.scopes import Scope
from drawdown_server.identity.wallet_tokens import TTL_DEFAULT_MS
from drawdown_server.rpc import convert
from drawdown_server.rpc.paging import decode_token, encode_token
from drawdown_server.rpc.validation import Checks

if TYPE_CHECKING:
    import grpc

    from drawdown_server.ledger.api_keys import ApiKeyRow
    from drawdown_server.wallets.keys import KeyAdmin

OVERLAP_DEFAULT_MS: Final = 86_400_000
"""1 day: whoever forgets to say so cuts off nothing that is deployed once a day."""
OVERLAP_MAX_MS: Final = 30 * 86_400_000
"""30 days: an old secret that counts for longer was not replaced."""
_SCOPES: Final = {scope: f"SCOPE_{scope.name}" for scope in Scope}
_SCOPES_BY_NUMBER: Final = {types_pb2.Scope.Value(name): scope for scope, name in _SCOPES.items()}


def key_proto(row: ApiKeyRow) -> types_pb2.ApiKey:
    """An ApiKey."""
    return types_pb2.ApiKey(
        key_id=row.key_id,
        display_name=row.display_name,
        scopes=[_SCOPES[scope] for scope in Scope if scope in row.scopes],
        create_time=convert.timestamp(row.create_ms),
        expire_time=convert.timestamp(row.expire_ms),
        revoke_time=convert.timestamp(row.revoke_ms),
        secrets=[
            types_pb2.ApiKeySecret(
                secret_id=secret.secret_id,
                create_time=convert.timestamp(secret.create_ms),
                expire_time=convert.timestamp(secret.expire_ms),
            )
            for secret in row.secrets
        ],
    )


class KeyService(pb_grpc.KeyServiceServicer):
    """Create, list, rotate, revoke; wallet tokens."""

    def __init__(self, admin: KeyAdmin) -> None:
        self._admin = admin

    async def CreateApiKey(  # noqa: N802  # gRPC's name
        self,
        request: pb.CreateApiKeyRequest,
        context: grpc.aio.ServicerContext[pb.CreateApiKeyRequest, pb.CreateApiKeyResponse],
    ) -> pb.CreateApiKeyResponse:
        """Create a key."""
        checks = Checks()
        checks.id("key_id", request.key_id)
        checks.text("display_name", request.display_name)
        if not request.scopes:
            checks.fail("scopes", "must have at least one entry")
        for i, scope in enumerate(request.scopes):
            checks.enum(f"scopes[{i}]", scope, types_pb2.Scope.values(), required=True)
        if len(set(request.scopes)) < len(request.scopes):
            checks.fail("scopes", "must have each scope once")
        expire_ms = checks.time("expire_time", request.expire_time) if request.HasField("expire_time") else 0
        checks.finish()
        row, secret = await self._admin.create_key(
            current_caller(),
            key_id=request.key_id,
            display_name=request.display_name,
            scopes=frozenset(_SCOPES_BY_NUMBER[scope] for scope in request.scopes),
            expire_ms=expire_ms,
        )
        return pb.CreateApiKeyResponse(key=key_proto(row), secret=secret, replayed=not secret)

    async def ListApiKeys(  # noqa: N802
        self,
        request: pb.ListApiKeysRequest,
        context: grpc.aio.ServicerContext[pb.ListApiKeysRequest, pb.ListApiKeysResponse],
    ) -> pb.ListApiKeysResponse:
        """List keys by id."""
        checks = Checks()
        limit = checks.page_size("page_size", request.page_size)
        checks.finish()
        filters = ("keys",)
        (after,) = decode_token(request.page_token, filters, tuple[str], ("",))
        rows = await self._admin.list_keys(current_caller(), after, limit)
        return pb.ListApiKeysResponse(
            keys=[key_proto(row) for row in rows],
            next_page_token=encode_token(filters, (rows[-1].key_id,)) if len(rows) == limit else "",
        )

    async def RotateApiKey(  # noqa: N802
        self,
        request: pb.RotateApiKeyRequest,
        context: grpc.aio.ServicerContext[pb.RotateApiKeyRequest, pb.RotateApiKeyResponse],
    ) -> pb.RotateApiKeyResponse:
        """Give a key another secret."""
        checks = Checks()
        checks.id("key_id", request.key_id)
        checks.id("rotation_id", request.rotation_id)
        overlap_ms = OVERLAP_DEFAULT_MS
        if request.HasField("overlap"):
            overlap_ms = request.overlap.seconds * 1000 + request.overlap.nanos // 1_000_000
            if not 0 <= overlap_ms <= OVERLAP_MAX_MS:
                checks.fail("overlap", "must be 0 s .. 30 days")
        checks.finish()
        row, secret = await self._admin.rotate_key(
            current_caller(), key_id=request.key_id, rotation_id=request.rotation_id, overlap_ms=overlap_ms
        )
        return pb.RotateApiKeyResponse(key=key_proto(row), secret=secret, replayed=not secret)

    async def RevokeApiKey(  # noqa: N802
        self,
        request: pb.RevokeApiKeyRequest,
        context: grpc.aio.ServicerContext[pb.RevokeApiKeyRequest, pb.RevokeApiKeyResponse],
    ) -> pb.RevokeApiKeyResponse:
        """End a key."""
        checks = Checks()
        checks.id("key_id", request.key_id)
        checks.finish()
        return pb.RevokeApiKeyResponse(key=key_proto(await self._admin.revoke_key(current_caller(), request.key_id)))

    async def CreateWalletToken(  # noqa: N802
        self,
        request: pb.CreateWalletTokenRequest,
        context: grpc.aio.ServicerContext[pb.CreateWalletTokenRequest, pb.CreateWalletTokenResponse],
    ) -> pb.CreateWalletTokenResponse:
        """Make a token for one wallet's balance."""
        checks = Checks()
        checks.id("wallet_id", request.wallet_id)
        # A token cannot be revoked, so it must end by itself, as a hold must: the same limits, 1 s .. 24 h.
        ttl_ms = checks.ttl("ttl", request.ttl) if request.HasField("ttl") else TTL_DEFAULT_MS
        checks.finish()
        token, expire_ms = await self._admin.create_wallet_token(
            current_caller(), wallet_id=request.wallet_id, ttl_ms=ttl_ms
        )
        return pb.CreateWalletTokenResponse(token=token, expire_time=convert.timestamp(expire_ms))
