"""How a failure is told: a gRPC status with ``google.rpc`` details, and when to try again."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from drawdown_server.errors import CODES, DrawdownError, ErrorReason, InvalidRequestError, TryLaterError, Violation

if TYPE_CHECKING:
    from google.protobuf.message import Message

ERROR_DOMAIN: Final = "drawdown.dev"
RETRY_DELAY_MS: Final = 50
"""When to try again after UNAVAILABLE: longer than a reconnect takes."""
BACKLOG_RETRY_DELAY_MS: Final = 1_000
"""When to try again after LEDGER_BACKLOG: the flusher records some ten thousand events in that time, so that Postgres
has made room if it is back, and if it is not, waiting gateways add little to what Valkey has to do."""
PUSHBACK: Final = "grpc-retry-pushback-ms"
"""Trailer of gRPC's retry design (gRFC A6)."""
VIOLATION_BYTES_MAX: Final = 3 * 1024
"""Of fields and rules in one status. gRPC's limit for all metadata is 8 KiB, and it sends these bytes as base64."""
_RETRYABLE: Final = grpc.StatusCode.UNAVAILABLE


def status_of(error: DrawdownError) -> status_pb2.Status:
    """The status of an error: ErrorInfo always, BadRequest and RetryInfo where they belong."""
    code = CODES[error.reason]
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata=error.metadata)
    ]
    if isinstance(error, InvalidRequestError):
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=violation.field, description=violation.rule)
                    for violation in _that_fit(error.violations)
                ]
            )
        )
    if (retry_ms := _retry_ms(error)) is not None:
        delay = Duration()
        delay.FromMilliseconds(retry_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code_pb2.Code.Value(code.name), message=error.message)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _retry_ms(error: DrawdownError) -> int | None:
    """After which time the call may be sent again; None = that would be of no use."""
    if isinstance(error, TryLaterError):
        return error.retry_ms
    if CODES[error.reason] is not _RETRYABLE:
        return None
    return BACKLOG_RETRY_DELAY_MS if error.reason is ErrorReason.LEDGER_BACKLOG else RETRY_DELAY_MS


def _pushback(error: DrawdownError) -> tuple[tuple[str, str], ...]:
    """What makes gRPC's own retries wait for longer than they would by themselves.

    Not for the short delay: their own waits begin there, grow, and differ from client to client. So these differ too.
    """
    retry_ms = _retry_ms(error)
    if retry_ms is None or retry_ms <= RETRY_DELAY_MS or CODES[error.reason] is not _RETRYABLE:
        return ()
    return ((PUSHBACK, str(round(retry_ms * random.uniform(1, 1.5)))),)  # noqa: S311  # no secret


class Ending(grpc.Status):
    """The end of a call that failed: its status, and what gRPC's retries should know."""

    def __init__(self, error: DrawdownError) -> None:
        status = rpc_status.to_status(status_of(error))
        self.code = status.code
        self.details = status.details
        self.trailing_metadata = (*status.trailing_metadata, *_pushback(error))


def _that_fit(violations: list[Violation]) -> list[Violation]:
    """The first violations, as many as fit into a status: gRPC refuses metadata that is larger than it likes."""
    fitting, room = [], VIOLATION_BYTES_MAX
    for violation in violations:
        room -= len(violation.field.encode()) + len(violation.rule.encode())
        if room < 0:
            break
        fitting.append(violation)
    return fitting
