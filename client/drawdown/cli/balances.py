"""``drawdown balance``: what a wallet has."""

from typing import Annotated

import typer

from drawdown.cli.output import time
from drawdown.cli.session import Session, command
from drawdown.cli.wallets import WalletArgument


def register(app: typer.Typer) -> None:
    """Adds the command to the top level."""
    command(app, "balance")(balance)


def balance(
    session: Session,
    wallet_id: WalletArgument,
    *,
    asset: Annotated[list[str] | None, typer.Option("--asset", help="Only this asset; may be repeated.")] = None,
    grants: Annotated[bool, typer.Option("--grants", help="Also the live grants, in burn order.")] = False,
) -> None:
    """Shows the balances of a wallet, as the next authorize will see them."""
    answer = session.client.get_balance(wallet_id=wallet_id, assets=asset or (), include_grants=grants)
    out = session.out
    if out.as_json:
        out.json(answer, wallet_id=wallet_id)
        return
    out.facts({"wallet": wallet_id, "state": answer.state, "open holds": str(answer.open_holds)})
    out.line()
    out.balances(answer.balances.values())
    if grants:
        out.line()
        out.table(
            ["GRANT", ">AVAILABLE", ">HELD", "ASSET", "SOURCE", ">PRIORITY", "EXPIRES"],
            (
                [
                    grant.grant_id,
                    out.decimal(grant.available_units, line.asset),
                    out.decimal(grant.held_units, line.asset),
                    line.asset,
                    grant.source,
                    str(grant.priority),
                    time(grant.expire_time),
                ]
                for line in answer.balances.values()
                for grant in line.grants
            ),
        )
