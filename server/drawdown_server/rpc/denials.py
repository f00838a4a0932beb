"""Records of calls of administrators that a credential was not enough for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import structlog

from drawdown_server import clock
from drawdown_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from drawdown_server.identity.admin_call import AdminCall

log = structlog.get_logger(__name__)

DENIALS_MAX: Final = 60
"""Per tenant, process and ``WINDOW_S``: who looks at the log sees that somebody tries, and a credential that may do
nothing cannot fill Postgres."""
WINDOW_S: Final = 60.0


class DenialStore(Protocol):
    """Postgres."""

    async def record_denied(self, call: AdminCall) -> None:
        """Record that a credential was not enough for a call."""


class Denials:
    """Records them, up to a number; the log line of each call is written in any case."""

    def __init__(self, store: DenialStore) -> None:
        self._store = store
        self._windows: dict[str, tuple[float, int]] = {}
        """By tenant, of which credentials name few: when its window began, and how many were recorded in it."""

    async def note(self, call: AdminCall) -> None:
        """Record a call that is refused. The refusal does not depend on it."""
        now_s = clock.monotonic_s()
        since_s, count = self._windows.get(call.tenant_id, (now_s, 0))
        if now_s - since_s >= WINDOW_S:
            since_s, count = now_s, 0
        self._windows[call.tenant_id] = (since_s, count + 1)
        if count >= DENIALS_MAX:
            return
        try:
            await self._store.record_denied(call)
        except StoreUnavailableError:
            log.warning("audit.denial_not_recorded", method=call.method, principal=call.principal)
        except Exception:  # a fault of ours, which must not reach the caller as what it is
            log.exception("audit.denial_not_recorded", method=call.method, principal=call.principal)
