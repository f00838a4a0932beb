"""What goes wrong: processes die, Valkey loses state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation.protocol.rules import unrecorded
from simulation.protocol.world import (
    FRESH_FLUSHER,
    FRESH_SERVER,
    START,
    State,
    Valkey,
    World,
    put_flusher,
    put_server,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulation.protocol.world import Step


def crashes(world: World, state: State) -> Iterator[Step]:
    """kill -9, and a new process in its place."""
    if state.crashes >= world.crashes:
        return
    counted = state._replace(crashes=state.crashes + 1)
    for number, server in enumerate(state.servers):
        if server != FRESH_SERVER:
            yield f"server {number + 1} crashes", put_server(counted, number, FRESH_SERVER)
    for number, flusher in enumerate(state.flushers):
        if flusher != FRESH_FLUSHER:
            yield f"flusher {number + 1} crashes", put_flusher(counted, number, FRESH_FLUSHER)


def losses(world: World, state: State) -> Iterator[Step]:
    """Valkey loses state; acknowledged commits that nobody else had go with it."""
    if state.empties < world.empties and state.valkey != Valkey() and not is_opening(state):
        yield "Valkey is emptied", lose(state._replace(empties=state.empties + 1), Valkey())
    if state.metas < world.metas and state.valkey.epoch:
        yield "the meta key is lost", lose(state._replace(metas=state.metas + 1), state.valkey._replace(epoch=START))
    if state.copy is None and state.copies < world.copies:
        yield "a copy of Valkey is made", state._replace(copy=state.valkey, copies=state.copies + 1)
    elif state.copy is not None:
        back = state._replace(copy=None, run=state.run + 1)
        yield "Valkey goes back to the copy", lose(back, state.copy)


def is_opening(state: State) -> bool:
    """A server found an epoch that nobody had opened, and another one has opened it since."""
    return state.postgres.opened and any(
        server.verify is not None
        and server.verify.step not in ("fence flushers", "read")
        and not server.verify.row.opened
        and server.verify.row.epoch == state.postgres.epoch
        for server in state.servers
    )


def lose(state: State, valkey: Valkey) -> State:
    """Valkey's state is another one now."""
    before, after = unrecorded(state), unrecorded(state._replace(valkey=valkey))
    gone = {commit for commit in state.acknowledged if commit in before and commit not in after}
    return state._replace(valkey=valkey, excused=state.excused | gone)
