"""A server verifies Valkey (ledger/recovery.py): a step per question to a store and per write."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from simulation.protocol.world import START, Outbox, Postgres, Rules, State, Verify

if TYPE_CHECKING:
    from collections.abc import Iterator


VerifyStep: TypeAlias = tuple[str, State, "Verify | None"]
"""Words, the state after it, and where the server is then; None = done."""


def verify_steps(rules: Rules, state: State, verify: Verify) -> Iterator[VerifyStep]:
    """The next step of ``open_partitions``."""
    postgres, valkey = state.postgres, state.valkey
    if verify.step == "fence flushers":
        if rules.verify_fences_flushers:
            flushers = tuple(flusher._replace(token_is_current=False) for flusher in state.flushers)
            state = state._replace(flushers=flushers)
        yield "fences the flushers", state, verify._replace(step="read")
    elif verify.step == "read":
        row = postgres._replace(entries=(), dead=frozenset())
        step = "look 1"
        if row.left_epoch:
            step = "fence epoch" if rules.fence_before_salvage else "salvage"
        yield "reads the partition", state, verify._replace(step=step, row=row, cursor=row.left_position)
    elif verify.step == "fence epoch":
        after = state._replace(valkey=valkey._replace(epoch=max(valkey.epoch, verify.row.epoch)))
        step = "salvage" if rules.fence_before_salvage else "mark salvaged"
        yield f"sets epoch {verify.row.epoch} in Valkey", after, verify._replace(step=step)
    elif verify.step in ("salvage", "write", "mark salvaged"):
        yield salvage_step(rules, state, verify)
    elif verify.step.startswith("look"):
        yield look_step(rules, state, verify)
    elif verify.step == "mark opened":
        opened = postgres._replace(opened=postgres.opened or postgres.epoch == verify.epoch)
        yield "marks the epoch opened", state._replace(postgres=opened), None


def salvage_step(rules: Rules, state: State, verify: Verify) -> VerifyStep:
    """Copy what the old epoch left unrecorded to dead_letters, page by page until nothing is left."""
    postgres = state.postgres
    if verify.step == "salvage":
        page = state.valkey.of(verify.row.left_epoch).outbox.after(verify.cursor) if rules.salvage_unrecorded else ()
        step = "write" if page else "mark salvaged" if rules.fence_before_salvage else "fence epoch"
        return "reads the old outbox", state, verify._replace(step=step, page=page)
    if verify.step == "write":
        letters = {(verify.row.left_epoch, event) for event in verify.page}
        after = state._replace(postgres=postgres._replace(dead=postgres.dead | letters))
        cursor = verify.page[-1].stream_id
        return "writes dead letters", after, verify._replace(step="salvage", page=(), cursor=cursor)
    if postgres.left_epoch == verify.row.left_epoch:
        postgres = postgres._replace(left_epoch=START, left_position=START)
    # ``_look`` goes on with the row that was read before; what left_epoch says does not matter to it.
    return "marks the old epoch salvaged", state._replace(postgres=postgres), verify._replace(step="look 1")


def look_step(rules: Rules, state: State, verify: Verify) -> VerifyStep:
    """``_look``, then ``_open``."""
    row, valkey = verify.row, state.valkey
    if verify.step == "look 1":
        found = valkey.of(row.epoch).outbox.has(row.position)
        return "looks for the position", state, verify._replace(step="look 2", has_position=found)
    if verify.step == "look 2":
        outbox = valkey.of(row.epoch).outbox
        outbox = Outbox(outbox.events[:1], outbox.last_id, outbox.trimmed_id)
        return "reads the outbox's ids", state, verify._replace(step="look 3", outbox=outbox)
    if verify.step == "look 3":
        return f"finds epoch {valkey.epoch}", state, verify._replace(step="look: decide", epoch=valkey.epoch)
    return decide(rules, state, verify)


def same_history(rules: Rules, verify: Verify) -> bool | None:
    """``recovery.same_history``."""
    position, outbox = verify.row.position, verify.outbox
    if not rules.look_for_position:
        return True
    if outbox.last_id < position:
        return False
    if verify.has_position or outbox.last_id == position:
        return True
    if outbox.trimmed_id and (not outbox.events or outbox.events[0].stream_id > position):
        return None
    return position == START


def decide(rules: Rules, state: State, verify: Verify) -> VerifyStep:
    """The table of recovery.py."""
    row, found, now = verify.row, verify.epoch, state.postgres
    again = Verify(verify.run, "read", suspects=verify.suspects)
    if found > row.epoch:
        return "sees a newer epoch", state._replace(refused=now.epoch < found), again
    same = same_history(rules, verify)
    if same is None:
        first_id = verify.outbox.events[0].stream_id if verify.outbox.events else START
        same = bool(first_id) and now.epoch == row.epoch and first_id <= now.position
        if not same:
            is_at_rest = (now.epoch, now.position) == (row.epoch, row.position)
            return "finds that events were trimmed", state._replace(refused=is_at_rest), again
    return act(rules, state, verify, again, same=same)


def act(rules: Rules, state: State, verify: Verify, again: Verify, *, same: bool) -> VerifyStep:
    """Serve, set the meta key again, look twice, or begin an epoch."""
    row, found = verify.row, verify.epoch
    served = verify._replace(step="mark opened", epoch=row.epoch)
    if same and found == row.epoch:
        return "finds the same history", state, served
    is_there = state.valkey.of(row.epoch).outbox.has(row.position) or not rules.set_epoch_where_position_is
    if same and (not row.opened or (row.position != START and is_there)):
        epoch = max(state.valkey.epoch, row.epoch)
        after = state._replace(valkey=state.valkey._replace(epoch=epoch))
        return f"sets epoch {epoch} in Valkey", after, served._replace(epoch=epoch)
    if not verify.suspects:
        return "suspects a loss", state, again._replace(suspects=True)
    return begin_epoch(rules, state, row, again)


def begin_epoch(rules: Rules, state: State, row: Postgres, again: Verify) -> VerifyStep:
    """``partition_bump_epoch``: compare and set, with an empty outbox from which to record."""
    now = state.postgres
    if not rules.postgres_begins_epoch_first and state.valkey.epoch <= row.epoch:
        after = state._replace(valkey=state.valkey._replace(epoch=row.epoch + 1))
        return f"sets epoch {row.epoch + 1} in Valkey", after, again._replace(step="look: decide", row=row)
    if now.epoch != row.epoch or now.left_epoch:
        return "is not the first to begin an epoch", state, again
    begun = now._replace(
        epoch=row.epoch + 1, opened=False, position=START, left_epoch=now.epoch, left_position=now.position
    )
    return f"begins epoch {begun.epoch} in Postgres", state._replace(postgres=begun), again
