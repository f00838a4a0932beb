"""Units to decimals and back, exactly.

The API speaks integers in an asset's smallest unit; people speak decimals. The asset's ``scale`` is the number of
decimal places between the two: at scale 6, ``12.50`` is ``12_500_000`` units. Nothing here rounds and nothing here
takes a float: a float has already lost the number that was meant.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

UNITS_MAX: Final = 2**53 - 1
"""Largest amount or balance, in units: the store counts in doubles, which are exact up to here."""

SCALE_MAX: Final = 12
"""Most decimal places an asset can have."""

DECIMALS_SHOWN_MIN: Final = 2
"""People expect 12.50, not 12.5: trailing zeros are kept up to here (or up to the scale, when that is less)."""

_UNITS_DIGITS_MAX: Final = len(str(UNITS_MAX))
_DECIMAL: Final = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?", re.ASCII)


def to_units(amount: str | int | Decimal, scale: int) -> int:
    """Exact units of a decimal amount.

    Args:
        amount: Wholes as text (``"12.50"``; digits and one point, no exponent), ``Decimal`` or ``int``.
        scale: Decimal places of the asset, 0 .. 12.

    Raises:
        TypeError: For a float (or anything else): it cannot say exactly what was meant.
        ValueError: When the amount is no number, has more decimal places than the scale, or leaves +-(2^53-1) units.
    """
    _check_scale(scale)
    sign, digits, exponent = _parts(amount)
    number: int = int("".join(map(str, digits)))
    if number == 0:
        return 0
    shift = exponent + scale
    if len(str(number)) + shift > _UNITS_DIGITS_MAX:  # before 10**shift, which could be astronomically large
        raise ValueError(_out_of_range(amount))
    if shift < 0:
        digits_needed = len(digits) + 1  # 10**n of more digits than the number has leaves a remainder anyway
        number, remainder = divmod(number, 10 ** min(-shift, digits_needed))
        if remainder:
            raise ValueError(f"{amount} has more than {scale} decimal places, the scale of its asset")
    else:
        number *= 10**shift
    if number > UNITS_MAX:
        raise ValueError(_out_of_range(amount))
    return -number if sign else number


def to_decimal(units: int, scale: int) -> Decimal:
    """The exact decimal of units, with ``scale`` places: ``to_decimal(12_500_000, 6)`` is ``Decimal("12.500000")``."""
    _check_scale(scale)
    if isinstance(units, bool) or not isinstance(units, int):
        raise TypeError(f"units are an int, not {type(units).__name__}")
    # From parts and not by division: those round to the precision of the caller's decimal context.
    return Decimal((int(units < 0), tuple(int(digit) for digit in str(abs(units))), -scale))


def format_units(units: int, scale: int) -> str:
    """Units as people read them: ``format_units(12_500_000, 6)`` is ``"12.50"``.

    Trailing zeros beyond the second decimal place are left out; nothing is rounded.
    """
    text = f"{to_decimal(units, scale):f}"
    whole, point, decimals = text.partition(".")
    shown = decimals.rstrip("0").ljust(min(scale, DECIMALS_SHOWN_MIN), "0")
    return f"{whole}{point}{shown}" if shown else whole


def format_amount(units: int, scale: int, asset: str) -> str:
    """Units with their asset: ``format_amount(12_500_000, 6, "USD")`` is ``"12.50 USD"``."""
    return f"{format_units(units, scale)} {asset}"


def _parts(amount: str | int | Decimal) -> tuple[int, tuple[int, ...], int]:
    """Sign, digits and exponent of the amount."""
    if isinstance(amount, bool) or not isinstance(amount, str | int | Decimal):
        raise TypeError(f"an amount is a str, int or Decimal, not {type(amount).__name__}: {amount!r}")
    if isinstance(amount, str) and not _DECIMAL.fullmatch(amount):
        raise ValueError(f"{amount!r} is not a decimal number such as 12.50")
    sign, digits, exponent = Decimal(amount).as_tuple()
    if not isinstance(exponent, int):  # NaN and the infinities
        raise ValueError(f"{amount} is not a finite number")  # noqa: TRY004 - its type is right, its value is not
    return sign, digits, exponent


def _check_scale(scale: int) -> None:
    if not 0 <= scale <= SCALE_MAX:
        raise ValueError(f"a scale is 0 .. {SCALE_MAX}, not {scale}")


def _out_of_range(amount: str | int | Decimal) -> str:
    return f"{amount} is beyond {UNITS_MAX} units (2^53-1) at the scale of its asset"
