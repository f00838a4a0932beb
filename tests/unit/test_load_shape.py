"""Loads over time: what people type, and where arrivals fall."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawdown.load.shape import Part, Shape, ShapeError, parse_seconds, parse_shape

LEVELS = st.integers(0, 1_000)
PARTS = st.builds(Part, LEVELS.map(float), LEVELS.map(float), st.floats(0.1, 100))


def area_until(part: Part, after_s: float) -> float:
    return (part.begin + part.level(after_s)) / 2 * after_s


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("500", [Part(500, 500, 30)]),
        ("0.5", [Part(0.5, 0.5, 30)]),
        ("100..2000", [Part(100, 2000, 30)]),
        ("0..2000:60s, 2000:5m,2000..0:250.5s", [Part(0, 2000, 60), Part(2000, 2000, 300), Part(2000, 0, 250.5)]),
    ],
)
def test_reads_a_shape(text: str, parts: list[Part]) -> None:
    shape = parse_shape(text, duration_s=30)
    assert shape.parts == tuple(parts)
    assert parse_shape(str(shape), duration_s=1) == shape


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no load such as 500"),
        ("-5", "'-5' is no load"),
        ("10..", "'10..' is no load"),
        ("10:5", "'10:5' is no load"),
        ("10:5d", "'10:5d' is no load"),
        ("10:1.2.3s", "'1.2.3s' is no time"),
        ("100,0", "'0' sends nothing"),
        ("1000001", "'1000001' is above 1,000,000"),
        ("5:0s", "takes 0 s, and a part takes above 0 s"),
        ("5:169h", "at most a week"),
    ],
)
def test_says_what_is_wrong_with_a_shape(text: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message.replace("..", r"\.\.")):
        parse_shape(text, duration_s=30)


def test_reads_times() -> None:
    assert [parse_seconds(text) for text in ("250ms", "90s", "1.5m", "2h")] == [0.25, 90, 90, 7200]
    for text in ("5", "s", "-1s", "1d", ""):
        with pytest.raises(ShapeError, match="is no time such as"):
            parse_seconds(text)


@given(PARTS.filter(lambda part: part.area > 0.01), st.floats(0, 1))
def test_a_time_of_an_area_is_when_so_much_is_behind(part: Part, share: float) -> None:
    after_s = part.time_of_area(share * part.area)
    assert 0 <= after_s <= part.seconds
    assert area_until(part, after_s) == pytest.approx(share * part.area, rel=1e-6, abs=1e-6)


@given(st.lists(PARTS, min_size=1, max_size=4), st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_times_rise_with_the_area_and_end_with_it(parts: list[Part], shares: list[float]) -> None:
    shape = Shape(tuple(parts))
    times = [shape.time_of_area(share * shape.area * 0.999) for share in sorted(shares)]
    found = [time for time in times if time is not None]
    assert found == sorted(found)
    assert all(0 <= time <= shape.seconds + 1e-9 for time in found)
    assert len(found) == len(times) or shape.area == 0
    assert shape.time_of_area(shape.area * 1.001 + 1) is None


@given(st.lists(PARTS, min_size=1, max_size=4), st.integers(0, 1_000), st.floats(0, 1))
def test_a_gateway_works_when_the_level_is_above_its_number(parts: list[Part], number: int, share: float) -> None:
    shape = Shape(tuple(parts))
    after_s = share * shape.seconds * 0.999
    found = shape.next_above(number, after_s)
    if found is None:
        ends_s = list(itertools.accumulate(part.seconds for part in parts))
        assert all(part.end <= number for part, end_s in zip(parts, ends_s, strict=True) if end_s > after_s)
        return
    assert found >= after_s
    before_s = 0.0
    for part in parts:
        if before_s <= found <= before_s + part.seconds and part.level(found - before_s) >= number - 1e-6:
            return
        before_s += part.seconds
    pytest.fail(f"at {found} s the level is not above {number}")


def test_a_warm_up_rises_to_the_first_level_and_stays_there() -> None:
    shape = parse_shape("100..200", duration_s=10)
    assert shape.warmed_up(4).parts == (Part(0, 100, 2), Part(100, 100, 2), *shape.parts)
    assert shape.warmed_up(0) == shape
    assert parse_shape("0..200", duration_s=10).warmed_up(4).parts[0] == Part(0, 200, 2)
