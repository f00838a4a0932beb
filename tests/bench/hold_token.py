"""What a hold token costs: to make one for an Authorize, to read one in a Commit.

    python tests/bench/hold_token.py [--rounds 7]

Two assets, two subjects, no labels. Prints one line: bytes, and microseconds of the best round.
"""

from __future__ import annotations

import argparse
import timeit

from drawdown_server.holds.model import ExpiryAction, Hold, HoldAmount, HoldState, OveragePolicy
from drawdown_server.holds.token import TokenKeys

CALLS = 20_000


def a_hold() -> Hold:
    """A hold as a gateway makes it."""
    return Hold(
        hold_id="chatcmpl-9f2c1b7e4d8a4c0e",
        state=HoldState.HELD,
        fingerprint="3xGk0Qa1..3xGk0Qa1.3xGk0Qa1...",
        amounts=[
            HoldAmount(asset, units, units, 0, 0, 0, OveragePolicy.CHARGE_AVAILABLE)
            for asset, units in (("USD", 40_000), ("MODEL_TOKENS", 4_096))
        ],
        create_ms=1_767_225_540_000,
        expire_ms=1_767_225_840_000,
        settle_ms=0,
        subjects=["key:sk_live_1", "user:42"],
        expiry_action=ExpiryAction.RELEASE,
        labels="",
        late=False,
        wallet_sequence=0,
        way=0,
    )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="What a hold token costs.")
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    keys, hold = TokenKeys({"20260131-1f2e": bytes(32)}), a_hold()
    token = keys.make("default", "customer-000123", 1, hold)
    make = min(timeit.repeat(lambda: keys.make("default", "customer-000123", 1, hold), number=CALLS, repeat=rounds))
    read = min(timeit.repeat(lambda: keys.read(token), number=CALLS, repeat=rounds))
    per_call = 1e6 / CALLS
    print(f"hold token: {len(token)} bytes, make {make * per_call:.1f} us, read {read * per_call:.1f} us")  # noqa: T201


if __name__ == "__main__":
    main()
