"""``drawdown wallet show``: all there is to know about a wallet, on one page."""

from collections.abc import Sized
from itertools import islice
from typing import Final

import typer

from drawdown.cli.caps import show_caps
from drawdown.cli.holds import show_holds
from drawdown.cli.output import labels, time
from drawdown.cli.session import Session, command
from drawdown.cli.stack import live_stack, show_stack
from drawdown.cli.wallets import WalletArgument

HOLDS_SHOWN: Final = 20
"""Open holds on the page: a busy wallet has thousands, and `drawdown hold list` shows them."""


def register(app: typer.Typer) -> None:
    """Adds the command to its noun."""
    command(app, "show")(show)


def show(session: Session, wallet_id: WalletArgument) -> None:
    """Shows a wallet with all that is in it: balances, grants in burn order, caps, open holds."""
    client, out = session.client, session.out
    wallet = client.get_wallet(wallet_id=wallet_id)
    balance = client.get_balance(wallet_id=wallet_id, include_grants=True)
    caps = client.list_caps(wallet_id=wallet_id)
    holds = list(islice(client.iter_holds(wallet_id=wallet_id, page_size=HOLDS_SHOWN), HOLDS_SHOWN))
    if out.as_json:
        out.json_document(
            {
                "wallet": out.as_document(wallet),
                "balance": out.as_document(balance),
                "caps": out.as_document(caps),
                "holds": [out.as_document(hold) for hold in holds],
            }
        )
        return
    out.facts(
        {
            "wallet": wallet.wallet_id,
            "state": balance.state,
            "name": wallet.display_name or "-",
            "labels": labels(wallet.labels),
            "created": time(wallet.create_time),
            "open holds": str(balance.open_holds),
            "sequence": str(balance.wallet_sequence),
        }
    )
    stack = live_stack(balance.balances.values())
    if _title(session, "balances", balance.balances):
        out.balances(balance.balances.values())
    if _title(session, "grants, in burn order", stack):
        show_stack(out, stack)
    if _title(session, "caps", caps.caps):
        show_caps(session, caps)
    if _title(session, "open holds", holds):
        show_holds(session, holds)
    if balance.open_holds > len(holds):
        out.line(f"the first {len(holds)} of {balance.open_holds}; drawdown hold list {wallet_id} shows more")


def _title(session: Session, title: str, rows: Sized) -> bool:
    """Begins a part of the page; whether there is something in it."""
    session.out.line()
    session.out.line(title if rows else f"{title}: none")
    return len(rows) > 0
