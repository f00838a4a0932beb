"""Every order of steps of small worlds keeps every rule; each guard that is taken away lets a commit down."""

from __future__ import annotations

from typing import Final

import pytest

from simulation.protocol.search import search
from simulation.protocol.world import Rules, World

STATES_MIN: Final = 100_000
"""Distinct states that the searches below must see together."""

WORLDS: Final = {
    "two flushers, a crash": World(commits="ab", servers=1, flushers=2, crashes=1),
    "a new installation": World(commits="a", servers=2, flushers=1, crashes=1, fresh=True),
    "emptied, beside a crash": World(commits="ab", servers=1, flushers=1, crashes=1, empties=1),
    "emptied, two servers": World(commits="a", servers=2, flushers=1, crashes=0, empties=1, lost_replies=0),
    "gone back to a copy": World(commits="ab", servers=1, flushers=1, crashes=0, copies=1),
}
LARGE_WORLDS: Final = {
    "the meta key lost, two servers": World(commits="ab", servers=2, flushers=1, crashes=0, metas=1, lost_replies=0),
    "emptied, two servers, two commits": World(servers=2, flushers=1, crashes=0, empties=1, lost_replies=0),
    "gone back to a copy, beside a crash": World(servers=1, flushers=1, crashes=1, copies=1),
    "gone back to a copy, two servers": World(commits="a", servers=2, flushers=1, crashes=0, copies=1, lost_replies=0),
    "gone back to a copy, two flushers": World(servers=1, flushers=2, crashes=0, copies=1),
    "emptied, a new installation": World(commits="a", servers=2, flushers=1, crashes=1, empties=1, fresh=True),
}

FLUSH: Final = World(servers=1, flushers=2)
EMPTIED: Final = World(servers=1, flushers=1, empties=1)
META: Final = World(servers=2, flushers=1, crashes=0, metas=1, lost_replies=0)
COPY: Final = World(servers=1, flushers=1, copies=1)

BREAKS: Final = {
    "trim before record": (FLUSH, Rules(record_before_trim=False)),
    "position outside the transaction": (FLUSH, Rules(position_in_transaction=False)),
    "record without lease and position": (FLUSH, Rules(fence_checks_token=False, fence_checks_position=False)),
    "record without the lease's token": (COPY, Rules(fence_checks_token=False)),
    "record without the epoch": (EMPTIED, Rules(fence_checks_epoch=False)),
    "scripts without the epoch": (EMPTIED, Rules(scripts_check_epoch=False)),
    "load without a ticket": (WORLDS["emptied, two servers"], Rules(load_carries_ticket=False)),
    "verify before the connection": (COPY, Rules(connect_before_verify=False)),
    "reconnect without verify": (COPY, Rules(reconnect_verifies=False)),
    "verify beside flushers that read before": (COPY, Rules(verify_fences_flushers=False)),
    "verify without the position": (COPY, Rules(look_for_position=False)),
    "meta key set again without a look": (EMPTIED, Rules(set_epoch_where_position_is=False)),
    "Valkey's epoch before Postgres'": (EMPTIED, Rules(postgres_begins_epoch_first=False)),
    "salvage before the fence": (META, Rules(fence_before_salvage=False)),
    "nothing salvaged": (META, Rules(salvage_unrecorded=False)),
}


def test_every_order_of_steps_keeps_every_rule() -> None:
    states = 0
    for name, world in WORLDS.items():
        found = search(world)
        print(f"{name}: {found}")  # noqa: T201  # how much was seen
        assert not found.broken, f"{name}: {found}"
        assert found.finished, f"{name}: no order of steps gets everything recorded"
        states += found.states
    assert states >= STATES_MIN


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world", LARGE_WORLDS.values(), ids=LARGE_WORLDS)
def test_every_order_of_steps_of_a_larger_world_keeps_every_rule(world: World) -> None:
    found = search(world)
    print(found)  # noqa: T201  # how much was seen
    assert not found.broken, found
    assert found.finished


@pytest.mark.parametrize(("world", "rules"), BREAKS.values(), ids=BREAKS)
def test_without_one_of_its_guards_the_protocol_breaks(world: World, rules: Rules) -> None:
    found = search(world._replace(rules=rules))
    print(found)  # noqa: T201  # the way to the damage
    assert found.broken, f"{found}: nothing needs this guard in this world"


def test_every_guard_has_a_world_that_needs_it() -> None:
    """All but the position: with the lease's token it is a second lock on the same door."""
    broken = {name for _, rules in BREAKS.values() for name in Rules._fields if not getattr(rules, name)}
    assert broken == set(Rules._fields)
