"""The search: every state that a world can be in, breadth first."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulation.protocol.flush import flusher_steps
from simulation.protocol.lose import crashes, losses
from simulation.protocol.rules import broken_rule, broken_step
from simulation.protocol.serve import server_steps
from simulation.protocol.world import State, World, first_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulation.protocol.world import Step


def steps(world: World, state: State) -> Iterator[Step]:
    """Everything that can happen next."""
    for number, server in enumerate(state.servers):
        for words, after in server_steps(world, state, server, number):
            yield f"server {number + 1} {words}", after
    for number, flusher in enumerate(state.flushers):
        for words, after in flusher_steps(world.rules, state, flusher, number):
            yield f"flusher {number + 1} {words}", after
    yield from crashes(world, state)
    yield from losses(world, state)


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found."""

    states: int
    """Distinct ones."""
    broken: str
    """The first rule that is broken; empty = none anywhere."""
    trace: tuple[str, ...]
    """A shortest way there, in words."""
    finished: bool
    """Whether some state has every commit acknowledged and recorded: a search that gets nowhere proves nothing."""

    def __str__(self) -> str:
        if not self.broken:
            return f"{self.states:,} states, every rule holds"
        lines = [f"{number:3}  {words}" for number, words in enumerate(self.trace, start=1)]
        return "\n".join([f"{self.broken}, after", *lines])


def search(world: World, *, states_max: int = 5_000_000) -> Found:
    """Breadth first, so the first counter-example is a shortest one.

    Raises:
        RuntimeError: There are more than ``states_max`` states: the world is too large.
    """
    first = first_state(world)
    came_from: dict[State, tuple[State, str] | None] = {first: None}
    queue = deque([first])
    finished = False
    while queue:
        state = queue.popleft()
        finished = finished or len(state.postgres.entries) == len(world.commits) == len(state.acknowledged)
        for words, after in steps(world, state):
            broken = broken_step(state, after)
            if after in came_from and not broken:
                continue
            came_from.setdefault(after, (state, words))
            broken = broken or broken_rule(after)
            if broken:
                return Found(len(came_from), broken, (*trace(came_from, state), words), finished)
            queue.append(after)
        if len(came_from) > states_max:
            raise RuntimeError(f"more than {states_max} states")
    return Found(len(came_from), "", (), finished)


def trace(came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    """The steps that lead to a state."""
    words = []
    while (step := came_from[state]) is not None:
        state, word = step
        words.append(word)
    return words[::-1]
