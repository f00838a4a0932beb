"""``drawdown balance``: what a wallet has."""

from typing import Annotated

import typer

from drawdown.cli.session import Session, command
from drawdown.cli.stack import live_stack, show_stack
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
        show_stack(out, live_stack(answer.balances.values()))
