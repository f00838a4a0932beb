"""The histogram of the load tool beside exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawdown.load.histogram import Histogram, bucket_of, highest_in

TIMES_NS = st.integers(0, 10**12) | st.integers(0, 5_000)
PERCENTS = st.sampled_from(["0", "50", "75", "90", "99", "99.9", "99.99", "100"])
RELATIVE_ERROR = 1 / 1024


def histogram_of(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


def exact_percentile(values: list[int], percent: str) -> int:
    rank = max(1, math.ceil(Fraction(percent) / 100 * len(values)))
    return sorted(values)[rank - 1]


@given(st.integers(0, 2**62))
def test_a_bucket_has_its_value_and_is_narrow(value: int) -> None:
    bucket = bucket_of(value)
    highest = highest_in(bucket)
    assert value <= highest <= value * (1 + RELATIVE_ERROR)
    assert bucket_of(highest) == bucket
    assert bucket_of(highest + 1) == bucket + 1


@given(st.lists(TIMES_NS, min_size=1, max_size=300), PERCENTS)
def test_a_percentile_is_never_too_low_and_hardly_too_high(values: list[int], percent: str) -> None:
    exact = exact_percentile(values, percent)
    found = histogram_of(values).percentile_ns(float(percent))
    assert exact <= found <= exact * (1 + RELATIVE_ERROR)
    assert found <= max(values)


@pytest.mark.parametrize(("percent", "rank"), [(50, 500), (99, 990), (99.9, 999), (99.99, 1000), (100, 1000), (0, 1)])
def test_a_percentile_is_of_the_right_rank(percent: float, rank: int) -> None:
    assert histogram_of(list(range(1, 1001))).percentile_ns(percent) == rank


@given(st.lists(st.lists(TIMES_NS, max_size=50), min_size=1, max_size=6))
def test_merged_histograms_are_the_histogram_of_all_values(parts: list[list[int]]) -> None:
    merged = Histogram()
    for part in parts:
        merged.merge(histogram_of(part))
    everything = [value for part in parts for value in part]
    assert merged == histogram_of(everything)
    assert merged.mean_ns == (pytest.approx(sum(everything) / len(everything)) if everything else 0)
    assert merged.max_ns == max(everything, default=0)


def test_an_empty_histogram_says_nothing() -> None:
    empty = Histogram()
    assert (empty.count, empty.mean_ns, empty.max_ns, empty.percentile_ns(99)) == (0, 0, 0, 0)


def test_a_clock_that_went_back_counts_as_no_time() -> None:
    assert histogram_of([-5]) == histogram_of([0])


def test_counts_what_is_above() -> None:
    assert histogram_of([1, 5, 5, 9]).count_above(5) == 1
