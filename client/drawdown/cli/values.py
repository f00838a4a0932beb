"""What people type: amounts, durations, labels."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from drawdown import Amount, CapWindow, OveragePolicy, PermissionDeniedError, to_units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

AmountsArgument = Annotated[
    list[str], typer.Argument(metavar="AMOUNT", help="'12.50 USD', or in units '12500000u USD'; one or more.")
]
AmountArgument = Annotated[
    list[str], typer.Argument(metavar="AMOUNT", help="'12.50 USD', or in units '12500000u USD'.")
]
LabelsOption = Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="May be repeated.")]

SubjectsOption = Annotated[
    list[str] | None, typer.Option("--subject", help="What caps apply to, e.g. key:sk_1; may be repeated.")
]

WaitOption = Annotated[
    str | None,
    typer.Option("--wait", metavar="TIME", help="Wait so long until the ledger has it: 2s. [default: answer at once]"),
]


class Overage(StrEnum):
    """The overage policies as people type them."""

    REJECT = "reject"
    AVAILABLE = "available"
    FULL = "full"


OVERAGE_POLICIES: Final = {
    None: OveragePolicy.UNSPECIFIED,
    Overage.REJECT: OveragePolicy.REJECT,
    Overage.AVAILABLE: OveragePolicy.CHARGE_AVAILABLE,
    Overage.FULL: OveragePolicy.CHARGE_FULL,
}


class Per(StrEnum):
    """The windows of caps as people type them."""

    REQUEST = "request"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    LIFETIME = "lifetime"


WINDOWS: Final = {per: CapWindow.PER_REQUEST if per is Per.REQUEST else CapWindow[per.name] for per in Per}

TIME_HELP: Final = "From now, 12h or 30d, or a date or time in UTC, 2027-01-31 or 2027-01-31T12:00:00Z"

_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600}
_DURATION: Final = re.compile(r"([0-9]{1,9})([smh])", re.ASCII)
_AHEAD: Final = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)
_AHEAD_SECONDS: Final = _SECONDS | {"d": 86_400, "w": 604_800}
_UNITS: Final = re.compile(r"([0-9]{1,30})u", re.ASCII)


def parse_amounts(words: Iterable[str], scale: Callable[[str], int | None]) -> dict[str, int]:
    """Units by asset from ``["12.50 USD", "1000u MODEL_TOKENS"]``, or from the same words without quotes.

    Args:
        words: As the shell passed them.
        scale: Decimal places of an asset, None when there is none. Not asked for amounts in units.
    """
    parts = " ".join(words).split()
    if not parts or len(parts) % 2:
        raise typer.BadParameter(f"{' '.join(parts)!r} is not of the form '12.50 USD' or '12500000u USD'")
    amounts: dict[str, int] = {}
    for number, asset in zip(parts[::2], parts[1::2], strict=True):
        if asset in amounts:
            raise typer.BadParameter(f"{asset} is given twice")
        amounts[asset] = parse_units(number, asset, scale)
    return amounts


def parse_amount(words: Iterable[str], scale: Callable[[str], int | None]) -> tuple[str, int]:
    """Asset and units of exactly one amount."""
    amounts = parse_amounts(words, scale)
    if len(amounts) != 1:
        raise typer.BadParameter("give exactly one amount")
    return next(iter(amounts.items()))


def parse_units(number: str, asset: str, scale: Callable[[str], int | None]) -> int:
    """Units of one number, decimal by the asset's scale or exact with a u."""
    exact = _UNITS.fullmatch(number)
    if exact:
        return int(exact[1])
    try:
        places = scale(asset)
    except PermissionDeniedError as error:
        raise typer.BadParameter(
            f"this credential may not look at the asset {asset}, so how many decimal places {number} has is unknown; "
            f"give units such as '1000u {asset}'"
        ) from error
    if places is None:
        raise typer.BadParameter(
            f"there is no asset {asset}, so how many decimal places {number} has is unknown; "
            f"see `drawdown asset list`, or give units such as '1000u {asset}'"
        )
    try:
        return to_units(number, places)
    except ValueError as error:
        raise typer.BadParameter(f"{number} {asset}: {error}") from error


def parse_partial(
    words: Iterable[str], least: Iterable[str] | None, others: Iterable[str] | None, scale: Callable[[str], int | None]
) -> tuple[list[Amount], list[list[Amount]]]:
    """The ways to pay of an authorize: the first one and the others, with the least that is useful of each asset.

    Args:
        words: The first way, as the shell passed it.
        least: Texts of ``--min``; an asset's goes into every way that has the asset.
        others: Texts of ``--or``, each a way of its own: one or more amounts.
        scale: Decimal places of an asset, None when there is none.
    """
    ways = [parse_amounts(words, scale), *(parse_amounts([text], scale) for text in others or ())]
    min_units = parse_amounts(least, scale) if least else {}
    for asset in min_units:
        if not any(asset in way for way in ways):
            raise typer.BadParameter(f"--min names {asset}, of which nothing is to be held")
    amounts = [[Amount(asset, units, min_units.get(asset, 0)) for asset, units in way.items()] for way in ways]
    return amounts[0], amounts[1:]


def parse_token(text: str) -> bytes:
    """A hold's token from the text that JSON has."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise typer.BadParameter("a hold token is base64, as `authorize --json` has it") from error


def parse_time(text: str, now: datetime) -> datetime:
    """A time ahead (``12h``, ``30d``, ``2w``), or a date or time in ISO 8601; UTC unless it says otherwise."""
    ahead = _AHEAD.fullmatch(text)
    try:
        if ahead:
            return now + timedelta(seconds=int(ahead[1]) * _AHEAD_SECONDS[ahead[2]])
        time = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"{text!r} is no time such as 12h, 30d, 2027-01-31 or 2027-01-31T12:00:00Z") from error
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def parse_past(text: str, now: datetime) -> datetime:
    """A time ago (``12h``, ``30d``), or a date or time in ISO 8601; UTC unless it says otherwise."""
    return now - (parse_time(text, now) - now) if _AHEAD.fullmatch(text) else parse_time(text, now)


def parse_duration(text: str) -> int:
    """Seconds of ``90s``, ``5m`` or ``2h``."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no duration such as 90s, 5m or 2h")
    return int(match[1]) * _SECONDS[match[2]]


def parse_labels(pairs: Iterable[str] | None) -> dict[str, str]:
    """Labels of ``["team=search"]``."""
    labels: dict[str, str] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{pair!r} is no label such as team=search")
        if key in labels:
            raise typer.BadParameter(f"label {key} is given twice")
        labels[key] = value
    return labels
