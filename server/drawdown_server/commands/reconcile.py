"""``drawdown-server reconcile``: compares wallets in Valkey with the ledger and says in plain words what differs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec
import typer

from drawdown_server.commands.opening import open_both
from drawdown_server.commands.output import counted, progress
from drawdown_server.ledger.reconcile import Report, reconcile_wallet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from drawdown_server.commands.opening import Opened
    from drawdown_server.config import Config
    from drawdown_server.ledger.reconcile import Difference
    from drawdown_server.ledger.store import LedgerStore

AT_ONCE: Final = 4
"""Wallets compared at once: half of the connections that a process has by default."""
PAGE: Final = 500
EXIT_DIFFERENT: Final = 1


async def run_reconcile(config: Config, *, tenant_id: str, wallet_id: str, as_json: bool) -> int:
    """Compare one wallet, the wallets of a tenant, or all of them; print the report.

    Args:
        config: The settings.
        tenant_id: Only of this tenant; "" = all (for a single wallet: the tenant of the settings).
        wallet_id: Only this one; "" = all.
        as_json: One JSON object instead of sentences.

    Returns:
        The exit status: 1 when anything differs.

    Raises:
        ConfigurationError: A store is not fit.
        StoreUnavailableError: A store did not answer.
    """
    async with open_both(config) as opened:
        if wallet_id:
            report = await reconcile_wallet(opened.holds, opened.ledger, tenant_id or config.tenant, wallet_id)
        else:
            with progress("comparing wallets", await opened.ledger.count_wallets(tenant_id)) as advance:
                report = await _compare_all(opened, tenant_id, advance)
    typer.echo(msgspec.json.encode(report).decode() if as_json else "\n".join(_sentences(report)))
    return 0 if report.clean else EXIT_DIFFERENT


async def _compare_all(opened: Opened, tenant_id: str, advance: Callable[[], None]) -> Report:
    report, room = Report(), asyncio.Semaphore(AT_ONCE)

    async def compare(tenant: str, wallet: str) -> Report:
        async with room:
            one = await reconcile_wallet(opened.holds, opened.ledger, tenant, wallet)
        advance()
        return one

    async for page in _pages(opened.ledger, tenant_id):
        for one in await asyncio.gather(*(compare(*names) for names in page)):
            report.wallets += one.wallets
            report.not_live += one.not_live
            report.differences += one.differences
    return report


async def _pages(ledger: LedgerStore, tenant_id: str) -> AsyncIterator[list[tuple[str, str]]]:
    after = ("", "")
    while places := await ledger.list_all_wallets(after, PAGE, tenant_id):
        yield [(place.tenant_id, place.wallet_id) for place in places]
        after = (places[-1].tenant_id, places[-1].wallet_id)


def _sentences(report: Report) -> list[str]:
    lines = [_sentence(difference) for difference in report.differences]
    lines.append(f"compared {counted(report.wallets, 'wallet')} in Valkey with the ledger")
    if report.not_live:
        lines.append(f"{counted(report.not_live, 'wallet')} not in Valkey: only the ledger was checked")
    if report.clean:
        lines.append("nothing differs")
    else:
        wallets = len({(difference.tenant_id, difference.wallet_id) for difference in report.differences})
        lines.append(
            f"{counted(len(report.differences), 'difference')} in {counted(wallets, 'wallet')}; nothing was changed"
        )
    return lines


def _sentence(difference: Difference) -> str:
    return f"tenant {difference.tenant_id}, {difference}"
