"""The worked examples of server/EXAMPLES.md, run as they stand there, on a server whose clock the page moves."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
import pytest_asyncio
from redis import Redis

import drawdown
import stores
from contract.twin import CLOCK, clock_library
from drawdown_server import app
from drawdown_server.holds import keys
from drawdown_server.holds.store import HoldStore
from integration.server import Server, run_server, settings, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from drawdown_server.dev.postgres import PostgresProcess
    from drawdown_server.dev.valkey import ValkeyProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE: Final = Path(__file__).parent.parent.parent / "server" / "EXAMPLES.md"
SECTIONS: Final = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
EXAMPLES: Final = {section.partition("\n")[0]: section for section in SECTIONS[1:]}
EXAMPLES_MIN: Final = 13
START: Final = datetime(2027, 3, 1, 9, tzinfo=UTC)
"""A Monday, the first of a month with 31 days: the page counts in whole weeks and months from here."""
PLACES: Final = {"USD": 6, "IMAGES": 0}


def code_of(section: str) -> str:
    """The fenced Python of a section, with line numbers of the page in its errors."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL))


class Reader:
    """The names that the examples use beside the client's. Called from the thread that runs an example."""

    def __init__(self, server: Server, clock: Redis, run: Callable[[Coroutine[Any, Any, object]], None]) -> None:
        self.server = server
        self.clock = clock
        self.run = run
        self.client = drawdown.Client(f"127.0.0.1:{server.port}", timeout_s=15)

    def now(self) -> datetime:
        return datetime.fromtimestamp(int(self.clock.get(CLOCK) or 0) / 1000, UTC)

    def time(self, **span: float) -> datetime:
        return self.now() + timedelta(**span)

    def wait(self, **span: float) -> None:
        """Move the clock, and let the sweep do what is due then."""
        self.clock.set(CLOCK, round(self.time(**span).timestamp() * 1000))
        self.run(until(self.is_swept))

    async def is_swept(self) -> bool:
        now_ms = round(self.now().timestamp() * 1000)
        due = [keys.due_wallets(partition, 1) for partition in range(self.server.config.partitions)]
        return not any(self.clock.zcount(key, "-inf", now_ms) for key in due)

    def ledger(self, wallet_id: str) -> list[str]:
        self.client.get_balance(wallet_id=wallet_id)
        self.run(self.server.assert_conserved(wallet_id))
        return [
            f"{entry.kind} {amount(entry.units, entry.asset)} {entry.asset} {entry.grant_id or 'debt'}"
            for entry in self.client.iter_entries(wallet_id=wallet_id)
        ]


def amount(units: int, asset: str) -> str:
    """Units as people write them."""
    places = PLACES[asset]
    return f"{Decimal(units).scaleb(-places):.2f}" if places else str(units)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reader(valkey_process: ValkeyProcess, postgres_process: PostgresProcess) -> AsyncIterator[Reader]:
    """A server whose time is a key, and what its examples need."""
    stores.empty(valkey_process)
    clock = Redis.from_url(valkey_process.url)
    clock.set(CLOCK, round(START.timestamp() * 1000))

    async def now_ms(_: HoldStore, partition: int = 0) -> int:  # noqa: ARG001  # there is one clock
        return int(clock.get(CLOCK) or 0)

    name = f"examples_{uuid4().hex[:12]}"
    postgres_url = await postgres_process.create_database(name, template=stores.TEMPLATE_DATABASE)
    loop = asyncio.get_running_loop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "build_library", clock_library)
        patch.setattr(HoldStore, "now_ms", now_ms)
        async with run_server(settings(valkey_process.url, postgres_url), assets=False) as server:
            reader = Reader(server, clock, lambda work: asyncio.run_coroutine_threadsafe(work, loop).result())
            yield reader
            reader.client.close()
    clock.close()
    await postgres_process.drop_database(name)


@pytest.mark.parametrize("title", EXAMPLES)
async def test_a_worked_example_is_true(reader: Reader, title: str) -> None:
    names = {"client": reader.client, "ledger": reader.ledger, "time": reader.time, "wait": reader.wait}
    code = compile(code_of(SECTIONS[0]) + code_of(EXAMPLES[title]), f"{PAGE.name}: {title}", "exec")
    reader.clock.set(CLOCK, round(START.timestamp() * 1000))
    await asyncio.to_thread(exec, code, names)


async def test_every_section_of_the_page_is_an_example_with_checks() -> None:
    assert len(EXAMPLES) >= EXAMPLES_MIN
    for title, section in EXAMPLES.items():
        assert "assert " in code_of(section), title
