"""The scripts against the model, in virtual time: random runs of every verb, and no difference after any step.

A run that fails prints its seed and the shortest run found; ``TWIN_SEED=<seed> TWIN_RUNS=1`` makes it again. A soak
(``-m soak``) makes ``STEPS`` steps, a million unless said otherwise, from a new seed each time.
"""

from __future__ import annotations

import os
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from contract.twin import DifferenceError, Run, Scripts, World, virtual_library
from contract.twin_moves import STARTS, VERBS, Player, random_run
from drawdown_server.holds.library import read_sources
from stores import CLUSTER

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNS: Final = int(os.environ.get("TWIN_RUNS", "2000"))
"""Runs per store; with Valkey and Redis 7 there are twice as many."""
CLUSTER_PART: Final = 40
"""One to so many of them on a cluster: there the scripts are the same, and may touch one slot alone."""
SEED: Final = int(os.environ.get("TWIN_SEED", "1"))
SOAK_STEPS: Final = int(os.environ.get("STEPS", "1_000_000"))
SOAK_SEED: Final = int(os.environ.get("TWIN_SEED", "0")) or SystemRandom().randrange(2**40)


@pytest.fixture
def scripts(store_url: str) -> Iterator[Scripts]:
    """A store with the scripts in it."""
    scripts = Scripts(store_url)
    yield scripts
    scripts.close()


def test_random_runs_are_the_same_on_the_model_and_on_the_scripts(scripts: Scripts, store_kind: str) -> None:
    runs = RUNS // CLUSTER_PART if store_kind == CLUSTER else RUNS
    for seed in range(SEED, SEED + runs):
        run, world = random_run(seed)
        run.check(scripts, world, seed)


@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
def test_a_million_steps(scripts: Scripts, capsys: pytest.CaptureFixture[str]) -> None:
    steps, seed = 0, SOAK_SEED
    with capsys.disabled():
        print(f"\nTWIN_SEED={seed} STEPS={SOAK_STEPS}")  # noqa: T201  # the seed is how to make it again
    while steps < SOAK_STEPS:
        run, world = random_run(seed)
        run.check(scripts, world, seed)
        steps, seed = steps + len(run.moves), seed + 1


class TwinMachine(RuleBasedStateMachine):
    """The same moves, thought of by hypothesis: it looks for other runs than chance does, and shrinks better."""

    scripts: Scripts

    @initialize(start_ms=st.sampled_from(STARTS))
    def begin(self, start_ms: int) -> None:
        self.world = World(start_ms)
        self.start_ms = start_ms

    @rule(verb=st.sampled_from(sorted(set(VERBS))), random=st.randoms(use_true_random=False))
    def move(self, verb: str, random: Random) -> None:
        player = Player(random, self.world)
        player.numbers = 10 * len(self.world.steps)
        is_first = not self.world.steps
        self.world.make(player.move("load" if is_first else verb))

    @rule(random=st.randoms(use_true_random=False))
    def move_again(self, random: Random) -> None:
        player = Player(random, self.world)
        player.made = [step.move for step in self.world.steps]
        if player.made:
            self.world.make(player.again())

    def teardown(self) -> None:
        if hasattr(self, "world") and (found := self.scripts.difference(self.world)):
            raise DifferenceError(found)


def test_lives_that_hypothesis_thinks_of(scripts: Scripts, store_kind: str) -> None:
    class Machine(TwinMachine):
        pass

    Machine.scripts = scripts
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=5 if store_kind == CLUSTER else 150,
            stateful_step_count=20,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


# --- the twin itself -------------------------------------------------------------------------------------------------


def test_a_broken_rule_is_found_and_the_run_is_shrunk(store_url: str) -> None:
    sources = read_sources()
    broken = sources["grants.lua"].replace("grant[EXPIRE] <= now\n", "grant[EXPIRE] < now\n")
    assert broken != sources["grants.lua"]
    scripts = Scripts(store_url, virtual_library({**sources, "grants.lua": broken}))
    with pytest.raises(DifferenceError, match="seed") as found:
        for seed in range(RUNS):
            run, world = random_run(seed)
            run.check(scripts, world, seed)
    scripts.close()
    assert str(found.value).count("Move(") <= 6


def test_a_run_is_its_seed() -> None:
    (one, _), (same, _), (other, _) = (random_run(seed) for seed in (7, 7, 8))
    assert one == same
    assert one != other
    assert Run(one.start_ms, one.moves).played().model.events == one.played().model.events
