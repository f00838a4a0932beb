"""What it costs to know who calls: per call, with the key or token that the call brings.

    python tests/bench/identity_cost.py [--rounds 7]

What the gate does between a call's arrival and its handler: find the credential in the metadata, its caller, and
whether the method needs a scope that the caller has. Prints microseconds of the best round, those of a call without
identity beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import timeit
from typing import TYPE_CHECKING, Final

from drawdown_server.identity.api_keys import Peppers, SecretRecord, new_key
from drawdown_server.identity.caller import Caller
from drawdown_server.identity.credentials import Credentials
from drawdown_server.identity.key_cache import KeyCache
from drawdown_server.identity.scopes import ALL_SCOPES, check_method, check_wallet
from drawdown_server.identity.wallet_tokens import WalletTokenContent, WalletTokens

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

CALLS: Final = 20_000
KEYS: Final = 1_000
"""That are known beside the one that calls."""
SECRETS: Final = {"20260131-1f2e": bytes(32)}
METHOD: Final = "drawdown.v1.BalanceService/GetBalance"
WALLET: Final = "customer-000123"
GOAL_US: Final = 3.0
NOW_MS: Final = 1_800_000_000_000


class Keys:
    """Postgres, with these keys."""

    def __init__(self, texts: Sequence[str], peppers: Peppers) -> None:
        self._records = {}
        for number, text in enumerate(texts):
            secret_id, pepper_id, digest = peppers.digest(text)
            self._records[secret_id] = SecretRecord(
                secret_id, "default", f"gateway-{number}", ALL_SCOPES, pepper_id, digest, 1, 0
            )

    async def read_secret(self, secret_id: str) -> SecretRecord | None:
        return self._records.get(secret_id)

    async def read_changed_secrets(self, _known: Mapping[str, int]) -> tuple[int, dict[str, SecretRecord | None]]:
        return NOW_MS, {}


class Peer:
    """A connection without a certificate."""

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        return {}


PEER: Final = Peer()


async def admit(credentials: Credentials, metadata: list[tuple[str, str]]) -> None:
    """What the gate asks."""
    caller = await credentials.caller(metadata, PEER)
    check_method(caller, METHOD)
    check_wallet(caller, WALLET)


def run(work: Coroutine[None, None, None]) -> None:
    """Run what waits for nothing, without an event loop."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("it waited for something")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="What identity costs per call.")
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    peppers, tokens = Peppers(SECRETS), WalletTokens(SECRETS)
    texts = [new_key() for _ in range(KEYS)]
    cache = KeyCache(Keys(texts, peppers), peppers, stale_max_s=math.inf)

    async def know() -> None:
        await cache.refresh()
        for text in texts:
            await cache.find(text)

    asyncio.run(know())
    token = tokens.make(WalletTokenContent("default", WALLET, NOW_MS + 86_400_000))
    keyed = Credentials(keys=cache, tokens=tokens)
    for name, credentials, secret in (
        ("none", Credentials(everybody=Caller("default", "", ALL_SCOPES)), ""),
        ("API key", keyed, texts[KEYS // 2]),
        ("wallet token", keyed, token),
    ):
        # As our client sends it, and gRPC hands it over: new strings in every call.
        metadata = [("user-agent", "drawdown-python grpc-python-asyncio/1.71"), ("authorization", f"Bearer {secret}")]
        best = min(timeit.repeat(lambda c=credentials, m=metadata: run(admit(c, m)), number=CALLS, repeat=rounds))  # type: ignore[misc]
        print(f"identity: {name:<13} {best * 1e6 / CALLS:5.2f} us per call")  # noqa: T201
    print(f"goal: {GOAL_US} us for an API key")  # noqa: T201


if __name__ == "__main__":
    main()
