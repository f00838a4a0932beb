"""How much time the caller of the work that is going on still gives us.

A call that its caller will not hear the answer of is better not begun: it would hold money, or debit it, and nobody
would know. gRPC cancels a handler at its deadline; this is for the moment before, and for calls that had to wait.
"""

from __future__ import annotations

import math
import time
from contextvars import ContextVar
from typing import Final

from drawdown_server.errors import DrawdownError, ErrorReason

CALL_TAKES_S: Final = 0.002
"""Less than this is too little: an Authorize takes about 0.6 ms with ``appendfsync always`` when nobody else calls, and
the answer has its way to go."""

_deadline_s: ContextVar[float | None] = ContextVar("deadline_s", default=None)


def begin(time_left_s: float | None) -> None:
    """Work begins whose caller waits for so long; None = for ever.

    Raises:
        DrawdownError: DEADLINE_EXCEEDED: it is too late to begin.
    """
    if time_left_s is None:
        _deadline_s.set(None)
        return
    _refuse(time_left_s)
    _deadline_s.set(time.monotonic() + time_left_s)


def forget() -> None:
    """What follows is done for everybody, or has begun to have effects: it goes on to its end."""
    _deadline_s.set(None)


def check() -> None:
    """After a wait, and before anything has an effect.

    Raises:
        DrawdownError: DEADLINE_EXCEEDED: too little time is left.
    """
    deadline_s = _deadline_s.get()
    if deadline_s is not None:
        _refuse(deadline_s - time.monotonic())


def left_s() -> float:
    """Seconds until the caller stops listening; infinite when it waits for ever."""
    deadline_s = _deadline_s.get()
    return math.inf if deadline_s is None else deadline_s - time.monotonic()


def _refuse(time_left_s: float) -> None:
    if time_left_s < CALL_TAKES_S:
        raise DrawdownError(ErrorReason.DEADLINE_EXCEEDED, "too little time was left; nothing was done for this call")
