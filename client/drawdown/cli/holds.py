"""``drawdown hold``: what is reserved, and how holds and denials are shown."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated

import typer

from drawdown import CapStatus, CapWindow, Denial, Hold, ReleaseResult
from drawdown.cli.output import first, in_words, labels, time
from drawdown.cli.session import LIMIT_DEFAULT, Limit, Session, command, noun
from drawdown.cli.wallets import WalletArgument

app = noun("Holds: what is reserved and not yet settled.")

HoldArgument = Annotated[str, typer.Argument(metavar="HOLD", help="The hold's id.")]


ForceReasonOption = Annotated[str, typer.Option("--reason", help="Why, for people.")]


@command(app, "get")
def get(session: Session, wallet_id: WalletArgument, hold_id: HoldArgument) -> None:
    """Shows one hold, also some time after it was settled."""
    hold = session.client.get_hold(wallet_id=wallet_id, hold_id=hold_id)
    out = session.out
    if out.as_json:
        out.json(hold)
        return
    show_hold(session, hold)
    out.line()
    out.table(
        ["ASSET", ">AUTHORIZED", ">HELD", ">DEBITED", ">UNCOLLECTED", ">REFUNDED", "OVERAGE"],
        (
            [
                amount.asset,
                out.decimal(amount.authorized_units, amount.asset),
                out.decimal(amount.held_units, amount.asset),
                out.decimal(amount.debited_units, amount.asset),
                out.decimal(amount.uncollected_units, amount.asset),
                out.decimal(amount.refunded_units, amount.asset),
                amount.overage_policy,
            ]
            for amount in hold.amounts.values()
        ),
    )


@command(app, "list")
def list_all(session: Session, wallet_id: WalletArgument, *, limit: Limit = LIMIT_DEFAULT) -> None:
    """Lists the open holds of a wallet, soonest expiry first."""
    holds, more = first(session.client.iter_holds(wallet_id=wallet_id), limit)
    out = session.out
    if out.as_json:
        out.json_list("holds", holds, more=more)
        return
    show_holds(session, holds)
    out.cut(limit, more=more)


@command(app, "force-release")
def force_release(
    session: Session, wallet_id: WalletArgument, hold_id: HoldArgument, *, reason: ForceReasonOption
) -> None:
    """For operators: gives back what a stuck hold holds. Its usage can still be committed, as after an expiry."""
    show_release(session, session.client.force_release(wallet_id=wallet_id, hold_id=hold_id, reason=reason))


def show_holds(session: Session, holds: Iterable[Hold]) -> None:
    """Open holds as a table."""
    out = session.out
    now = datetime.now(UTC)
    out.table(
        ["HOLD", "HELD", "SUBJECTS", "CREATED", "EXPIRES", ""],
        (
            [
                hold.hold_id,
                out.amounts({amount.asset: amount.held_units for amount in hold.amounts.values()}),
                " ".join(hold.subjects) or "-",
                time(hold.create_time),
                time(hold.expire_time),
                in_words(hold.expire_time, now),
            ]
            for hold in holds
        ),
    )


def show_release(session: Session, result: ReleaseResult) -> None:
    """What a release gave back."""
    out = session.out
    if out.as_json:
        out.json(result)
        return
    given_back = {
        a.asset: max(0, a.authorized_units - a.debited_units - a.uncollected_units)
        for a in result.hold.amounts.values()
    }
    out.facts(
        {
            "hold": result.hold.hold_id,
            "state": result.hold.state + (" (before)" if result.replayed else ""),
            "released": out.amounts(given_back),
        }
    )
    if result.balances:
        out.line()
        out.balances(result.balances.values())


def why(session: Session, denial: Denial | None) -> str:
    """Why the answer is no, in one line."""
    if denial is None:
        return "the server gave no reason"
    text = denial.reason.value
    if denial.asset and denial.cap is None:  # a cap says its numbers itself
        needed = session.out.amount(denial.required_units, denial.asset)
        available = session.out.amount(denial.available_units, denial.asset)
        text += f", {needed} needed, {available} available"
    if denial.cap is not None:
        text += f", {cap_in_words(session, denial.cap)}"
    if denial.retry_time is not None:
        text += f", try again at {time(denial.retry_time)}"
    return text


def cap_in_words(session: Session, cap: CapStatus) -> str:
    """``cap key:* of key:sk_1: 6.00 of 10.00 USD used per DAY``."""
    out = session.out
    name = cap.cap_subject or "of the wallet"
    whom = f" for {cap.subject}" if cap.subject and cap.subject != cap.cap_subject else ""
    limit = out.amount(cap.limit_units, cap.asset)
    if cap.window is CapWindow.PER_REQUEST:
        return f"cap {name}{whom}: at most {limit} per request"
    return f"cap {name}{whom}: {out.decimal(cap.used_units, cap.asset)} of {limit} used per {cap.window.lower()}"


def show_observed(session: Session, caps: Iterable[CapStatus]) -> None:
    """Caps that would have denied it, did they not only observe."""
    for cap in caps:
        session.out.line(f"over {cap_in_words(session, cap)} (only observed)")


def show_hold(session: Session, hold: Hold) -> None:
    """A hold, line by line."""
    session.out.facts(
        {
            "hold": hold.hold_id,
            "wallet": hold.wallet_id,
            "state": hold.state,
            "authorized": session.out.amounts({a.asset: a.authorized_units for a in hold.amounts.values()}),
            **({"paid by": f"alternative {hold.alternative_index}"} if hold.alternative_index else {}),
            "subjects": " ".join(hold.subjects) or "-",
            "at expiry": hold.expiry_action,
            "labels": labels(hold.labels),
            "created": time(hold.create_time),
            "expires": time(hold.expire_time),
            "settled": time(hold.settle_time),
        }
    )
