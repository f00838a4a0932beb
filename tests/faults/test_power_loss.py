"""The machine loses power: the append-only file ends in the middle of a script, and what starts again is a whole state.

With ``appendfsync always`` an answer is given after its script is on the disk, so all that can be torn is a script
whose answer nobody has got. The long runs of kills and cuts are the simulator's; here each script is cut at many bytes.
"""

from __future__ import annotations

import random
import shutil
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import pytest

from contract.stage import open_stage
from contract.wallets import assert_conserved
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.holds.model import OveragePolicy, WalletState
from drawdown_server.holds.startup import open_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from redis.asyncio import Redis

    from contract.wallets import Wallet

TIMEOUT_MS: Final = 10_000
State = dict[bytes, bytes]
"""Every key with its serialized value."""


async def whole_state(client: Redis) -> State:
    names = sorted(await client.keys())
    return {name: await client.dump(name) for name in names}


def log_of(directory: Path) -> Path:
    """The file that Valkey appends to."""
    (log,) = (directory / "data" / "appendonlydir").glob("*.incr.aof")
    return log


async def last_scripts(wallet: Wallet) -> AsyncIterator[str]:
    """One writer, script by script: holds, debits from several grants, debt, changes, what time does."""
    await wallet.grant("USD", 50)
    await wallet.grant("TOKENS", 500)
    yield "grants"
    await wallet.hold("h1", USD=20, TOKENS=100)
    yield "authorize"
    await wallet.commit("h1", final=False, USD=5, TOKENS=10)
    yield "progress"
    await wallet.commit("h1", USD=12, TOKENS=100)
    yield "commit"
    await wallet.hold("h2", USD=3)
    yield "another authorize"
    await wallet.release("h2")
    yield "release"
    await wallet.authorize("h3", overage_policy=OveragePolicy.CHARGE_FULL, USD=1)
    yield "a hold that may go into debt"
    await wallet.commit("h3", USD=90)
    yield "into debt"
    await wallet.grant("USD", 200)
    yield "a grant that repays"
    await wallet.set_state(WalletState.FROZEN)
    yield "freeze"
    await wallet.sweep(recorded=False)
    yield "sweep"


@pytest.mark.parametrize(
    "cuts",
    [
        pytest.param(3, id="short"),
        pytest.param(200, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ],
)
async def test_a_log_that_ends_anywhere_gives_back_a_whole_state(data_dir: Path, cuts: int) -> None:
    """As many cuts in every script, and one byte before and after its end: never a half script, never another state."""
    seed = random.randrange(10**9)  # noqa: S311 - a seed
    print(f"{seed=}")  # noqa: T201 - to run it again
    dice = random.Random(seed)  # noqa: S311
    states: list[tuple[int, str, State]] = []
    async with ValkeyProcess(data_dir / "first") as valkey, open_stage(valkey.url) as stage:
        log = log_of(data_dir / "first")
        wallet = await stage.wallet()
        async for name in last_scripts(wallet):
            states.append((log.stat().st_size, name, await whole_state(stage.nodes.of(0))))
            await assert_conserved(wallet)
        shutil.copytree(data_dir / "first" / "data", data_dir / "copy" / "data")
    whole = log_of(data_dir / "copy").read_bytes()
    for (start, _, before), (end, name, after) in pairwise(states):
        middle = sorted(dice.sample(range(start, end), min(cuts, end - start)))
        for size in {*middle, end - 1, end}:
            log_of(data_dir / "copy").write_bytes(whole[:size])
            found = await restarted(data_dir / "copy")
            assert found == (after if size == end else before), f"{name}: cut at {size} of {start}..{end}"


async def restarted(directory: Path) -> State:
    """What a Valkey on this data has after it was started."""
    async with ValkeyProcess(directory) as valkey, open_client(valkey.url, timeout_ms=TIMEOUT_MS) as client:
        return await whole_state(client)
