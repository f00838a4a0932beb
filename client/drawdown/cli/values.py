"""What people type: amounts, durations, labels."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final

import typer

from drawdown import to_units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

AmountsArgument = Annotated[
    list[str], typer.Argument(metavar="AMOUNT", help="'12.50 USD', or in units '12500000u USD'; one or more.")
]
AmountArgument = Annotated[
    list[str], typer.Argument(metavar="AMOUNT", help="'12.50 USD', or in units '12500000u USD'.")
]
LabelsOption = Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="May be repeated.")]

_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600}
_DURATION: Final = re.compile(r"([0-9]{1,9})([smh])", re.ASCII)
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
        amounts[asset] = _parse_units(number, asset, scale)
    return amounts


def parse_amount(words: Iterable[str], scale: Callable[[str], int | None]) -> tuple[str, int]:
    """Asset and units of exactly one amount."""
    amounts = parse_amounts(words, scale)
    if len(amounts) != 1:
        raise typer.BadParameter("give exactly one amount")
    return next(iter(amounts.items()))


def _parse_units(number: str, asset: str, scale: Callable[[str], int | None]) -> int:
    exact = _UNITS.fullmatch(number)
    if exact:
        return int(exact[1])
    places = scale(asset)
    if places is None:
        raise typer.BadParameter(
            f"there is no asset {asset}, so how many decimal places {number} has is unknown; "
            f"see `drawdown asset list`, or give units such as '1000u {asset}'"
        )
    try:
        return to_units(number, places)
    except ValueError as error:
        raise typer.BadParameter(f"{number} {asset}: {error}") from error


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
