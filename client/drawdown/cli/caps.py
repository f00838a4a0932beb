"""``drawdown cap``: hard limits on spend."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated

import typer

from drawdown import Cap, CapMode, CapStatus, CapWindow, WalletCaps
from drawdown.cli.output import in_words, time
from drawdown.cli.session import Session, command, noun
from drawdown.cli.values import WINDOWS, Per, parse_units
from drawdown.cli.wallets import WalletArgument

app = noun("Caps: hard limits on spend, per wallet or subject, asset and time.")

SubjectOption = Annotated[
    str,
    typer.Option(
        "--subject",
        help="Whom it limits: key:sk_1, or 'key:*' for each of that prefix without a cap of its own. "
        "[default: the whole wallet]",
        show_default=False,
    ),
]
AssetOption = Annotated[str, typer.Option("--asset", help="The asset's code.")]
PerOption = Annotated[Per, typer.Option("--per", help="The span of time over which it counts, in UTC.")]


@command(app, "set")
def set_(
    session: Session,
    wallet_id: WalletArgument,
    *,
    limit: Annotated[str, typer.Option("--limit", help="The most that may be spent: 5.00, or in units 5000000u.")],
    asset: AssetOption,
    per: PerOption,
    subject: SubjectOption = "",
    observe: Annotated[bool, typer.Option("--observe", help="Only report what would be denied.")] = False,
) -> None:
    """Sets a cap, new or instead of the one with the same subject, asset and time. What was used before counts."""
    if len(limit.split()) > 1:
        raise typer.BadParameter(f"the number alone, as in --limit 5.00 --asset {asset}", param_hint="--limit")
    cap = session.client.set_cap(
        wallet_id=wallet_id,
        asset=asset,
        window=WINDOWS[per],
        limit_units=parse_units(limit, asset, session.scale),
        subject=subject,
        mode=CapMode.OBSERVE if observe else CapMode.ENFORCE,
    )
    if session.out.as_json:
        session.out.json(cap)
        return
    session.out.facts(
        {
            "wallet": cap.wallet_id,
            "subject": _whom(cap.subject),
            "limit": f"{session.out.amount(cap.limit_units, cap.asset)} per {_per(cap.window)}",
            "mode": cap.mode,
        }
    )


@command(app, "remove")
def remove(
    session: Session, wallet_id: WalletArgument, *, asset: AssetOption, per: PerOption, subject: SubjectOption = ""
) -> None:
    """Removes a cap. Removing one that does not exist is no error."""
    session.client.remove_cap(wallet_id=wallet_id, asset=asset, window=WINDOWS[per], subject=subject)
    if session.out.as_json:
        session.out.json_document({"removed": True})
    else:
        session.out.line(f"removed: {_whom(subject)}, {asset} per {per}")


@command(app, "list")
def list_all(
    session: Session,
    wallet_id: WalletArgument,
    *,
    subject: Annotated[
        list[str] | None, typer.Option("--subject", help="Also how this one stands under 'prefix*' caps; repeatable.")
    ] = None,
) -> None:
    """Lists the caps of a wallet, and how they stand now."""
    answer = session.client.list_caps(wallet_id=wallet_id, subjects=subject or ())
    if session.out.as_json:
        session.out.json(answer, wallet_id=wallet_id)
    else:
        show_caps(session, answer)


def show_caps(session: Session, answer: WalletCaps) -> None:
    """Caps as a table: one line per subject that they count for, then the defaults that nobody was shown for."""
    out = session.out
    now = datetime.now(UTC)
    shown = {(status.cap_subject, status.asset, status.window) for status in answer.usage}
    out.table(
        ["SUBJECT", "CAP", ">USED", ">LIMIT", ">LEFT", "ASSET", "PER", "MODE", "RESETS"],
        [
            *(
                [*_name(status), *_numbers(session, status), status.mode, _reset(status, now)]
                for status in answer.usage
            ),
            *_defaults(session, (c for c in answer.caps if (c.subject, c.asset, c.window) not in shown)),
        ],
    )


def _name(status: CapStatus) -> tuple[str, str]:
    return _whom(status.subject), _whom(status.cap_subject)


def _numbers(session: Session, status: CapStatus) -> list[str]:
    out = session.out
    limit = out.decimal(status.limit_units, status.asset)
    if status.window is CapWindow.PER_REQUEST:
        return ["-", limit, "-", status.asset, _per(status.window)]
    left = out.decimal(max(0, status.limit_units - status.used_units), status.asset)
    return [out.decimal(status.used_units, status.asset), limit, left, status.asset, _per(status.window)]


def _defaults(session: Session, caps: Iterable[Cap]) -> list[list[str]]:
    return [
        [
            "each",
            cap.subject,
            "-",
            session.out.decimal(cap.limit_units, cap.asset),
            "-",
            cap.asset,
            _per(cap.window),
            cap.mode,
            "-",
        ]
        for cap in caps
    ]


def _reset(status: CapStatus, now: datetime) -> str:
    return "-" if status.reset_time is None else f"{in_words(status.reset_time, now)}, {time(status.reset_time)}"


def _whom(subject: str) -> str:
    return subject or "(wallet)"


def _per(window: CapWindow) -> str:
    return window.value.removeprefix("PER_").lower()
