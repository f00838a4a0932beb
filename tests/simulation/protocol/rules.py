"""What must hold in every state, and from one state to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulation.protocol.world import State


def unrecorded(state: State) -> list[str]:
    """Commits whose event Valkey has and that Postgres will still take: as an entry, or as a dead letter."""
    postgres, valkey = state.postgres, state.valkey
    found = [event.commit for event in valkey.of(postgres.epoch).outbox.after(postgres.position)]
    if postgres.left_epoch:
        left = valkey.of(postgres.left_epoch).outbox.after(postgres.left_position)
        found += [event.commit for event in left if (postgres.left_epoch, event) not in postgres.dead]
    return found


def broken_rule(state: State) -> str:
    """The invariant that a state breaks; empty when all hold."""
    return next(broken_rules(state), "")


def broken_rules(state: State) -> Iterator[str]:
    """Every invariant that a state breaks."""
    postgres, valkey = state.postgres, state.valkey
    yield from lost_and_doubled(state)
    if [entry.sequence for entry in postgres.entries] != list(range(1, len(postgres.entries) + 1)):
        yield "the wallet's sequence has a gap or a repeat in the ledger"
    if postgres.misplaced:
        yield "an event did not follow the wallet's sequence"
    if valkey.of(postgres.epoch).outbox.trimmed_id >= max(postgres.position, 1):
        yield "trim passed the position of Postgres"
    if valkey.epoch > postgres.epoch:
        yield "I6: Valkey is in an epoch that Postgres has not begun"
    if postgres.epoch - 1 > state.empties + state.metas + state.run:
        yield "an epoch was begun though nothing was lost"
    if state.refused:
        yield "a server refuses to start though Postgres lost nothing"
    yield from wrong_balance(state)


def lost_and_doubled(state: State) -> Iterator[str]:
    """I4: an acknowledged commit is an entry, a dead letter, or still to be one of them; no commit is so twice."""
    places = [
        *(entry.commit for entry in state.postgres.entries),
        *(event.commit for _, event in state.postgres.dead),
        *unrecorded(state),
    ]
    for commit in state.acknowledged - state.excused:
        if commit not in places:
            yield f"I4: the acknowledged commit {commit} is gone"
    if len(set(places)) < len(places):
        yield f"I4: a commit is there twice: {' '.join(sorted(places))}"


def wrong_balance(state: State) -> Iterator[str]:
    """No money is made: what may be served is the ledger's balance less what the outbox still has for it."""
    postgres, valkey = state.postgres, state.valkey
    wallet = valkey.of(valkey.epoch).wallet
    if wallet is None or valkey.epoch != postgres.epoch:
        return
    for server in state.servers:
        if server.verify is None and server.run == state.run and server.epoch == valkey.epoch:
            spent = len(postgres.entries) + len(valkey.of(valkey.epoch).outbox.after(postgres.position))
            if (wallet.spent, wallet.sequence) != (spent, spent):
                yield f"the live wallet has spent {wallet.spent}, ledger and outbox say {spent}"


def broken_step(before: State, after: State) -> str:
    """The rule about two states in a row that a step breaks."""
    if after.postgres.epoch < before.postgres.epoch:
        return "I6: the epoch shrank"
    if after.postgres.epoch == before.postgres.epoch and after.postgres.position < before.postgres.position:
        return "the position went back within an epoch"
    if after.next_id > before.next_id:  # a script appended an event
        old = [epoch for epoch in range(1, before.postgres.epoch + 1) if epoch != before.valkey.epoch]
        if any(after.valkey.of(epoch) != before.valkey.of(epoch) for epoch in old):
            return "I6: a server with an old epoch had an effect"
    return ""
