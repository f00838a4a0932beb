"""Which calls get in when there are too many: of all callers together, and of one of them.

Both refuse what begins something before what ends something. A refused Authorize costs a request; a refused Commit
costs the platform its usage, and a refused Release keeps a customer's money until the hold expires.

Ours and not a library's because it is two comparisons on the hot path, 0.7 us with the clock.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from drawdown_server.errors import ErrorReason, TryLaterError

if TYPE_CHECKING:
    from collections.abc import Callable

SETTLING: Final = frozenset(
    f"drawdown.v1.AuthorizationService/{verb}" for verb in ("Commit", "Release", "Refund", "ForceRelease")
)
"""Calls that end something. They may use everything there is; all others leave them a part."""
RESERVED_SHARE: Final = 0.25
"""Of the calls in flight, for those that settle. Each Authorize is followed by one of them, so that under a steady load
they are half; a quarter is what keeps a burst of Authorizes from shutting out the Commits of the burst before it."""
OVERLOADED_RETRY_MS: Final = 250
"""What the calls in flight take, by order of magnitude, when there are as many as may be."""
NS_PER_S: Final = 1_000_000_000
BURST_NS: Final = NS_PER_S
"""A caller may save up the calls of one second: gateways send in bursts."""
CALLERS_KEPT: Final = 10_000
"""Callers remembered before those that have been silent are forgotten: one takes about 200 bytes."""


class Admission:
    """Lets calls in, or says when to come again.

    Args:
        calls_max: Calls in flight in this process.
        calls_per_s: Calls of one caller in this process, per second in the long run; 0 = as many as it likes.
        now_ns: A clock that never goes back, in nanoseconds: whole numbers, so that a rate is exact.
    """

    def __init__(self, calls_max: int, calls_per_s: int, *, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._calls_max = calls_max
        self._others_max = max(1, calls_max - int(calls_max * RESERVED_SHARE))
        self._calls_per_s = calls_per_s
        self._interval_ns = NS_PER_S // calls_per_s if calls_per_s else 0
        self._now_ns = now_ns
        self._paid_until_ns: dict[tuple[str, str], int] = {}
        self.refused: Counter[ErrorReason] = Counter()
        """Calls that were refused, by why."""

    @property
    def callers(self) -> int:
        """Callers that are remembered."""
        return len(self._paid_until_ns)

    def check_load(self, method: str, in_flight: int) -> None:
        """Whether there is room for one more call.

        Args:
            method: Full name without the leading slash.
            in_flight: Calls in flight, this one included.

        Raises:
            TryLaterError: OVERLOADED.
        """
        if in_flight > self._others_max and (in_flight > self._calls_max or method not in SETTLING):
            self.refused[ErrorReason.OVERLOADED] += 1
            raise TryLaterError(
                ErrorReason.OVERLOADED, "this server has too many calls in flight", retry_ms=OVERLOADED_RETRY_MS
            )

    def check_rate(self, method: str, tenant_id: str, principal: str) -> None:
        """Whether a caller may make one more call now. What is refused is not counted against it.

        Each caller has a bucket of ``BURST_NS``, kept as the time until which its calls so far are paid for (the
        generic cell rate algorithm, ITU-T I.371). Calls that settle count too, and may overdraw it by as much again.

        Raises:
            TryLaterError: RATE_LIMITED, with the time at which the call would be let in.
        """
        if not self._interval_ns:
            return
        caller, now_ns = (tenant_id, principal), self._now_ns()
        paid_until_ns = max(self._paid_until_ns.get(caller, 0), now_ns) + self._interval_ns
        burst_ns = max(BURST_NS, self._interval_ns)
        early_ns = paid_until_ns - now_ns - burst_ns * (2 if method in SETTLING else 1)
        if early_ns > 0:
            self.refused[ErrorReason.RATE_LIMITED] += 1
            raise TryLaterError(
                ErrorReason.RATE_LIMITED,
                f"this credential may make {self._calls_per_s} calls per second",
                retry_ms=early_ns // 1_000_000 + 1,
                calls_per_second=str(self._calls_per_s),
            )
        if caller not in self._paid_until_ns and len(self._paid_until_ns) >= CALLERS_KEPT:
            self._forget_silent(now_ns)
        self._paid_until_ns[caller] = paid_until_ns

    def _forget_silent(self, now_ns: int) -> None:
        """Forget those who have a full bucket: it is what a new caller has."""
        self._paid_until_ns = {
            caller: until_ns for caller, until_ns in self._paid_until_ns.items() if until_ns > now_ns
        }
