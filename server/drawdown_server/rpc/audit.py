"""AuditService: what administrators did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drawdown.v1 import audit_service_pb2 as pb
from drawdown.v1 import audit_service_pb2_grpc as pb_grpc
from drawdown_server.holds.model import TIME_MAX_MS
from drawdown_server.identity.caller import current_tenant
from drawdown_server.ledger.audit import TIME_MIN_MS, AuditFilter, AuditOutcome
from drawdown_server.rpc import convert
from drawdown_server.rpc.paging import decode_token, encode_token
from drawdown_server.rpc.validation import TEXT_CHARS_MAX, Checks

if TYPE_CHECKING:
    import grpc

    from drawdown_server.ledger.audit import AuditRow
    from drawdown_server.ledger.store import LedgerStore

OUTCOMES: Final = {outcome: f"AUDIT_OUTCOME_{outcome}" for outcome in AuditOutcome}
TARGET_CHARS_MAX: Final = 2 * TEXT_CHARS_MAX
"""A cap's name has a subject, an asset and a window."""
PRINCIPAL_CHARS_MAX: Final = 2_100
"""That of a certificate has its name: a SPIFFE id may have 2048."""


def record_proto(row: AuditRow) -> pb.AuditRecord:
    """An AuditRecord."""
    return pb.AuditRecord(
        audit_id=row.audit_id,
        audit_time=convert.timestamp(row.audit_ms),
        principal=row.principal,
        method=row.method,
        wallet_id=row.wallet_id,
        target=row.target,
        request_json=row.request_json,
        before_json=row.before_json,
        after_json=row.after_json,
        outcome=OUTCOMES[row.outcome],
        trace_id=row.trace_id,
    )


class AuditService(pb_grpc.AuditServiceServicer):
    """List."""

    def __init__(self, ledger: LedgerStore) -> None:
        self._ledger = ledger

    async def ListAuditRecords(  # noqa: N802  # gRPC's name
        self,
        request: pb.ListAuditRecordsRequest,
        context: grpc.aio.ServicerContext[pb.ListAuditRecordsRequest, pb.ListAuditRecordsResponse],
    ) -> pb.ListAuditRecordsResponse:
        """List the tenant's records, newest first."""
        checks = Checks()
        checks.id("wallet_id", request.wallet_id, optional=True)
        checks.text("target", request.target, most=TARGET_CHARS_MAX)
        checks.text("principal", request.principal, most=PRINCIPAL_CHARS_MAX)
        start_ms, end_ms = TIME_MIN_MS, TIME_MAX_MS
        if request.HasField("start_time"):
            start_ms = checks.time("start_time", request.start_time)
        if request.HasField("end_time"):
            end_ms = checks.time("end_time", request.end_time)
        limit = checks.page_size("page_size", request.page_size)
        checks.finish()
        wanted = AuditFilter(request.wallet_id, request.target, request.principal, start_ms, end_ms)
        filters = ("audit", *map(str, wanted))
        before = decode_token(request.page_token, filters, tuple[int, str], (0, ""))
        rows = await self._ledger.list_audit(current_tenant(), wanted, before=before, limit=limit)
        last = rows[-1] if rows else None
        return pb.ListAuditRecordsResponse(
            records=[record_proto(row) for row in rows],
            next_page_token=encode_token(filters, (last.audit_ms, last.audit_id))
            if last is not None and len(rows) == limit
            else "",
        )
