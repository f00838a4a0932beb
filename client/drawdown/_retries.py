"""Retries of the calls of a client with Sessions, one call at a time: as gRPC's own."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import grpc

from drawdown._channel import BACKOFF_FACTOR, BACKOFF_MAX_S, BACKOFF_S, RETRY_TOKENS, RETRY_TOKENS_BACK
from drawdown._exceptions import UnavailableError

if TYPE_CHECKING:
    from drawdown._exceptions import DrawdownError

RETRYABLE: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""As in the service config."""


class RetryBudget:
    """What ``retryThrottling`` is for gRPC's own retries."""

    def __init__(self) -> None:
        self._tokens = float(RETRY_TOKENS)

    def succeeded(self) -> None:
        """The server answered."""
        self._tokens = min(self._tokens + RETRY_TOKENS_BACK, RETRY_TOKENS)

    def may_retry(self) -> bool:
        """An attempt failed: whether there may be another one."""
        self._tokens = max(self._tokens - 1, 0.0)
        return self._tokens > RETRY_TOKENS / 2


def pause_s(error: DrawdownError, attempt: int) -> float:
    """How long to wait after a failed attempt: longer each time, or as the server asks for; never the same twice.

    Args:
        error: How it failed.
        attempt: Its number; the first is 1.
    """
    asked_s = error.retry_delay_s if isinstance(error, UnavailableError) else None
    if asked_s is not None and asked_s > BACKOFF_S:
        return asked_s * random.uniform(1, 1.5)  # noqa: S311 - no secret
    backoff_s: float = min(BACKOFF_S * BACKOFF_FACTOR ** (attempt - 1), BACKOFF_MAX_S)
    return backoff_s * random.uniform(0.8, 1.2)  # noqa: S311
