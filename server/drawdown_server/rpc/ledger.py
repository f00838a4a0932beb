"""LedgerService: the durable history of a wallet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drawdown.v1 import ledger_service_pb2 as pb
from drawdown.v1 import ledger_service_pb2_grpc as pb_grpc
from drawdown.v1 import types_pb2
from drawdown_server.holds.refusals import wallet_not_found
from drawdown_server.identity.caller import current_tenant
from drawdown_server.ledger.events import LineKind
from drawdown_server.rpc import convert
from drawdown_server.rpc.paging import decode_token, encode_token
from drawdown_server.rpc.validation import Checks

if TYPE_CHECKING:
    import grpc

    from drawdown_server.ledger.rows import EntryRow
    from drawdown_server.ledger.store import LedgerStore

ENTRY_KINDS: Final = {kind: f"ENTRY_KIND_{kind}" for kind in LineKind}


def entry_proto(row: EntryRow) -> types_pb2.Entry:
    """An Entry."""
    return types_pb2.Entry(
        wallet_id=row.wallet_id,
        wallet_sequence=row.wallet_sequence,
        line=row.line,
        kind=ENTRY_KINDS[row.kind],
        asset=row.asset,
        units=row.units,
        debit_account=row.debit_account,
        credit_account=row.credit_account,
        grant_id=row.grant_id,
        hold_id=row.hold_id,
        subjects=row.subjects,
        occurred_time=convert.timestamp(row.occurred_ms),
        labels=row.labels,
    )


class LedgerService(pb_grpc.LedgerServiceServicer):
    """List entries."""

    def __init__(self, ledger: LedgerStore) -> None:
        self._ledger = ledger

    async def ListEntries(  # noqa: N802  # gRPC's name
        self,
        request: pb.ListEntriesRequest,
        context: grpc.aio.ServicerContext[pb.ListEntriesRequest, pb.ListEntriesResponse],
    ) -> pb.ListEntriesResponse:
        """List the entries of a wallet, oldest first."""
        checks = Checks()
        checks.id("wallet_id", request.wallet_id)
        checks.asset("asset", request.asset, optional=True)
        checks.id("hold_id", request.hold_id, optional=True)
        limit = checks.page_size("page_size", request.page_size)
        checks.finish()
        filters = ("entries", request.wallet_id, request.asset, request.hold_id)
        after = decode_token(request.page_token, filters, tuple[int, int], (0, 0))
        tenant_id = current_tenant()
        rows = await self._ledger.list_entries(
            tenant_id, request.wallet_id, asset=request.asset, hold_id=request.hold_id, after=after, limit=limit
        )
        if not rows and await self._ledger.get_wallet(tenant_id, request.wallet_id) is None:
            raise wallet_not_found(request.wallet_id)
        last = rows[-1] if rows else None
        return pb.ListEntriesResponse(
            entries=[entry_proto(row) for row in rows],
            next_page_token=encode_token(filters, (last.wallet_sequence, last.line))
            if last is not None and len(rows) == limit
            else "",
        )
