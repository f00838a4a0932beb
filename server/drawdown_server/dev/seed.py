"""What a developer finds in a fresh embedded stack: two assets and a funded wallet named ``demo``."""

from __future__ import annotations

from typing import Final

import drawdown

USD_SCALE: Final = 6
SEED_TIMEOUT_S: Final = 30.0
"""A first start on a slow disk may take its time."""
DEMO_WALLET: Final = "demo"
DEMO_USD_UNITS: Final = 100 * 10**USD_SCALE
DEMO_TOKENS: Final = 1_000_000


async def seed(target: str, api_key: str) -> None:
    """Create the demo assets and wallet through the API; doing it again changes nothing."""
    async with drawdown.AsyncClient(target, timeout_s=SEED_TIMEOUT_S, api_key=api_key) as client:
        await client.create_asset(asset="USD", scale=USD_SCALE, display_name="US dollar")
        await client.create_asset(asset="MODEL_TOKENS", scale=0, display_name="Model tokens")
        await client.create_wallet(wallet_id=DEMO_WALLET, display_name="Demo")
        for asset, units in (("USD", DEMO_USD_UNITS), ("MODEL_TOKENS", DEMO_TOKENS)):
            await client.create_grant(
                wallet_id=DEMO_WALLET,
                grant_id=f"welcome-{asset.lower()}",
                asset=asset,
                units=units,
                source=drawdown.GrantSource.PROMOTION,
            )
