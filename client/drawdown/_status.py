"""From a gRPC status to an exception of ours: reads the google.rpc.Status."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from drawdown._exceptions import (
    BY_CODE,
    BY_REASON,
    DrawdownError,
    InternalError,
    InvalidRequestError,
    PreconditionError,
    RateLimitedError,
    UnavailableError,
    Violation,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

_DETAILS_KEY: Final = "grpc-status-details-bin"
_REASON_PREFIX: Final = "ERROR_REASON_"


@dataclass(slots=True)
class _Details:
    """What the google.rpc.Status of an error said."""

    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    retry_delay_s: float | None = None


_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


def to_exception(error: grpc.RpcError) -> DrawdownError:
    """The exception that a caller of ours sees for gRPC's."""
    return _exception(error.code(), error.details() or "", _read_details(error))


def from_status(status: status_pb2.Status) -> DrawdownError:
    """The exception for an operation of a batch that failed."""
    details = _Details()
    _read_status(status, details)
    return _exception(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message, details)


def _exception(code: grpc.StatusCode, message: str, details: _Details) -> DrawdownError:
    kind = BY_CODE.get(code, InternalError)
    if kind is PreconditionError:
        kind = BY_REASON.get(details.reason, kind)
    result = kind(message or code.name, code=code, reason=details.reason, metadata=details.metadata)
    if isinstance(result, InvalidRequestError):
        result.violations = tuple(details.violations)
    if isinstance(result, UnavailableError | RateLimitedError):
        result.retry_delay_s = details.retry_delay_s
    return result


def _read_details(error: grpc.RpcError) -> _Details:
    details = _Details()
    # Pairs in both flavours of gRPC; grpc-stubs describes a class that cannot be unpacked.
    for key, value in cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ()):
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                _read_status(status_pb2.Status.FromString(value), details)
            except DecodeError:  # from a proxy, perhaps; the code and the message still stand
                return details
    return details


def _read_status(status: status_pb2.Status, details: _Details) -> None:
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry_info = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(info):
            details.reason = str(info.reason).removeprefix(_REASON_PREFIX)
            details.metadata = dict(info.metadata)
        elif detail.Unpack(bad_request):
            details.violations += [Violation(v.field, v.description) for v in bad_request.field_violations]
        elif detail.Unpack(retry_info):
            delay = retry_info.retry_delay
            details.retry_delay_s = delay.seconds + delay.nanos / 1e9
