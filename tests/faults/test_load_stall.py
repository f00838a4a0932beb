"""A server that stops for a second, as the load tool shows it: the customers who came meanwhile have waited."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Final

import drawdown
from drawdown_server.dev.server import DrawdownProcess
from integration.audit import open_audit
from integration.load_command import WAIT_S, WALLETS, started
from integration.server import until

if TYPE_CHECKING:
    from pathlib import Path

    from drawdown_server.config import Config

STALL_S: Final = 1.0
RATE: Final = 100
DURATION_S: Final = 6
FUNDS: Final = 10**12
"""What --create gives to each wallet."""


async def until_it_spends(client: drawdown.AsyncClient) -> None:
    """Wait until the run has begun to spend from its first wallet."""

    async def spends() -> bool:
        try:
            balance = (await client.get_balance(wallet_id="load-00001")).balances.get("LOAD_TEST")
        except drawdown.NotFoundError:
            return False
        return balance is not None and 0 < balance.settled_units < FUNDS

    await until(spends, timeout_s=WAIT_S)


async def test_a_server_that_stops_for_a_second_shows_in_the_tail_of_an_open_loop(
    config: Config, directory: Path
) -> None:
    async with (
        DrawdownProcess(directory / "server", config) as server,
        drawdown.AsyncClient(server.url, timeout_s=WAIT_S) as client,
        started(
            server.url, "--timeout", str(WAIT_S), "--create", "--mix", "commit=1", "--arrivals", "constant",
            "--rate", str(RATE), "--duration", f"{DURATION_S}s",
        ) as run,
    ):  # fmt: skip
        await until_it_spends(client)
        os.kill(server.pid, signal.SIGSTOP)
        await asyncio.sleep(STALL_S)  # the fault itself: a stall is a length of time
        os.kill(server.pid, signal.SIGCONT)
        code, found, err = await run.end()
        async with open_audit(config) as audit:
            await audit.assert_conserved(*(f"load-{number:05d}" for number in range(1, WALLETS + 1)))
    assert code == 0, err
    authorize = next(call for call in found["calls"] if call["call"] == "Authorize")
    # A sixth of the requests came while nobody was there, and waited for half of the stall in the mean. A loop that
    # waits for the server would have had one slow call per gateway.
    assert authorize["count"] == RATE * DURATION_S
    assert authorize["latency_ms"]["max"] >= 1_000 * STALL_S * 0.9
    assert authorize["latency_ms"]["p95"] >= 1_000 * STALL_S * 0.4
    stalled = [point["latency_ms"].get("Authorize", {"p50": 0})["p50"] for point in found["over_time"]]
    assert max(stalled) >= 1_000 * STALL_S * 0.7


async def test_a_server_that_dies_and_stays_away_leaves_a_report_that_says_so(config: Config, directory: Path) -> None:
    async with (
        DrawdownProcess(directory / "server", config) as server,
        drawdown.AsyncClient(server.url, timeout_s=WAIT_S) as client,
        started(
            server.url, "--timeout", "0.5", "--create", "--mix", "charge=1", "--settle", "1s",
            "--rate", "50", "--duration", "3s",
        ) as run,
    ):  # fmt: skip
        await until_it_spends(client)
        server.kill()
        code, found, err = await run.end()
        server.start()
    assert code == 1, err
    assert not found["is_passed"]
    assert found["conservation"]["unread"].startswith("UNAVAILABLE")
    assert {error["code"] for error in found["errors"]} <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert found["conservation"]["unsettled"]
    assert found["calls"][0]["count"] > 0
