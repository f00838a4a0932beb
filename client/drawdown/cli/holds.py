"""``drawdown authorize``, ``commit``, ``release`` and ``hold``: the life of a hold."""

from typing import Annotated

import typer

from drawdown import Authorization, Hold
from drawdown.cli.output import first, labels, time
from drawdown.cli.session import EXIT_DENIED, LIMIT_DEFAULT, Limit, Session, command, noun
from drawdown.cli.values import AmountsArgument, LabelsOption, parse_amounts, parse_duration, parse_labels
from drawdown.cli.wallets import WalletArgument

app = noun("Holds: what is reserved and not yet settled.")

HoldArgument = Annotated[str, typer.Argument(metavar="HOLD", help="The hold's id.")]


def register(top: typer.Typer) -> None:
    """Adds the verbs to the top level."""
    command(top, "authorize")(authorize)
    command(top, "commit")(commit)
    command(top, "release")(release)


def authorize(
    session: Session,
    wallet_id: WalletArgument,
    amounts: AmountsArgument,
    *,
    hold_id: Annotated[
        str | None, typer.Option("--hold-id", help="Your id of the request. [default: a random one]")
    ] = None,
    ttl: Annotated[str | None, typer.Option("--ttl", help="How long it lasts: 90s, 5m, 2h. [default: 5m]")] = None,
    subject: Annotated[
        list[str] | None, typer.Option("--subject", help="What caps apply to, e.g. key:sk_1; may be repeated.")
    ] = None,
    label: LabelsOption = None,
) -> None:
    """Asks whether the wallet may spend this, and holds it. Exit code 3 when denied."""
    answer = session.client.authorize(
        wallet_id=wallet_id,
        amounts=parse_amounts(amounts, session.scale),
        hold_id=hold_id,
        ttl_s=None if ttl is None else parse_duration(ttl),
        subjects=subject or (),
        labels=parse_labels(label),
    )
    if session.out.as_json:
        session.out.json(answer, wallet_id=wallet_id, approved=answer.approved)
    else:
        _show_answer(session, answer)
    if not answer.approved:
        raise typer.Exit(EXIT_DENIED)


def commit(session: Session, wallet_id: WalletArgument, hold_id: HoldArgument, amounts: AmountsArgument) -> None:
    """Debits what was really used, in total under this hold, and gives the rest back."""
    result = session.client.commit(wallet_id=wallet_id, hold_id=hold_id, amounts=parse_amounts(amounts, session.scale))
    out = session.out
    if out.as_json:
        out.json(result)
        return
    out.facts(
        {
            "hold": result.hold.hold_id,
            "state": result.hold.state + (" (before)" if result.replayed else "") + (" (late)" if result.late else ""),
            "debited": out.amounts(result.debited),
            "released": out.amounts(result.released),
            "uncollected": out.amounts(result.uncollected),
            "sequence": str(result.wallet_sequence),
        }
    )
    out.line()
    out.balances(result.balances.values())


def release(
    session: Session,
    wallet_id: WalletArgument,
    hold_id: HoldArgument,
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why, for people.")] = "",
) -> None:
    """Gives everything back."""
    result = session.client.release(wallet_id=wallet_id, hold_id=hold_id, reason=reason)
    out = session.out
    if out.as_json:
        out.json(result)
        return
    out.facts(
        {
            "hold": result.hold.hold_id,
            "state": result.hold.state + (" (before)" if result.replayed else ""),
            "released": out.amounts({a.asset: a.authorized_units for a in result.hold.amounts.values()}),
        }
    )
    if result.balances:
        out.line()
        out.balances(result.balances.values())


@command(app, "get")
def get(session: Session, wallet_id: WalletArgument, hold_id: HoldArgument) -> None:
    """Shows one hold, also some time after it was settled."""
    hold = session.client.get_hold(wallet_id=wallet_id, hold_id=hold_id)
    out = session.out
    if out.as_json:
        out.json(hold)
        return
    _show_hold(session, hold)
    out.line()
    out.table(
        ["ASSET", ">AUTHORIZED", ">HELD", ">DEBITED", ">UNCOLLECTED"],
        (
            [
                amount.asset,
                out.decimal(amount.authorized_units, amount.asset),
                out.decimal(amount.held_units, amount.asset),
                out.decimal(amount.debited_units, amount.asset),
                out.decimal(amount.uncollected_units, amount.asset),
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
    out.table(
        ["HOLD", "HELD", "SUBJECTS", "CREATED", "EXPIRES"],
        (
            [
                hold.hold_id,
                out.amounts({amount.asset: amount.held_units for amount in hold.amounts.values()}),
                " ".join(hold.subjects) or "-",
                time(hold.create_time),
                time(hold.expire_time),
            ]
            for hold in holds
        ),
    )
    out.cut(limit, more=more)


def _show_answer(session: Session, answer: Authorization) -> None:
    out = session.out
    if answer.hold is None or not answer.approved:
        out.line(f"denied: {_why(session, answer)}")
        return
    hold = answer.hold
    out.line("approved (as before)" if answer.replayed else "approved")
    _show_hold(session, hold)
    out.line()
    out.balances(answer.balances.values())
    out.line()
    held = {amount.asset: amount.authorized_units for amount in hold.amounts.values()}
    target = [] if session.options.target is None else ["--target", session.options.target]
    ids = [hold.wallet_id, hold.hold_id]
    if any(word.startswith("-") for word in ids):  # an id may look like an option
        ids = ["--", *ids]
    out.line("settle it with the real usage, or give it back:")
    out.line("  " + out.command(["drawdown", *target, "commit", *ids], held))
    out.line("  " + out.command(["drawdown", *target, "release", *ids], {}))


def _why(session: Session, answer: Authorization) -> str:
    denial = answer.denial
    if denial is None:
        return "the server gave no reason"
    text = denial.reason.value
    if denial.asset:
        needed = session.out.amount(denial.required_units, denial.asset)
        available = session.out.amount(denial.available_units, denial.asset)
        text += f", {needed} needed, {available} available"
    if denial.cap is not None:
        cap = denial.cap
        used = session.out.decimal(cap.used_units, cap.asset)
        text += f", cap of {cap.subject or 'the wallet'}: {used} of {session.out.amount(cap.limit_units, cap.asset)}"
        text += f" used per {cap.window}"
    if denial.retry_time is not None:
        text += f", try again at {time(denial.retry_time)}"
    return text


def _show_hold(session: Session, hold: Hold) -> None:
    session.out.facts(
        {
            "hold": hold.hold_id,
            "wallet": hold.wallet_id,
            "state": hold.state,
            "authorized": session.out.amounts({a.asset: a.authorized_units for a in hold.amounts.values()}),
            "subjects": " ".join(hold.subjects) or "-",
            "labels": labels(hold.labels),
            "created": time(hold.create_time),
            "expires": time(hold.expire_time),
            "settled": time(hold.settle_time),
        }
    )
