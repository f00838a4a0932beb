"""The live balances: one typed function per hold script.

This is the last Python hop of the hot path. It fills in keys and epoch, sends one FCALL, and turns what stopped a
script into a ``DrawdownError``. A wallet that is not in Redis yet is loaded from Postgres on its first use (through
the ``load_missing`` hook, so that this module knows nothing of Postgres) and the script is sent again: it had no
effect the first time.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from drawdown_server.errors import DrawdownError, ErrorReason, StoreUnavailableError
from drawdown_server.holds import keys
from drawdown_server.holds.connection import FunctionMissingError
from drawdown_server.holds.fingerprint import changed_field
from drawdown_server.holds.messages import (
    ApplyReply,
    ApplyRequest,
    AuthorizeReply,
    AuthorizeRequest,
    CommitRequest,
    ListHoldsReply,
    ListHoldsRequest,
    LoadReply,
    LoadRequest,
    ReadHoldReply,
    ReadHoldRequest,
    ReadWalletReply,
    ReadWalletRequest,
    ReleaseRequest,
    Reply,
    SettleReply,
    SweepReply,
    SweepRequest,
    WalletRequest,
)
from drawdown_server.holds.model import DenialReason, Hold, WalletReading

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

_R = TypeVar("_R", bound=Reply)

ATTEMPTS_MAX: Final = 4
"""Times a script is sent: once, and again after each thing that can keep it from running at all (wallet not loaded,
stale epoch, functions lost). None of these attempts has an effect but the last."""


class HoldUnknownError(DrawdownError):
    """Redis knows no such hold: it never existed, or was settled so long ago that only the ledger remembers."""

    def __init__(self, wallet_id: str, hold_id: str) -> None:
        super().__init__(
            ErrorReason.HOLD_NOT_FOUND,
            f"hold {hold_id} of wallet {wallet_id} does not exist or was settled too long ago",
            wallet_id=wallet_id,
            hold_id=hold_id,
        )


def wallet_not_found(wallet_id: str) -> DrawdownError:
    """The error for a wallet that does not exist."""
    return DrawdownError(ErrorReason.WALLET_NOT_FOUND, f"wallet {wallet_id} does not exist", wallet_id=wallet_id)


@dataclass(frozen=True, slots=True)
class Ticket:
    """Where the store was before something was read from Postgres for it."""

    epoch: int
    """Of the wallet's partition."""
    time_ms: int
    """By the store's clock."""


class HoldStore:
    """Atomic holds on live balances.

    Args:
        connection: To Valkey/Redis.
        library: The scripts, already loaded there.
        epochs: The epoch of each partition, by its number; its length is the number of partitions.
    """

    def __init__(self, connection: PipelinedConnection, library: Library, epochs: list[int]) -> None:
        self._connection = connection
        self._epochs = epochs
        self._functions: dict[str, bytes] = {}
        self._library = library
        self._encode = msgspec.msgpack.Encoder().encode
        self._load_missing: LoadMissing | None = None
        self._refresh_epochs: RefreshEpochs | None = None
        self._learning = asyncio.Lock()
        self._reload_library: ReloadLibrary | None = None

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

    # --- the hot three -------------------------------------------------------------------------------------------

    async def authorize(self, request: AuthorizeRequest) -> AuthorizeReply:
        """Place a hold; "no" is an answer (``status`` DENIED), also for a wallet that does not exist.

        Raises:
            DrawdownError: ID_REUSED when the hold id was used before with other content.
        """
        try:
            reply = await self._run("authorize", request, _AUTHORIZE)
        except DrawdownError as error:
            if error.reason is not ErrorReason.WALLET_NOT_FOUND:
                raise
            return AuthorizeReply(status="DENIED", reason=DenialReason.WALLET_NOT_FOUND)
        if reply.status == "ID_REUSED":
            field = changed_field(reply.fingerprint, request.fingerprint)
            raise DrawdownError(
                ErrorReason.ID_REUSED,
                f"hold {request.hold_id} was authorized before with other {field}",
                resource="hold",
                id=request.hold_id,
                field=field,
            )
        return reply

    async def commit(self, request: CommitRequest) -> SettleReply:
        """Debit what was used, give the rest back.

        Raises:
            HoldUnknownError: Redis knows no such hold.
            DrawdownError: HOLD_RELEASED, HOLD_COMMITTED (with other totals), ASSET_NOT_HELD, EXCEEDS_HOLD,
                INSUFFICIENT_FUNDS (of a late commit), WALLET_NOT_FOUND.
        """
        reply = await self._run("commit", request, _SETTLE)
        if reply.status != "OK":
            raise _settle_error(request.wallet_id, request.hold_id, reply)
        return reply

    async def release(self, request: ReleaseRequest) -> SettleReply:
        """Give everything back.

        Raises:
            HoldUnknownError: Redis knows no such hold and ``bury`` is off.
            DrawdownError: HOLD_COMMITTED, WALLET_NOT_FOUND.
        """
        reply = await self._run("release", request, _SETTLE)
        if reply.status != "OK":
            raise _settle_error(request.wallet_id, request.hold_id, reply)
        return reply

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
        """What a load must carry that was taken before Postgres was read: it proves how old the read is."""
        partition = keys.partition_of(tenant_id, wallet_id, len(self._epochs))
        return Ticket(epoch=self._epochs[partition], time_ms=await self.now_ms())

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

    # --- sending -------------------------------------------------------------------------------------------------

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
        reply = await self._connection.call(
            b"FCALL", self._library.function(verb), len(wallet_keys), *wallet_keys, self._encode(request)
        )
        assert isinstance(reply, bytes)  # noqa: S101  # every script answers one msgpack string
        return decoder.decode(reply)


def _settle_error(wallet_id: str, hold_id: str, reply: SettleReply) -> DrawdownError:
    """What stopped a commit or release."""
    if reply.status == "HOLD_UNKNOWN":
        return HoldUnknownError(wallet_id, hold_id)
    if reply.status == "HOLD_COMMITTED":
        return hold_committed(wallet_id, hold_id)
    metadata = {"wallet_id": wallet_id, "hold_id": hold_id}
    if reply.asset:
        metadata["asset"] = reply.asset
    match reply.status:
        case "HOLD_RELEASED":
            reason, message = ErrorReason.HOLD_RELEASED, f"hold {hold_id} was released"
        case "ASSET_NOT_HELD":
            reason, message = ErrorReason.ASSET_NOT_HELD, f"hold {hold_id} holds no {reply.asset}"
        case "EXCEEDS_HOLD":
            reason = ErrorReason.EXCEEDS_HOLD
            message = f"{reply.required} units of {reply.asset} are more than the {reply.available} held"
            metadata |= {"units": str(reply.required), "held_units": str(reply.available)}
        case "INSUFFICIENT_FUNDS":
            reason = ErrorReason.INSUFFICIENT_FUNDS
            message = (
                f"hold {hold_id} expired, and of {reply.required} units of {reply.asset} only {reply.available} are "
                "available; send it again after a top-up"
            )
            metadata |= {"units": str(reply.required), "available_units": str(reply.available)}
        case _:
            reason, message = ErrorReason.INTERNAL, "internal error"
    return DrawdownError(reason, message, **metadata)


def hold_committed(wallet_id: str, hold_id: str) -> DrawdownError:
    """The error for a hold that is committed, with other totals than the caller's."""
    return DrawdownError(
        ErrorReason.HOLD_COMMITTED,
        f"hold {hold_id} is committed, with its own amounts",
        wallet_id=wallet_id,
        hold_id=hold_id,
        field="amounts",
    )


_AUTHORIZE = msgspec.msgpack.Decoder(AuthorizeReply)
_SETTLE = msgspec.msgpack.Decoder(SettleReply)
_SWEEP = msgspec.msgpack.Decoder(SweepReply)
_LOAD = msgspec.msgpack.Decoder(LoadReply)
_APPLY = msgspec.msgpack.Decoder(ApplyReply)
_READ_WALLET = msgspec.msgpack.Decoder(ReadWalletReply)
_READ_HOLD = msgspec.msgpack.Decoder(ReadHoldReply)
_LIST_HOLDS = msgspec.msgpack.Decoder(ListHoldsReply)
