"""``drawdown audit``: what administrators did."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from drawdown.cli.output import first, time
from drawdown.cli.session import LIMIT_DEFAULT, Limit, Session, command, noun
from drawdown.cli.values import parse_past

app = noun("What administrators did: who, what, before and after.")

_TIME_HELP: Final = "ago, 12h or 30d, or a date or time in UTC, 2027-01-31 or 2027-01-31T12:00:00Z."


@command(app, "list")
def list_all(
    session: Session,
    *,
    wallet_id: Annotated[str, typer.Option("--wallet", help="Only about this wallet.")] = "",
    about: Annotated[
        str, typer.Option("--about", help="Only about this, as the list shows it: grant:g1, asset:USD.")
    ] = "",
    principal: Annotated[str, typer.Option("--principal", help="Only of this credential: key:billing-2.")] = "",
    since: Annotated[str | None, typer.Option("--since", help=f"Only from then on: {_TIME_HELP}")] = None,
    until: Annotated[str | None, typer.Option("--until", help=f"Only before: {_TIME_HELP}")] = None,
    limit: Limit = LIMIT_DEFAULT,
) -> None:
    """Lists what administrators did, newest first."""
    now = datetime.now(UTC)
    records = session.client.iter_audit_records(
        wallet_id=wallet_id,
        target=about,
        principal=principal,
        start_time=None if since is None else parse_past(since, now),
        end_time=None if until is None else parse_past(until, now),
    )
    found, more = first(records, limit)
    out = session.out
    if out.as_json:
        out.json_list("records", found, more=more)
        return
    out.table(
        ["TIME", "WHO", "METHOD", "WALLET", "TARGET", "OUTCOME", "BEFORE", "AFTER"],
        (
            [
                time(record.audit_time),
                record.principal or "-",
                record.method,
                record.wallet_id or "-",
                record.target,
                record.outcome,
                *_changed(record.before, record.after),
            ]
            for record in found
        ),
    )
    out.cut(limit, more=more)


def _changed(before: Mapping[str, object] | None, after: Mapping[str, object] | None) -> tuple[str, str]:
    """Both sides, with what is the same on both left out."""
    if before is None or after is None:
        return _text(before), _text(after)
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    old, new = ({name: side[name] for name in names if name in side} for side in (before, after))
    return _text(old), _text(new)


def _text(state: Mapping[str, object] | None) -> str:
    if not state:
        return "-"
    return " ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in state.items()
    )
