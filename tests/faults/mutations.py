"""One call of every RPC that changes something, and what a wallet looks like to everybody who may ask.

``story`` is what makes "one effect" a comparison: a wallet whose calls were lost, doubled or torn must have the same
story as its twin, whose calls went well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from drawdown.v1 import (
    asset_service_pb2,
    audit_service_pb2,
    authorization_service_pb2,
    balance_service_pb2,
    cap_service_pb2,
    grant_service_pb2,
    key_service_pb2,
    ledger_service_pb2,
    types_pb2,
    wallet_service_pb2,
)
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import cap_service_pb2 as cap_pb
from drawdown.v1 import grant_service_pb2 as grant_pb
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from integration.server import amounts, authorize_request, commit_request, grant_request, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

    from integration.server import Rpc

SERVICE_FILES: Final = (
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
LATER: Final = re.compile(r"Time$|^remainingUnits$")
IN_2100: Final = Timestamp(seconds=4_102_444_800)
FUNDS: Final = 100
"""USD of every wallet before its mutation."""


@dataclass(frozen=True)
class Mutation:
    """A call that changes something, and what must have happened before it."""

    request: Callable[[str], Message]
    before: Callable[[str], list[Message]] = lambda _: []
    verb: bytes = b"apply_"
    """The script that does it."""


def cap(wallet_id: str) -> dict[str, Any]:
    return {"wallet_id": wallet_id, "subject": "key:1", "asset": "USD", "window": types_pb2.CAP_WINDOW_LIFETIME}


def progress(wallet_id: str) -> pb.CommitRequest:
    return pb.CommitRequest(wallet_id=wallet_id, hold_id="h", amounts=amounts(USD=4), final=False)


MUTATIONS: Final[dict[str, Mutation]] = {
    "Authorize": Mutation(lambda w: authorize_request(w, "h", USD=10), verb=b"authorize_"),
    "Commit": Mutation(
        lambda w: commit_request(w, "h", USD=7), lambda w: [authorize_request(w, "h", USD=10)], b"commit_"
    ),
    "Commit.progress": Mutation(progress, lambda w: [authorize_request(w, "h", USD=10)], b"commit_"),
    "Release": Mutation(
        lambda w: pb.ReleaseRequest(wallet_id=w, hold_id="h"),
        lambda w: [authorize_request(w, "h", USD=10)],
        b"release_",
    ),
    "Release.unknown": Mutation(lambda w: pb.ReleaseRequest(wallet_id=w, hold_id="never-was"), verb=b"release_"),
    "ForceRelease": Mutation(
        lambda w: pb.ForceReleaseRequest(wallet_id=w, hold_id="h", reason="stuck"),
        lambda w: [authorize_request(w, "h", USD=10)],
        b"release_",
    ),
    "Extend": Mutation(
        lambda w: pb.ExtendRequest(wallet_id=w, hold_id="h", amounts=amounts(USD=15)),
        lambda w: [authorize_request(w, "h", USD=10)],
        b"extend_",
    ),
    "Charge": Mutation(
        lambda w: pb.ChargeRequest(wallet_id=w, charge_id="c", amounts=amounts(USD=10)), verb=b"charge_"
    ),
    "Refund": Mutation(
        lambda w: pb.RefundRequest(wallet_id=w, hold_id="c", refund_id="r", amounts=amounts(USD=3)),
        lambda w: [pb.ChargeRequest(wallet_id=w, charge_id="c", amounts=amounts(USD=10))],
        b"refund_",
    ),
    "CreateGrant": Mutation(lambda w: grant_request(w, "more", "USD", 5)),
    "VoidGrant": Mutation(
        lambda w: grant_pb.VoidGrantRequest(wallet_id=w, grant_id="more", reason="mistake"),
        lambda w: [grant_request(w, "more", "USD", 5)],
    ),
    "SetGrantExpiry": Mutation(
        lambda w: grant_pb.SetGrantExpiryRequest(wallet_id=w, grant_id="more", expire_time=IN_2100, reason="longer"),
        lambda w: [grant_request(w, "more", "USD", 5)],
    ),
    "CreateWallet": Mutation(lambda w: wallet_pb.CreateWalletRequest(wallet_id=w), verb=b""),
    "FreezeWallet": Mutation(lambda w: wallet_pb.FreezeWalletRequest(wallet_id=w, reason="dispute")),
    "UnfreezeWallet": Mutation(
        lambda w: wallet_pb.UnfreezeWalletRequest(wallet_id=w, reason="over"),
        lambda w: [wallet_pb.FreezeWalletRequest(wallet_id=w, reason="dispute")],
    ),
    "CloseWallet": Mutation(lambda w: wallet_pb.CloseWalletRequest(wallet_id=w, force=True, reason="gone")),
    "SetOverdraftLimit": Mutation(
        lambda w: wallet_pb.SetOverdraftLimitRequest(wallet_id=w, asset="USD", limit_units=50, reason="trusted")
    ),
    "SetCap": Mutation(lambda w: cap_pb.SetCapRequest(**cap(w), limit_units=9, mode=types_pb2.CAP_MODE_ENFORCE)),
    "RemoveCap": Mutation(
        lambda w: cap_pb.RemoveCapRequest(**cap(w)),
        lambda w: [cap_pb.SetCapRequest(**cap(w), limit_units=9, mode=types_pb2.CAP_MODE_ENFORCE)],
    ),
}
WITHOUT_A_WALLET: Final = {"CreateAsset", "CreateApiKey", "RotateApiKey", "RevokeApiKey"}
"""Mutations of the tenant as a whole; ``test_duplicates`` and ``test_rpc_keys`` have tests of their own for them."""
STORES_NOTHING: Final = {"CreateWalletToken"}
"""Neither reads by its name nor changes anything."""


CARRIERS: Final = {"Batch", "Session"}
"""RPCs that carry calls of the others: what these do, they do."""


def batch(wallet_id: str) -> pb.BatchRequest:
    """One of each call that a batch may carry."""
    carried = pb.Operation.DESCRIPTOR.fields_by_name
    return pb.BatchRequest(
        operations=[pb.Operation(**{name: MUTATIONS[name.capitalize()].request(wallet_id)}) for name in carried]
    )


def methods() -> dict[str, MethodDescriptor]:
    """Every RPC of the API by name."""
    return {
        method.name: method
        for file in SERVICE_FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


async def prepared(rpc: Rpc, mutation: Mutation) -> str:
    """A funded wallet for which everything before the mutation has happened."""
    wallet = await rpc.wallet(USD=FUNDS)
    for request in mutation.before(wallet):
        await rpc.call(request)
    return wallet


async def story(rpc: Rpc, wallet_id: str) -> dict[str, Any]:
    """All that the API tells of a wallet, but its own name and the times. Conserved wallets only: the ledger is read.

    A wallet that has no hold ``h`` tells why.
    """
    asked: dict[str, Message] = {
        "wallet": wallet_pb.GetWalletRequest(wallet_id=wallet_id),
        "balance": balance_service_pb2.GetBalanceRequest(wallet_id=wallet_id, include_grants=True),
        "grants": grant_pb.ListGrantsRequest(wallet_id=wallet_id),
        "holds": pb.ListHoldsRequest(wallet_id=wallet_id),
        "caps": cap_pb.ListCapsRequest(wallet_id=wallet_id, subjects=["key:1"]),
        "entries": ledger_service_pb2.ListEntriesRequest(wallet_id=wallet_id),
        "h": pb.GetHoldRequest(wallet_id=wallet_id, hold_id="h"),
        "c": pb.GetHoldRequest(wallet_id=wallet_id, hold_id="c"),
    }
    return {name: await told(rpc, request, wallet_id) for name, request in asked.items()}


async def patiently(rpc: Rpc, request: Message) -> Any:  # noqa: ANN401 - any response
    """The answer of a server that may be without its store for a moment."""

    async def answered() -> Any:  # noqa: ANN401 - any response
        try:
            return [await rpc.call(request)]
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE, error
            return []

    return (await until(answered))[0]


async def told(rpc: Rpc, request: Message, wallet_id: str) -> Any:  # noqa: ANN401 - JSON
    """The answer to a request, or the error, as ``anonymous`` has it."""
    try:
        return anonymous(await rpc.call(request), wallet_id)
    except grpc.aio.AioRpcError as error:
        return anonymous(f"{error.code()}: {error.details()}", wallet_id)


def anonymous(reply: Message | str, wallet_id: str) -> Any:  # noqa: ANN401 - JSON
    """A reply as JSON without the wallet's name, and without what depends on when it was asked for.

    That is every time, and a grant's remaining units, which are those that the ledger has recorded by then.
    """
    return _without(reply if isinstance(reply, str) else MessageToDict(reply), wallet_id)


def _without(value: Any, wallet_id: str) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return {key: _without(each, wallet_id) for key, each in value.items() if not LATER.search(key)}
    if isinstance(value, list):
        return [_without(each, wallet_id) for each in value]
    return value.replace(wallet_id, "<wallet>") if isinstance(value, str) else value
