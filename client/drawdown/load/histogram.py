"""Times in buckets of constant relative width, as HdrHistogram has them: small, exact to merge, good to p99.99.

A value below 2^11 has a bucket of its own; above, each power of two is divided into 2^10 buckets, so a bucket's ends
differ by less than 0.1 %. In nanoseconds that is exact to 2 us and three digits at any time after that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

PRECISION_BITS: Final = 10
"""2^10 buckets per power of two: three significant digits, which is more than two runs of anything agree in."""

_LINEAR_BITS: Final = PRECISION_BITS + 1
RANK_SLACK: Final = 1e-9
"""99.9 / 100 * 1000 is a little more than 999 in binary, and must not be rounded up to 1000."""


def bucket_of(value: int) -> int:
    """The number of a value's bucket; numbers rise with values."""
    shift = value.bit_length() - _LINEAR_BITS
    return value if shift <= 0 else (shift << PRECISION_BITS) + (value >> shift)


def highest_in(bucket: int) -> int:
    """The highest value of a bucket."""
    shift = (bucket >> PRECISION_BITS) - 1
    if shift <= 0:
        return bucket
    return (((bucket - (shift << PRECISION_BITS)) + 1) << shift) - 1


@dataclass(slots=True)
class Histogram:
    """Values in nanoseconds, 0 or more."""

    counts: dict[int, int] = field(default_factory=dict)
    """Values by bucket; only buckets that have some."""
    count: int = 0
    total_ns: int = 0
    max_ns: int = 0

    def add(self, value_ns: int) -> None:
        """Counts one value. A clock that went back counts as 0."""
        value_ns = max(0, value_ns)
        bucket = bucket_of(value_ns)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        self.count += 1
        self.total_ns += value_ns
        self.max_ns = max(self.max_ns, value_ns)

    def merge(self, other: Histogram) -> None:
        """Counts everything that another one has; nothing is lost by it."""
        counts = self.counts
        for bucket, count in other.counts.items():
            counts[bucket] = counts.get(bucket, 0) + count
        self.count += other.count
        self.total_ns += other.total_ns
        self.max_ns = max(self.max_ns, other.max_ns)

    @property
    def mean_ns(self) -> float:
        """The mean, exact; 0 when empty."""
        return self.total_ns / self.count if self.count else 0.0

    def percentile_ns(self, percent: float) -> int:
        """The least bucket end that so many percent of the values do not exceed; 0 when empty.

        Never below the exact percentile (the value of rank ``ceil(percent / 100 * count)``), at most 0.1 % above it,
        and never above the largest value.
        """
        rank = max(1, math.ceil(percent / 100 * self.count - RANK_SLACK))
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                return min(highest_in(bucket), self.max_ns)
        return 0

    def count_above(self, value_ns: int) -> int:
        """Values in higher buckets than this one's."""
        bucket = bucket_of(value_ns)
        return sum(count for other, count in self.counts.items() if other > bucket)
