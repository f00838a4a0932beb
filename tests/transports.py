"""Tests of the client a second time over its other transport: import ``transport`` into their module."""

from __future__ import annotations

import asyncio
from typing import Any, get_args

import pytest

import drawdown
from drawdown._channel import Transport
from drawdown._sessions import Sessions

PATIENCE_S = 0.5
"""How long a call of a test waits for a Session. One that never comes may be what the test is about."""
LOOK_S = 0.001


@pytest.fixture(params=get_args(Transport), autouse=True)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Transport:
    """The transport of every client of the test that does not say otherwise."""
    for client in (drawdown.AsyncClient, drawdown.Client):
        monkeypatch.setitem(client.__init__.__kwdefaults__, "transport", request.param)
    wait_for_sessions(monkeypatch)
    chosen: Transport = request.param
    return chosen


def wait_for_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let calls wait for a Session instead of going by themselves meanwhile, so that it is Sessions that are tested."""
    perform, session = Sessions.perform, Sessions._session

    async def wait_and_perform(self: Sessions, *call: Any) -> Any:  # noqa: ANN401 - as it is
        loop = asyncio.get_running_loop()
        patient_until_s = loop.time() + PATIENCE_S
        while not self._is_closed and session(self) is None and loop.time() < patient_until_s:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
        return await perform(self, *call)

    monkeypatch.setattr(Sessions, "perform", wait_and_perform)
