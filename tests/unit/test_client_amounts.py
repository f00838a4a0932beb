from __future__ import annotations

import decimal
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import drawdown

SCALES = st.integers(0, drawdown.SCALE_MAX)
UNITS = st.integers(-drawdown.UNITS_MAX, drawdown.UNITS_MAX)


@given(units=UNITS, scale=SCALES)
def test_units_survive_the_way_to_decimals_and_back(units: int, scale: int) -> None:
    assert drawdown.to_units(drawdown.to_decimal(units, scale), scale) == units
    assert drawdown.to_units(drawdown.format_units(units, scale), scale) == units


@given(units=UNITS, scale=SCALES)
def test_the_callers_decimal_context_changes_nothing(units: int, scale: int) -> None:
    with decimal.localcontext(decimal.Context(prec=1, traps=[decimal.Inexact])):
        assert drawdown.to_units(drawdown.to_decimal(units, scale), scale) == units


@pytest.mark.parametrize(
    ("amount", "scale", "units"),
    [
        ("12.50", 6, 12_500_000),
        ("12.5", 2, 1_250),
        ("12.500", 2, 1_250),  # zeros beyond the scale say nothing
        ("0.000001", 6, 1),
        ("-0.01", 2, -1),
        ("+7", 0, 7),
        ("0", 12, 0),
        (12, 2, 1_200),
        (Decimal("1E+3"), 2, 100_000),
        (Decimal("0E-500"), 2, 0),
        ("9007199254740991", 0, drawdown.UNITS_MAX),
    ],
)
def test_to_units(amount: str | int | Decimal, scale: int, units: int) -> None:
    assert drawdown.to_units(amount, scale) == units


@pytest.mark.parametrize(
    ("amount", "scale", "rule"),
    [
        ("0.001", 2, "more than 2 decimal places"),
        ("1.5", 0, "more than 0 decimal places"),
        (Decimal("1E-400"), 12, "more than 12 decimal places"),
        ("9007199254740992", 0, "2\\^53-1"),
        ("-9007199254740992", 0, "2\\^53-1"),
        ("90071992547409.92", 2, "2\\^53-1"),
        (Decimal("1E+999999"), 0, "2\\^53-1"),
        (Decimal("NaN"), 2, "finite"),
        (Decimal("Infinity"), 2, "finite"),
        ("1e3", 2, "not a decimal number"),
        ("1_000", 2, "not a decimal number"),
        ("1,000", 2, "not a decimal number"),
        (" 1", 2, "not a decimal number"),
        ("", 2, "not a decimal number"),
        ("\u0661", 2, "not a decimal number"),  # an Arabic digit
        ("1", 13, "a scale is 0 .. 12"),
        ("1", -1, "a scale is 0 .. 12"),
    ],
)
def test_to_units_refuses(amount: str | Decimal, scale: int, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        drawdown.to_units(amount, scale)


@pytest.mark.parametrize("amount", [12.5, True, None, b"1"])
def test_only_exact_types_are_amounts(amount: object) -> None:
    with pytest.raises(TypeError, match="str, int or Decimal"):
        drawdown.to_units(amount, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("units", [1.0, True, "1"])
def test_only_ints_are_units(units: object) -> None:
    with pytest.raises(TypeError, match="units are an int"):
        drawdown.to_decimal(units, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("units", "scale", "text"),
    [
        (12_500_000, 6, "12.50 USD"),
        (12_000_000, 6, "12.00 USD"),
        (12_345_000, 6, "12.345 USD"),
        (1, 6, "0.000001 USD"),
        (-5, 2, "-0.05 USD"),
        (15, 1, "1.5 USD"),
        (10, 1, "1.0 USD"),
        (1_000, 0, "1000 USD"),
        (0, 12, "0.00 USD"),
    ],
)
def test_format_amount(units: int, scale: int, text: str) -> None:
    assert drawdown.format_amount(units, scale, "USD") == text
