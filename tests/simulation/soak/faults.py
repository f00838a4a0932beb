"""What goes wrong, and when: drawn from the seed before anything starts, then done to the real processes."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from simulation.soak.stack import Stack

LANES: Final = {
    "processes": {
        "kill server": 5,
        "stop server": 3,
        "kill flusher": 4,
        "stop flusher": 4,
        "kill valkey": 3,
        "stop valkey": 2,
        "kill postgres": 2,
    },
    "lines": {
        "cut valkey": 4,
        "cut postgres": 4,
        "slow valkey": 3,
        "slow postgres": 3,
        "half-open valkey": 2,
        "half-open postgres": 2,
        "lost reply": 8,
        "lost request": 3,
    },
}
"""Faults and their weights. One of each lane at a time: a process may die while a line is bad."""
PAUSE_MIN_S: Final = 0.3
"""Between two faults of a lane."""
LASTS_S: Final = (0.2, 3.5)
"""Longer than a claim, a lease and the patience of a connection; shorter than a caller's."""
LATENCY_S: Final = 0.05
VERBS: Final = (b"authorize", b"commit", b"charge", b"refund", b"release", b"extend", b"apply", b"load")


class Fault(NamedTuple):
    """One thing that goes wrong."""

    pause_s: float
    """After the one before."""
    kind: str
    lasts_s: float
    target: int
    """Which of several."""


def plan_faults(seed: int, lane: str, seconds: float, pause_max_s: float) -> list[Fault]:
    """Faults for so many seconds, with at most so much rest between two of a lane."""
    dice = random.Random(f"{seed} {lane}")  # noqa: S311  # no secret
    kinds, weights = list(LANES[lane]), list(LANES[lane].values())
    faults: list[Fault] = []
    at_s = 0.0
    while True:
        kind = dice.choices(kinds, weights)[0]
        fault = Fault(dice.uniform(PAUSE_MIN_S, pause_max_s), kind, dice.uniform(*LASTS_S), dice.randrange(1_000))
        at_s += fault.pause_s + fault.lasts_s
        if at_s > seconds:
            return faults
        faults.append(fault)


async def inject(stack: Stack, faults: list[Fault], stop: asyncio.Event) -> None:
    """Do them one after the other, each undone before the next; those that are still to come when it stops are not."""
    for fault in faults:
        if await is_set_within(stop, fault.pause_s):
            return
        stack.books.counts[f"fault {fault.kind}"] += 1
        await do(stack, fault, stop)


async def do(stack: Stack, fault: Fault, stop: asyncio.Event) -> None:
    """One fault, and its end."""
    what, _, where = fault.kind.partition(" ")
    line = stack.valkey_line if where == "valkey" else stack.postgres_line
    if what == "kill":
        await stack.kill(where, fault.target)
    elif what == "stop":
        with stack.stopped(where, fault.target):
            await is_set_within(stop, fault.lasts_s)
    elif what == "cut":
        line.cut()
    elif what == "slow":
        line.latency_s = LATENCY_S
        await is_set_within(stop, fault.lasts_s)
        line.latency_s = 0.0
    elif what == "half-open":
        line.stall()
        await is_set_within(stop, fault.lasts_s)
        line.resume()
    else:
        verb = VERBS[fault.target % len(VERBS)]
        stack.valkey_line.lose(
            verb, "cut" if fault.target % 2 else "silence", "replies" if where == "reply" else "requests"
        )


async def is_set_within(stop: asyncio.Event, timeout_s: float) -> bool:
    """Wait for the end, but not longer than this."""
    try:
        async with asyncio.timeout(timeout_s):
            await stop.wait()
    except TimeoutError:
        return False
    return True
