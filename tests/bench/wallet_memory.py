"""What an idle wallet costs Valkey, on its own Valkey.

    python tests/bench/wallet_memory.py [--wallets 20000] [--assets 2] [--grants 1]

Loads wallets as they come from Postgres, and prints one line: bytes per wallet, with indexes and key names. The goal is
1 KiB.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.holds import keys
from drawdown_server.holds.connection import open_connection
from drawdown_server.holds.library import build_library, load_library
from drawdown_server.holds.messages import LoadedAsset, LoadRequest, PackedGrant
from drawdown_server.holds.model import GrantSource, WalletState
from drawdown_server.holds.startup import open_client
from drawdown_server.holds.store import HoldStore

TENANT = "default"
PARTITIONS = 64
TIMEOUT_MS = 60_000
AT_ONCE = 1_000


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


async def measure(url: str, wallets: int, assets: int, grants: int) -> float:
    """Bytes per wallet."""
    async with (
        open_client(url, timeout_ms=TIMEOUT_MS) as client,
        open_connection(url, timeout_ms=TIMEOUT_MS, in_flight_max=AT_ONCE) as connection,
    ):
        library = build_library()
        await load_library(client, library)
        for partition in range(PARTITIONS):
            await client.hset(keys.meta(partition), "epoch", "1")
        holds = HoldStore(connection, library, [1] * PARTITIONS)
        before = (await client.info("memory"))["used_memory"]
        for start in range(0, wallets, AT_ONCE):
            ids = [f"customer-{number:08}" for number in range(start, min(wallets, start + AT_ONCE))]
            ticket = await holds.ticket(TENANT, ids[0])
            await asyncio.gather(*(holds.load(wallet(id_, assets, grants, ticket.time_ms), ticket) for id_ in ids))
        return float((await client.info("memory"))["used_memory"] - before) / wallets


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
        size = asyncio.run(measure(valkey.url, args.wallets, args.assets, args.grants))
    print(f"{size:.0f} bytes per idle wallet of {args.assets} assets with {args.grants} grants each")  # noqa: T201
    return 0 if size <= 1024 else 1


if __name__ == "__main__":
    sys.exit(main())
