"""A wallet on a real store in the hands of a test: short verbs, and the invariants that every test ends with."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds import keys
from drawdown_server.holds.fingerprint import fingerprint
from drawdown_server.holds.messages import (
    AmountRequest,
    ApplyReply,
    ApplyRequest,
    AuthorizeReply,
    AuthorizeRequest,
    CapUsage,
    Change,
    CommitRequest,
    GrantChange,
    ListHoldsRequest,
    LoadedAsset,
    LoadReply,
    LoadRequest,
    PackedGrant,
    ReleaseRequest,
    SettleReply,
    SweepReply,
    SweepRequest,
    TotalUsed,
)
from drawdown_server.holds.model import (
    AssetBalance,
    Cap,
    ExpiryAction,
    GrantSource,
    Hold,
    HoldState,
    OveragePolicy,
    WalletReading,
    WalletState,
)
from drawdown_server.ledger import events

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.asyncio import Redis

    from drawdown_server.holds.library import Library
    from drawdown_server.holds.nodes import Nodes
    from drawdown_server.holds.store import HoldStore
    from drawdown_server.holds.store_connection import StoreConnection

PARTITIONS: Final = 4
TENANT: Final = "acme"
TTL_MS: Final = 300_000
TOMBSTONE_MS: Final = 900_000
OPEN_HOLDS_MAX: Final = 10_000
CREATE_MS: Final = 1_700_000_000_000
PAGE: Final = 1_000
WAIT_S: Final = 60.0
"""Longest wait for a condition. Met within milliseconds; this is for a loaded machine."""

_T = TypeVar("_T")
AtRest = dict[str, bytes | None]
"""The serialized value of every key of a wallet."""


@dataclass
class Stage:
    """One store under test, and the wallets that a test made in it."""

    url: str
    store: HoldStore
    connection: StoreConnection
    nodes: Nodes
    """By clients that may do everything."""
    library: Library
    epochs: list[int]
    wallets: list[Wallet] = field(default_factory=list)
    recorded: dict[str, dict[bytes, dict[bytes, bytes]]] = field(default_factory=dict)
    """Events by outbox that were trimmed because Postgres has them, as the flusher would."""

    def unloaded(self, wallet_id: str = "w1", tenant_id: str = TENANT) -> Wallet:
        """A wallet that the store does not know yet."""
        wallet = Wallet(self, tenant_id, wallet_id)
        self.wallets.append(wallet)
        return wallet

    async def wallet(self, wallet_id: str = "w1", tenant_id: str = TENANT, **units: int) -> Wallet:
        """A wallet, loaded empty and then funded by one grant per asset: ``await stage.wallet(USD=10)``."""
        wallet = self.unloaded(wallet_id, tenant_id)
        await wallet.load()
        for asset, amount in units.items():
            await wallet.grant(asset, amount)
        return wallet

    async def until(self, time_ms: int) -> None:
        """Wait until the store's clock has reached a time."""
        async with asyncio.timeout(WAIT_S):
            while await self.store.now_ms() < time_ms:
                pass

    async def set_epoch(self, wallet: Wallet, epoch: int) -> None:
        """Rebuild the wallet's partition, as far as a script can see."""
        await wallet.client.hset(keys.meta(wallet.partition), "epoch", str(epoch))

    async def everywhere(self, make: Callable[[Redis], Awaitable[_T]]) -> list[_T]:
        """Do something on every primary, as one who may do everything."""
        return [await make(client) for client in self.nodes.clients]


class Wallet:
    """The verbs of one wallet. Amounts are named by asset: ``authorize("h1", USD=5, TOKENS=100)``."""

    def __init__(self, stage: Stage, tenant_id: str, wallet_id: str) -> None:
        self.stage = stage
        self.store = stage.store
        self.tenant_id = tenant_id
        self.wallet_id = wallet_id
        self.partition = keys.partition_of(tenant_id, wallet_id, PARTITIONS)
        self.change_number = 0
        self.loaded_sequence = 0
        self.loaded: list[tuple[str, PackedGrant]] = []

    @property
    def keys(self) -> tuple[str, ...]:
        """meta, outbox, due, wallet, holds, open, settled, caps."""
        return keys.wallet_keys(self.partition, self.stage.epochs[self.partition], self.tenant_id, self.wallet_id)

    @property
    def client(self) -> Redis:
        """Of the primary that has the wallet, for one who may do everything."""
        return self.stage.nodes.of(self.partition)

    @property
    def ids(self) -> dict[str, str]:
        return {"tenant_id": self.tenant_id, "wallet_id": self.wallet_id}

    # --- money in ------------------------------------------------------------------------------------------------

    async def load(
        self,
        assets: list[LoadedAsset] | None = None,
        *,
        state: WalletState = WalletState.ACTIVE,
        sequence: int = 0,
        change_number: int = 0,
        age_ms: int = 0,
        changes: list[Change] | None = None,
        caps: list[Cap] | None = None,
        cap_usage: list[CapUsage] | None = None,
    ) -> LoadReply:
        ticket = await self.store.ticket(**self.ids)
        reply = await self.store.load(
            LoadRequest(
                **self.ids,
                ticket_ms=ticket.time_ms - age_ms,
                state=state,
                sequence=sequence,
                change_number=change_number,
                assets=assets or [],
                caps=caps or [],
                cap_usage=cap_usage or [],
                changes=changes or [],
            ),
            ticket,
        )
        if reply.status == "STALE_EPOCH":
            raise StoreUnavailableError("valkey")  # as every other verb
        if reply.loaded:
            self.loaded = [(asset.asset, grant) for asset in assets or [] for grant in asset.grants]
            self.change_number = changes[-1].change_number if changes else change_number
            self.loaded_sequence = sequence
        return reply

    async def grant(
        self,
        asset: str,
        units: int,
        grant_id: str = "",
        *,
        number: int = 0,
        priority: int = 0,
        source: GrantSource = GrantSource.PURCHASE,
        expire_ms: int = 0,
        create_ms: int = CREATE_MS,
        effective_ms: int | None = None,
        labels: str = "",
    ) -> ApplyReply:
        number = number or self.change_number + 1
        grant = GrantChange(
            grant_id=grant_id or f"g{number}",
            asset=asset,
            units=units,
            priority=priority,
            source=source,
            effective_ms=create_ms if effective_ms is None else effective_ms,
            expire_ms=expire_ms,
            create_ms=create_ms,
            labels=labels,
        )
        return await self.apply(Change(change_number=number, kind="GRANT", grant=grant))

    async def set_state(self, state: WalletState, *, number: int = 0) -> ApplyReply:
        number = number or self.change_number + 1
        return await self.apply(Change(change_number=number, kind="STATE", state=state))

    async def apply(self, change: Change) -> ApplyReply:
        reply = await self.store.apply(ApplyRequest(**self.ids, change=change))
        if reply.applied:
            self.change_number = change.change_number
        return reply

    # --- holds ---------------------------------------------------------------------------------------------------

    async def authorize(
        self,
        hold_id: str,
        *,
        ttl_ms: int = TTL_MS,
        subjects: list[str] | None = None,
        labels: str = "",
        overage_policy: OveragePolicy = OveragePolicy.REJECT,
        expiry_action: ExpiryAction = ExpiryAction.RELEASE,
        unknown: tuple[str, ...] = (),
        print_of: str | None = None,
        open_holds_max: int = OPEN_HOLDS_MAX,
        outbox_backlog_limit: int = 0,
        tombstone_ms: int = TOMBSTONE_MS,
        **units: int,
    ) -> AuthorizeReply:
        """Hold ``units`` by asset. Assets in ``unknown`` are none of the tenant's; ``print_of`` is the fingerprint."""
        content = {
            "amounts": ",".join(f"{asset}={amount}" for asset, amount in units.items()),
            "ttl": str(ttl_ms),
            "subjects": ",".join(subjects or []),
            "labels": labels,
        }
        return await self.store.authorize(
            AuthorizeRequest(
                **self.ids,
                hold_id=hold_id,
                fingerprint=fingerprint(content) if print_of is None else print_of,
                ways=[
                    [
                        AmountRequest(asset, amount, overage_policy=overage_policy, known=asset not in unknown)
                        for asset, amount in units.items()
                    ]
                ],
                ttl_ms=ttl_ms,
                subjects=subjects or [],
                expiry_action=expiry_action,
                labels=labels,
                open_holds_max=open_holds_max,
                outbox_backlog_limit=outbox_backlog_limit,
                tombstone_ms=tombstone_ms,
            )
        )

    async def hold(self, hold_id: str, *, ttl_ms: int = TTL_MS, **units: int) -> Hold:
        """Authorize what must be approved."""
        reply = await self.authorize(hold_id, ttl_ms=ttl_ms, **units)
        assert reply.status == "OK", reply
        assert reply.hold is not None
        assert not reply.replayed
        return reply.hold

    async def due_hold(self, hold_id: str, **units: int) -> Hold:
        """A hold that is over, and that nobody has freed yet."""
        hold = await self.hold(hold_id, ttl_ms=1, **units)
        await self.stage.until(hold.expire_ms)
        return hold

    async def commit(
        self, hold_id: str, *, tombstone_ms: int = TOMBSTONE_MS, final: bool = True, **units: int
    ) -> SettleReply:
        amounts = [TotalUsed(asset=asset, units=amount) for asset, amount in units.items()]
        request = CommitRequest(**self.ids, hold_id=hold_id, amounts=amounts, final=final, tombstone_ms=tombstone_ms)
        return await self.store.commit(request)

    async def release(
        self, hold_id: str, *, bury: bool = False, tombstone_ms: int = TOMBSTONE_MS, forced: bool = False
    ) -> SettleReply:
        return await self.store.release(
            ReleaseRequest(**self.ids, hold_id=hold_id, tombstone_ms=tombstone_ms, bury=bury, forced=forced)
        )

    async def trim_outbox(self) -> None:
        """As the flusher does once Postgres has everything: all but the last event of the partition."""
        entries = await self.client.xrange(self.keys[1])
        if entries:
            self.stage.recorded.setdefault(self.keys[1], {}).update(entries)
            await self.client.xtrim(self.keys[1], minid=entries[-1][0], approximate=False)

    async def sweep(self, *, tombstone_ms: int = TOMBSTONE_MS, recorded: bool = True) -> SweepReply:
        """Sweep, by default in a world where Postgres has recorded everything."""
        if recorded:
            await self.trim_outbox()
        return await self.store.sweep(SweepRequest(**self.ids, tombstone_ms=tombstone_ms))

    # --- looking -------------------------------------------------------------------------------------------------

    async def read(self) -> WalletReading:
        return await self.store.read(self.tenant_id, self.wallet_id, with_grants=True)

    async def balance(self, asset: str) -> AssetBalance:
        reading = await self.store.read(self.tenant_id, self.wallet_id, assets=[asset], with_grants=True)
        return reading.balances[0]

    async def available(self, asset: str) -> int:
        return (await self.balance(asset)).available

    async def grants(self, asset: str) -> dict[str, tuple[int, int]]:
        """(free, pinned) by grant, in burn order."""
        return {grant.grant_id: (grant.free, grant.pinned) for grant in (await self.balance(asset)).grants}

    async def read_hold(self, hold_id: str) -> Hold:
        return await self.store.read_hold(self.tenant_id, self.wallet_id, hold_id)

    async def open_holds(self, page: int = PAGE) -> list[Hold]:
        """All open holds, page by page."""
        holds: list[Hold] = []
        after_ms, after_id = 0, ""
        while True:
            found = await self.store.list_holds(
                ListHoldsRequest(**self.ids, after_ms=after_ms, after_id=after_id, limit=page)
            )
            holds += found
            if len(found) < page:
                return holds
            after_ms, after_id = found[-1].expire_ms, found[-1].hold_id

    async def events(self) -> list[events.Event]:
        """What the outbox has had of this wallet, in order."""
        entries = self.stage.recorded.get(self.keys[1], {}) | dict(await self.client.xrange(self.keys[1]))
        decoded = [events.decode(fields[events.FIELD]) for fields in entries.values()]
        return [event for event in decoded if (event.tenant_id, event.wallet_id) == (self.tenant_id, self.wallet_id)]

    async def due_ms(self) -> int:
        """When the sweep looks here next; 0 for never."""
        score = await self.client.zscore(self.keys[2], keys.wallet_member(self.tenant_id, self.wallet_id))
        return int(score or 0)

    async def at_rest(self) -> AtRest:
        """Every byte of the wallet: a replay leaves them all as they were."""
        async with self.client.pipeline(transaction=False) as pipeline:
            for key in self.keys:
                pipeline.dump(key)
            return dict(zip(self.keys, await pipeline.execute(), strict=True))


# --- what must hold, always --------------------------------------------------------------------------------------


async def assert_conserved(wallet: Wallet) -> None:
    """DESIGN's invariants of one wallet, from what the store says and from the bytes it keeps."""
    reading = await wallet.read()
    recorded = await wallet.events()
    _assert_events(wallet, reading, recorded)
    holds = await _holds_at_rest(wallet)
    _assert_balances(wallet, reading, recorded, holds)
    await _assert_indexes(wallet, reading, holds)
    _assert_settled_once(recorded, holds)


@dataclass(frozen=True)
class HoldAtRest:
    """A hold as ``holds.lua`` packs it."""

    state: HoldState
    expire_ms: int
    held: dict[str, int]
    debited: dict[str, int]
    pins: Counter[tuple[str, str]]
    wallet_sequence: int


async def _holds_at_rest(wallet: Wallet) -> dict[str, HoldAtRest]:
    holds = {}
    for hold_id, packed in (await wallet.client.hgetall(wallet.keys[4])).items():
        fields = msgspec.msgpack.decode(packed)
        pins: Counter[tuple[str, str]] = Counter()
        for amount in fields[6]:
            for grant_id, units in amount[7]:
                assert units > 0
                pins[amount[0], grant_id] += units
        holds[hold_id.decode()] = HoldAtRest(
            state=HoldState(fields[0]),
            expire_ms=fields[3],
            held={amount[0]: amount[2] for amount in fields[6]},
            debited={amount[0]: amount[3] for amount in fields[6]},
            pins=pins,
            wallet_sequence=fields[10],
        )
    return holds


def _assert_events(wallet: Wallet, reading: WalletReading, recorded: list[events.Event]) -> None:
    first = wallet.loaded_sequence + 1
    assert [event.wallet_sequence for event in recorded] == list(range(first, first + len(recorded)))
    assert reading.sequence == wallet.loaded_sequence + len(recorded)
    changes = [event.change_number for event in recorded if event.change_number]
    assert changes == sorted(set(changes))
    commits = [event for event in recorded if event.kind is events.EventKind.COMMIT]
    debited: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for event in commits:
        so_far = debited[event.hold_id]
        for line in event.lines:
            if line.kind is events.LineKind.DEBIT:
                so_far[line.asset] += line.units
        assert so_far == Counter({amount.asset: amount.debited for amount in event.amounts if amount.debited})
    settled = Counter(event.hold_id for event in commits if event.final)
    assert all(count == 1 for count in settled.values()), settled


def _assert_balances(
    wallet: Wallet, reading: WalletReading, recorded: list[events.Event], holds: dict[str, HoldAtRest]
) -> None:
    left: Counter[tuple[str, str]] = Counter()  # what the events leave of each grant
    for asset, grant in wallet.loaded:
        left[asset, grant.grant_id] += grant.free
    for event in recorded:
        for line in event.lines:
            sign = 1 if line.kind in (events.LineKind.GRANT, events.LineKind.REFUND) else -1
            left[line.asset, line.grant_id] += sign * line.units
    live = {
        (balance.asset, grant.grant_id): grant.free + grant.pinned
        for balance in reading.balances
        for grant in balance.grants
    }
    assert live == {grant: units for grant, units in left.items() if units and grant[1]}

    is_open = [hold for hold in holds.values() if hold.state is HoldState.HELD]
    pins = sum((hold.pins for hold in is_open), Counter[tuple[str, str]]())
    for balance in reading.balances:
        assert balance.available + balance.held == balance.settled + balance.overdraft_limit
        overdraft_held = pins[balance.asset, ""]
        free = sum(grant.free for grant in balance.grants) - overdraft_held
        assert balance.available == free - balance.debt + balance.overdraft_limit
        assert balance.held == sum(grant.pinned for grant in balance.grants) + overdraft_held
        assert balance.held == sum(hold.held.get(balance.asset, 0) for hold in is_open)
        for grant in balance.grants:
            assert grant.free >= 0
            assert grant.pinned == pins[balance.asset, grant.grant_id]


async def _assert_indexes(wallet: Wallet, reading: WalletReading, holds: dict[str, HoldAtRest]) -> None:
    client = wallet.client
    is_open = {hold_id.decode(): int(at) for hold_id, at in await client.zrange(wallet.keys[5], 0, -1, withscores=True)}
    settled = {hold_id.decode(): int(at) for hold_id, at in await client.zrange(wallet.keys[6], 0, -1, withscores=True)}
    assert is_open == {id_: hold.expire_ms for id_, hold in holds.items() if hold.state is HoldState.HELD}
    assert settled.keys() == {id_ for id_, hold in holds.items() if hold.state is not HoldState.HELD}
    assert reading.open_holds == len(is_open)
    listed = await wallet.open_holds()
    assert [hold.hold_id for hold in listed] == sorted(is_open, key=lambda id_: (is_open[id_], id_.encode()))
    for hold in listed:
        assert {amount.asset: amount.held for amount in hold.amounts} == holds[hold.hold_id].held
    soonest = min([*is_open.values(), *settled.values()], default=None)
    if soonest is not None:
        assert 0 < await wallet.due_ms() <= soonest


def _assert_settled_once(recorded: list[events.Event], holds: dict[str, HoldAtRest]) -> None:
    commits = {event.hold_id: event for event in recorded if event.kind is events.EventKind.COMMIT}  # the last of each
    for hold_id, hold in holds.items():
        assert hold.pins == {} or hold.state is HoldState.HELD
        assert not any(hold.held.values()) or hold.state is HoldState.HELD
        if hold.state is HoldState.COMMITTED:
            assert commits[hold_id].final
            assert commits[hold_id].wallet_sequence <= hold.wallet_sequence
        if hold_id in commits:
            assert {amount.asset: amount.debited for amount in commits[hold_id].amounts} == hold.debited
        else:
            assert not any(hold.debited.values())
