"""Calls of the data plane as values, for ``batch``: the parameters are those of the client's methods.

::

    authorization, commit = await client.batch(
        operations=[
            drawdown.Authorize(wallet_id="demo", hold_id="req_2", amounts={"USD": 500}),
            drawdown.Commit(wallet_id="acme", hold_id="req_1", amounts={"USD": 200}),
        ]
    )

Requests and results go the same way as those of the calls; ``_rpcs.py`` has both.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping  # noqa: TC003 - users resolve the annotations of these dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from drawdown import _requests, _responses
from drawdown._enums import ExpiryAction, OveragePolicy
from drawdown._exceptions import DrawdownError, InternalError
from drawdown._status import from_status
from drawdown._types import (
    Amounts,
    Authorization,
    ChargeResult,
    CommitResult,
    Extension,
    RefundResult,
    ReleaseResult,
)
from drawdown.v1 import authorization_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence


def _new_id() -> str:
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorize:
    """As ``client.authorize(...)``; its result is an ``Authorization``."""

    wallet_id: str
    amounts: Amounts
    hold_id: str = field(default_factory=_new_id)
    """A random one unless it is given; the same object sent again is the same hold."""
    ttl_s: float | None = None
    subjects: Iterable[str] = ()
    alternatives: Iterable[Amounts] = ()
    overage_policy: OveragePolicy = OveragePolicy.UNSPECIFIED
    expiry_action: ExpiryAction = ExpiryAction.UNSPECIFIED
    labels: Mapping[str, str] | None = None

    def _message(self) -> pb.Operation:
        request = _requests.authorize(
            wallet_id=self.wallet_id,
            hold_id=self.hold_id,
            amounts=self.amounts,
            ttl_s=self.ttl_s,
            subjects=self.subjects,
            alternatives=self.alternatives,
            overage_policy=self.overage_policy,
            expiry_action=self.expiry_action,
            labels=self.labels,
        )
        return pb.Operation(authorize=request)

    def _read(self, result: pb.OperationResult) -> Authorization:
        return _responses.authorize(result.authorize, self.hold_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """As ``client.commit(...)``; its result is a ``CommitResult``."""

    wallet_id: str
    hold_id: str
    amounts: Amounts
    final: bool = True
    hold_token: bytes = b""
    wait_for_ledger_s: float | None = None

    def _message(self) -> pb.Operation:
        request = _requests.commit(
            wallet_id=self.wallet_id,
            hold_id=self.hold_id,
            amounts=self.amounts,
            final=self.final,
            hold_token=self.hold_token,
            wait_for_ledger_s=self.wait_for_ledger_s,
        )
        return pb.Operation(commit=request)

    def _read(self, result: pb.OperationResult) -> CommitResult:
        return _responses.commit(result.commit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """As ``client.release(...)``; its result is a ``ReleaseResult``."""

    wallet_id: str
    hold_id: str
    reason: str = ""

    def _message(self) -> pb.Operation:
        request = _requests.release(wallet_id=self.wallet_id, hold_id=self.hold_id, reason=self.reason)
        return pb.Operation(release=request)

    def _read(self, result: pb.OperationResult) -> ReleaseResult:
        return _responses.release(result.release)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extend:
    """As ``client.extend(...)``; its result is an ``Extension``."""

    wallet_id: str
    hold_id: str
    ttl_s: float | None = None
    amounts: Amounts = ()

    def _message(self) -> pb.Operation:
        request = _requests.extend(
            wallet_id=self.wallet_id, hold_id=self.hold_id, ttl_s=self.ttl_s, amounts=self.amounts
        )
        return pb.Operation(extend=request)

    def _read(self, result: pb.OperationResult) -> Extension:
        return _responses.extend(result.extend)


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """As ``client.charge(...)``; its result is a ``ChargeResult``."""

    wallet_id: str
    amounts: Amounts
    charge_id: str = field(default_factory=_new_id)
    """A random one unless it is given; the same object sent again is the same charge."""
    subjects: Iterable[str] = ()
    overage_policy: OveragePolicy = OveragePolicy.UNSPECIFIED
    labels: Mapping[str, str] | None = None
    wait_for_ledger_s: float | None = None

    def _message(self) -> pb.Operation:
        request = _requests.charge(
            wallet_id=self.wallet_id,
            charge_id=self.charge_id,
            amounts=self.amounts,
            subjects=self.subjects,
            overage_policy=self.overage_policy,
            labels=self.labels,
            wait_for_ledger_s=self.wait_for_ledger_s,
        )
        return pb.Operation(charge=request)

    def _read(self, result: pb.OperationResult) -> ChargeResult:
        return _responses.charge(result.charge, self.charge_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """As ``client.refund(...)``; its result is a ``RefundResult``."""

    wallet_id: str
    hold_id: str
    refund_id: str
    amounts: Amounts
    wait_for_ledger_s: float | None = None

    def _message(self) -> pb.Operation:
        request = _requests.refund(
            wallet_id=self.wallet_id,
            hold_id=self.hold_id,
            refund_id=self.refund_id,
            amounts=self.amounts,
            wait_for_ledger_s=self.wait_for_ledger_s,
        )
        return pb.Operation(refund=request)

    def _read(self, result: pb.OperationResult) -> RefundResult:
        return _responses.refund(result.refund)


Operation: TypeAlias = Authorize | Commit | Release | Extend | Charge | Refund
"""One call of a batch."""

OperationResult: TypeAlias = Authorization | CommitResult | ReleaseResult | Extension | ChargeResult | RefundResult
"""What one call of a batch is answered."""

OPERATIONS_MAX: Final = 256
"""In one batch; the server takes no more."""


def request_of(operations: Sequence[Operation]) -> pb.BatchRequest:
    """The message of a batch.

    Raises:
        InvalidRequestError: A value cannot be written into the message.
    """
    return pb.BatchRequest(operations=[operation._message() for operation in operations])  # noqa: SLF001 - ours


def wait_s(operations: Sequence[Operation]) -> float:
    """For how long the server may wait for the ledger."""
    waits = (getattr(operation, "wait_for_ledger_s", None) for operation in operations)
    return max((wait for wait in waits if wait is not None), default=0.0)


def results_of(operations: Sequence[Operation], data: bytes) -> list[OperationResult | DrawdownError]:
    """The results in the order of the operations; of one that failed, its exception.

    Raises:
        InternalError: This is not the answer of these operations.
    """
    try:
        response = pb.BatchResponse.FromString(data)
    except DecodeError as error:
        raise _unreadable() from error
    if len(response.results) != len(operations):
        raise _unreadable()
    return [_result_of(operation, result) for operation, result in zip(operations, response.results, strict=True)]


def _result_of(operation: Operation, result: pb.OperationResult) -> OperationResult | DrawdownError:
    kind = result.WhichOneof("result")
    if kind == "error":
        return from_status(status_pb2.Status.FromString(result.error.SerializeToString()))
    if kind != type(operation).__name__.lower():
        return _unreadable()
    return operation._read(result)  # noqa: SLF001 - ours


def _unreadable() -> InternalError:
    return InternalError("the answer of a batch cannot be read", code=grpc.StatusCode.INTERNAL)
