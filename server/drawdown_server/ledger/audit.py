"""The audit log: what administrators did, written in the transaction that does it.

Every function of the ledger that makes such a change calls ``write_audit`` before its transaction ends, so that neither
is there without the other. A call that changes nothing, such as a repeat, leaves no record. What happens in Valkey
alone is recorded before it happens.
"""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from drawdown_server.holds.model import TIME_MAX_MS, Cap, Hold
from drawdown_server.identity.admin_call import AdminCall, State, current_admin_call
from drawdown_server.ledger.database import Connection, Database, from_ms, to_ms
from drawdown_server.ledger.queries import QUERIES
from drawdown_server.ledger.rows import AssetRow, GrantRow, WalletRow

if TYPE_CHECKING:
    import asyncpg

TIME_MIN_MS: Final = 1
"""Before every record; ``TIME_MAX_MS`` is after."""


class AuditOutcome(StrEnum):
    """What came of a call."""

    DONE = "DONE"
    INTENDED = "INTENDED"
    """Recorded before it was done, where no transaction reaches."""
    DENIED = "DENIED"
    """The caller's credential does not have the scope."""


class AuditRow(NamedTuple):
    """A record."""

    audit_id: str
    audit_ms: int
    principal: str
    method: str
    wallet_id: str
    target: str
    request_json: str
    before_json: str
    """Empty: there was nothing."""
    after_json: str
    outcome: AuditOutcome
    trace_id: str


class AuditFilter(NamedTuple):
    """Which records; empty texts leave nothing out."""

    wallet_id: str = ""
    target: str = ""
    principal: str = ""
    start_ms: int = TIME_MIN_MS
    end_ms: int = TIME_MAX_MS
    """Not included."""


class AuditStore(Database):
    """Records of what administrators did."""

    async def record_intent(self, audit_id: str, *, before: State, after: State) -> None:
        """Record what the current call of an administrator is about to do in Valkey; a repeat is the same record."""
        call = current_admin_call()
        if call is not None:
            async with self._connection() as connection:
                await _insert(connection, call, audit_id, before, after, AuditOutcome.INTENDED)

    async def record_denied(self, call: AdminCall) -> None:
        """Record that a credential was not enough for a call."""
        async with self._connection() as connection:
            await _insert(connection, call, _new_id(), None, None, AuditOutcome.DENIED)

    async def list_audit(
        self, tenant_id: str, wanted: AuditFilter, *, before: tuple[int, str], limit: int
    ) -> list[AuditRow]:
        """A page of records, the newest first.

        Args:
            tenant_id: The tenant.
            wanted: Which.
            before: (audit_ms, audit_id) of the last record of the page before; (0, "") = from the newest.
            limit: Records per page.
        """
        end_ms, end_id = before if before[0] else (wanted.end_ms, "")
        end_ms = min(end_ms, TIME_MAX_MS)  # a page token may be forged
        async with self._connection() as connection:
            rows = await connection.fetch(
                QUERIES["audit_list"],
                tenant_id,
                *wanted[:3],
                from_ms(wanted.start_ms),
                from_ms(end_ms),
                end_id,
                limit,
            )
        return [_row(row) for row in rows]


async def write_audit(connection: Connection, *, before: State | None, after: State | None) -> None:
    """Record what this transaction does, if a call of an administrator does it.

    Args:
        connection: In the transaction.
        before: What was there; None = nothing.
        after: What is there now.
    """
    call = current_admin_call()
    if call is not None:
        await _insert(connection, call, _new_id(), call.before or before, after, AuditOutcome.DONE)


def remember_before(before: State) -> None:
    """What was there when the current call began, if it has several transactions."""
    call = current_admin_call()
    if call is not None and call.before is None:
        call.before = before


def intent_id(*parts: str) -> str:
    """The id of the record of an intent: the same for the same parts."""
    return hashlib.sha256(msgspec.msgpack.encode(parts)).hexdigest()[:32]


def asset_state(row: AssetRow) -> State:
    """An asset."""
    return {
        "scale": row.scale,
        "display_name": row.display_name,
        "default_overage_policy": row.default_overage_policy,
    }


def wallet_state(row: WalletRow) -> State:
    """A wallet."""
    return {"state": row.state, "display_name": row.display_name, "labels": row.labels}


def grant_state(row: GrantRow) -> State:
    """A grant."""
    return {
        "asset": row.asset,
        "units": row.units,
        "priority": row.priority,
        "source": row.source,
        "effective_time": from_ms(row.effective_ms),
        "expire_time": from_ms(row.expire_ms),
        "void_time": from_ms(row.void_ms),
        "labels": row.labels,
    }


def cap_state(cap: Cap) -> State:
    """A cap."""
    return {"limit_units": cap.limit, "mode": cap.mode}


def overdraft_state(limit_units: int) -> State:
    """An overdraft limit."""
    return {"overdraft_limit_units": limit_units}


def hold_state(hold: Hold) -> State:
    """A hold."""
    return {
        "state": hold.state,
        "held": {amount.asset: amount.held for amount in hold.amounts},
        "expire_time": from_ms(hold.expire_ms),
    }


def _new_id() -> str:
    return uuid.uuid4().hex


async def _insert(
    connection: Connection,
    call: AdminCall,
    audit_id: str,
    before: State | None,
    after: State | None,
    outcome: AuditOutcome,
) -> None:
    await connection.execute(
        QUERIES["audit_write"],
        call.tenant_id,
        audit_id,
        call.principal,
        call.method,
        call.wallet_id,
        call.target,
        _json(call.request),
        None if before is None else _json(before),
        None if after is None else _json(after),
        outcome.value,
        call.trace_id,
    )


def _json(state: State) -> str:
    """As text, without what is not set."""
    return msgspec.json.encode({name: value for name, value in state.items() if value not in (None, "", {})}).decode()


def _row(row: asyncpg.Record) -> AuditRow:
    time = row["audit_time"]
    assert isinstance(time, datetime)  # noqa: S101  # the column's type
    return AuditRow(
        audit_id=row["audit_id"],
        audit_ms=to_ms(time),
        principal=row["principal"],
        method=row["method"],
        wallet_id=row["wallet_id"],
        target=row["target"],
        request_json=row["request"],
        before_json=row["state_before"] or "",
        after_json=row["state_after"] or "",
        outcome=AuditOutcome(row["outcome"]),
        trace_id=row["trace_id"],
    )
