"""``drawdown authorize`` and ``extend``: may this customer spend this, now?"""

from enum import StrEnum
from typing import Annotated, Final

import typer

from drawdown import Authorization, ExpiryAction
from drawdown.cli.holds import HoldArgument, show_hold, show_observed, why
from drawdown.cli.session import EXIT_DENIED, Session, command
from drawdown.cli.values import (
    OVERAGE_POLICIES,
    AmountsArgument,
    LabelsOption,
    Overage,
    SubjectsOption,
    parse_amounts,
    parse_duration,
    parse_labels,
    parse_partial,
)
from drawdown.cli.wallets import WalletArgument


class OnExpiry(StrEnum):
    """The expiry actions as people type them."""

    RELEASE = "release"
    COMMIT = "commit"


EXPIRY_ACTIONS: Final = {
    None: ExpiryAction.UNSPECIFIED,
    OnExpiry.RELEASE: ExpiryAction.RELEASE,
    OnExpiry.COMMIT: ExpiryAction.COMMIT_FULL,
}


def register(top: typer.Typer) -> None:
    """Adds the verbs to the top level."""
    command(top, "authorize")(authorize)
    command(top, "extend")(extend)


def authorize(
    session: Session,
    wallet_id: WalletArgument,
    amounts: AmountsArgument,
    *,
    or_: Annotated[
        list[str] | None,
        typer.Option(
            "--or",
            metavar="AMOUNTS",
            help="Another way to pay, one or more amounts in one text, '0.04 USD'; may be repeated, tried in order.",
        ),
    ] = None,
    least: Annotated[
        list[str] | None,
        typer.Option("--min", metavar="AMOUNT", help="The least of an asset that is useful: hold what there is."),
    ] = None,
    hold_id: Annotated[
        str | None, typer.Option("--hold-id", help="Your id of the request. [default: a random one]")
    ] = None,
    ttl: Annotated[str | None, typer.Option("--ttl", help="How long it lasts: 90s, 5m, 2h. [default: 5m]")] = None,
    subject: SubjectsOption = None,
    overage: Annotated[
        Overage | None,
        typer.Option(
            "--overage",
            help="What commit does with more than was held: reject it, charge what is available, or charge it in full "
            "into debt. [default: the asset's]",
        ),
    ] = None,
    on_expiry: Annotated[
        OnExpiry | None,
        typer.Option("--on-expiry", help="What happens when nobody settles it in time. [default: release]"),
    ] = None,
    label: LabelsOption = None,
) -> None:
    """Asks whether the wallet may spend this, and holds it. Exit code 3 when denied."""
    way, others = parse_partial(amounts, least, or_, session.scale)
    answer = session.client.authorize(
        wallet_id=wallet_id,
        amounts=way,
        alternatives=others,
        hold_id=session.id_or_new("--hold-id", hold_id),
        ttl_s=None if ttl is None else parse_duration(ttl),
        subjects=subject or (),
        overage_policy=OVERAGE_POLICIES[overage],
        expiry_action=EXPIRY_ACTIONS[on_expiry],
        labels=parse_labels(label),
    )
    if session.out.as_json:
        session.out.json(answer, wallet_id=wallet_id, approved=answer.approved)
    else:
        _show(session, answer)
    if not answer.approved:
        raise typer.Exit(EXIT_DENIED)


def extend(
    session: Session,
    wallet_id: WalletArgument,
    hold_id: HoldArgument,
    amounts: Annotated[
        list[str] | None,
        typer.Argument(metavar="AMOUNT", help="Total to have reserved, what was debited included: '2.00 USD'."),
    ] = None,
    *,
    ttl: Annotated[str | None, typer.Option("--ttl", help="It then expires this long from now: 90s, 5m, 2h.")] = None,
) -> None:
    """Keeps a hold for longer, holds more, or both. Exit code 3 when denied: the hold is then as it was."""
    answer = session.client.extend(
        wallet_id=wallet_id,
        hold_id=hold_id,
        ttl_s=None if ttl is None else parse_duration(ttl),
        amounts=parse_amounts(amounts, session.scale) if amounts else {},
    )
    out = session.out
    if out.as_json:
        out.json(answer, approved=answer.approved)
    else:
        out.line("approved" if answer.approved else f"denied: {why(session, answer.denial)}; the hold is as it was")
        show_observed(session, answer.observed_caps)
        show_hold(session, answer.hold)
        out.line()
        out.balances(answer.balances.values())
    if not answer.approved:
        raise typer.Exit(EXIT_DENIED)


def _show(session: Session, answer: Authorization) -> None:
    out = session.out
    if answer.hold is None or not answer.approved:
        out.line(f"denied: {why(session, answer.denial)}")
        return
    hold = answer.hold
    out.line("approved (as before)" if answer.replayed else "approved")
    show_observed(session, answer.observed_caps)
    show_hold(session, hold)
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
