"""What can go wrong, and the one table that says how a caller hears of it.

A denied Authorize is not here: "no" is an answer (``holds.model.DenialReason``). Everything below ends a call with
a gRPC status that carries a ``google.rpc.ErrorInfo``; ``CODES`` is the table, and error_reason.proto documents each
reason with an example. Texts of drivers never get into these messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import grpc


class ErrorReason(StrEnum):
    """The reasons of error_reason.proto; a test keeps the two equal."""

    INVALID_FIELD = "ERROR_REASON_INVALID_FIELD"
    NOT_SUPPORTED = "ERROR_REASON_NOT_SUPPORTED"
    ID_REUSED = "ERROR_REASON_ID_REUSED"
    WALLET_NOT_FOUND = "ERROR_REASON_WALLET_NOT_FOUND"
    HOLD_NOT_FOUND = "ERROR_REASON_HOLD_NOT_FOUND"
    ASSET_NOT_FOUND = "ERROR_REASON_ASSET_NOT_FOUND"
    GRANT_NOT_FOUND = "ERROR_REASON_GRANT_NOT_FOUND"
    HOLD_RELEASED = "ERROR_REASON_HOLD_RELEASED"
    HOLD_COMMITTED = "ERROR_REASON_HOLD_COMMITTED"
    EXCEEDS_HOLD = "ERROR_REASON_EXCEEDS_HOLD"
    ASSET_NOT_HELD = "ERROR_REASON_ASSET_NOT_HELD"
    INSUFFICIENT_FUNDS = "ERROR_REASON_INSUFFICIENT_FUNDS"
    WALLET_CLOSED = "ERROR_REASON_WALLET_CLOSED"
    BALANCE_OUT_OF_RANGE = "ERROR_REASON_BALANCE_OUT_OF_RANGE"
    TOO_MANY_GRANTS = "ERROR_REASON_TOO_MANY_GRANTS"
    STORE_UNAVAILABLE = "ERROR_REASON_STORE_UNAVAILABLE"
    LEDGER_BACKLOG = "ERROR_REASON_LEDGER_BACKLOG"
    OVERLOADED = "ERROR_REASON_OVERLOADED"
    RATE_LIMITED = "ERROR_REASON_RATE_LIMITED"
    REQUEST_TOO_LARGE = "ERROR_REASON_REQUEST_TOO_LARGE"
    DEADLINE_EXCEEDED = "ERROR_REASON_DEADLINE_EXCEEDED"
    NOT_IMPLEMENTED = "ERROR_REASON_NOT_IMPLEMENTED"
    TOTAL_BELOW_DEBITED = "ERROR_REASON_TOTAL_BELOW_DEBITED"
    HOLD_EXPIRED = "ERROR_REASON_HOLD_EXPIRED"
    BELOW_HOLD = "ERROR_REASON_BELOW_HOLD"
    EXCEEDS_DEBITED = "ERROR_REASON_EXCEEDS_DEBITED"
    WALLET_NOT_EMPTY = "ERROR_REASON_WALLET_NOT_EMPTY"
    TOO_MANY_CAPS = "ERROR_REASON_TOO_MANY_CAPS"
    DEAD_LETTER = "ERROR_REASON_DEAD_LETTER"
    TOKEN_KEY_UNKNOWN = "ERROR_REASON_TOKEN_KEY_UNKNOWN"  # noqa: S105  # no password
    UNAUTHENTICATED = "ERROR_REASON_UNAUTHENTICATED"
    PERMISSION_DENIED = "ERROR_REASON_PERMISSION_DENIED"
    KEY_NOT_FOUND = "ERROR_REASON_KEY_NOT_FOUND"
    KEY_INACTIVE = "ERROR_REASON_KEY_INACTIVE"
    INTERNAL = "ERROR_REASON_INTERNAL"


CODES: Final[dict[ErrorReason, grpc.StatusCode]] = {
    ErrorReason.INVALID_FIELD: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.NOT_SUPPORTED: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.ID_REUSED: grpc.StatusCode.ALREADY_EXISTS,
    ErrorReason.WALLET_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.HOLD_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.ASSET_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.GRANT_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.HOLD_RELEASED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.HOLD_COMMITTED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.EXCEEDS_HOLD: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.ASSET_NOT_HELD: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.INSUFFICIENT_FUNDS: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.WALLET_CLOSED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.BALANCE_OUT_OF_RANGE: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.TOO_MANY_GRANTS: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.STORE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.LEDGER_BACKLOG: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.OVERLOADED: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.REQUEST_TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorReason.NOT_IMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    ErrorReason.TOTAL_BELOW_DEBITED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.HOLD_EXPIRED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.BELOW_HOLD: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.EXCEEDS_DEBITED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.WALLET_NOT_EMPTY: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.TOO_MANY_CAPS: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.DEAD_LETTER: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.TOKEN_KEY_UNKNOWN: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    ErrorReason.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    ErrorReason.KEY_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.KEY_INACTIVE: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.INTERNAL: grpc.StatusCode.INTERNAL,
}


class DrawdownError(Exception):
    """A call that failed.

    Args:
        reason: Why; decides the status code.
        message: For people: names the thing and the rule. Every variable in it is also in ``metadata``.
        metadata: For programs, all strings.
    """

    def __init__(self, reason: ErrorReason, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = metadata


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that breaks one rule."""

    field: str
    """Path in the request, e.g. ``amounts[0].units``."""
    rule: str
    """The rule it breaks, as a sentence fragment: ``must be at least 1``."""


VIOLATIONS_TOLD_MAX: Final = 5
"""Violations in the message for people; the BadRequest for programs has the rest."""


class InvalidRequestError(DrawdownError):
    """Some fields break rules; all violations at once."""

    def __init__(self, violations: list[Violation]) -> None:
        first = violations[0]
        told = "; ".join(f"{v.field} {v.rule}" for v in violations[:VIOLATIONS_TOLD_MAX])
        more = len(violations) - VIOLATIONS_TOLD_MAX
        message = f"{told}; and {more} more" if more > 0 else told
        super().__init__(ErrorReason.INVALID_FIELD, message, field=first.field)
        self.violations = violations


class StoreUnavailableError(DrawdownError):
    """A store did not answer; the same call may be sent again with the same ids."""

    def __init__(self, store: str, message: str | None = None) -> None:
        super().__init__(ErrorReason.STORE_UNAVAILABLE, message or f"{store} cannot be reached", store=store)


class TryLaterError(DrawdownError):
    """Too many calls, of all or of this caller; nothing was done.

    Args:
        reason: OVERLOADED or RATE_LIMITED.
        message: For people.
        retry_ms: After this time the call may be sent again.
        metadata: For programs.
    """

    def __init__(self, reason: ErrorReason, message: str, *, retry_ms: int, **metadata: str) -> None:
        super().__init__(reason, message, **metadata)
        self.retry_ms = retry_ms


def request_too_large(bytes_max: int) -> DrawdownError:
    """The error for a request that has more bytes than any that is within the rules."""
    return DrawdownError(
        ErrorReason.REQUEST_TOO_LARGE, f"the request has more than {bytes_max} bytes", bytes_max=str(bytes_max)
    )


class ConfigurationError(Exception):
    """The server must not start like this; the message says what to change."""
