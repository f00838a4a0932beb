"""The commit-flush-trim-recover protocol as a machine of few parts: what there is.

Read this folder to learn the protocol; ``search.py`` walks through everything it can do. One partition with one wallet,
a few commits of one unit each, and every order in which servers, flushers, crashes and losses can take their steps.
Being stopped (SIGSTOP, a long pause, a slow network) is taking no step for a while, so it needs no action of its own; a
lost answer of a store is a step followed by a crash.

    step                what it stands for
    ------------------  -----------------------------------------------------------------------------------------------
    authorize, commit   one FCALL: holds/store.py ``_send`` -> holds/lua; epoch check, then everything at once
    load                wallets/loader.py: ticket and read of Postgres are one step, ``load.lua`` another
    lease               ledger/sql ``lease``; a lease may expire at any time, so anybody may take it at any time
    read                ledger/streams.py ``read_streams``: XREAD after the position that Postgres gave with the lease
    record              ledger/recording.py: ``flush_fence`` and the rows, one transaction
    trim                ledger/streams.py ``trim``: after a lease and after a record
    verify ...          ledger/recovery.py ``open_partitions``, a step per question to a store and per write:
      fences flushers     ``fence_flushers``: every lease gets a new token
      reads Postgres      ``read_partitions``
      fences old epoch    ``_finish``: ``raise_epoch`` of the new epoch, when one was left behind
      salvages            ``_finish``: read of the old outbox; write of dead letters; ``mark_salvaged``
      looks               ``_look``: entry at the position; the stream's ids; the meta key
      decides             ``_open``: serve, set the meta key again, look twice, or begin an epoch in Postgres
      marks opened        ``mark_opened``
    crash               kill -9 of a server (its next step is to verify, as ``app.open_stores`` does) or of a flusher
    empty, lose meta    FLUSHALL; DEL of the meta key alone: same connections
    copy, go back       a backup or a lagging replica; then that copy comes into service, with new connections

What is left out: more than one partition or wallet (they share nothing but the transaction of a flush), money in, the
times of holds, poison. The tokens of leases are not counted: all that is ever asked is whether a flusher's token is
still the one in Postgres, which is one bit. Assumed: stream ids never come twice (Valkey's clock does not step back by
more than it was down), and Valkey is not emptied within the milliseconds in which two servers open the same new epoch.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

START: Final = 0
"""The position 0-0, the epoch of a missing meta key, and the epoch of a server that knows none."""


class Rules(NamedTuple):
    """What keeps the money whole. A test breaks one at a time and is shown the damage."""

    record_before_trim: bool = True
    """An event leaves the outbox only when Postgres has it."""
    position_in_transaction: bool = True
    """The position moves with the rows: a batch that is read again is not recorded again."""
    fence_checks_token: bool = True
    """A flusher records only while its lease has not gone to another one, nor was fenced by a server that verifies."""
    fence_checks_position: bool = True
    """... and only from where Postgres is. Of these two, one would do against another flusher; both are one WHERE."""
    fence_checks_epoch: bool = True
    """... and only in the epoch in force: after a loss the old outbox's events have no place in the sequence."""
    scripts_check_epoch: bool = True
    """A script touches nothing unless the meta key has its server's epoch."""
    load_carries_ticket: bool = True
    """What was read from Postgres in one epoch is not loaded into another."""
    connect_before_verify: bool = True
    """The run of Valkey that a server serves from is the one that it verified, also at its start."""
    reconnect_verifies: bool = True
    """A Valkey that is another process than before is verified before it is used."""
    verify_fences_flushers: bool = True
    """What a flusher has read from a Valkey that is gone is not recorded once the next one is in service."""
    look_for_position: bool = True
    """A Valkey that lacks the entry at Postgres' position has lost state."""
    set_epoch_where_position_is: bool = True
    """A lost meta key of an epoch that was served is set again only together with a look that the rest is there."""
    postgres_begins_epoch_first: bool = True
    """An epoch begins in Postgres; Valkey is never ahead."""
    fence_before_salvage: bool = True
    """Nothing can be added to the old outbox any more when it is copied to dead letters."""
    salvage_unrecorded: bool = True
    """What was acknowledged and not recorded becomes dead letters, not nothing."""


class World(NamedTuple):
    """How much there is, and how much may go wrong: the bounds of a search."""

    commits: str = "ab"
    """A letter is a commit of one unit."""
    servers: int = 2
    flushers: int = 2
    crashes: int = 1
    empties: int = 0
    """Times at which Valkey may lose everything."""
    metas: int = 0
    """Times at which Valkey may lose its meta key alone."""
    copies: int = 0
    """Copies of Valkey that may be made and come into service later."""
    lost_replies: int = 1
    """Answers to a Commit that may get lost; the Commit is sent again."""
    fresh: bool = False
    """A new installation; otherwise all servers already serve."""
    rules: Rules = Rules()


class Event(NamedTuple):
    """One entry of an outbox: a commit."""

    stream_id: int
    sequence: int
    commit: str


class Outbox(NamedTuple):
    """The stream of one epoch."""

    events: tuple[Event, ...] = ()
    last_id: int = START
    trimmed_id: int = START
    """Highest id that was trimmed."""

    def after(self, position: int) -> tuple[Event, ...]:
        """XREAD."""
        return tuple(event for event in self.events if event.stream_id > position)

    def has(self, position: int) -> bool:
        """XRANGE of one id."""
        return any(event.stream_id == position for event in self.events)


class Wallet(NamedTuple):
    """The live wallet of one epoch."""

    sequence: int
    spent: int
    held: frozenset[str] = frozenset()
    settled: frozenset[str] = frozenset()


class Generation(NamedTuple):
    """The keys of one epoch."""

    outbox: Outbox = Outbox()
    wallet: Wallet | None = None


NOTHING: Final = Generation()


class Valkey(NamedTuple):
    """The live store. A copy of it is the same, kept aside."""

    epoch: int = START
    """In the meta key."""
    generations: tuple[Generation, ...] = ()
    """By epoch, from 1."""

    def of(self, epoch: int) -> Generation:
        """The keys of an epoch, whether it is in force or not."""
        return self.generations[epoch - 1] if 0 < epoch <= len(self.generations) else NOTHING

    def put(self, epoch: int, generation: Generation) -> Valkey:
        """Write the keys of an epoch."""
        missing = max(0, epoch - len(self.generations))
        generations = [*self.generations, *([NOTHING] * missing)]
        generations[epoch - 1] = generation
        return self._replace(generations=tuple(generations))


class Postgres(NamedTuple):
    """The row of the partition, and the ledger."""

    epoch: int = 1
    opened: bool = False
    position: int = START
    left_epoch: int = START
    left_position: int = START
    entries: tuple[Event, ...] = ()
    dead: frozenset[tuple[int, Event]] = frozenset()
    """(epoch, event)."""
    misplaced: bool = False
    """An event came out of its wallet's sequence (planning.py ``_why_misplaced``)."""


class Flusher(NamedTuple):
    """What a flusher remembers (ledger/flusher.py)."""

    phase: str = "idle"
    """idle -> leased -> ready -> read -> recorded -> ready."""
    token_is_current: bool = False
    epoch: int = START
    position: int = START
    batch: tuple[Event, ...] = ()
    half_recorded: bool = False
    """Only where the position is not in the transaction."""


FRESH_FLUSHER: Final = Flusher()


class Verify(NamedTuple):
    """Where a server is within ``open_partitions``."""

    run: int
    """Of the connection that it verifies for."""
    step: str = "fence flushers"
    row: Postgres = Postgres()
    """What it read of the partition's row; the ledger of it is not looked at."""
    cursor: int = START
    page: tuple[Event, ...] = ()
    has_position: bool = False
    outbox: Outbox = Outbox()
    suspects: bool = False
    epoch: int = START
    """What it will serve."""


class Ticket(NamedTuple):
    """A load between its read of Postgres and its script."""

    epoch: int
    sequence: int
    spent: int


class Server(NamedTuple):
    """What a server remembers."""

    run: int = -1
    """The run_id of the Valkey that it is connected to."""
    epoch: int = START
    verify: Verify | None = None
    ticket: Ticket | None = None


FRESH_SERVER: Final = Server()


class State(NamedTuple):
    """Everything there is. Equal states are one state, however they were reached."""

    valkey: Valkey
    postgres: Postgres
    servers: tuple[Server, ...]
    flushers: tuple[Flusher, ...]
    run: int = 0
    """Valkey's run_id: a new one for every process."""
    next_id: int = 1
    copy: Valkey | None = None
    asked: frozenset[str] = frozenset()
    """Holds whose Authorize was answered."""
    acknowledged: frozenset[str] = frozenset()
    """Commits whose answer arrived."""
    excused: frozenset[str] = frozenset()
    """Acknowledged commits that only Valkey had when it lost them."""
    crashes: int = 0
    empties: int = 0
    metas: int = 0
    copies: int = 0
    lost_replies: int = 0
    refused: bool = False
    """A server found that Postgres is older than Valkey."""


def first_state(world: World) -> State:
    """Postgres has the wallet and its funds; nothing was ever spent."""
    return State(
        valkey=Valkey() if world.fresh else Valkey(epoch=1),
        postgres=Postgres(opened=not world.fresh),
        servers=(FRESH_SERVER if world.fresh else Server(run=0, epoch=1),) * world.servers,
        flushers=(FRESH_FLUSHER,) * world.flushers,
    )


Step: TypeAlias = tuple[str, State]
"""Words, and the state after it."""


def put_server(state: State, number: int, server: Server) -> State:
    """Another server in its place."""
    servers = state.servers
    return state._replace(servers=(*servers[:number], server, *servers[number + 1 :]))


def put_flusher(state: State, number: int, flusher: Flusher) -> State:
    """Another flusher in its place."""
    flushers = state.flushers
    return state._replace(flushers=(*flushers[:number], flusher, *flushers[number + 1 :]))


def put_wallet(state: State, epoch: int, wallet: Wallet) -> State:
    """Another wallet in an epoch's keys."""
    generation = state.valkey.of(epoch)._replace(wallet=wallet)
    return state._replace(valkey=state.valkey.put(epoch, generation))


def acknowledge(state: State, commit: str) -> State:
    """The answer arrives."""
    return state._replace(acknowledged=state.acknowledged | {commit})
