"""The server's own clock, for what is not money: caches and logs. Holds and events use the store's clock."""

from __future__ import annotations

import time


def monotonic_s() -> float:
    """Seconds that only ever grow."""
    return time.monotonic()
