"""A flusher: lease, read, record, trim (ledger/flusher.py, ledger/recording.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation.protocol.world import FRESH_FLUSHER, Flusher, Postgres, Rules, State, put_flusher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulation.protocol.world import Step


def flusher_steps(rules: Rules, state: State, flusher: Flusher, number: int) -> Iterator[Step]:
    """One cycle of ``run_once``."""
    if flusher.phase in ("idle", "ready"):
        yield "takes the lease", lease(state, number)
    if flusher.phase == "leased":
        yield "trims", trim(state, flusher, number, flusher.position)
    elif flusher.phase == "ready":
        batch = state.valkey.of(flusher.epoch).outbox.after(flusher.position)
        if batch:
            read = put_flusher(state, number, flusher._replace(phase="read", batch=batch))
            words = f"reads {' '.join(event.commit for event in batch)}"
            if not rules.record_before_trim:
                read = trim(read, flusher._replace(batch=batch), number, batch[-1].stream_id + 1, phase="read")
                words += " and trims"
            yield words, read
    elif flusher.phase == "read":
        yield from record(rules, state, flusher, number)
    elif flusher.phase == "recorded":
        yield "trims", trim(state, flusher, number, flusher.position)


def lease(state: State, number: int) -> State:
    """A new owner gets a new token: every other one is outdated."""
    flushers = [flusher._replace(token_is_current=False) for flusher in state.flushers]
    flushers[number] = Flusher("leased", True, state.postgres.epoch, state.postgres.position)  # noqa: FBT003
    return state._replace(flushers=tuple(flushers))


def record(rules: Rules, state: State, flusher: Flusher, number: int) -> Iterator[Step]:
    """The transaction: position and lease are compared, then position and rows are written."""
    postgres, last_id = state.postgres, flusher.batch[-1].stream_id
    if flusher.half_recorded:
        after = state._replace(postgres=postgres._replace(position=last_id))
        done = flusher._replace(phase="recorded", position=last_id, batch=(), half_recorded=False)
        yield "moves the position", put_flusher(after, number, done)
        return
    if (
        (rules.fence_checks_token and not flusher.token_is_current)
        or (rules.fence_checks_position and flusher.position != postgres.position)
        or (rules.fence_checks_epoch and flusher.epoch != postgres.epoch)
    ):
        yield "is fenced", put_flusher(state, number, FRESH_FLUSHER)
        return
    words = f"records {' '.join(event.commit for event in flusher.batch)}"
    recorded = post(postgres, flusher)
    if rules.position_in_transaction:
        after = state._replace(postgres=recorded._replace(position=last_id))
        yield words, put_flusher(after, number, flusher._replace(phase="recorded", position=last_id, batch=()))
    else:
        yield words, put_flusher(state._replace(postgres=recorded), number, flusher._replace(half_recorded=True))


def post(postgres: Postgres, flusher: Flusher) -> Postgres:
    """planning.py: an event that does not follow the wallet's sequence is a dead letter."""
    for event in flusher.batch:
        if event.sequence == len(postgres.entries) + 1:
            postgres = postgres._replace(entries=(*postgres.entries, event))
        else:
            postgres = postgres._replace(dead=postgres.dead | {(flusher.epoch, event)}, misplaced=True)
    return postgres


def trim(state: State, flusher: Flusher, number: int, position: int, *, phase: str = "ready") -> State:
    """XTRIM MINID: the entry at the position stays."""
    generation = state.valkey.of(flusher.epoch)
    gone = [event.stream_id for event in generation.outbox.events if event.stream_id < position]
    if gone:
        outbox = generation.outbox
        kept = tuple(event for event in outbox.events if event.stream_id >= position)
        outbox = outbox._replace(events=kept, trimmed_id=max(outbox.trimmed_id, *gone))
        state = state._replace(valkey=state.valkey.put(flusher.epoch, generation._replace(outbox=outbox)))
    return put_flusher(state, number, flusher._replace(phase=phase))
