"""The server's own clock, for what is not money: caches and logs. Holds and events use the store's (TIME)."""

from __future__ import annotations

import time


def monotonic_s() -> float:
    """Seconds that only ever grow."""
    return time.monotonic()


def store_ms(seconds: bytes | int, microseconds: bytes | int) -> int:
    """What the store's TIME answers, in milliseconds since the Unix epoch."""
    return int(seconds) * 1000 + int(microseconds) // 1000
