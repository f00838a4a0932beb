"""What a call can raise.

::

    Exception
    |-- DrawdownError                  .code .reason .message .metadata
    |   |-- InvalidRequestError        .violations           fix the request
    |   |-- NotFoundError                                    no such wallet, hold, asset or grant
    |   |-- AlreadyExistsError         .field                the id was used with other content
    |   |-- PreconditionError                                legal, but not in this state
    |   |   |-- HoldReleasedError                            commit after the caller's own release
    |   |   |-- HoldCommittedError                           release after commit, or commit with other totals
    |   |   |-- HoldExpiredError                             extend after expiry; its usage can still be committed
    |   |   |-- ExceedsHoldError       .asset .units .held_units
    |   |   `-- InsufficientFundsError                       a late commit; send it again after a top-up
    |   |-- UnavailableError           .retry_delay_s        send again with the same ids
    |   |-- DeadlineExceededError                            outcome unknown: send again with the same ids
    |   |-- RateLimitedError           .retry_delay_s        slow down
    |   |-- UnauthenticatedError                             no or wrong credentials
    |   |-- PermissionDeniedError                            these credentials may not
    |   |-- UnimplementedError                               this server does not do that (yet)
    |   `-- InternalError                                    a fault of the server, or an answer nobody expected
    `-- Denied                         .authorization        only from ``client.hold(...)``

A denied ``authorize`` raises nothing: "no" is an answer. ``Denied`` is deliberately no ``DrawdownError``: who catches
that to let requests pass while the service is down must not let the poor pass too. Programming errors are ``TypeError``
(a float as units) and ``RuntimeError`` (a call on a closed client).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import grpc

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from drawdown._types import Authorization


class ErrorReason(StrEnum):
    """The reasons of error_reason.proto that this client knows; ``DrawdownError.reason`` may be a newer one."""

    INVALID_FIELD = "INVALID_FIELD"
    NOT_SUPPORTED = "NOT_SUPPORTED"
    ID_REUSED = "ID_REUSED"
    WALLET_NOT_FOUND = "WALLET_NOT_FOUND"
    HOLD_NOT_FOUND = "HOLD_NOT_FOUND"
    ASSET_NOT_FOUND = "ASSET_NOT_FOUND"
    GRANT_NOT_FOUND = "GRANT_NOT_FOUND"
    HOLD_RELEASED = "HOLD_RELEASED"
    HOLD_COMMITTED = "HOLD_COMMITTED"
    EXCEEDS_HOLD = "EXCEEDS_HOLD"
    ASSET_NOT_HELD = "ASSET_NOT_HELD"
    INSUFFICIENT_FUNDS = "INSUFFICIENT_FUNDS"
    WALLET_CLOSED = "WALLET_CLOSED"
    BALANCE_OUT_OF_RANGE = "BALANCE_OUT_OF_RANGE"
    TOO_MANY_GRANTS = "TOO_MANY_GRANTS"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    LEDGER_BACKLOG = "LEDGER_BACKLOG"
    OVERLOADED = "OVERLOADED"
    RATE_LIMITED = "RATE_LIMITED"
    REQUEST_TOO_LARGE = "REQUEST_TOO_LARGE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_IMPLEMENTED = "NOT_IMPLEMENTED"
    TOTAL_BELOW_DEBITED = "TOTAL_BELOW_DEBITED"
    HOLD_EXPIRED = "HOLD_EXPIRED"
    BELOW_HOLD = "BELOW_HOLD"
    EXCEEDS_DEBITED = "EXCEEDS_DEBITED"
    WALLET_NOT_EMPTY = "WALLET_NOT_EMPTY"
    TOO_MANY_CAPS = "TOO_MANY_CAPS"
    DEAD_LETTER = "DEAD_LETTER"
    TOKEN_KEY_UNKNOWN = "TOKEN_KEY_UNKNOWN"  # noqa: S105 - no password
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    KEY_NOT_FOUND = "KEY_NOT_FOUND"
    KEY_INACTIVE = "KEY_INACTIVE"
    INTERNAL = "INTERNAL"


class Violation(NamedTuple):
    """One field of a request that breaks one rule."""

    field: str
    """Its path, e.g. ``amounts[0].units``."""
    description: str
    """The rule."""


class DrawdownError(Exception):
    """A call that failed. The base of all others: catch this to catch what the service can do to you."""

    code: grpc.StatusCode
    """The gRPC status."""
    reason: str
    """Why: the name of an ``ErrorReason``, e.g. ``"ID_REUSED"``. Empty for gRPC's own failures, e.g. no connection."""
    message: str
    """For people."""
    metadata: Mapping[str, str]
    """For programs: every variable of the message, e.g. ``{"wallet_id": "acme"}``."""

    def __init__(
        self, message: str, *, code: grpc.StatusCode, reason: str = "", metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})


class InvalidRequestError(DrawdownError):
    """Some fields break rules; all violations at once."""

    violations: Sequence[Violation] = ()


class NotFoundError(DrawdownError):
    """There is no such wallet, hold, asset, grant or key; ``reason`` says which."""


class AlreadyExistsError(DrawdownError):
    """The id was used before with other content."""

    @property
    def field(self) -> str:
        """The field that differs, e.g. ``amounts``."""
        return self.metadata.get("field", "")


class PreconditionError(DrawdownError):
    """The request is legal but not in the present state; ``reason`` says why."""


class HoldReleasedError(PreconditionError):
    """The hold was released by its caller: nothing can be committed under it."""


class HoldCommittedError(PreconditionError):
    """The hold is committed already: it cannot be released, or committed with other totals."""


class HoldExpiredError(PreconditionError):
    """The hold expired: it cannot be extended, but its usage can still be committed."""


class ExceedsHoldError(PreconditionError):
    """Commit of more than was held; the hold is untouched."""

    @property
    def asset(self) -> str:
        """The asset that exceeds."""
        return self.metadata.get("asset", "")

    @property
    def units(self) -> int:
        """Units that were to be committed."""
        return _count(self.metadata.get("units", ""))

    @property
    def held_units(self) -> int:
        """Units that the hold has."""
        return _count(self.metadata.get("held_units", ""))


class InsufficientFundsError(PreconditionError):
    """A late commit that the funds do not cover any more; send it again after a top-up."""


class UnavailableError(DrawdownError):
    """The service or a store of it cannot be reached, also after the client's own retries."""

    retry_delay_s: float | None = None
    """Seconds to wait before the next try, when the server said so."""


class DeadlineExceededError(DrawdownError):
    """The deadline passed. The outcome is unknown: send the call again with the same ids."""


class RateLimitedError(DrawdownError):
    """More calls than these credentials may make (or a message larger than the limits)."""

    retry_delay_s: float | None = None
    """Seconds to wait before the next try, when the server said so."""


class UnauthenticatedError(DrawdownError):
    """No credentials, or wrong ones."""


class PermissionDeniedError(DrawdownError):
    """These credentials may not do that."""

    @property
    def scope(self) -> str:
        """The scope that they lack, e.g. ``funds``; empty when no scope would help."""
        return self.metadata.get("scope", "")


class UnimplementedError(DrawdownError):
    """This server does not do that (yet)."""


class InternalError(DrawdownError):
    """A fault of the server, or a status or answer that nobody expected."""


class Denied(Exception):  # noqa: N818 - a denial is an answer, not an error; see the module's docstring
    """``client.hold(...)`` was denied: the body did not run."""

    authorization: Authorization
    """The whole answer; ``authorization.denial`` says why."""

    def __init__(self, authorization: Authorization) -> None:
        denial = authorization.denial
        what = "denied"
        if denial is not None:
            what = f"denied: {denial.reason}"
            if denial.cap is not None:
                cap = denial.cap
                what += f" ({cap.used_units} of {cap.limit_units} units of {cap.asset} used"
                what += f" under the cap {cap.cap_subject or 'of the wallet'})"
            elif denial.asset:
                what += f" ({denial.required_units} units of {denial.asset} needed, {denial.available_units} available)"
        super().__init__(f"hold {authorization.hold_id} was {what}")
        self.authorization = authorization


BY_CODE: Final[Mapping[grpc.StatusCode, type[DrawdownError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: RateLimitedError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.UNIMPLEMENTED: UnimplementedError,
}
"""The class of a status; every other status is an ``InternalError``."""

BY_REASON: Final[Mapping[str, type[PreconditionError]]] = {
    ErrorReason.HOLD_RELEASED: HoldReleasedError,
    ErrorReason.HOLD_COMMITTED: HoldCommittedError,
    ErrorReason.HOLD_EXPIRED: HoldExpiredError,
    ErrorReason.EXCEEDS_HOLD: ExceedsHoldError,
    ErrorReason.INSUFFICIENT_FUNDS: InsufficientFundsError,
}
"""The class of a FAILED_PRECONDITION that a caller can act on."""


def _count(text: str) -> int:
    return int(text) if text.isdecimal() else 0
