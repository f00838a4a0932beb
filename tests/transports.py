"""Tests of the client a second time over its other transport: import ``transport`` into their module."""

from __future__ import annotations

from typing import get_args

import pytest

import drawdown
from drawdown._channel import Transport


@pytest.fixture(params=get_args(Transport), autouse=True)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Transport:
    """The transport of every client of the test that does not say otherwise."""
    for client in (drawdown.AsyncClient, drawdown.Client):
        monkeypatch.setitem(client.__init__.__kwdefaults__, "transport", request.param)
    chosen: Transport = request.param
    return chosen
