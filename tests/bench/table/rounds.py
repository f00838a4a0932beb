"""Round after round of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.load.generator import Calls
from bench.table.counters import read_all, used
from bench.table.rows import disk_once_a_second
from bench.table.samples import Sample, busy

if TYPE_CHECKING:
    from bench.table.rows import Row

ONE_BY_ONE: Final = 4
"""One at a time there are that much fewer calls: so a row takes about a second."""


class Rounds:
    """Measures rows.

    Args:
        calls: Of the usual row.
    """

    def __init__(self, calls: int) -> None:
        self._calls = calls
        self._number = 0
        self.failed: dict[str, str] = {}
        """Why, by row."""

    async def one(self, rows: list[Row], share: float = 1.0) -> dict[str, Sample]:
        """A sample of each row. One that fails is not tried again: the others are worth their minutes all the same."""
        samples = {}
        for row in rows:
            if row.name not in self.failed:
                try:
                    samples[row.name] = await self.measure(row, share)
                except (RuntimeError, TimeoutError) as error:
                    self.failed[row.name] = str(error) or "timed out"
        return samples

    async def measure(self, row: Row, share: float = 1.0) -> Sample:
        """One sample of a row, with a share of the calls."""
        calls = self._of(row, share)
        if row.before is not None:
            await row.before(Calls(calls.count, calls.first, calls.wallets, row.concurrency))
        async with disk_once_a_second(row.everysec):
            before = await read_all(row.meters)
            found = await row.run(calls)
            after = await read_all(row.meters)
        if found.result is None:
            return Sample(None, found.figures)
        while_it_ran = used(before, after) | found.figures
        if row.settled is not None:
            await row.settled()
        in_all = used(before, await read_all(row.meters)) | found.figures
        return Sample(found.result, in_all, busy(found.result, while_it_ran))

    def _of(self, row: Row, share: float) -> Calls:
        """Calls that nobody made yet."""
        share *= row.times / (ONE_BY_ONE if row.concurrency * row.batch == 1 else 1)
        count = max(1, round(self._calls * share / row.batch)) * row.batch
        calls = Calls(count, self._number, row.wallets, row.concurrency, row.rate)
        self._number += count
        return calls
