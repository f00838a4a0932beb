"""What a run will do: every request drawn beforehand, from one seed.

The same plan gives the same requests at the same times however many processes share them: each process draws all of
them (a few microseconds each) and sends its own.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias

from drawdown.load.trace import arrivals

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from drawdown.load.mix import Flow, Mix
    from drawdown.load.shape import Shape
    from drawdown.load.trace import TraceRow

Units: TypeAlias = "Mapping[str, int]"
"""Units by asset."""

PROCESSES_MAX: Final = 64
WALLETS_MAX: Final = 100_000
"""Each is read before and after the run: more would take longer than the run."""
IN_FLIGHT_MAX: Final = 100_000
IN_FLIGHT_DEFAULT: Final = 2_000
"""Of all processes together. A server that answers in 10 ms has 100 in flight at 10,000 a second; what is far above
that waits in queues and says nothing more about the server."""
SPEED_MAX: Final = 1_000
SKEW_MAX: Final = 5
INTERVALS_S: Final = ((0.1, 5.0), (0.5, 30.0))
"""Widths of a point in time of short runs, and up to which duration."""
INTERVALS_MAX: Final = 600
"""Points of a plot over time of long ones: more cannot be told apart on a screen."""


class Loop(StrEnum):
    """Who decides when the next request comes."""

    OPEN = "open"
    """The schedule does, as customers do: requests come at a rate, whether or not the server keeps up."""
    CLOSED = "closed"
    """The server does: so many gateways, each with one request at a time."""


class Arrivals(StrEnum):
    """How the requests of an open loop are spread over time."""

    POISSON = "poisson"
    """As independent customers come: in bunches and with gaps."""
    CONSTANT = "constant"
    """Evenly."""


@dataclass(frozen=True, slots=True)
class Price:
    """Units of one asset that a token of a trace costs."""

    context_units: int
    generated_units: int

    def units(self, context_tokens: int, generated_tokens: int) -> int:
        """Units of so many tokens."""
        return context_tokens * self.context_units + generated_tokens * self.generated_units


@dataclass(frozen=True, slots=True)
class Replay:
    """A trace to send again."""

    name: str
    rows: Sequence[TraceRow] = field(repr=False)
    speed: float
    prices: Mapping[str, Price]
    """By asset."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, drawn."""

    number: int
    start_s: float
    """When it is meant to begin, in seconds after the warm-up; below 0 during it. 0 in a closed loop."""
    wallet_id: str
    flow: Flow
    held: Units
    """What is authorized, or charged."""
    used: Units
    """What is committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All settings of a run but the connection."""

    run_id: str
    """Begins every hold id of the run."""
    loop: Loop
    shape: Shape | None
    """Rate or gateways over time, without the warm-up. None, for an open loop: the trace's own times."""
    replay: Replay | None = None
    arrivals: Arrivals = Arrivals.POISSON
    warmup_s: float = 0.0
    """Seconds at the beginning that are not measured."""
    duration_s: float
    """Seconds that are measured, when nobody stops it."""
    wallets: Sequence[str] = field(repr=False)
    skew: float
    """The n-th wallet is used ``1 / n^skew`` as often as the first: 0 for all alike, about 1 for customers."""
    mix: Mix
    held: Units
    """Authorized by each request, unless it comes from a trace."""
    used_percent: tuple[int, int]
    """Least and most of what was held that a Commit uses."""
    think_s: float
    """Between the answer to Authorize and the Commit or Release: how long the customer's request runs."""
    ttl_s: float | None
    in_flight_max: int
    """Of this run; open loop only. An arrival past it waits, and its latency with it."""
    processes: int
    seed: int
    settle_s: float
    """How long holds are settled at the end of the run, while the server does not answer, before they are left to their
    ttl."""

    @property
    def interval_s(self) -> float:
        """Width of a point in time in the report: whole seconds, or less in runs of a few seconds."""
        for width_s, most_s in INTERVALS_S:
            if self.duration_s <= most_s:
                return width_s
        return float(-(-self.duration_s // INTERVALS_MAX))

    @property
    def assets(self) -> list[str]:
        """Every asset that is spent."""
        return sorted(self.replay.prices if self.replay else self.held)


def requests(plan: Plan, process: int) -> Iterator[Request]:
    """The requests of one process, in the order of their times; a closed loop's have no end."""
    return itertools.islice(_all_requests(plan), process, None, plan.processes)


def _all_requests(plan: Plan) -> Iterator[Request]:
    dice = random.Random(plan.seed)  # noqa: S311 - a simulation, no secret
    wallets = list(plan.wallets)
    often = list(itertools.accumulate(1 / rank**plan.skew for rank in range(1, len(wallets) + 1)))
    flows, weights = plan.mix.flows, plan.mix.cumulative
    rows = itertools.repeat(None) if plan.replay is None else iter(plan.replay.rows)
    for number, (start_s, row) in enumerate(zip(_starts(plan), rows, strict=False)):
        wallet_id = dice.choices(wallets, cum_weights=often)[0]
        flow = dice.choices(flows, cum_weights=weights)[0]
        percent = dice.randint(*plan.used_percent)
        if row is None or plan.replay is None:
            held: Units = plan.held
            used = {asset: max(1, units * percent // 100) for asset, units in held.items()}
        else:
            prices = plan.replay.prices.items()
            held = {asset: max(1, price.units(row.context_tokens, row.output_limit)) for asset, price in prices}
            used = {asset: max(1, price.units(row.context_tokens, row.generated_tokens)) for asset, price in prices}
        yield Request(number, start_s - plan.warmup_s, wallet_id, flow, held, used)


def _starts(plan: Plan) -> Iterator[float]:
    """When requests begin, in seconds after the beginning of the warm-up."""
    if plan.loop is Loop.CLOSED:
        yield from itertools.repeat(plan.warmup_s)
        return
    if plan.shape is None:
        yield from arrivals(plan.replay.rows, plan.replay.speed) if plan.replay else ()
        return
    shape = plan.shape.warmed_up(plan.warmup_s)
    # Dice of its own: the same arrivals whatever else is drawn. At a rate of 1 they are the area under the shape.
    dice = random.Random(plan.seed + 1)  # noqa: S311 - a simulation, no secret
    area = 0.0
    while (start_s := shape.time_of_area(area)) is not None:
        yield start_s
        area += dice.expovariate(1.0) if plan.arrivals is Arrivals.POISSON else 1.0
