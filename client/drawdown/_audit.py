"""Records of what administrators did: their type, the request for them, and how they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping  # noqa: TC003 - users resolve the annotations of these dataclasses
from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - the same
from typing import cast

from drawdown._enums import AuditOutcome
from drawdown._requests import _checked, _int32, _timestamp
from drawdown._responses import _reader, _time
from drawdown._types import Page
from drawdown.v1 import audit_service_pb2


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One call of an administrator that changed something, or was not allowed to."""

    audit_id: str
    audit_time: datetime | None
    principal: str
    """Which credential called; empty without identity."""
    method: str
    """``WalletService/FreezeWallet``."""
    wallet_id: str
    """Empty: it was about none."""
    target: str
    """``wallet:w1``, ``grant:g1``, ``cap:user:7|USD|DAY``, ``overdraft:USD``, ``hold:h1``, ``asset:USD``."""
    request: Mapping[str, object]
    """Fields by the names of the API, without what was not set."""
    before: Mapping[str, object] | None
    """What was there; None: nothing."""
    after: Mapping[str, object] | None
    """What was there afterwards; None: nothing, or nothing was changed."""
    outcome: AuditOutcome
    trace_id: str


_outcome = _reader(AuditOutcome, audit_service_pb2.AuditOutcome.DESCRIPTOR, "AUDIT_OUTCOME_")


@_checked
def list_audit_records(
    *,
    wallet_id: str,
    target: str,
    principal: str,
    start_time: datetime | None,
    end_time: datetime | None,
    page_size: int,
    page_token: str,
) -> audit_service_pb2.ListAuditRecordsRequest:
    """The request for a page."""
    return audit_service_pb2.ListAuditRecordsRequest(
        wallet_id=wallet_id,
        target=target,
        principal=principal,
        start_time=_timestamp(start_time, "start_time"),
        end_time=_timestamp(end_time, "end_time"),
        page_size=_int32(page_size, "page_size"),
        page_token=page_token,
    )


def audit_records(response: audit_service_pb2.ListAuditRecordsResponse) -> Page[AuditRecord]:
    """A page."""
    return Page(tuple(map(_record, response.records)), response.next_page_token)


def _record(message: audit_service_pb2.AuditRecord) -> AuditRecord:
    return AuditRecord(
        audit_id=message.audit_id,
        audit_time=_time(message.audit_time),
        principal=message.principal,
        method=message.method,
        wallet_id=message.wallet_id,
        target=message.target,
        request=_object(message.request_json) or {},
        before=_object(message.before_json),
        after=_object(message.after_json),
        outcome=_outcome(message.outcome),
        trace_id=message.trace_id,
    )


def _object(text: str) -> Mapping[str, object] | None:
    return cast("dict[str, object]", json.loads(text)) if text else None
