"""The wallets of a run: made and funded when asked for, and their balances before and after."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import drawdown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

Item = TypeVar("Item")

ASSET_DEFAULT: Final = "LOAD_TEST"
"""An asset of its own, scale 0: a load test must not decide the scale of an asset that people pay in."""
CONCURRENCY: Final = 32
"""Calls at once while wallets are made and read: enough to be quick, too few to be a load test."""


class WalletsError(Exception):
    """The wallets cannot be used; the message says why, and what to do."""


@dataclass(slots=True)
class Sums:
    """Balances of all wallets, added up by asset."""

    settled: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)


def names(prefix: str, count: int) -> list[str]:
    """The ids of a run's own wallets."""
    return [f"{prefix}-{number:05d}" for number in range(1, count + 1)]


async def make(
    client: drawdown.AsyncClient,
    wallets: Sequence[str],
    funds: Mapping[str, int],
    *,
    run_id: str,
    on_done: Callable[[], None],
) -> None:
    """Makes wallets that are not there, and gives each what it lacks to have ``funds`` available.

    Args:
        client: Needs the rights to make wallets and grants.
        wallets: Their ids. A wallet that is there stays as it is.
        funds: Units by asset.
        run_id: Begins the ids of the grants.
        on_done: Called after each wallet.

    Raises:
        WalletsError: An asset is not there.
        DrawdownError: A call failed.
    """
    for asset in funds:
        try:
            await client.get_asset(asset=asset)
        except drawdown.NotFoundError:
            if asset != ASSET_DEFAULT:
                raise WalletsError(f"there is no asset {asset}; make it first: drawdown asset create") from None
            await client.create_asset(asset=asset, scale=0, display_name="Load test")

    async def one(wallet_id: str) -> None:
        try:
            balance = await client.get_balance(wallet_id=wallet_id)
        except drawdown.NotFoundError:
            await client.create_wallet(wallet_id=wallet_id, display_name="Load test")
            balance = None
        for asset, units in funds.items():
            has = balance.balances.get(asset) if balance else None
            lacks = units - (has.available_units if has else 0)
            if lacks > 0:
                await client.create_grant(
                    wallet_id=wallet_id,
                    grant_id=f"{run_id}-{asset}",
                    asset=asset,
                    units=lacks,
                    source=drawdown.GrantSource.ADJUSTMENT,
                )
        on_done()

    await _each(wallets, one)


async def read(client: drawdown.AsyncClient, wallets: Sequence[str], on_done: Callable[[], None]) -> Sums:
    """The balances of all wallets together.

    Raises:
        WalletsError: One is not there.
        DrawdownError: A call failed.
    """
    sums = Sums()

    async def one(wallet_id: str) -> None:
        try:
            answer = await client.get_balance(wallet_id=wallet_id)
        except drawdown.NotFoundError:
            raise WalletsError(f"there is no wallet {wallet_id}; --create makes the wallets of a run") from None
        for asset, balance in answer.balances.items():
            sums.settled[asset] += balance.settled_units
            sums.held[asset] += balance.held_units
        on_done()

    await _each(wallets, one)
    return sums


async def _each(items: Iterable[Item], do: Callable[[Item], Awaitable[None]]) -> None:
    """Does it for all, so many at a time; the first failure ends the others."""
    todo: Iterator[Item] = iter(items)

    async def work() -> None:
        for item in todo:
            await do(item)

    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(CONCURRENCY):
                workers.create_task(work())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
