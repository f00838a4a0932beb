"""What AuthorizationService checks of its requests, and their content in a few bytes (see ``holds.fingerprint``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drawdown.v1 import types_pb2
from drawdown_server.holds.fingerprint import fingerprint
from drawdown_server.holds.token import TOKEN_BYTES_MAX, TokenError
from drawdown_server.rpc.validation import ALTERNATIVES_MAX, SUBJECTS_MAX, Checks, check_hold_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from drawdown.v1 import authorization_service_pb2 as pb
    from drawdown_server.holds.token import Token, TokenKeys

_OVERAGE_POLICIES: Final = frozenset(types_pb2.OveragePolicy.values())
_EXPIRY_ACTIONS: Final = frozenset(types_pb2.ExpiryAction.values())


def check_authorize(request: pb.AuthorizeRequest, ttl_default_ms: int) -> int:
    """Check the fields of Authorize; returns the ttl in milliseconds.

    Raises:
        InvalidRequestError: With every violation.
    """
    checks = check_hold_name(request)
    checks.amounts("amounts", request.amounts, least=1, partial=True)
    ttl_ms = checks.ttl("ttl", request.ttl) if request.HasField("ttl") else ttl_default_ms
    checks.unique_ids("subjects", request.subjects, most=SUBJECTS_MAX)
    if len(request.alternatives) > ALTERNATIVES_MAX:
        checks.fail("alternatives", f"must have at most {ALTERNATIVES_MAX} entries")
    for i, alternative in enumerate(request.alternatives[:ALTERNATIVES_MAX]):
        checks.amounts(f"alternatives[{i}].amounts", alternative.amounts, least=1, partial=True)
    checks.enum("overage_policy", request.overage_policy, _OVERAGE_POLICIES)
    checks.enum("expiry_action", request.expiry_action, _EXPIRY_ACTIONS)
    checks.labels("labels", request.labels)
    checks.finish()
    return ttl_ms


def check_commit(request: pb.CommitRequest, tenant_id: str, keys: TokenKeys) -> Token | None:
    """Check the fields of Commit; returns what its token says, if it has one.

    A token that would not do on the day it is needed is refused on every other day as well. Only the key may be one
    that this server does not have: while keys are exchanged, commits go on.

    Raises:
        InvalidRequestError: With every violation.
    """
    checks = check_hold_name(request)
    checks.amounts("amounts", request.amounts, least=0)
    token = _read_token(checks, request, tenant_id, keys) if request.hold_token else None
    _check_wait(checks, request)
    checks.finish()
    return token


def _check_wait(checks: Checks, request: pb.CommitRequest | pb.ChargeRequest | pb.RefundRequest) -> None:
    if request.HasField("wait_for_ledger"):
        checks.wait("wait_for_ledger", request.wait_for_ledger)


def _read_token(checks: Checks, request: pb.CommitRequest, tenant_id: str, keys: TokenKeys) -> Token | None:
    if len(request.hold_token) > TOKEN_BYTES_MAX:
        checks.fail("hold_token", f"must have at most {TOKEN_BYTES_MAX} bytes")
        return None
    try:
        token = keys.read(request.hold_token)
    except TokenError as error:
        checks.fail("hold_token", str(error))
        return None
    content = token.content
    if (content.tenant_id, content.wallet_id, content.hold_id) != (tenant_id, request.wallet_id, request.hold_id):
        checks.fail("hold_token", "must be the one of this hold")
    return token


def check_extend(request: pb.ExtendRequest) -> int:
    """Check the fields of Extend; returns the ttl in milliseconds, 0 to leave the expiry as it is.

    Raises:
        InvalidRequestError: With every violation.
    """
    checks = check_hold_name(request)
    ttl_ms = checks.ttl("ttl", request.ttl) if request.HasField("ttl") else 0
    if request.amounts:
        checks.amounts("amounts", request.amounts, least=1)
    elif not request.HasField("ttl"):
        checks.fail("amounts", "must be set, or ttl, or both")
    checks.finish()
    return ttl_ms


def check_charge(request: pb.ChargeRequest) -> None:
    """Check the fields of Charge.

    Raises:
        InvalidRequestError: With every violation.
    """
    checks = Checks()
    checks.id("wallet_id", request.wallet_id)
    checks.id("charge_id", request.charge_id)
    checks.amounts("amounts", request.amounts, least=1)
    checks.unique_ids("subjects", request.subjects, most=SUBJECTS_MAX)
    checks.enum("overage_policy", request.overage_policy, _OVERAGE_POLICIES)
    checks.labels("labels", request.labels)
    _check_wait(checks, request)
    checks.finish()


def check_refund(request: pb.RefundRequest) -> None:
    """Check the fields of Refund.

    Raises:
        InvalidRequestError: With every violation.
    """
    checks = check_hold_name(request)
    checks.id("refund_id", request.refund_id)
    checks.amounts("amounts", request.amounts, least=1)
    _check_wait(checks, request)
    checks.finish()


def check_force_release(request: pb.ForceReleaseRequest) -> None:
    """Check the fields of ForceRelease.

    Raises:
        InvalidRequestError: With every violation.
    """
    checks = check_hold_name(request)
    checks.text("reason", request.reason, least=1)
    checks.finish()


def authorize_fingerprint(request: pb.AuthorizeRequest, ttl_ms: int, labels: str) -> str:
    """The content of the request. The order of amounts and subjects does not count, that of the alternatives does."""
    return fingerprint(
        {
            "amounts": _canonical(request.amounts),
            "alternatives": " | ".join(_canonical(alternative.amounts) for alternative in request.alternatives),
            "ttl": str(ttl_ms),
            "subjects": " ".join(sorted(request.subjects)),
            "overage_policy": str(request.overage_policy or ""),
            "expiry_action": str(request.expiry_action or ""),
            "labels": labels,
        }
    )


def charge_fingerprint(request: pb.ChargeRequest, labels: str) -> str:
    """The content of a charge. Without a ttl, so that no Authorize has the same."""
    return fingerprint(
        {
            "amounts": _canonical(request.amounts),
            "subjects": " ".join(sorted(request.subjects)),
            "overage_policy": str(request.overage_policy or ""),
            "labels": labels,
        }
    )


def _canonical(amounts: Iterable[types_pb2.Amount]) -> str:
    return " ".join(
        sorted(
            f"{amount.asset}={amount.units}" + (f"/{amount.min_units}" if amount.min_units else "")
            for amount in amounts
        )
    )
