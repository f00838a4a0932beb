"""The model and the scripts, side by side in virtual time: the same moves, and every difference between the two.

A move is a verb with its request, or a step in time. It is made on the model first, which is all that is needed to
think of the next one (``twin_moves.py``); the scripts then make the whole run in one round trip. So a run costs a few
milliseconds, and a run that fails is shrunk by leaving moves out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from drawdown_server.holds import keys, messages
from drawdown_server.holds.library import build_library, read_sources
from drawdown_server.holds.messages import (
    ApplyRequest,
    EvictRequest,
    ListHoldsRequest,
    LoadRequest,
    PackedGrant,
    ReadCapsRequest,
    ReadHoldRequest,
    ReadWalletRequest,
    RefundRequest,
    WalletRequest,
)
from drawdown_server.holds.model import CapWindow
from drawdown_server.holds.recorded import RecordedAmount, RecordedDebit, RecordedHold, RecordedPart
from drawdown_server.holds.rules import BrokenRuleError, ModelStore
from drawdown_server.holds.rules.caps import DAY_MS, period_of
from stores import client_of

if TYPE_CHECKING:
    from drawdown_server.holds.library import Library
    from drawdown_server.holds.messages import Change
    from drawdown_server.holds.rules.events import Event
    from drawdown_server.holds.rules.hold import Hold
    from drawdown_server.holds.rules.wallet import Wallet

TENANT: Final = "acme"
WALLET: Final = "w1"
IDS: Final = {"tenant_id": TENANT, "wallet_id": WALLET}
EPOCH: Final = 1
STALE_EPOCH: Final = "0"
PARTITION: Final = 0
KEYS: Final = keys.wallet_keys(PARTITION, EPOCH, TENANT, WALLET)
META, OUTBOX, DUE, _, HOLDS, _, _, CAPS = KEYS
CLOCK: Final = "{dd00}:clock"
"""Where the scripts under test read the time."""
COUNTER_KEPT_MS: Final = 2 * DAY_MS
"""The sweep may forget a counter this long after its window."""
EVENT_VERSION: Final = 1
SUBJECTS: Final = ["key:a", "key:b", "user:1"]
ALL_HOLDS: Final = 100
GONE: Final = -1
"""There is no wallet."""

REPLIES: Final[dict[str, type[messages.Reply]]] = {
    "authorize": messages.AuthorizeReply,
    "charge": messages.AuthorizeReply,
    "extend": messages.AuthorizeReply,
    "commit": messages.SettleReply,
    "release": messages.SettleReply,
    "refund": messages.SettleReply,
    "sweep": messages.SweepReply,
    "load": messages.LoadReply,
    "apply": messages.ApplyReply,
    "evict": messages.EvictReply,
    "read_wallet": messages.ReadWalletReply,
    "read_caps": messages.ReadCapsReply,
    "read_hold": messages.ReadHoldReply,
    "list_holds": messages.ListHoldsReply,
}
DECODERS: Final = {verb: msgspec.msgpack.Decoder(reply) for verb, reply in REPLIES.items()}
encode: Final = msgspec.msgpack.Encoder().encode

LOOKS: Final[dict[str, WalletRequest]] = {
    "read_wallet": ReadWalletRequest(**IDS, assets=[], with_grants=True, epoch=str(EPOCH)),
    "list_holds": ListHoldsRequest(**IDS, after_ms=0, after_id="", limit=ALL_HOLDS, epoch=str(EPOCH)),
    "read_caps": ReadCapsRequest(**IDS, subjects=SUBJECTS, epoch=str(EPOCH)),
}
"""What both sides are asked after every move."""


@dataclass(frozen=True)
class Move:
    """One step of a run: time passes, and then perhaps a verb is sent."""

    wait_ms: int = 0
    verb: str = ""
    request: WalletRequest | None = None
    number: int = 1
    """Of an apply: 1 sends the change that is next; 0 and less one from before; more leaves a gap."""
    from_ledger: bool = True
    """Of a refund: the caller knows what the ledger has of the hold."""
    is_stale: bool = False
    """It comes from a server that does not know of a rebuild."""


@dataclass
class Step:
    """A move as it was made on the model."""

    move: Move
    now_ms: int
    request: WalletRequest | None
    seen: dict[str, Any]
    """What the model answers, and how the wallet looks afterwards."""
    counters_from: dict[str, int]
    due_by_ms: int
    """The sweep must look here no later; 0 = there is nothing to look for; ``GONE`` = it must not look at all."""
    events: int
    """Events so far."""


class World:
    """One wallet in the model, and what its surroundings know of it: the grants and the ledger."""

    def __init__(self, now_ms: int) -> None:
        self.model = ModelStore()
        self.model.now_ms = now_ms
        self.grants: dict[str, tuple[str, PackedGrant]] = {}
        """Every grant there ever was, with its asset, as Postgres has it."""
        self.history: dict[str, Hold] = {}
        """The last that was seen of every settled hold."""
        self.steps: list[Step] = []

    @property
    def now_ms(self) -> int:
        return self.model.now_ms

    @property
    def wallet(self) -> Wallet | None:
        return self.model.wallets.get((TENANT, WALLET))

    def make(self, move: Move) -> Step:
        """Make a move on the model."""
        self.model.now_ms += move.wait_ms
        seen: dict[str, Any] = {}
        request = None
        if move.request is not None:
            request = msgspec.structs.replace(move.request, epoch=STALE_EPOCH if move.is_stale else str(EPOCH))
            self._complete(move, request)
            if move.is_stale:
                seen["reply"] = REPLIES[move.verb](status="STALE_EPOCH")
            else:
                seen["reply"] = getattr(self.model, move.verb)(request)
                self._learn(request)
        self._look(seen, request)
        step = Step(move, self.now_ms, request, seen, self._kept(), self._due_by(), len(self.model.events))
        self.steps.append(step)
        return step

    def _complete(self, move: Move, request: WalletRequest) -> None:
        """What a request has that depends on what came before it."""
        if isinstance(request, ApplyRequest):
            number = (self.wallet.change_number if self.wallet else 0) + move.number
            request.change = msgspec.structs.replace(request.change, change_number=number)
        elif isinstance(request, EvictRequest) and self.wallet is not None:
            # The move says how far off Postgres is.
            request.sequence += self.wallet.sequence
            request.applied_change_number += self.wallet.change_number
            request.change_number += self.wallet.change_number
        elif isinstance(request, RefundRequest):
            request.grants = [grant for _, grant in self.grants.values()]
            known = self.history.get(request.hold_id)
            if move.from_ledger and known is not None and any(amount.debited for amount in known.amounts):
                request.recorded = recorded(known)

    def _learn(self, request: WalletRequest) -> None:
        """What Postgres and the ledger know afterwards."""
        wallet = self.wallet
        if wallet is None:
            return
        for hold in wallet.settled_holds():
            self.history[hold.hold_id] = hold
        if isinstance(request, LoadRequest):
            for asset in request.assets:
                for grant in [*asset.grants, *asset.scheduled]:
                    self.grants[grant.grant_id] = (asset.asset, grant)
            for change in request.changes:
                self._learn_change(change)
        elif isinstance(request, ApplyRequest) and request.change.change_number == wallet.change_number:
            self._learn_change(request.change)

    def _learn_change(self, change: Change) -> None:
        """Grants as Postgres has them once a change is recorded."""
        funds = change.grant
        if funds is None:
            return
        grant_id, priority, source = funds.grant_id, funds.priority, funds.source
        if change.kind == "GRANT":
            grant = PackedGrant(grant_id, 0, 0, priority, funds.expire_ms, source, funds.effective_ms, funds.create_ms)
            self.grants[grant_id] = (funds.asset, grant)
        elif grant_id in self.grants:
            asset, grant = self.grants[grant_id]
            is_void = change.kind == "VOID"
            changed = {"voided": True} if is_void else {"expire_ms": funds.expire_ms}
            self.grants[grant_id] = (asset, msgspec.structs.replace(grant, **changed))

    def _look(self, seen: dict[str, Any], request: WalletRequest | None) -> None:
        for verb, look in LOOKS.items():
            seen[verb] = getattr(self.model, verb)(look)
        hold_id = getattr(request, "hold_id", None)
        if hold_id is not None:
            seen["read_hold"] = self.model.read_hold(ReadHoldRequest(**IDS, hold_id=hold_id))

    def _kept(self) -> dict[str, int]:
        """The counters of caps that are not history yet."""
        return kept_counters(self.wallet.caps.used if self.wallet else {}, self.now_ms)

    def _due_by(self) -> int:
        wallet = self.wallet
        if wallet is None:
            return GONE
        times = [hold.expire_ms for hold in wallet.open_holds()]
        times += [hold.forget_ms for hold in wallet.settled_holds()]
        for asset in wallet.assets.values():
            # One whose time has come waits for room: the next round of the sweep looks again.
            times += [max(grant.effective_ms, self.now_ms + 1) for grant in asset.scheduled]
            times += [grant.expire_ms for grant in asset.grants if grant.expire_ms and grant.free]
        return min(times, default=0)


def recorded(hold: Hold) -> RecordedHold:
    """A hold as the ledger has it."""
    return RecordedHold(
        hold.create_ms,
        hold.settle_ms,
        list(hold.subjects),
        hold.labels,
        hold.late,
        hold.wallet_sequence,
        [
            RecordedAmount(
                amount.asset,
                amount.authorized,
                amount.debited,
                amount.uncollected,
                amount.refunded,
                [RecordedDebit(debit.grant_id, debit.units) for debit in amount.debits],
                [RecordedPart(list(part.counters), part.recorded) for part in amount.parts if part.recorded],
            )
            for amount in hold.amounts
        ],
        list(hold.refunds.items()),
    )


def kept_counters(used: dict[str, int], now_ms: int) -> dict[str, int]:
    """The counters that are in use, without those that the sweep may have forgotten."""
    kept = {}
    for name, units in used.items():
        *_, window, period = name.split("|")
        if units and int(period) >= period_of(CapWindow(window), now_ms - COUNTER_KEPT_MS):
            kept[name] = units
    return kept


# --- the scripts -----------------------------------------------------------------------------------------------------


def virtual_library(sources: dict[str, str] | None = None) -> Library:
    """The scripts with a clock that the test sets, in a world where Postgres has recorded everything.

    The head of a stack is as short as can be, so that two grants are enough to need the rest.
    """
    sources = dict(sources or read_sources())
    head_is = re.compile(r"(?<=^local HEAD_GRANTS = )\d+", re.MULTILINE)
    sources["assets.lua"], found = head_is.subn("1", sources["assets.lua"])
    assert found == 1
    head, body = "local function recorded_until(wallet)", "  return function() return wallet ~= nil end"
    return clock_library(_replaced(sources, "sweep.lua", head, body))


def clock_library(sources: dict[str, str] | None = None) -> Library:
    """The scripts with a clock that the test sets, also for the times of events."""
    body = f"  return tonumber(redis.call('GET', '{CLOCK}'))"
    sources = _replaced(sources or read_sources(), "store.lua", "local function now_ms()", body)
    head = "local function appended_ms(event_id)"
    return build_library(_replaced(sources, "store.lua", head, "  return event_id and now_ms()"))


def _replaced(sources: dict[str, str], part: str, head: str, body: str) -> dict[str, str]:
    """The sources with another body for one function."""
    start = sources[part].index(head)
    end = sources[part].index("\nend\n", start)
    return {**sources, part: sources[part][:start] + head + "\n" + body + sources[part][end:]}


class Scripts:
    """A real store with the scripts in it, which makes the moves that the model has made."""

    def __init__(self, url: str, library: Library | None = None) -> None:
        self.client = client_of(url, META)
        self.library = library or virtual_library()
        self.client.function_load(self.library.code, replace=True)
        self.client.hset(META, "epoch", str(EPOCH))

    def close(self) -> None:
        """Forget the scripts."""
        self.client.function_delete(self.library.name)
        self.client.close()

    def difference(self, world: World) -> str:
        """Make the same run. Returns what was different first; empty if nothing was."""
        pipeline = self.client.pipeline(transaction=False)
        asked: list[tuple[Step, str]] = []
        for step in world.steps:
            pipeline.set(CLOCK, step.now_ms)
            asked.append((step, "clock"))
            for verb, request in looks(step):
                name = step.move.verb if verb == "reply" else verb
                pipeline.fcall(self.library.function(name), len(KEYS), *KEYS, encode(request))
                asked.append((step, verb))
            pipeline.hgetall(CAPS)
            asked.append((step, "counters"))
            pipeline.zscore(DUE, keys.wallet_member(TENANT, WALLET))
            asked.append((step, "due"))
        pipeline.hgetall(HOLDS)
        pipeline.xrange(OUTBOX)
        pipeline.delete(*KEYS[1:])
        answers = pipeline.execute(raise_on_error=False)
        *answers, holds, entries, _ = answers
        found = [
            *(
                problem
                for (step, what), got in zip(asked, answers, strict=True)
                for problem in _differs(step, what, got)
            ),
            *_events_differ(world, entries),
            *_holds_differ(world, holds),
        ]
        return "\n".join(found[:1])


def looks(step: Step) -> list[tuple[str, WalletRequest]]:
    """What a step asks the scripts, in order."""
    asked: list[tuple[str, WalletRequest]] = []
    if step.request is not None:
        asked.append(("reply", step.request))
    asked += LOOKS.items()
    if "read_hold" in step.seen:
        hold_id = getattr(step.request, "hold_id", "")
        asked.append(("read_hold", ReadHoldRequest(**IDS, hold_id=hold_id, epoch=str(EPOCH))))
    return asked


def _differs(step: Step, what: str, got: Any) -> list[str]:  # noqa: ANN401 - what Redis answered
    """One thing that was asked for."""
    if isinstance(got, Exception):
        return [f"{what} failed after {step.move}: {got}"]
    expected: Any = None
    match what:
        case "clock":
            return []
        case "due":
            if step.due_by_ms == GONE:
                return [] if got is None else [f"the sweep comes for a wallet that has gone after {step.move}"]
            is_late = step.due_by_ms and (not got or got > step.due_by_ms)
            return [f"the sweep comes too late ({got} > {step.due_by_ms}) after {step.move}"] if is_late else []
        case "counters":
            expected = step.counters_from
            got = kept_counters({name.decode(): int(units) for name, units in got.items()}, step.now_ms)
        case _:
            expected = step.seen[what]
            got = DECODERS[step.move.verb if what == "reply" else what].decode(got)
    if got == expected:
        return []
    return [f"after {step.move}\n{what}:\n  model {expected}\n  Lua   {got}"]


def as_array(event: Event) -> list[Any]:
    """An event of the model as the outbox has it."""
    return [
        EVENT_VERSION,
        event.kind.value,
        event.tenant_id,
        event.wallet_id,
        event.wallet_sequence,
        event.time_ms,
        event.change_number,
        event.hold_id,
        [[line.kind.value, *line[1:]] for line in event.lines],
        [[*amount[:4], *([[list(part) for part in amount.parts]] if amount.parts else [])] for amount in event.amounts],
        event.subjects,
        event.labels,
        event.hold_create_ms,
        event.late,
        event.final,
        event.refund_id,
        [list(delta) for delta in event.cap_usage],
    ]


def _events_differ(world: World, entries: list[Any]) -> list[str]:
    if isinstance(entries, Exception):
        return [str(entries)]
    wrote = [msgspec.msgpack.decode(fields[b"e"]) for _, fields in entries]
    expected = [as_array(event) for event in world.model.events]
    for number in range(max(len(wrote), len(expected))):
        one = expected[number] if number < len(expected) else None
        other = wrote[number] if number < len(wrote) else None
        if one != other:
            move = next((step.move for step in world.steps if step.events > number), None)
            return [f"event {number} of {move}\n  model {one}\n  Lua   {other}"]
    return []


def _holds_differ(world: World, packed: dict[bytes, bytes]) -> list[str]:
    """What a hold keeps to itself: pins, debits, and where it counts."""
    if isinstance(packed, Exception):
        return [str(packed)]
    got = {}
    for hold_id, raw in packed.items():
        fields = msgspec.msgpack.decode(raw)
        amounts = {amount[0]: [amount[7], amount[8], amount[9]] for amount in fields[6]}
        got[hold_id.decode()] = (fields[0], amounts, [list(refund) for refund in fields[12]])
    expected = {
        hold.hold_id: (
            hold.state.value,
            {
                amount.asset: [
                    [list(pin) for pin in amount.pins],
                    [list(debit) for debit in amount.debits],
                    [[part.counters, part.units, part.recorded] for part in amount.parts],
                ]
                for amount in hold.amounts
            },
            [list(refund) for refund in hold.refunds.items()],
        )
        for hold in (world.wallet.holds.values() if world.wallet else [])
    }
    for hold_id in sorted(expected.keys() | got.keys()):
        if expected.get(hold_id) != got.get(hold_id):
            return [f"hold {hold_id} at rest\n  model {expected.get(hold_id)}\n  Lua   {got.get(hold_id)}"]
    return []


# --- runs ------------------------------------------------------------------------------------------------------------


class DifferenceError(AssertionError):
    """The model and the scripts disagree."""


@dataclass
class Run:
    """The moves of one wallet's life, in order."""

    start_ms: int
    moves: list[Move] = field(default_factory=list)

    def played(self) -> World:
        """Make the run on the model."""
        world = World(self.start_ms)
        for move in self.moves:
            world.make(move)
        return world

    def difference(self, scripts: Scripts) -> str:
        """What the scripts do differently; empty if nothing. A run that even the model refuses differs in nothing."""
        try:
            world = self.played()
        except (LookupError, BrokenRuleError):
            return ""
        return scripts.difference(world)

    def shrunk(self, scripts: Scripts) -> Run:
        """Leave out what is not needed for a difference."""
        moves, size = self.moves, len(self.moves) // 2
        while size > 0:
            start = 0
            while start < len(moves):
                fewer = [*moves[:start], *moves[start + size :]]
                if fewer and Run(self.start_ms, fewer).difference(scripts):
                    moves = fewer
                else:
                    start += size
            size //= 2
        return Run(self.start_ms, moves)

    def check(self, scripts: Scripts, world: World, seed: int) -> None:
        """Make on the scripts what was made on the model.

        Raises:
            DifferenceError: With the seed, the shortest run found, and what is different.
        """
        if scripts.difference(world):
            small = self.shrunk(scripts)
            moves = "\n".join(f"  {move}" for move in small.moves)
            raise DifferenceError(f"seed {seed}, from {small.start_ms}:\n{moves}\n{small.difference(scripts)}")
