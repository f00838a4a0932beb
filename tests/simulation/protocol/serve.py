"""A server: verifies, then runs scripts. One FCALL is one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation.protocol.recover import verify_steps
from simulation.protocol.world import (
    START,
    Event,
    Generation,
    Server,
    State,
    Ticket,
    Verify,
    Wallet,
    World,
    acknowledge,
    put_server,
    put_wallet,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulation.protocol.world import Step


def server_steps(world: World, state: State, server: Server, number: int) -> Iterator[Step]:
    """A server verifies, or serves."""
    if server.verify is not None:
        for words, after, verify in verify_steps(world.rules, state, server.verify):
            if verify is None:
                run = server.verify.run if world.rules.connect_before_verify else state.run
                done = server._replace(run=run, epoch=server.verify.epoch, verify=None)
                yield words, put_server(after, number, done)
            else:
                yield words, put_server(after, number, server._replace(verify=verify))
        return
    broken = server.run != state.run
    if broken and (world.rules.reconnect_verifies or not server.epoch):
        yield "connects", put_server(state, number, server._replace(verify=Verify(state.run), ticket=None))
        return
    if world.rules.scripts_check_epoch and state.valkey.epoch != server.epoch:
        # Any script says STALE_EPOCH. A load is then begun anew, its read of Postgres included.
        ticket = None if world.rules.load_carries_ticket else server.ticket
        yield "is told: stale epoch", put_server(state, number, Server(server.run, START, Verify(server.run), ticket))
        return
    yield from serving_steps(world, state, server, number)


def serving_steps(world: World, state: State, server: Server, number: int) -> Iterator[Step]:
    """The scripts, and what a server does when one says NOT_LOADED."""
    wallet = state.valkey.of(server.epoch).wallet
    if server.ticket is not None:
        yield "loads the wallet", load(world, put_server(state, number, server._replace(ticket=None)), server)
        return
    if wallet is None:
        if len(state.acknowledged) < len(world.commits):
            ticket = Ticket(server.epoch, len(state.postgres.entries), len(state.postgres.entries))
            yield "reads the wallet from Postgres", put_server(state, number, server._replace(ticket=ticket))
        return
    for commit in world.commits:
        if commit not in state.asked:
            held = wallet._replace(held=wallet.held | {commit})
            after = put_wallet(state, server.epoch, held)
            yield f"authorizes {commit}", after._replace(asked=state.asked | {commit})
        elif commit not in state.acknowledged:
            yield from commit_steps(world, state, server, wallet, commit)


def commit_steps(world: World, state: State, server: Server, wallet: Wallet, commit: str) -> Iterator[Step]:
    """Commit: known as settled, held, in the ledger, or nobody knows it (then there is no step to take)."""
    if commit in wallet.settled or any(entry.commit == commit for entry in state.postgres.entries):
        yield f"answers again for {commit}", acknowledge(state, commit)
        return
    if commit not in wallet.held:
        return
    generation = state.valkey.of(server.epoch)
    event = Event(state.next_id, wallet.sequence + 1, commit)
    after = state._replace(
        next_id=state.next_id + 1,
        valkey=state.valkey.put(
            server.epoch,
            Generation(
                outbox=generation.outbox._replace(events=(*generation.outbox.events, event), last_id=event.stream_id),
                wallet=Wallet(wallet.sequence + 1, wallet.spent + 1, wallet.held - {commit}, wallet.settled | {commit}),
            ),
        ),
    )
    yield f"commits {commit} in epoch {server.epoch}", acknowledge(after, commit)
    if state.lost_replies < world.lost_replies:
        words = f"commits {commit} in epoch {server.epoch}, the reply is lost"
        yield words, after._replace(lost_replies=state.lost_replies + 1)


def load(world: World, state: State, server: Server) -> State:
    """load.lua: refused in another epoch than the ticket's, and never over what is live."""
    ticket = server.ticket
    assert ticket is not None
    epoch = ticket.epoch if world.rules.load_carries_ticket else server.epoch
    if state.valkey.of(epoch).wallet is not None:
        return state
    return put_wallet(state, epoch, Wallet(ticket.sequence, ticket.spent))
