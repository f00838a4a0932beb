from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from drawdown_server.ledger import batches
from drawdown_server.ledger.batches import Batches

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Source:
    """Answers rounds when it is told to."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.answers: list[asyncio.Future[None]] = []

    async def read_many(self, keys: Sequence[int]) -> Mapping[int, str]:
        self.asked.append(list(keys))
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        await answer
        return {key: str(key) for key in keys if key >= 0}

    def answer(self, number: int, error: Exception | None = None) -> None:
        if error is None:
            self.answers[number].set_result(None)
        else:
            self.answers[number].set_exception(error)


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_read_alone_is_a_round_of_its_own_at_once() -> None:
    source = Source()
    read = asyncio.create_task(Batches(source.read_many).read(7))
    await turn()
    assert source.asked == [[7]]
    source.answer(0)
    assert await read == "7"


async def test_what_comes_while_two_rounds_are_under_way_shares_the_next() -> None:
    source = Source()
    reads = Batches(source.read_many)
    tasks = []
    for key in (1, 2, 3, 4, -1):
        tasks.append(asyncio.create_task(reads.read(key)))
        await turn()
    assert source.asked == [[1], [2]]
    source.answer(1)
    await turn()
    assert source.asked == [[1], [2], [3, 4, -1]]
    source.answer(2)
    source.answer(0)
    assert await asyncio.gather(*tasks) == ["1", "2", "3", "4", None]
    assert reads.rounds_total == 3


async def test_a_round_has_a_bounded_number_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "KEYS_MAX", 2)
    source = Source()
    reads = Batches(source.read_many)
    tasks = [asyncio.create_task(reads.read(key)) for key in range(5)]
    await turn()
    source.answer(0)
    source.answer(1)
    await turn()
    assert [len(keys) for keys in source.asked] == [2, 2, 1]
    source.answer(2)
    assert await asyncio.gather(*tasks) == [str(key) for key in range(5)]


async def test_a_round_that_fails_fails_those_who_wait_for_it_and_nobody_else() -> None:
    source = Source()
    reads = Batches(source.read_many)
    first = asyncio.create_task(reads.read(1))
    await turn()
    second = asyncio.create_task(reads.read(2))
    await turn()
    source.answer(0, ValueError("no"))
    source.answer(1)
    with pytest.raises(ValueError, match="no"):
        await first
    assert await second == "2"


async def test_who_gave_up_is_not_read_for() -> None:
    source = Source()
    reads = Batches(source.read_many)
    tasks = [asyncio.create_task(reads.read(1))]
    await turn()
    tasks.append(asyncio.create_task(reads.read(2)))
    await turn()
    gone = asyncio.create_task(reads.read(3))
    tasks.append(asyncio.create_task(reads.read(4)))
    await turn()
    gone.cancel()
    source.answer(0)
    await turn()
    assert source.asked == [[1], [2], [4]]
    source.answer(1)
    source.answer(2)
    assert await asyncio.gather(*tasks) == ["1", "2", "4"]
