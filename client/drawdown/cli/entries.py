"""``drawdown entries``: the ledger."""

from typing import Annotated

import typer

from drawdown.cli.output import first, time
from drawdown.cli.session import LIMIT_DEFAULT, Limit, Session, command
from drawdown.cli.wallets import WalletArgument


def register(app: typer.Typer) -> None:
    """Adds the command to the top level."""
    command(app, "entries")(entries)


def entries(
    session: Session,
    wallet_id: WalletArgument,
    *,
    asset: Annotated[str, typer.Option("--asset", help="Only of this asset.")] = "",
    hold_id: Annotated[str, typer.Option("--hold", help="Only of this hold.")] = "",
    limit: Limit = LIMIT_DEFAULT,
) -> None:
    """Lists a wallet's ledger, oldest first. A commit of a moment ago may still be on its way here."""
    found, more = first(session.client.iter_entries(wallet_id=wallet_id, asset=asset, hold_id=hold_id), limit)
    out = session.out
    if out.as_json:
        out.json_list("entries", found, more=more)
        return
    out.table(
        [">SEQUENCE", ">LINE", "TIME", "KIND", ">AMOUNT", "ASSET", "FROM", "TO", "GRANT", "HOLD"],
        (
            [
                str(entry.wallet_sequence),
                str(entry.line),
                time(entry.occurred_time),
                entry.kind,
                out.decimal(entry.units, entry.asset),
                entry.asset,
                entry.debit_account,
                entry.credit_account,
                entry.grant_id or "-",
                entry.hold_id or "-",
            ]
            for entry in found
        ),
    )
    out.cut(limit, more=more)
