"""``drawdown load`` as people run it, against a real server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from drawdown.v1 import authorization_service_pb2 as authorization_pb
from drawdown.v1 import types_pb2
from drawdown_server.dev.trace import DEFAULT_TRACE
from integration.load_command import WAIT_S, WALLETS, load, started
from integration.server import until

if TYPE_CHECKING:
    from pathlib import Path

    from integration.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")


def target_of(server: Server) -> str:
    return f"127.0.0.1:{server.port}"


async def assert_books(server: Server, found: Any, prefix: str) -> None:  # noqa: ANN401
    """The tool found its money right, and so does an auditor who looks into both stores."""
    assert found["conservation"]["is_conserved"]
    (line,) = found["conservation"]["assets"]
    assert line["debited_units"] == line["fallen_units"] > 0
    assert line["held_more_units"] == 0
    await server.assert_conserved(*(f"{prefix}-{number:05d}" for number in range(1, WALLETS + 1)))


async def test_an_open_loop_sends_what_the_plan_says(server: Server, directory: Path) -> None:
    html, saved = directory / "report.html", directory / "report.json"
    code, found, err = await load(
        target_of(server), "--create", "--prefix", "open", "--rate", "100", "--duration", "3s", "--warmup", "500ms",
        "--arrivals", "constant", "--processes", "2", "--mix", "commit=6,release=2,hold=1,charge=1,balance=1",
        "--seed", "3", "--html", str(html), "--save", str(saved),
        "--assert", "errors==0", "--assert", "rate>=99", "--assert", "p99.99<60s",
    )  # fmt: skip
    assert code == 0, (found, err)
    assert found["requests"]["begun"] == 300
    assert found["requests"]["unsent"] == 0
    assert {call["call"] for call in found["calls"]} == {"Authorize", "Commit", "Release", "Charge", "GetBalance"}
    begun = [call["count"] for call in found["calls"] if call["call"] in {"Authorize", "Charge", "GetBalance"}]
    assert sum(begun) == 300
    assert (found["errors"], found["denials"], found["is_passed"]) == ([], [], True)
    assert found["conservation"]["released_at_end"] > 0  # the holds that stay open until then
    assert len(found["generator"]["cpu_percent_by_process"]) == 2
    assert json.loads(saved.read_text()) == found
    assert html.read_text().startswith("<!doctype html>")
    await assert_books(server, found, "open")


async def test_a_closed_loop_has_so_many_requests_at_a_time(server: Server) -> None:
    code, found, err = await load(
        target_of(server), "--create", "--prefix", "closed", "--concurrency", "1..8", "--duration", "2s",
        "--processes", "2", "--amount", "5u USD", "--amount", "7u TOKENS", "--assert", "p50<1us",
    )  # fmt: skip
    assert code == 1, (found, err)  # because of the assertion
    assert (found["is_passed"], found["assertions"][0]["holds"]) == (False, False)
    assert found["errors"] == []
    assert found["requests"]["begun"] > 8
    assets = {line["asset"]: line for line in found["conservation"]["assets"]}
    assert assets["USD"]["debited_units"] == assets["USD"]["fallen_units"] > 0
    assert assets["TOKENS"]["debited_units"] == assets["TOKENS"]["fallen_units"] > 0
    await server.assert_conserved(*(f"closed-{number:05d}" for number in range(1, WALLETS + 1)))


async def test_a_trace_is_replayed_faster_than_it_came(server: Server) -> None:
    code, found, err = await load(
        target_of(server), "--create", "--prefix", "trace", "--trace", str(DEFAULT_TRACE), "--speed", "20",
        "--duration", "2s", "--processes", "2", "--price", "LOAD_TEST=1,2",
    )  # fmt: skip
    assert code == 0, (found, err)
    within = [line for line in DEFAULT_TRACE.read_text().splitlines()[1:] if line < "2024-01-01 00:00:40.045"]
    assert found["requests"]["begun"] == len(within)
    assert found["settings"]["replay"]["speed"] == 20
    await assert_books(server, found, "trace")


async def test_the_poor_are_denied_and_that_is_no_error(server: Server) -> None:
    code, found, err = await load(
        target_of(server), "--create", "--prefix", "poor", "--fund", "2500u LOAD_TEST", "--rate", "50",
        "--duration", "2s", "--mix", "commit=1", "--used", "100", "--assert", "errors==0", "--assert", "denials>=50",
    )  # fmt: skip
    assert code == 0, (found, err)
    assert found["denials"][0]["reason"] == "INSUFFICIENT_FUNDS"
    # Two holds of 1,000 units fit into each wallet, whoever comes.
    assert found["conservation"]["assets"][0]["debited_units"] <= WALLETS * 2_000
    await assert_books(server, found, "poor")


async def test_ctrl_c_ends_a_run_with_its_report(server: Server) -> None:
    await server.wallet("stopped-00001")
    async with started(
        target_of(server), "--create", "--prefix", "stopped", "--rate", "50", "--duration", "10m", "--processes", "2",
        "--mix", "charge=1,hold=1",
    ) as run:  # fmt: skip

        async def spends_and_holds() -> bool:
            holds = await server.call(authorization_pb.ListHoldsRequest(wallet_id="stopped-00001"))
            kinds = {entry.kind for entry in await server.entries("stopped-00001")}
            return bool(holds.holds) and types_pb2.ENTRY_KIND_DEBIT in kinds

        await until(spends_and_holds, timeout_s=WAIT_S)
        run.press_ctrl_c()
        code, found, err = await run.end()
    assert code == 0, err
    assert "stopping: open holds are settled" in err
    assert found["is_stopped_early"]
    assert found["measured_s"] < 600
    assert found["conservation"]["released_at_end"] > 0
    await assert_books(server, found, "stopped")


async def test_a_tool_that_is_killed_leaves_nothing_held(server: Server) -> None:
    wallets = [f"killed-{number:05d}" for number in range(1, WALLETS + 1)]
    for wallet_id in wallets:
        await server.wallet(wallet_id)

    async def held() -> int:
        pages = [await server.call(authorization_pb.ListHoldsRequest(wallet_id=wallet_id)) for wallet_id in wallets]
        return sum(len(page.holds) for page in pages)

    async with started(
        target_of(server), "--create", "--prefix", "killed", "--rate", "50", "--duration", "10m", "--processes", "2",
        "--mix", "hold=1",
    ) as run:  # fmt: skip
        await until(held, timeout_s=WAIT_S)
        run.process.kill()
        await run.process.wait()

        async def nothing_is_held() -> bool:
            return await held() == 0

        await until(nothing_is_held, timeout_s=WAIT_S)
    await server.assert_conserved(*wallets)


async def test_nobody_at_the_target_is_one_line() -> None:
    code, found, err = await load("127.0.0.1:1", "--rate", "5", "--timeout", "1", "--quiet")
    assert (code, found) == (1, None)
    assert json.loads(err)["error"]["code"] == "UNAVAILABLE"
    assert len(err.splitlines()) == 1
