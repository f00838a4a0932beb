"""``drawdown wallet``: customers' prepaid balances."""

from typing import Annotated

import typer

from drawdown import Wallet
from drawdown.cli.output import first, labels, time
from drawdown.cli.session import LIMIT_DEFAULT, Limit, Session, command, noun
from drawdown.cli.values import AmountArgument, LabelsOption, parse_amount, parse_duration, parse_labels

app = noun("Wallets: one customer's prepaid balance each.")

WalletArgument = Annotated[str, typer.Argument(metavar="WALLET", help="The wallet's id.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for people.")]


@command(app, "create")
def create(
    session: Session,
    wallet_id: WalletArgument,
    *,
    name: Annotated[str, typer.Option("--name", help="A name for people.")] = "",
    label: LabelsOption = None,
) -> None:
    """Creates a wallet without funds; the same content again changes nothing."""
    _show(
        session,
        session.client.create_wallet(wallet_id=wallet_id, display_name=name, labels=parse_labels(label)),
    )


@command(app, "get")
def get(session: Session, wallet_id: WalletArgument) -> None:
    """Shows one wallet; `drawdown wallet show` also shows all that is in it."""
    _show(session, session.client.get_wallet(wallet_id=wallet_id))


@command(app, "freeze")
def freeze(session: Session, wallet_id: WalletArgument, *, reason: ReasonOption = "") -> None:
    """Stops new holds; open ones can still be committed and released."""
    _show(session, session.client.freeze_wallet(wallet_id=wallet_id, reason=reason))


@command(app, "unfreeze")
def unfreeze(session: Session, wallet_id: WalletArgument, *, reason: ReasonOption = "") -> None:
    """Allows new holds again."""
    _show(session, session.client.unfreeze_wallet(wallet_id=wallet_id, reason=reason))


@command(app, "close")
def close(
    session: Session,
    wallet_id: WalletArgument,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Although money, debt or open holds remain; needs --reason.")
    ] = False,
    reason: ReasonOption = "",
) -> None:
    """Closes a wallet for ever. Open holds can still be committed and released."""
    _show(session, session.client.close_wallet(wallet_id=wallet_id, force=force, reason=reason))


@command(app, "overdraft")
def overdraft(session: Session, wallet_id: WalletArgument, limit: AmountArgument, *, reason: ReasonOption = "") -> None:
    """Sets how far below zero the balance of an asset may go: '10 USD'; '0 USD' for not at all."""
    asset, units = parse_amount(limit, session.scale)
    balance = session.client.set_overdraft_limit(wallet_id=wallet_id, asset=asset, limit_units=units, reason=reason)
    if session.out.as_json:
        session.out.json(balance, wallet_id=wallet_id)
    else:
        session.out.balances([balance])


@command(app, "token")
def token(
    session: Session,
    wallet_id: WalletArgument,
    *,
    ttl: Annotated[str | None, typer.Option("--ttl", help="How long it counts, 90s or 2h. [default: 15m]")] = None,
) -> None:
    """Makes a token that can read the balance of this wallet and nothing else, and prints it alone."""
    made = session.client.create_wallet_token(wallet_id=wallet_id, ttl_s=None if ttl is None else parse_duration(ttl))
    if session.out.as_json:
        session.out.json(made)
    else:
        session.out.line(made.token)


@command(app, "list")
def list_all(session: Session, *, limit: Limit = LIMIT_DEFAULT) -> None:
    """Lists wallets by id."""
    wallets, more = first(session.client.iter_wallets(), limit)
    if session.out.as_json:
        session.out.json_list("wallets", wallets, more=more)
        return
    session.out.table(
        ["WALLET", "STATE", "NAME", "LABELS", "CREATED"],
        (
            [wallet.wallet_id, wallet.state, wallet.display_name, labels(wallet.labels), time(wallet.create_time)]
            for wallet in wallets
        ),
    )
    session.out.cut(limit, more=more)


def _show(session: Session, wallet: Wallet) -> None:
    if session.out.as_json:
        session.out.json(wallet)
        return
    session.out.facts(
        {
            "wallet": wallet.wallet_id,
            "state": wallet.state,
            "name": wallet.display_name or "-",
            "labels": labels(wallet.labels),
            "created": time(wallet.create_time),
            "updated": time(wallet.update_time),
        }
    )
