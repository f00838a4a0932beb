"""How many events the flusher asks each outbox for: XREAD's COUNT is per stream, and a batch is of all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class ReadCount:
    """A COUNT that follows what was there.

    A large one with all streams full would be a reply that keeps Valkey from answering anybody for long, a small one
    makes the batches of a single hot partition tiny.

    Args:
        batch_max: Most events per transaction.
    """

    def __init__(self, batch_max: int) -> None:
        self._batch_max = batch_max
        self._share = batch_max
        self.value = batch_max

    def begin(self, streams: int) -> None:
        """So many streams are read from now on: each gets its share of a batch."""
        self._share = self.value = max(1, self._batch_max // max(1, streams))

    def adapt(self, sizes: Sequence[int]) -> None:
        """So many events were found in each stream that had some."""
        total = sum(sizes)
        if total > self._batch_max:
            self.value = max(self._share, self._batch_max // len(sizes))
        elif sizes and max(sizes) == self.value:
            self.value = min(self._batch_max, self.value * 2)
