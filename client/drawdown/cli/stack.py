"""The grants of a wallet as a person wants to read them: in the order in which they burn, with what is left."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum

from drawdown import Balance, Grant, GrantBalance, GrantSource
from drawdown.cli.output import Output, in_words


class GrantState(StrEnum):
    """Where a grant is in its life."""

    LIVE = "LIVE"
    SCHEDULED = "SCHEDULED"
    """Not effective yet."""
    USED_UP = "USED_UP"
    EXPIRED = "EXPIRED"
    VOID = "VOID"


@dataclasses.dataclass(frozen=True, slots=True)
class StackLine:
    """A grant and its place in the stack."""

    position: int
    """In the burn order of its asset, from 1; 0 when it does not burn (any more, or yet)."""
    state: GrantState
    grant_id: str
    asset: str
    units: int | None
    """Granted; None when only the stack is known."""
    available_units: int
    held_units: int
    priority: int
    source: GrantSource
    effective_time: datetime | None
    expire_time: datetime | None
    labels: Mapping[str, str]
    create_time: datetime | None
    void_time: datetime | None


def live_stack(balances: Iterable[Balance], grants: Iterable[Grant] = ()) -> list[StackLine]:
    """The stack of each asset in burn order, then what is not effective yet.

    Args:
        balances: With their grants.
        grants: The same grants as the ledger has them, for what the stack does not say.
    """
    by_id = {grant.grant_id: grant for grant in grants}
    lines: list[StackLine] = []
    for balance in balances:
        lines += (
            _line(position, GrantState.LIVE, balance.asset, live, by_id.get(live.grant_id))
            for position, live in enumerate(balance.grants, 1)
        )
        lines += (
            _line(0, GrantState.SCHEDULED, balance.asset, scheduled, by_id.get(scheduled.grant_id))
            for scheduled in balance.scheduled_grants
        )
    return lines


def over(grants: Iterable[Grant], live: Iterable[StackLine]) -> list[StackLine]:
    """The grants that burn no more, oldest first."""
    now = datetime.now(UTC)
    ids = {line.grant_id for line in live}
    lines = []
    for grant in grants:
        if grant.grant_id in ids:
            continue
        state = GrantState.USED_UP
        if grant.void_time is not None:
            state = GrantState.VOID
        elif grant.expire_time is not None and grant.expire_time <= now:
            state = GrantState.EXPIRED
        nothing = GrantBalance(
            grant_id=grant.grant_id,
            available_units=0,
            held_units=0,
            priority=grant.priority,
            source=grant.source,
            effective_time=grant.effective_time,
            expire_time=grant.expire_time,
        )
        lines.append(_line(0, state, grant.asset, nothing, grant))
    return lines


def show_stack(out: Output, lines: Sequence[StackLine]) -> None:
    """The stack as a table."""
    now = datetime.now(UTC)
    is_recorded = any(line.units is not None for line in lines)
    out.table(
        [
            ">BURNS",
            "GRANT",
            ">LEFT",
            ">HELD",
            *([">GRANTED"] if is_recorded else []),
            "ASSET",
            "SOURCE",
            ">PRIORITY",
            "EXPIRES",
        ],
        (
            [
                _place(line, now),
                line.grant_id,
                out.decimal(line.available_units, line.asset),
                out.decimal(line.held_units, line.asset),
                *(["-" if line.units is None else out.decimal(line.units, line.asset)] if is_recorded else []),
                line.asset,
                line.source,
                str(line.priority),
                _end(line, now),
            ]
            for line in lines
        ),
    )


def _place(line: StackLine, now: datetime) -> str:
    match line.state:
        case GrantState.LIVE:
            return str(line.position)
        case GrantState.SCHEDULED:
            return in_words(line.effective_time, now)
        case _:
            return "-"


def _end(line: StackLine, now: datetime) -> str:
    match line.state:
        case GrantState.USED_UP:
            return "used up"
        case GrantState.VOID:
            return f"voided {in_words(line.void_time, now)}"
        case GrantState.EXPIRED:
            return f"expired {in_words(line.expire_time, now)}"
        case _:
            return in_words(line.expire_time, now)


def _line(position: int, state: GrantState, asset: str, live: GrantBalance, grant: Grant | None) -> StackLine:
    return StackLine(
        position=position,
        state=state,
        grant_id=live.grant_id,
        asset=asset,
        units=None if grant is None else grant.units,
        available_units=live.available_units,
        held_units=live.held_units,
        priority=live.priority,
        source=live.source,
        effective_time=live.effective_time,
        expire_time=live.expire_time,
        labels={} if grant is None else grant.labels,
        create_time=None if grant is None else grant.create_time,
        void_time=None if grant is None else grant.void_time,
    )
