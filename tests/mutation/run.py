"""Break the rules one at a time, and see that the twin notices: ``make mutation``.

Prints one line per mutant, and ends with status 1 if one survives or if the text that it changes is no longer there.
``python -m mutation.run WORD ...`` runs those whose name has one of the words.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from contract.twin import Scripts, World, virtual_library
from contract.twin_moves import random_run
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.holds.library import read_sources
from mutation.mutants import MUTANTS, Mutant

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNS_MAX: Final = 6000
"""Runs that a mutant has to survive."""
WORLDS_KEPT: Final = 600
"""Runs on the model that are kept for the next mutant; most die long before."""
SEED: Final = 1
CAUGHT: Final = "caught"

_worlds: list[World] = []


@contextmanager
def valkey_url() -> Iterator[str]:
    """A Valkey of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="drawdown-mutation-") as directory,
        ValkeyProcess(Path(directory) / "valkey", appendfsync="no") as server,
    ):
        yield server.url


def mutated(sources: dict[str, str], mutant: Mutant) -> dict[str, str] | None:
    """The Lua with one edit; None if the text is not there exactly once."""
    text = sources[mutant.file]
    if text.count(mutant.old) != 1:
        return None
    return {**sources, mutant.file: text.replace(mutant.old, mutant.new)}


def worlds() -> Iterator[World]:
    """The runs, already made on the model."""
    for number in range(RUNS_MAX):
        if number < len(_worlds):
            yield _worlds[number]
            continue
        _, world = random_run(SEED + number)
        if number < WORLDS_KEPT:
            _worlds.append(world)
        yield world


def runs_survived(url: str, sources: dict[str, str]) -> int | None:
    """How many runs show no difference before one does; None if all of them."""
    scripts = Scripts(url, virtual_library(sources))
    try:
        for number, world in enumerate(worlds()):
            if scripts.difference(world):
                return number
        return None
    finally:
        scripts.close()


def verdict_on(mutant: Mutant, url: str, sources: dict[str, str]) -> tuple[str, str]:
    """What became of a mutant, and after how long."""
    changed = mutated(sources, mutant)
    if changed is None:
        return "NO SUCH TEXT", ""
    try:
        survived = runs_survived(url, changed)
    except RedisError:
        return "NO LUA", ""
    return ("SURVIVED", "") if survived is None else (CAUGHT, f"after {survived + 1} runs")


def say(line: str) -> None:
    """To whoever waits for the table."""
    print(line, flush=True)  # noqa: T201


def main(words: list[str]) -> int:
    """Run the mutants; the exit status."""
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    sources, bad = read_sources(), 0
    with valkey_url() as url:
        if runs_survived(url, sources) is not None:
            say("the scripts differ from the model before any mutation")
            return 1
        for mutant in chosen:
            start = time.monotonic()
            verdict, after = verdict_on(mutant, url, sources)
            bad += verdict != CAUGHT
            say(f"{verdict:12}  {mutant.file:14}  {mutant.name:52}  {after:16} {time.monotonic() - start:5.1f} s")
    say(f"{len(chosen)} mutants, {len(chosen) - bad} caught, {bad} not")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
