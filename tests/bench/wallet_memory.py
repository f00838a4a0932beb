"""What an idle wallet, and an open hold, cost Valkey, on its own Valkey.

    python tests/bench/wallet_memory.py [--wallets 20000] [--assets 2] [--grants 1]

Loads wallets as they come from Postgres, opens holds in a tenth of them, and prints bytes per wallet and per hold, with
indexes and key names. The goals are 1 KiB, and 400 bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.holds import keys
from drawdown_server.holds.connection import open_connection
from drawdown_server.holds.fingerprint import fingerprint
from drawdown_server.holds.library import build_library, load_library
from drawdown_server.holds.messages import AmountRequest, AuthorizeRequest, LoadedAsset, LoadRequest, PackedGrant
from drawdown_server.holds.model import ExpiryAction, GrantSource, WalletState
from drawdown_server.holds.startup import open_client
from drawdown_server.holds.store import HoldStore

TENANT = "default"
PARTITIONS = 64
TIMEOUT_MS = 60_000
AT_ONCE = 1_000
HOLDS_PER_WALLET = 20
HOLD_TTL_MS = 3_600_000
WALLET_GOAL = 1024
HOLD_GOAL = 400


def wallet(wallet_id: str, assets: int, grants: int, now_ms: int) -> LoadRequest:
    """A wallet with that many assets, and grants that expire in each of them."""
    return LoadRequest(
        tenant_id=TENANT,
        wallet_id=wallet_id,
        ticket_ms=now_ms,
        state=WalletState.ACTIVE,
        sequence=assets * grants,
        change_number=assets * grants,
        assets=[
            LoadedAsset(
                f"ASSET_{asset}",
                0,
                0,
                [
                    PackedGrant(
                        f"grant_{asset}_{grant}", 10**9, 0, 0, now_ms + 10**9, GrantSource.PURCHASE, now_ms, now_ms
                    )
                    for grant in range(grants)
                ],
                [],
            )
            for asset in range(assets)
        ],
        caps=[],
        cap_usage=[],
        changes=[],
    )


def hold(wallet_id: str, number: int, assets: int) -> AuthorizeRequest:
    """A hold of such a wallet."""
    return AuthorizeRequest(
        tenant_id=TENANT,
        wallet_id=wallet_id,
        hold_id=f"request-{number:08}",
        fingerprint=fingerprint({"amounts": "7", "subjects": "", "overage_policy": "1"}),
        ways=[[AmountRequest(f"ASSET_{asset}", 7) for asset in range(assets)]],
        ttl_ms=HOLD_TTL_MS,
        subjects=[],
        expiry_action=ExpiryAction.RELEASE,
        labels="",
        open_holds_max=HOLDS_PER_WALLET,
        tombstone_ms=HOLD_TTL_MS,
    )


@dataclass(frozen=True)
class Memory:
    """Bytes."""

    per_wallet: float
    per_hold: float
    """Open, with its index and key name."""


async def measure(url: str, wallets: int, assets: int, grants: int) -> Memory:
    """Fill an empty Valkey, and leave it empty.

    Args:
        url: Its.
        wallets: How many to load; a tenth of them then have ``HOLDS_PER_WALLET`` holds each.
        assets: Of each wallet.
        grants: Of each asset.
    """
    async with (
        open_client(url, timeout_ms=TIMEOUT_MS) as client,
        open_connection(url, timeout_ms=TIMEOUT_MS, in_flight_max=AT_ONCE) as connection,
    ):

        async def used() -> float:
            return float((await client.info("memory"))["used_memory"])

        library = build_library()
        await load_library(client, library)
        for partition in range(PARTITIONS):
            await client.hset(keys.meta(partition), "epoch", "1")
        holds = HoldStore(connection, library, [1] * PARTITIONS)
        ids = [f"customer-{number:08}" for number in range(wallets)]
        empty = await used()
        for start in range(0, wallets, AT_ONCE):
            ticket = await holds.ticket(TENANT, ids[0])
            some = ids[start : start + AT_ONCE]
            await asyncio.gather(*(holds.load(wallet(id_, assets, grants, ticket.time_ms), ticket) for id_ in some))
        loaded = await used()
        held = ids[: wallets // 10]
        for number in range(HOLDS_PER_WALLET):
            for start in range(0, len(held), AT_ONCE):
                some = held[start : start + AT_ONCE]
                await asyncio.gather(*(holds.authorize(hold(id_, number, assets)) for id_ in some))
        memory = Memory((loaded - empty) / wallets, (await used() - loaded) / len(held) / HOLDS_PER_WALLET)
        await client.flushall()
        return memory


def main() -> int:
    """Print the line; the exit status says whether the goal is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wallets", type=int, default=20_000)
    parser.add_argument("--assets", type=int, default=2)
    parser.add_argument("--grants", type=int, default=1, help="per asset")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="drawdown-bench-") as directory,
        ValkeyProcess(Path(directory) / "valkey", appendfsync="no") as valkey,
    ):
        memory = asyncio.run(measure(valkey.url, args.wallets, args.assets, args.grants))
    print(  # noqa: T201
        f"{memory.per_wallet:.0f} bytes per idle wallet of {args.assets} assets with {args.grants} grants each, "
        f"{memory.per_hold:.0f} per open hold"
    )
    return 0 if memory.per_wallet <= WALLET_GOAL and memory.per_hold <= HOLD_GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
