"""Valkey is killed again and again in the middle of its work; at times its log then loses a part of its last script.

Several writers, each alone on a wallet and a partition, so that each knows every state that its keys may be in: the
one after its last answer, and the one after the call that got none. Whatever starts again must be one of them.
"""

from __future__ import annotations

import asyncio
import os
import random
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest
from redis.exceptions import RedisError

from contract.stage import open_stage
from contract.wallets import Stage, Wallet, assert_conserved
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.errors import DrawdownError, StoreUnavailableError
from drawdown_server.holds import keys
from drawdown_server.holds.model import OveragePolicy
from faults.test_power_loss import log_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from drawdown_server.holds.messages import AuthorizeReply, SettleReply

    Script = Callable[[], Awaitable[AuthorizeReply | SettleReply]]

WRITERS: Final = 4
FUNDS: Final = 1_000_000_000
KILL_WITHIN_S: Final = 0.15
"""A script and its sync take a few milliseconds: a kill hits some writer in the middle of one."""
BLOCK: Final = b"*1\r\n$5\r\nMULTI\r\n"
"""How a script with several writes begins in the log."""
LATEST: Final = 6
"""States that a log without its last script may go back to: single writes may follow that script."""
ANSWER_S: Final = 30.0
State = tuple[str, ...]


def sorted_hashes(replies: list[object]) -> list[object]:
    """Hashes have no order."""
    return [sorted(reply.items()) if isinstance(reply, dict) else reply for reply in replies]


class Writer:
    """Script after script on one wallet, each of which changes nothing when it is sent again."""

    def __init__(self, stage: Stage, wallet: Wallet, dice: random.Random) -> None:
        self.wallet = wallet
        self._stage = stage
        self._dice = dice
        self._holds = 0
        self._open: list[str] = []
        self.states: list[State] = []
        """After each answer, the oldest first; also of earlier rounds, since the last script of a log may be of one."""
        self.unanswered: Script | None = None
        self.unread: Script | None = None
        """It was answered, and Valkey was gone before its state was read."""
        self.answers = 0

    async def state(self) -> State:
        """Everything that the wallet's scripts can write. Not DUMP: it shows hashes in an order of the process."""
        meta, outbox, due, wallet, holds, open_holds, settled, caps = self.wallet.keys
        async with self._stage.nodes.of(0).pipeline(transaction=True) as pipeline:
            for key in (meta, wallet, holds, caps):
                pipeline.hgetall(key)
            for key in (due, open_holds, settled):
                pipeline.zrange(key, 0, -1, withscores=True)
            pipeline.xrange(outbox)
            return tuple(map(str, sorted_hashes(await pipeline.execute())))

    async def begin(self) -> None:
        """Take what is there as the state to go on from."""
        self.states = [*self.states[-LATEST:], await self.state()]
        self.unanswered = self.unread = None
        self._open = [hold.hold_id for hold in await self.wallet.open_holds()]

    async def run(self) -> None:
        """Until Valkey is gone."""
        while True:
            script = self._next()
            self.unanswered = script
            try:
                await script()
            except StoreUnavailableError:
                return
            self.unanswered, self.unread = None, script
            self.answers += 1
            try:
                self.states.append(await self.state())
            except RedisError:
                return
            self.unread = None

    def _next(self) -> Script:
        dice, wallet = self._dice, self.wallet
        if not self._open or dice.random() < 0.4:
            self._holds += 1
            self._open.append(f"{wallet.wallet_id}-{self._holds}")
            policy = OveragePolicy.CHARGE_FULL
            return partial(wallet.authorize, self._open[-1], overage_policy=policy, USD=dice.randint(1, 99), TOKENS=5)
        hold_id = dice.choice(self._open)
        self._open.remove(hold_id)
        if dice.random() < 0.2:
            return partial(wallet.release, hold_id)
        return partial(wallet.commit, hold_id, USD=dice.randint(1, 120))

    async def check(self, *, is_cut: bool) -> None:
        """What started again is a state before or after a whole script; an answered script is there unless cut off."""
        found = await self.state()
        await assert_conserved(self.wallet)
        last = self.unanswered or self.unread
        is_known = found in self.states[-LATEST if is_cut else -1 :]
        if not is_known or (self.unread is not None and not is_cut):
            assert last is not None, "neither the last state nor one that a script was on its way to"
            self.states.append(found)
            await last()  # the same ids: if all of it is there, it changes nothing
            assert await self.state() == found, "an answered script is gone, or one that got no answer is there in part"


@pytest.mark.parametrize(
    ("kills", "cuts"),
    [
        pytest.param(6, 3, id="short"),
        pytest.param(200, 50, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
async def test_what_was_killed_starts_again_before_or_after_a_whole_script(
    data_dir: Path, kills: int, cuts: int
) -> None:
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"{seed=}")  # noqa: T201 - to run it again
    dice = random.Random(seed)  # noqa: S311 - a simulation
    cut_rounds = set(dice.sample(range(kills), cuts))
    async with ValkeyProcess(data_dir) as valkey, open_stage(valkey.url) as stage:
        writers = [
            Writer(stage, wallet, random.Random(f"{seed} {wallet.wallet_id}"))  # noqa: S311 - the same
            for wallet in await wallets_apart(stage)
        ]
        unanswered = 0
        for number in range(kills):
            for writer in writers:
                await writer.begin()
            async with asyncio.TaskGroup() as group:
                for writer in writers:
                    group.create_task(writer.run())
                await asyncio.sleep(dice.uniform(0, KILL_WITHIN_S))  # whenever it happens: that is the test
                await asyncio.to_thread(valkey.kill)
            unanswered += sum(writer.unanswered is not None for writer in writers)
            if number in cut_rounds:
                cut_last_script(log_of(data_dir), dice)
            await asyncio.to_thread(valkey.start)
            await answers(stage)
            for writer in writers:
                await writer.check(is_cut=number in cut_rounds)
        answered = sum(writer.answers for writer in writers)
    print(f"kills: {kills} kills, {cuts} cuts, {answered} scripts answered, {unanswered} unanswered")  # noqa: T201
    assert answered > kills


async def wallets_apart(stage: Stage) -> list[Wallet]:
    """A funded wallet in each of several partitions."""
    found: dict[int, str] = {}
    for number in range(1_000):
        name = f"w{number}"
        found.setdefault(keys.partition_of("acme", name, len(stage.epochs)), name)
    return [await stage.wallet(name, USD=FUNDS, TOKENS=FUNDS) for name in list(found.values())[:WRITERS]]


def cut_last_script(log: Path, dice: random.Random) -> None:
    """As if the machine had lost power: the log ends somewhere in its last script."""
    data = log.read_bytes()
    start = data.rfind(BLOCK)
    assert start >= 0
    log.write_bytes(data[: dice.randrange(start + 1, len(data))])


async def answers(stage: Stage) -> None:
    """Wait until the scripts' connection is there again."""
    async with asyncio.timeout(ANSWER_S):
        while True:
            try:
                await stage.store.now_ms()
                await stage.nodes.of(0).ping()
            except (DrawdownError, RedisError):
                await asyncio.sleep(0.01)
            else:
                return
