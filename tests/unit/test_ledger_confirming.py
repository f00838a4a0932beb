"""Waiting for the ledger: one query for all, and an answer for everybody."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from drawdown_server.errors import StoreUnavailableError
from drawdown_server.ledger import confirming
from drawdown_server.ledger.confirming import Confirmations, HoldEvent

if TYPE_CHECKING:
    from collections.abc import Sequence

LONG_S = 30.0


class Ledger:
    """A ledger that a test decides on."""

    def __init__(self) -> None:
        self.decided: dict[HoldEvent, bool] = {}
        self.failures: list[Exception] = []
        self.queries: list[list[HoldEvent]] = []
        self.asked = asyncio.Condition()

    async def find_events(self, events: Sequence[HoldEvent]) -> list[bool | None]:
        self.queries.append(list(events))
        async with self.asked:
            self.asked.notify_all()
        if self.failures:
            raise self.failures.pop()
        return [self.decided.get(event) for event in events]


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def event(number: int) -> HoldEvent:
    return HoldEvent("acme", "w1", f"h{number}", number)


async def asked(ledger: Ledger, times: int) -> None:
    async with asyncio.timeout(LONG_S), ledger.asked:
        await ledger.asked.wait_for(lambda: len(ledger.queries) >= times)


async def test_nobody_is_asked_while_nobody_waits(ledger: Ledger) -> None:
    confirmations = Confirmations(ledger)
    confirmations.recorded()
    await asyncio.sleep(0)
    assert ledger.queries == []
    ledger.decided[event(1)] = True
    assert await confirmations.confirmed(event(1), LONG_S)
    assert len(ledger.queries) == 1
    await confirmations.aclose()


async def test_one_query_asks_for_everybody_and_each_gets_its_own_answer(ledger: Ledger) -> None:
    confirmations = Confirmations(ledger)
    waits = [asyncio.create_task(confirmations.confirmed(event(n), LONG_S)) for n in (1, 2, 3, 3)]
    await asked(ledger, 2)
    assert ledger.queries[-1] == [event(1), event(2), event(3)]
    ledger.decided |= {event(1): True, event(3): True, event(2): False}
    confirmations.recorded()
    assert await asyncio.gather(*waits) == [True, False, True, True]
    await confirmations.aclose()


async def test_a_wait_ends_by_itself(ledger: Ledger) -> None:
    confirmations = Confirmations(ledger)
    assert not await confirmations.confirmed(event(1), 0.01)
    assert not await confirmations.confirmed(event(1), 0)
    assert not await confirmations.confirmed(event(1), -1)
    await confirmations.aclose()


async def test_a_store_that_is_down_is_asked_again(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirming, "PAUSE_S", 0.001)
    ledger.failures = [StoreUnavailableError("postgres")] * 3
    ledger.decided[event(1)] = True
    confirmations = Confirmations(ledger)
    assert await confirmations.confirmed(event(1), LONG_S)
    assert len(ledger.queries) == 4
    await confirmations.aclose()


async def test_a_mistake_of_ours_answers_everybody_and_the_next_one_is_asked_for_again(ledger: Ledger) -> None:
    ledger.failures = [RuntimeError("a mistake")]
    confirmations = Confirmations(ledger)
    assert not await confirmations.confirmed(event(1), LONG_S)
    ledger.decided[event(2)] = True
    assert await confirmations.confirmed(event(2), LONG_S)
    await confirmations.aclose()


async def test_more_than_so_many_are_answered_at_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirming, "WAITERS_MAX", 2)
    confirmations = Confirmations(ledger)
    waits = [asyncio.create_task(confirmations.confirmed(event(n), LONG_S)) for n in (1, 2)]
    await asked(ledger, 1)
    assert not await confirmations.confirmed(event(3), LONG_S)
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    ledger.decided[event(4)] = True
    assert await confirmations.confirmed(event(4), LONG_S), "who has gone makes room"
    assert ledger.queries[-1] == [event(4)], "and is not asked for"
    await confirmations.aclose()


async def test_when_the_server_ends_nobody_waits_for_long(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirming, "LAST_WAIT_S", 0.01)
    confirmations = Confirmations(ledger)
    before = asyncio.create_task(confirmations.confirmed(event(1), LONG_S))
    await asked(ledger, 1)
    confirmations.end()
    assert not await confirmations.confirmed(event(2), LONG_S)
    assert not await before
    await confirmations.aclose()
