"""What the requests of a run do: of so many, how many commit, how many release, ..."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random

WEIGHT_MAX: Final = 1_000_000
"""Largest share of one flow; shares are relative to each other."""


class MixError(ValueError):
    """The text is no mix; the message says why."""


class Flow(StrEnum):
    """The calls of one request."""

    COMMIT = "commit"
    """Authorize, then Commit of what was used."""
    RELEASE = "release"
    """Authorize, then Release: the work failed."""
    HOLD = "hold"
    """Authorize; the hold stays open until the end of the run, and is released then."""
    CHARGE = "charge"
    """Charge: usage that is known."""
    BALANCE = "balance"
    """GetBalance, as a page that shows it."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of flows."""

    weights: tuple[tuple[Flow, int], ...]

    @property
    def flows(self) -> list[Flow]:
        """The flows, in the order of the text."""
        return [flow for flow, _ in self.weights]

    @property
    def cumulative(self) -> list[int]:
        """Weights added up, as ``random.choices`` takes them."""
        return list(itertools.accumulate(weight for _, weight in self.weights))

    def draw(self, dice: random.Random) -> Flow:
        """One flow, by the weights."""
        return dice.choices(self.flows, cum_weights=self.cumulative)[0]

    def __str__(self) -> str:
        return ",".join(f"{flow}={weight}" for flow, weight in self.weights)


def parse_mix(text: str) -> Mix:
    """The mix of a text such as ``commit=90,release=10``.

    Raises:
        MixError: It is none; the message names the part.
    """
    weights: dict[Flow, int] = {}
    for word in text.split(","):
        name, _, weight = word.strip().partition("=")
        if name not in set(Flow):
            raise MixError(f"{word!r}: there is no flow {name!r}; there are {', '.join(Flow)}")
        if not (weight.isascii() and weight.isdigit() and 1 <= int(weight) <= WEIGHT_MAX):
            raise MixError(f"{word!r}: the share of {name} must be a whole number, 1 .. {WEIGHT_MAX}")
        if Flow(name) in weights:
            raise MixError(f"{name} is given twice")
        weights[Flow(name)] = int(weight)
    return Mix(tuple(weights.items()))
