"""Every RPC of the API: its path, and how its answer is read. One table for both clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from drawdown import _audit, _keys, _responses
from drawdown._exceptions import InternalError
from drawdown.v1 import (
    asset_service_pb2,
    audit_service_pb2,
    authorization_service_pb2,
    balance_service_pb2,
    cap_service_pb2,
    grant_service_pb2,
    key_service_pb2,
    ledger_service_pb2,
    wallet_service_pb2,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from drawdown._audit import AuditRecord
    from drawdown._keys import ApiKey, ApiKeyResult, WalletToken
    from drawdown._types import (
        Asset,
        Balance,
        Cap,
        CommitResult,
        Entry,
        Extension,
        Grant,
        GrantResult,
        GrantUpdate,
        Hold,
        Page,
        RefundResult,
        ReleaseResult,
        Wallet,
        WalletBalance,
        WalletCaps,
    )

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Rpc(Generic[Request, Result]):
    """One method of a service. Requests and answers cross the channel as bytes, so that both ends are typed here."""

    path: str
    request_type: type[Request]
    read: Callable[[bytes], Result]
    operation: Operation[Request, Result] | None = None
    """As what it can go over a Session."""


@dataclass(frozen=True, slots=True)
class Operation(Generic[Request, Result]):
    """A call as one of those that a Session carries."""

    write: Callable[[Request], authorization_service_pb2.Operation]
    read: Callable[[authorization_service_pb2.OperationResult], Result]


def _rpc(
    path: str,
    request_type: type[Request],
    response_type: type[Response],
    parse: Callable[[Response], Result],
    *,
    operation: str = "",
) -> Rpc[Request, Result]:
    def read(data: bytes) -> Result:
        try:
            return parse(response_type.FromString(data))
        except DecodeError as error:  # something that is no Drawdown answered
            message = f"the answer of {path} cannot be read"
            raise InternalError(message, code=grpc.StatusCode.INTERNAL) from error

    def write(request: Request) -> authorization_service_pb2.Operation:
        return authorization_service_pb2.Operation(**{operation: request})  # type: ignore[arg-type]  # of its field

    def read_result(result: authorization_service_pb2.OperationResult) -> Result:
        if result.WhichOneof("result") != operation:
            message = f"the answer of {path} cannot be read"
            raise InternalError(message, code=grpc.StatusCode.INTERNAL)
        return parse(getattr(result, operation))

    carried = Operation(write, read_result) if operation else None
    return Rpc(f"/drawdown.v1.{path}", request_type, read, carried)


def _same(response: Response) -> Response:
    return response


CREATE_ASSET: Final[Rpc[asset_service_pb2.CreateAssetRequest, Asset]] = _rpc(
    "AssetService/CreateAsset",
    asset_service_pb2.CreateAssetRequest,
    asset_service_pb2.CreateAssetResponse,
    _responses.create_asset,
)
GET_ASSET: Final[Rpc[asset_service_pb2.GetAssetRequest, Asset]] = _rpc(
    "AssetService/GetAsset",
    asset_service_pb2.GetAssetRequest,
    asset_service_pb2.GetAssetResponse,
    _responses.get_asset,
)
LIST_ASSETS: Final[Rpc[asset_service_pb2.ListAssetsRequest, Page[Asset]]] = _rpc(
    "AssetService/ListAssets",
    asset_service_pb2.ListAssetsRequest,
    asset_service_pb2.ListAssetsResponse,
    _responses.list_assets,
)
CREATE_WALLET: Final[Rpc[wallet_service_pb2.CreateWalletRequest, Wallet]] = _rpc(
    "WalletService/CreateWallet",
    wallet_service_pb2.CreateWalletRequest,
    wallet_service_pb2.CreateWalletResponse,
    _responses.wallet,
)
GET_WALLET: Final[Rpc[wallet_service_pb2.GetWalletRequest, Wallet]] = _rpc(
    "WalletService/GetWallet",
    wallet_service_pb2.GetWalletRequest,
    wallet_service_pb2.GetWalletResponse,
    _responses.wallet,
)
LIST_WALLETS: Final[Rpc[wallet_service_pb2.ListWalletsRequest, Page[Wallet]]] = _rpc(
    "WalletService/ListWallets",
    wallet_service_pb2.ListWalletsRequest,
    wallet_service_pb2.ListWalletsResponse,
    _responses.list_wallets,
)
FREEZE_WALLET: Final[Rpc[wallet_service_pb2.FreezeWalletRequest, Wallet]] = _rpc(
    "WalletService/FreezeWallet",
    wallet_service_pb2.FreezeWalletRequest,
    wallet_service_pb2.FreezeWalletResponse,
    _responses.wallet,
)
UNFREEZE_WALLET: Final[Rpc[wallet_service_pb2.UnfreezeWalletRequest, Wallet]] = _rpc(
    "WalletService/UnfreezeWallet",
    wallet_service_pb2.UnfreezeWalletRequest,
    wallet_service_pb2.UnfreezeWalletResponse,
    _responses.wallet,
)
CLOSE_WALLET: Final[Rpc[wallet_service_pb2.CloseWalletRequest, Wallet]] = _rpc(
    "WalletService/CloseWallet",
    wallet_service_pb2.CloseWalletRequest,
    wallet_service_pb2.CloseWalletResponse,
    _responses.wallet,
)
SET_OVERDRAFT_LIMIT: Final[Rpc[wallet_service_pb2.SetOverdraftLimitRequest, Balance]] = _rpc(
    "WalletService/SetOverdraftLimit",
    wallet_service_pb2.SetOverdraftLimitRequest,
    wallet_service_pb2.SetOverdraftLimitResponse,
    _responses.set_overdraft_limit,
)
CREATE_GRANT: Final[Rpc[grant_service_pb2.CreateGrantRequest, GrantResult]] = _rpc(
    "GrantService/CreateGrant",
    grant_service_pb2.CreateGrantRequest,
    grant_service_pb2.CreateGrantResponse,
    _responses.create_grant,
)
GET_GRANT: Final[Rpc[grant_service_pb2.GetGrantRequest, Grant]] = _rpc(
    "GrantService/GetGrant",
    grant_service_pb2.GetGrantRequest,
    grant_service_pb2.GetGrantResponse,
    _responses.get_grant,
)
LIST_GRANTS: Final[Rpc[grant_service_pb2.ListGrantsRequest, Page[Grant]]] = _rpc(
    "GrantService/ListGrants",
    grant_service_pb2.ListGrantsRequest,
    grant_service_pb2.ListGrantsResponse,
    _responses.list_grants,
)
VOID_GRANT: Final[Rpc[grant_service_pb2.VoidGrantRequest, GrantUpdate]] = _rpc(
    "GrantService/VoidGrant",
    grant_service_pb2.VoidGrantRequest,
    grant_service_pb2.VoidGrantResponse,
    _responses.grant_update,
)
SET_GRANT_EXPIRY: Final[Rpc[grant_service_pb2.SetGrantExpiryRequest, GrantUpdate]] = _rpc(
    "GrantService/SetGrantExpiry",
    grant_service_pb2.SetGrantExpiryRequest,
    grant_service_pb2.SetGrantExpiryResponse,
    _responses.grant_update,
)
SET_CAP: Final[Rpc[cap_service_pb2.SetCapRequest, Cap]] = _rpc(
    "CapService/SetCap",
    cap_service_pb2.SetCapRequest,
    cap_service_pb2.SetCapResponse,
    _responses.set_cap,
)
REMOVE_CAP: Final[Rpc[cap_service_pb2.RemoveCapRequest, None]] = _rpc(
    "CapService/RemoveCap",
    cap_service_pb2.RemoveCapRequest,
    cap_service_pb2.RemoveCapResponse,
    _responses.remove_cap,
)
LIST_CAPS: Final[Rpc[cap_service_pb2.ListCapsRequest, WalletCaps]] = _rpc(
    "CapService/ListCaps",
    cap_service_pb2.ListCapsRequest,
    cap_service_pb2.ListCapsResponse,
    _responses.list_caps,
)
GET_BALANCE: Final[Rpc[balance_service_pb2.GetBalanceRequest, WalletBalance]] = _rpc(
    "BalanceService/GetBalance",
    balance_service_pb2.GetBalanceRequest,
    balance_service_pb2.GetBalanceResponse,
    _responses.get_balance,
)
AUTHORIZE: Final[Rpc[authorization_service_pb2.AuthorizeRequest, authorization_service_pb2.AuthorizeResponse]] = _rpc(
    "AuthorizationService/Authorize",
    authorization_service_pb2.AuthorizeRequest,
    authorization_service_pb2.AuthorizeResponse,
    _same,  # the client reads it together with the hold id of the request
    operation="authorize",
)
EXTEND: Final[Rpc[authorization_service_pb2.ExtendRequest, Extension]] = _rpc(
    "AuthorizationService/Extend",
    authorization_service_pb2.ExtendRequest,
    authorization_service_pb2.ExtendResponse,
    _responses.extend,
    operation="extend",
)
CHARGE: Final[Rpc[authorization_service_pb2.ChargeRequest, authorization_service_pb2.ChargeResponse]] = _rpc(
    "AuthorizationService/Charge",
    authorization_service_pb2.ChargeRequest,
    authorization_service_pb2.ChargeResponse,
    _same,  # the client reads it together with the charge id of the request
    operation="charge",
)
COMMIT: Final[Rpc[authorization_service_pb2.CommitRequest, CommitResult]] = _rpc(
    "AuthorizationService/Commit",
    authorization_service_pb2.CommitRequest,
    authorization_service_pb2.CommitResponse,
    _responses.commit,
    operation="commit",
)
RELEASE: Final[Rpc[authorization_service_pb2.ReleaseRequest, ReleaseResult]] = _rpc(
    "AuthorizationService/Release",
    authorization_service_pb2.ReleaseRequest,
    authorization_service_pb2.ReleaseResponse,
    _responses.release,
    operation="release",
)
REFUND: Final[Rpc[authorization_service_pb2.RefundRequest, RefundResult]] = _rpc(
    "AuthorizationService/Refund",
    authorization_service_pb2.RefundRequest,
    authorization_service_pb2.RefundResponse,
    _responses.refund,
    operation="refund",
)
BATCH: Final[Rpc[authorization_service_pb2.BatchRequest, bytes]] = Rpc(
    "/drawdown.v1.AuthorizationService/Batch",
    authorization_service_pb2.BatchRequest,
    bytes,  # the client reads it together with the operations of the request
)
FORCE_RELEASE: Final[Rpc[authorization_service_pb2.ForceReleaseRequest, ReleaseResult]] = _rpc(
    "AuthorizationService/ForceRelease",
    authorization_service_pb2.ForceReleaseRequest,
    authorization_service_pb2.ForceReleaseResponse,
    _responses.release,
)
GET_HOLD: Final[Rpc[authorization_service_pb2.GetHoldRequest, Hold]] = _rpc(
    "AuthorizationService/GetHold",
    authorization_service_pb2.GetHoldRequest,
    authorization_service_pb2.GetHoldResponse,
    _responses.get_hold,
)
LIST_HOLDS: Final[Rpc[authorization_service_pb2.ListHoldsRequest, Page[Hold]]] = _rpc(
    "AuthorizationService/ListHolds",
    authorization_service_pb2.ListHoldsRequest,
    authorization_service_pb2.ListHoldsResponse,
    _responses.list_holds,
)
LIST_ENTRIES: Final[Rpc[ledger_service_pb2.ListEntriesRequest, Page[Entry]]] = _rpc(
    "LedgerService/ListEntries",
    ledger_service_pb2.ListEntriesRequest,
    ledger_service_pb2.ListEntriesResponse,
    _responses.list_entries,
)
CREATE_API_KEY: Final[Rpc[key_service_pb2.CreateApiKeyRequest, ApiKeyResult]] = _rpc(
    "KeyService/CreateApiKey",
    key_service_pb2.CreateApiKeyRequest,
    key_service_pb2.CreateApiKeyResponse,
    _keys.read_key_result,
)
LIST_API_KEYS: Final[Rpc[key_service_pb2.ListApiKeysRequest, Page[ApiKey]]] = _rpc(
    "KeyService/ListApiKeys",
    key_service_pb2.ListApiKeysRequest,
    key_service_pb2.ListApiKeysResponse,
    _keys.read_keys,
)
ROTATE_API_KEY: Final[Rpc[key_service_pb2.RotateApiKeyRequest, ApiKeyResult]] = _rpc(
    "KeyService/RotateApiKey",
    key_service_pb2.RotateApiKeyRequest,
    key_service_pb2.RotateApiKeyResponse,
    _keys.read_key_result,
)
REVOKE_API_KEY: Final[Rpc[key_service_pb2.RevokeApiKeyRequest, ApiKey]] = _rpc(
    "KeyService/RevokeApiKey",
    key_service_pb2.RevokeApiKeyRequest,
    key_service_pb2.RevokeApiKeyResponse,
    _keys.read_key,
)
CREATE_WALLET_TOKEN: Final[Rpc[key_service_pb2.CreateWalletTokenRequest, WalletToken]] = _rpc(
    "KeyService/CreateWalletToken",
    key_service_pb2.CreateWalletTokenRequest,
    key_service_pb2.CreateWalletTokenResponse,
    _keys.read_wallet_token,
)
LIST_AUDIT_RECORDS: Final[Rpc[audit_service_pb2.ListAuditRecordsRequest, Page[AuditRecord]]] = _rpc(
    "AuditService/ListAuditRecords",
    audit_service_pb2.ListAuditRecordsRequest,
    audit_service_pb2.ListAuditRecordsResponse,
    _audit.audit_records,
)
ALL: Final = tuple(value for value in list(globals().values()) if isinstance(value, Rpc))
"""For opening a channel, and for the test that no method of the API is missing."""
