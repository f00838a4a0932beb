"""``drawdown grant``: money in."""

import uuid
from enum import StrEnum
from typing import Annotated

import typer

from drawdown import Grant, GrantSource
from drawdown.cli.output import first, labels, time
from drawdown.cli.session import LIMIT_DEFAULT, Limit, Session, command, noun
from drawdown.cli.values import AmountArgument, LabelsOption, parse_amount, parse_labels
from drawdown.cli.wallets import WalletArgument

app = noun("Grants: funds put into wallets.")


class Source(StrEnum):
    """The sources as people type them."""

    PURCHASE = "purchase"
    PROMOTION = "promotion"
    TOP_UP = "top_up"
    REFUND = "refund"
    ADJUSTMENT = "adjustment"


@command(app, "create")
def create(
    session: Session,
    wallet_id: WalletArgument,
    amount: AmountArgument,
    *,
    grant_id: Annotated[
        str | None,
        typer.Option("--id", help="Its id, e.g. the payment's: one id is one grant, for ever. [default: a random one]"),
    ] = None,
    source: Annotated[Source, typer.Option("--source", help="Where the funds came from.")] = Source.PURCHASE,
    priority: Annotated[
        int | None, typer.Option("--priority", min=0, max=100, help="Burn priority, low first. [default: 50]")
    ] = None,
    label: LabelsOption = None,
) -> None:
    """Puts funds into a wallet. Give --id to be able to repeat the command safely."""
    asset, units = parse_amount(amount, session.scale)
    result = session.client.create_grant(
        wallet_id=wallet_id,
        grant_id=uuid.uuid4().hex if grant_id is None else grant_id,
        asset=asset,
        units=units,
        source=GrantSource(source.upper()),
        priority=priority,
        labels=parse_labels(label),
    )
    if session.out.as_json:
        session.out.json(result)
        return
    _show(session, result.grant)
    if result.replayed:
        session.out.line("this grant was made before; nothing changed")
    session.out.line()
    session.out.balances([result.balance])


@command(app, "get")
def get(
    session: Session,
    wallet_id: WalletArgument,
    grant_id: Annotated[str, typer.Argument(metavar="GRANT", help="The grant's id.")],
) -> None:
    """Shows one grant."""
    grant = session.client.get_grant(wallet_id=wallet_id, grant_id=grant_id)
    if session.out.as_json:
        session.out.json(grant)
    else:
        _show(session, grant)


@command(app, "list")
def list_all(
    session: Session,
    wallet_id: WalletArgument,
    *,
    asset: Annotated[str, typer.Option("--asset", help="Only of this asset.")] = "",
    limit: Limit = LIMIT_DEFAULT,
) -> None:
    """Lists the grants of a wallet, oldest first."""
    grants, more = first(session.client.iter_grants(wallet_id=wallet_id, asset=asset), limit)
    if session.out.as_json:
        session.out.json_list("grants", grants, more=more)
        return
    session.out.table(
        ["GRANT", ">GRANTED", ">REMAINING", "ASSET", "SOURCE", ">PRIORITY", "CREATED", "EXPIRES"],
        (
            [
                grant.grant_id,
                session.out.decimal(grant.units, grant.asset),
                session.out.decimal(grant.remaining_units, grant.asset),
                grant.asset,
                grant.source,
                str(grant.priority),
                time(grant.create_time),
                time(grant.expire_time),
            ]
            for grant in grants
        ),
    )
    session.out.cut(limit, more=more)


def _show(session: Session, grant: Grant) -> None:
    session.out.facts(
        {
            "grant": grant.grant_id,
            "wallet": grant.wallet_id,
            "granted": session.out.amount(grant.units, grant.asset),
            "remaining": session.out.amount(grant.remaining_units, grant.asset),
            "source": grant.source,
            "priority": str(grant.priority),
            "labels": labels(grant.labels),
            "created": time(grant.create_time),
            "effective": time(grant.effective_time),
            "expires": time(grant.expire_time),
        }
    )
