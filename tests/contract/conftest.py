"""The stage: a real store with the scripts in it. Every test ends with a check of all books that it touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from contract.stage import open_stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from contract.wallets import Stage


@pytest.fixture
async def stage(store_url: str) -> AsyncIterator[Stage]:
    """A store with an epoch in every partition and the scripts loaded; at the end every wallet is conserved."""
    async with open_stage(store_url) as stage:
        yield stage
