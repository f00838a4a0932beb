"""``drawdown grant``: money in."""

import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final

import typer

from drawdown import Grant, GrantSource, GrantUpdate
from drawdown.cli.output import first, in_words, labels, time
from drawdown.cli.session import LIMIT_DEFAULT, Limit, Session, command, noun
from drawdown.cli.stack import live_stack, over, show_stack
from drawdown.cli.values import (
    TIME_HELP,
    AmountArgument,
    LabelsOption,
    parse_amount,
    parse_labels,
    parse_time,
)
from drawdown.cli.wallets import ReasonOption, WalletArgument

app = noun("Grants: funds put into wallets.")


GrantArgument = Annotated[str, typer.Argument(metavar="GRANT", help="The grant's id.")]
PAGE_SIZE: Final = 1_000
"""The largest there is: the list is read to its end."""


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
    effective: Annotated[
        str | None, typer.Option("--effective", help=f"When the funds can be used: {TIME_HELP}. [default: at once]")
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", help=f"When what is left expires: {TIME_HELP}. [default: never]")
    ] = None,
    label: LabelsOption = None,
) -> None:
    """Puts funds into a wallet. Give --id to be able to repeat the command safely (and dates, not 30d)."""
    now = datetime.now(UTC)
    asset, units = parse_amount(amount, session.scale)
    result = session.client.create_grant(
        wallet_id=wallet_id,
        grant_id=session.id_or_new("--id", grant_id),
        asset=asset,
        units=units,
        source=GrantSource(source.upper()),
        priority=priority,
        effective_time=None if effective is None else parse_time(effective, now),
        expire_time=None if expires is None else parse_time(expires, now),
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
    grant_id: GrantArgument,
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
    every: Annotated[
        bool, typer.Option("--all", help="Also the grants that are used up, expired or void, oldest first.")
    ] = False,
    limit: Limit = LIMIT_DEFAULT,
) -> None:
    """Lists the grants of a wallet in the order in which they burn, with what is left of each."""
    client, out = session.client, session.out
    answer = client.get_balance(wallet_id=wallet_id, assets=[asset] if asset else (), include_grants=True)
    recorded = list(client.iter_grants(wallet_id=wallet_id, asset=asset, page_size=PAGE_SIZE))
    live = live_stack(answer.balances.values(), recorded)
    gone = over(recorded, live)
    lines, more = first([*live, *(gone if every else ())], limit)
    if out.as_json:
        out.json_list("grants", lines, more=more)
        return
    show_stack(out, lines)
    out.cut(limit, more=more)
    if gone and not every:
        sys.stderr.write(f"{len(gone)} more are used up, expired or void; --all shows them\n")


@command(app, "void")
def void(session: Session, wallet_id: WalletArgument, grant_id: GrantArgument, *, reason: ReasonOption = "") -> None:
    """Takes back what is left of a grant: free units at once, held ones when their holds give them back."""
    _show_update(session, session.client.void_grant(wallet_id=wallet_id, grant_id=grant_id, reason=reason))


@command(app, "expiry")
def expiry(
    session: Session,
    wallet_id: WalletArgument,
    grant_id: GrantArgument,
    expires: Annotated[str, typer.Argument(metavar="TIME", help=f"{TIME_HELP}; or never.")],
    *,
    reason: ReasonOption = "",
) -> None:
    """Changes when a grant expires. What is over by then expires at once."""
    result = session.client.set_grant_expiry(
        wallet_id=wallet_id,
        grant_id=grant_id,
        expire_time=None if expires == "never" else parse_time(expires, datetime.now(UTC)),
        reason=reason,
    )
    _show_update(session, result)


def _show_update(session: Session, result: GrantUpdate) -> None:
    if session.out.as_json:
        session.out.json(result)
        return
    _show(session, result.grant, just_changed=True)
    session.out.line()
    session.out.balances([result.balance])


def _show(session: Session, grant: Grant, *, just_changed: bool = False) -> None:
    """A grant. What remains of it is as of the last recorded event: not yet what has just been changed."""
    remaining = {} if just_changed else {"remaining": session.out.amount(grant.remaining_units, grant.asset)}
    session.out.facts(
        {
            "grant": grant.grant_id,
            "wallet": grant.wallet_id,
            "granted": session.out.amount(grant.units, grant.asset),
            **remaining,
            "source": grant.source,
            "priority": str(grant.priority),
            "labels": labels(grant.labels),
            "created": time(grant.create_time),
            "effective": _when(grant.effective_time, "at once"),
            "expires": _when(grant.expire_time, "never"),
            **({} if grant.void_time is None else {"void since": time(grant.void_time)}),
        }
    )


def _when(value: datetime | None, otherwise: str) -> str:
    return otherwise if value is None else f"{time(value)}, {in_words(value, datetime.now(UTC))}"
