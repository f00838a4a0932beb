"""What a gateway's customers will do, decided beforehand: who asks for how much, who pays, who is too poor.

Everything is drawn from one seed, so that a run can be repeated. Amounts are integers: one MODEL_TOKENS unit is one
token, one USD unit a millionth of a dollar.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import drawdown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from drawdown.load.trace import TraceRow

USD: Final = "USD"
MODEL_TOKENS: Final = "MODEL_TOKENS"
ASSETS: Final = {USD: 6, MODEL_TOKENS: 0}
"""Assets of the demo and their scales."""
USD_PER_CONTEXT_TOKEN: Final = 3
USD_PER_GENERATED_TOKEN: Final = 15
"""Units of USD per token: 3 and 15 dollars per million tokens."""

UNKNOWN_WALLET: Final = "nobody"
"""A customer whom nobody has made a wallet for."""
UNKNOWN_SHARE: Final = 0.005
RELEASE_SHARE: Final = 0.02
"""Requests that fail at the model: nothing was used."""
ABANDON_SHARE: Final = 0.01
"""Requests whose gateway crashed: nobody settles, the hold expires."""
REPEAT_SHARE: Final = 0.03
"""Requests whose calls are sent twice, as after a lost answer."""
POOR_EVERY: Final = 4
"""One wallet in so many is too poor, evenly spread, so that busy and quiet ones are among them."""
POOR_PERCENT: Final = (20, 70)
"""What a poor wallet has of what it would use."""
FROZEN_INDEX: Final = 10
"""This wallet (the eleventh busiest, when there are so many) is frozen."""
PROMOTION_PART: Final = 10
"""A tenth of the funds is a promotion: two grants to burn, in order."""
IDLE_UNITS: Final = 1_000_000
"""Funds of a wallet that nobody uses."""


class Outcome(StrEnum):
    """How an approved request ends."""

    COMMIT = "COMMIT"
    RELEASE = "RELEASE"
    ABANDON = "ABANDON"


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request of a customer."""

    hold_id: str
    wallet_id: str
    worst_units: Mapping[str, int]
    """By asset: what it can cost at most."""
    used_units: Mapping[str, int]
    """By asset: what it will have cost."""
    outcome: Outcome
    is_sent_twice: bool
    """Authorize and Commit are both sent twice."""


@dataclass(frozen=True, slots=True)
class PlannedGrant:
    """Funds for one wallet."""

    wallet_id: str
    grant_id: str
    asset: str
    units: int
    source: drawdown.GrantSource


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that happens in a run."""

    wallets: Sequence[str]
    frozen: Sequence[str]
    grants: Sequence[PlannedGrant]
    requests: Sequence[PlannedRequest]


def make_plan(rows: Sequence[TraceRow], *, wallets: int, seed: int) -> Plan:
    """Spread the requests of a trace over wallets, most over few, and fund three wallets in four well enough."""
    dice = random.Random(seed)  # noqa: S311 - a simulation, no secret
    names = [f"customer-{number:04d}" for number in range(wallets)]
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(wallets)))
    requests = []
    for number, row in enumerate(rows, start=1):
        wallet_id = dice.choices(names, cum_weights=weights)[0]
        if dice.random() < UNKNOWN_SHARE:
            wallet_id = UNKNOWN_WALLET
        requests.append(_request(f"req-{number:07d}", wallet_id, row, dice))
    return Plan(
        wallets=names,
        frozen=names[FROZEN_INDEX : FROZEN_INDEX + 1],
        grants=_grants(names, requests, dice),
        requests=requests,
    )


def _request(hold_id: str, wallet_id: str, row: TraceRow, dice: random.Random) -> PlannedRequest:
    draw = dice.random()
    if draw < RELEASE_SHARE:
        outcome = Outcome.RELEASE
    elif draw < RELEASE_SHARE + ABANDON_SHARE:
        outcome = Outcome.ABANDON
    else:
        outcome = Outcome.COMMIT
    return PlannedRequest(
        hold_id=hold_id,
        wallet_id=wallet_id,
        worst_units=_cost(row.context_tokens, row.output_limit),
        used_units=_cost(row.context_tokens, row.generated_tokens),
        outcome=outcome,
        is_sent_twice=dice.random() < REPEAT_SHARE,
    )


def _cost(context_tokens: int, generated_tokens: int) -> dict[str, int]:
    return {
        MODEL_TOKENS: context_tokens + generated_tokens,
        USD: context_tokens * USD_PER_CONTEXT_TOKEN + generated_tokens * USD_PER_GENERATED_TOKEN,
    }


def _grants(names: Sequence[str], requests: Sequence[PlannedRequest], dice: random.Random) -> list[PlannedGrant]:
    worst: Counter[tuple[str, str]] = Counter()
    used: Counter[tuple[str, str]] = Counter()
    for request in requests:
        for asset in ASSETS:
            worst[request.wallet_id, asset] += request.worst_units[asset]
            used[request.wallet_id, asset] += request.used_units[asset]
    grants = []
    for index, wallet_id in enumerate(names):
        is_poor = index % POOR_EVERY == 1
        short_of = dice.choice(list(ASSETS))
        percent = dice.randint(*POOR_PERCENT)
        for asset in ASSETS:
            units = worst[wallet_id, asset] or IDLE_UNITS
            if is_poor and asset == short_of:
                units = max(1, used[wallet_id, asset] * percent // 100)
            promotion = units // PROMOTION_PART
            for source, part in (
                (drawdown.GrantSource.PROMOTION, promotion),
                (drawdown.GrantSource.PURCHASE, units - promotion),
            ):
                if part > 0:
                    grant_id = f"{source.lower()}-{asset.lower()}"
                    grants.append(PlannedGrant(wallet_id, grant_id, asset, part, source))
    return grants
