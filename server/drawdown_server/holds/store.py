"""The live balances: one typed function per hold script.

This is the last Python hop of the hot path. It fills in keys and epoch, sends one FCALL, and turns what stopped a
script into a ``DrawdownError``. A wallet that is not in Redis yet is loaded from Postgres on its first use (through
the ``load_missing`` hook, so that this module knows nothing of Postgres) and the script is sent again: it had no
effect the first time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from drawdown_server.errors import DrawdownError, ErrorReason, StoreUnavailableError
from drawdown_server.holds import keys
from drawdown_server.holds.counting import count_decision, count_settlement
from drawdown_server.holds.fingerprint import changed_field
from drawdown_server.holds.messages import (
    ApplyReply,
    ApplyRequest,
    AuthorizeReply,
    AuthorizeRequest,
    ChargeRequest,
    CommitRequest,
    EvictReply,
    EvictRequest,
    ExtendRequest,
    ListHoldsReply,
    ListHoldsRequest,
    LoadReply,
    LoadRequest,
    ReadCapsReply,
    ReadCapsRequest,
    ReadHoldReply,
    ReadHoldRequest,
    ReadWalletReply,
    ReadWalletRequest,
    RefundRequest,
    ReleaseRequest,
    Reply,
    SettleReply,
    SweepReply,
    SweepRequest,
    WalletRequest,
)
from drawdown_server.holds.model import DenialReason, Hold, Ticket, WalletReading
from drawdown_server.holds.refusals import (
    HoldUnknownError,
    hold_committed,
    id_reused,
    ledger_backlog,
    refusal,
    wallet_not_found,
)
from drawdown_server.holds.socket import FunctionMissingError
from drawdown_server.telemetry.metrics import Metrics
from drawdown_server.telemetry.scripts import ScriptCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from drawdown_server.holds.connection import PipelinedConnection
    from drawdown_server.holds.library import Library

    LoadMissing = Callable[[str, str], Awaitable[bool]]
    """Load (tenant_id, wallet_id) from Postgres; False if there is no such wallet."""
    RefreshEpochs = Callable[[], Awaitable[list[int]]]
    """Find out the epoch of every partition again, after a rebuild."""
    ReloadLibrary = Callable[[], Awaitable[None]]
    """Load the function library again."""

__all__ = ["ATTEMPTS_MAX", "HoldStore", "HoldUnknownError", "hold_committed", "wallet_not_found"]

_R = TypeVar("_R", bound=Reply)

ATTEMPTS_MAX: Final = 4
"""Times a script is sent: once, and again after each thing that can keep it from running at all (wallet not loaded,
stale epoch, functions lost). None of these attempts has an effect but the last."""


SETTLING: Final = frozenset({"commit", "release", "refund"})
"""Verbs that finish what was begun: a part of the connection's room is theirs alone."""


class HoldStore:
    """Atomic holds on live balances.

    Args:
        connection: To Valkey/Redis.
        library: The scripts, already loaded there.
        epochs: The epoch of each partition, by its number; its length is the number of partitions.
        metrics: Where decisions, ages of holds and the time of scripts are counted; None: nobody reads them.
    """

    def __init__(
        self, connection: PipelinedConnection, library: Library, epochs: list[int], metrics: Metrics | None = None
    ) -> None:
        self._connection = connection
        self._epochs = epochs
        self._library = library
        self._encode = msgspec.msgpack.Encoder().encode
        self._load_missing: LoadMissing | None = None
        self._refresh_epochs: RefreshEpochs | None = None
        self._learning = asyncio.Lock()
        self._reload_library: ReloadLibrary | None = None
        self._metrics = metrics or Metrics()
        self._metrics.follow_store(lambda: connection.in_flight, lambda: connection.abandoned.counts, epochs)

    def on_missing_wallet(self, load: LoadMissing) -> None:
        """Load wallets on first use with this function."""
        self._load_missing = load

    def on_stale_epoch(self, refresh: RefreshEpochs) -> None:
        """Find out the epochs again with this function when a partition was rebuilt."""
        self._refresh_epochs = refresh

    def on_missing_library(self, reload: ReloadLibrary) -> None:
        """Load the scripts again with this function when the store has lost them."""
        self._reload_library = reload

    @property
    def partitions(self) -> int:
        """Number of partitions."""
        return len(self._epochs)

    @property
    def epochs(self) -> tuple[int, ...]:
        """The epoch of each partition, as far as this server knows."""
        return tuple(self._epochs)

    # --- verbs ---------------------------------------------------------------------------------------------------

    async def authorize(self, request: AuthorizeRequest) -> AuthorizeReply:
        """Place a hold; "no" is an answer (``status`` DENIED), also for a wallet that does not exist.

        Raises:
            DrawdownError: ID_REUSED when the hold id was used before with other content; LEDGER_BACKLOG when more
                events than ``outbox_backlog_limit`` wait for Postgres.
        """
        return await self._decide("authorize", request, "hold")

    async def charge(self, request: ChargeRequest) -> AuthorizeReply:
        """Debit at once; "no" is an answer, as in ``authorize``.

        Raises:
            DrawdownError: ID_REUSED when the id was used before with other content; LEDGER_BACKLOG as in
                ``authorize``; BALANCE_OUT_OF_RANGE when CHARGE_FULL would make a debt that is out of range.
        """
        return await self._decide("charge", request, "charge")

    async def extend(self, request: ExtendRequest) -> AuthorizeReply:
        """Keep a hold for longer, or hold more; "no" to a raise is an answer, and leaves the hold as it was.

        Raises:
            HoldUnknownError: Redis knows no such hold.
            DrawdownError: HOLD_RELEASED, HOLD_COMMITTED, HOLD_EXPIRED, ASSET_NOT_HELD, BELOW_HOLD, WALLET_NOT_FOUND.
        """
        reply = await self._run("extend" if request.amounts else "extend_ttl", request, _AUTHORIZE)
        if reply.status not in ("OK", "DENIED"):
            raise refusal(request.wallet_id, request.hold_id, reply)
        count_decision(self._metrics, "extend", reply)
        return reply

    async def commit(self, request: CommitRequest) -> SettleReply:
        """Debit what was used; when it is final, give the rest back.

        Raises:
            HoldUnknownError: Redis knows no such hold.
            DrawdownError: HOLD_RELEASED, HOLD_COMMITTED (with other totals), ASSET_NOT_HELD, TOTAL_BELOW_DEBITED,
                EXCEEDS_HOLD, INSUFFICIENT_FUNDS (of a late commit), BALANCE_OUT_OF_RANGE (the debt of CHARGE_FULL),
                WALLET_NOT_FOUND.
        """
        return await self._settle("commit", request)

    async def release(self, request: ReleaseRequest) -> SettleReply:
        """Give everything back.

        Raises:
            HoldUnknownError: Redis knows no such hold and ``bury`` is off.
            DrawdownError: HOLD_COMMITTED, WALLET_NOT_FOUND.
        """
        return await self._settle("bury" if request.bury else "release", request)

    async def refund(self, request: RefundRequest) -> SettleReply:
        """Give debited units back to the grants that paid.

        Raises:
            HoldUnknownError: Redis knows no such hold and the request does not bring it.
            DrawdownError: ID_REUSED (the refund's id, with other amounts), ASSET_NOT_HELD, EXCEEDS_DEBITED,
                BALANCE_OUT_OF_RANGE, WALLET_NOT_FOUND.
        """
        return await self._settle("refund", request)

    # --- reading -------------------------------------------------------------------------------------------------

    async def read(
        self, tenant_id: str, wallet_id: str, *, assets: list[str] | None = None, with_grants: bool = False
    ) -> WalletReading:
        """The wallet as the next Authorize will see it; all assets unless some are named.

        Raises:
            DrawdownError: WALLET_NOT_FOUND.
        """
        request = ReadWalletRequest(
            tenant_id=tenant_id, wallet_id=wallet_id, assets=assets or [], with_grants=with_grants
        )
        reply = await self._run("read_wallet", request, _READ_WALLET)
        assert reply.wallet is not None  # noqa: S101  # read.lua: OK carries the wallet
        return reply.wallet

    async def read_live(self, tenant_id: str, wallet_id: str) -> WalletReading | None:
        """The wallet with its grants as it is in Redis; None when it is not there: nothing is loaded."""
        request = ReadWalletRequest(tenant_id=tenant_id, wallet_id=wallet_id, assets=[], with_grants=True)
        return (await self._run("read_wallet", request, _READ_WALLET, load=False)).wallet

    async def read_hold(self, tenant_id: str, wallet_id: str, hold_id: str) -> Hold:
        """One hold.

        Raises:
            HoldUnknownError: Redis knows no such hold.
            DrawdownError: WALLET_NOT_FOUND.
        """
        request = ReadHoldRequest(tenant_id=tenant_id, wallet_id=wallet_id, hold_id=hold_id)
        reply = await self._run("read_hold", request, _READ_HOLD)
        if reply.hold is None:
            raise HoldUnknownError(wallet_id, hold_id)
        return reply.hold

    async def list_holds(self, request: ListHoldsRequest) -> list[Hold]:
        """Open holds by expiry, at most ``limit``.

        Raises:
            DrawdownError: WALLET_NOT_FOUND.
        """
        return (await self._run("list_holds", request, _LIST_HOLDS)).holds

    async def read_caps(self, request: ReadCapsRequest) -> ReadCapsReply:
        """The caps of a wallet, and how they stand for every subject that has one and for those of the request.

        Raises:
            DrawdownError: WALLET_NOT_FOUND.
        """
        return await self._run("read_caps", request, _READ_CAPS)

    async def ping(self) -> None:
        """Whether the next call would be answered. Not held up by others that wait for room.

        Raises:
            StoreUnavailableError: It would not.
        """
        await self._connection.call("PING", settles=True)

    # --- from Postgres -------------------------------------------------------------------------------------------

    async def now_ms(self) -> int:
        """The store's clock."""
        reply = await self._connection.call("TIME")
        assert isinstance(reply, list)  # noqa: S101  # Redis: TIME answers {seconds, microseconds}
        seconds, microseconds = reply
        assert isinstance(seconds, bytes)  # noqa: S101
        assert isinstance(microseconds, bytes)  # noqa: S101
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def ticket(self, tenant_id: str, wallet_id: str) -> Ticket:
        """What a load must carry that was taken before Postgres was read: it proves how old the read is.

        Only a wallet that is not there may be loaded with it. One that is there may be used, recorded and evicted while
        Postgres is read, and the load would put back what it was before.
        """
        partition = keys.partition_of(tenant_id, wallet_id, len(self._epochs))
        epoch, time_ms = self._epochs[partition], await self.now_ms()
        name = keys.wallet_keys(partition, epoch, tenant_id, wallet_id)[keys.WALLET]
        return Ticket(epoch=epoch, time_ms=time_ms, is_live=await self._connection.call("EXISTS", name) == 1)

    async def load(self, request: LoadRequest, ticket: Ticket) -> LoadReply:
        """Bring a wallet from Postgres; what is live is never overwritten.

        Never sent again by itself: in a newer epoch than the ticket's, what was read from Postgres is too old. The
        caller then begins again (``status`` STALE_EPOCH or TICKET_EXPIRED).
        """
        reply = await self._send("load", request, _LOAD, epoch=ticket.epoch)
        if reply.status == "STALE_EPOCH":
            await self._learn_epochs(request)
        return reply

    async def apply(self, request: ApplyRequest) -> ApplyReply:
        """Apply one change that Postgres has recorded. ``status`` GAP when an earlier one is missing."""
        return await self._run("apply", request, _APPLY)

    async def evict(self, request: EvictRequest) -> EvictReply:
        """Take an idle wallet out of Redis, unless there is anything that Postgres could not bring back."""
        return await self._run("evict", request, _EVICT, load=False)

    # --- the sweep -----------------------------------------------------------------------------------------------

    async def due_wallets(self, partition: int, limit: int) -> list[tuple[str, str]]:
        """(tenant_id, wallet_id) of wallets in a partition with something due now, soonest first."""
        key = keys.due_wallets(partition, self._epochs[partition])
        now_ms = await self.now_ms()
        members = await self._connection.call("ZRANGEBYSCORE", key, "-inf", now_ms, "LIMIT", 0, limit)
        assert isinstance(members, list)  # noqa: S101  # Redis: an array of members
        wallets: list[tuple[str, str]] = []
        for member in members:
            assert isinstance(member, bytes)  # noqa: S101
            tenant_id, _, wallet_id = member.decode().partition("|")
            wallets.append((tenant_id, wallet_id))
        return wallets

    async def sweep(self, request: SweepRequest) -> SweepReply:
        """Free due holds of one wallet and forget its old tombstones."""
        return await self._run("sweep", request, _SWEEP, load=False)

    async def wake(self, request: SweepRequest) -> SweepReply:
        """The same, and the wallet is brought from Postgres when it is not here.

        Raises:
            DrawdownError: WALLET_NOT_FOUND.
        """
        return await self._run("sweep", request, _SWEEP)

    # --- sending -------------------------------------------------------------------------------------------------

    async def _decide(self, verb: str, request: AuthorizeRequest | ChargeRequest, resource: str) -> AuthorizeReply:
        """Send a script that places a hold."""
        try:
            reply = await self._run(verb, request, _AUTHORIZE)
        except DrawdownError as error:
            if error.reason is not ErrorReason.WALLET_NOT_FOUND:
                raise
            reply = AuthorizeReply(status="DENIED", reason=DenialReason.WALLET_NOT_FOUND)
        if reply.status == "ID_REUSED":
            raise id_reused(resource, request.hold_id, changed_field(reply.fingerprint, request.fingerprint))
        if reply.status == "BACKLOG_FULL":
            raise ledger_backlog()
        if reply.status == "BALANCE_OUT_OF_RANGE":
            raise refusal(request.wallet_id, request.hold_id, reply)
        count_decision(self._metrics, verb, reply)
        return reply

    async def _settle(self, verb: str, request: CommitRequest | ReleaseRequest | RefundRequest) -> SettleReply:
        """Send a script that settles a hold."""
        reply = await self._run(verb, request, _SETTLE)
        if reply.status == "ID_REUSED" and isinstance(request, RefundRequest):
            raise id_reused("refund", request.refund_id, changed_field(reply.fingerprint, request.digest))
        if reply.status != "OK":
            raise refusal(request.wallet_id, request.hold_id, reply)
        count_settlement(self._metrics, verb, reply)
        return reply

    async def _run(
        self, verb: str, request: WalletRequest, decoder: msgspec.msgpack.Decoder[_R], *, load: bool = True
    ) -> _R:
        """Send a script; when something kept it from running at all, mend that and send it again.

        Without ``load`` a wallet that is not in Redis is not brought there: the reply then is NOT_LOADED.
        """
        for _ in range(ATTEMPTS_MAX):
            try:
                reply = await self._send(verb, request, decoder)
            except FunctionMissingError:
                if self._reload_library is None:
                    raise
                await self._reload_library()
                continue
            if reply.status == "NOT_LOADED" and load and self._load_missing is not None:
                if not await self._load_missing(request.tenant_id, request.wallet_id):
                    raise wallet_not_found(request.wallet_id)
            elif reply.status == "STALE_EPOCH":
                await self._learn_epochs(request)
            else:
                return reply
        raise StoreUnavailableError("valkey", "the wallet's partition is being rebuilt")

    async def learn_epochs(self) -> None:
        """Find out the epoch of every partition again."""
        async with self._learning:
            if self._refresh_epochs is not None:
                self._epochs[:] = await self._refresh_epochs()

    async def _learn_epochs(self, refused: WalletRequest) -> None:
        """Find out the epochs again, once for all the calls that a rebuild has refused at the same time."""
        async with self._learning:
            if self._refresh_epochs is not None and str(self._epochs[self._partition_of(refused)]) == refused.epoch:
                self._epochs[:] = await self._refresh_epochs()

    def _partition_of(self, request: WalletRequest) -> int:
        return keys.partition_of(request.tenant_id, request.wallet_id, len(self._epochs))

    async def _send(
        self, verb: str, request: WalletRequest, decoder: msgspec.msgpack.Decoder[_R], *, epoch: int | None = None
    ) -> _R:
        partition = self._partition_of(request)
        epoch = self._epochs[partition] if epoch is None else epoch
        request.epoch = str(epoch)
        wallet_keys = keys.wallet_keys(partition, epoch, request.tenant_id, request.wallet_id)
        with ScriptCall(self._metrics, verb, partition):
            reply = await self._connection.call(
                b"FCALL",
                self._library.function(verb),
                len(wallet_keys),
                *wallet_keys,
                self._encode(request),
                settles=verb in SETTLING,
            )
        assert isinstance(reply, bytes)  # noqa: S101  # every script answers one msgpack string
        return decoder.decode(reply)


_AUTHORIZE = msgspec.msgpack.Decoder(AuthorizeReply)
_SETTLE = msgspec.msgpack.Decoder(SettleReply)
_SWEEP = msgspec.msgpack.Decoder(SweepReply)
_LOAD = msgspec.msgpack.Decoder(LoadReply)
_EVICT = msgspec.msgpack.Decoder(EvictReply)
_APPLY = msgspec.msgpack.Decoder(ApplyReply)
_READ_WALLET = msgspec.msgpack.Decoder(ReadWalletReply)
_READ_HOLD = msgspec.msgpack.Decoder(ReadHoldReply)
_LIST_HOLDS = msgspec.msgpack.Decoder(ListHoldsReply)
_READ_CAPS = msgspec.msgpack.Decoder(ReadCapsReply)
