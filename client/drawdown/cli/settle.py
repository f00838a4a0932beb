"""``drawdown commit``, ``release``, ``charge`` and ``refund``: what was really used."""

from typing import Annotated

import typer

from drawdown.cli.holds import HoldArgument, show_observed, show_release, why
from drawdown.cli.session import EXIT_DENIED, Session, command
from drawdown.cli.values import (
    OVERAGE_POLICIES,
    AmountsArgument,
    LabelsOption,
    Overage,
    SubjectsOption,
    WaitOption,
    parse_amounts,
    parse_duration,
    parse_labels,
    parse_token,
)
from drawdown.cli.wallets import WalletArgument


def register(top: typer.Typer) -> None:
    """Adds the verbs to the top level."""
    command(top, "commit")(commit)
    command(top, "release")(release)
    command(top, "charge")(charge)
    command(top, "refund")(refund)


def commit(
    session: Session,
    wallet_id: WalletArgument,
    hold_id: HoldArgument,
    amounts: AmountsArgument,
    *,
    progress: Annotated[
        bool, typer.Option("--progress", help="Used so far, and not done yet: the rest stays held.")
    ] = False,
    hold_token: Annotated[
        str | None,
        typer.Option(
            "--hold-token",
            metavar="BASE64",
            help="The hold's token, as `authorize --json` has it: charges it even if the store lost the hold.",
        ),
    ] = None,
    wait: WaitOption = None,
) -> None:
    """Debits what was really used, in total under this hold, and gives the rest back."""
    result = session.client.commit(
        wallet_id=wallet_id,
        hold_id=hold_id,
        amounts=parse_amounts(amounts, session.scale),
        final=not progress,
        hold_token=b"" if hold_token is None else parse_token(hold_token),
        wait_for_ledger_s=None if wait is None else parse_duration(wait),
    )
    out = session.out
    if out.as_json:
        out.json(result)
        return
    held = {amount.asset: amount.held_units for amount in result.hold.amounts.values() if amount.held_units}
    out.facts(
        {
            "hold": result.hold.hold_id,
            "state": result.hold.state + (" (before)" if result.replayed else "") + (" (late)" if result.late else ""),
            "debited": out.amounts(result.debited),
            **({"still held": out.amounts(held)} if held else {"released": out.amounts(result.released)}),
            "uncollected": out.amounts(result.uncollected),
            "sequence": str(result.wallet_sequence),
            **in_ledger(wait, is_there=result.in_ledger),
        }
    )
    out.line()
    out.balances(result.balances.values())


def in_ledger(wait: str | None, *, is_there: bool) -> dict[str, str]:
    """Whether the ledger has it, for those who wanted to wait for that."""
    return {} if wait is None else {"in ledger": "yes" if is_there else f"not within {wait}"}


def release(
    session: Session,
    wallet_id: WalletArgument,
    hold_id: HoldArgument,
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why, for people.")] = "",
) -> None:
    """Gives everything back that is still held."""
    show_release(session, session.client.release(wallet_id=wallet_id, hold_id=hold_id, reason=reason))


def charge(
    session: Session,
    wallet_id: WalletArgument,
    amounts: AmountsArgument,
    *,
    charge_id: Annotated[
        str | None, typer.Option("--id", help="Your id of the charge. [default: a random one]")
    ] = None,
    subject: SubjectsOption = None,
    overage: Annotated[
        Overage | None,
        typer.Option(
            "--overage",
            help="When the funds do not cover it: reject it, charge what is available, or charge it in full into debt. "
            "[default: the asset's]",
        ),
    ] = None,
    label: LabelsOption = None,
    wait: WaitOption = None,
) -> None:
    """Debits at once, without a hold before. Exit code 3 when denied. Give --id to be able to repeat it safely."""
    answer = session.client.charge(
        wallet_id=wallet_id,
        amounts=parse_amounts(amounts, session.scale),
        charge_id=session.id_or_new("--id", charge_id),
        subjects=subject or (),
        overage_policy=OVERAGE_POLICIES[overage],
        labels=parse_labels(label),
        wait_for_ledger_s=None if wait is None else parse_duration(wait),
    )
    out = session.out
    if out.as_json:
        out.json(answer, wallet_id=wallet_id, approved=answer.approved)
    elif answer.approved:
        out.line("charged (before)" if answer.replayed else "charged")
        show_observed(session, answer.observed_caps)
        out.facts(
            {
                "charge": answer.charge_id,
                "debited": out.amounts(answer.debited),
                "uncollected": out.amounts(answer.uncollected),
                "sequence": str(answer.wallet_sequence),
                **in_ledger(wait, is_there=answer.in_ledger),
            }
        )
        out.line()
        out.balances(answer.balances.values())
    else:
        out.line(f"denied: {why(session, answer.denial)}")
    if not answer.approved:
        raise typer.Exit(EXIT_DENIED)


def refund(
    session: Session,
    wallet_id: WalletArgument,
    hold_id: Annotated[str, typer.Argument(metavar="HOLD", help="The id of the hold or charge that was debited.")],
    amounts: AmountsArgument,
    *,
    refund_id: Annotated[
        str | None, typer.Option("--id", help="Your id of the refund: one id is one refund. [default: a random one]")
    ] = None,
    wait: WaitOption = None,
) -> None:
    """Gives debited units back to the grants that paid. Give --id to be able to repeat it safely."""
    refunded = parse_amounts(amounts, session.scale)
    result = session.client.refund(
        wallet_id=wallet_id,
        hold_id=hold_id,
        refund_id=session.id_or_new("--id", refund_id),
        amounts=refunded,
        wait_for_ledger_s=None if wait is None else parse_duration(wait),
    )
    out = session.out
    if out.as_json:
        out.json(result)
        return
    total = {amount.asset: amount.refunded_units for amount in result.hold.amounts.values()}
    out.facts(
        {
            "hold": result.hold.hold_id,
            "refunded": out.amounts(refunded) + (" (before)" if result.replayed else ""),
            "in total": out.amounts(total),
            "sequence": str(result.wallet_sequence),
            **in_ledger(wait, is_there=result.in_ledger),
        }
    )
    out.line()
    out.balances(result.balances.values())
