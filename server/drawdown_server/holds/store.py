"""The live balances: one typed function per hold script.

This is the last Python hop of the hot path. It sends one FCALL (``sending.py``) and turns what stopped a script into a
``DrawdownError``.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar, cast

import msgspec

from drawdown_server import clock
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
    SettleReply,
    SweepReply,
    SweepRequest,
)
from drawdown_server.holds.model import DenialReason, Hold, Ticket, WalletReading
from drawdown_server.holds.refusals import (
    GrantsMissingError,
    HoldUnknownError,
    UnknownAt,
    hold_committed,
    id_reused,
    ledger_backlog,
    refusal,
    wallet_not_found,
)
from drawdown_server.holds.sending import ScriptSender
from drawdown_server.holds.socket import FunctionMissingError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

__all__ = ["HoldStore", "HoldUnknownError", "hold_committed", "wallet_not_found"]

_A = TypeVar("_A")
"""What a node answers."""


class HoldStore(ScriptSender):
    """Atomic holds on live balances."""

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

    async def commit_lost(self, request: CommitRequest, ticket: UnknownAt) -> SettleReply | None:
        """Commit a hold that Redis has lost, and that the request brings.

        Never sent again by itself: what the ledger said counts in the ticket's epoch, and soon no more.

        Returns:
            None when too much has happened since the ticket was taken: begin again.

        Raises:
            DrawdownError: As ``commit``; the hold may be known again.
        """
        try:
            reply = await self._send("commit", request, _SETTLE, epoch=ticket.epoch)
        except FunctionMissingError:
            return None
        if reply.status == "STALE_EPOCH":
            await self._learn_epochs(request)
        if reply.status in ("STALE_EPOCH", "NOT_LOADED", "TICKET_EXPIRED"):
            return None
        return self._settled("commit", request, reply)

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
            HoldUnknownError, GrantsMissingError: Redis does not know it, and the request does not bring it.
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
        """Whether the next call would be answered, of some partitions at least. Not held up by others.

        Raises:
            StoreUnavailableError: It would not.
        """
        await self._connection.ping()

    # --- from Postgres -------------------------------------------------------------------------------------------

    async def now_ms(self, partition: int = 0) -> int:
        """The clock of the store, which is that of the node that has the partition."""
        seconds, microseconds = cast("tuple[bytes, bytes]", await self._connection.call("TIME", partition=partition))
        return clock.store_ms(seconds, microseconds)

    async def clock_of(self, tenant_id: str, wallet_id: str) -> int:
        """The clock that a wallet goes by, in milliseconds."""
        return await self.now_ms(keys.partition_of(tenant_id, wallet_id, len(self._epochs)))

    async def clocks(self) -> dict[int, int]:
        """The clock that each partition goes by; without those of a node that does not answer.

        Raises:
            StoreUnavailableError: No node answered.
        """
        answered = await self._ask_each(lambda group: self.now_ms(group[0]))
        return {partition: time_ms for group, time_ms in answered for partition in group}

    async def ticket(self, tenant_id: str, wallet_id: str) -> Ticket:
        """What a load must carry that was taken before Postgres was read: it proves how old the read is.

        Only a wallet that is not there may be loaded with it. One that is there may be used, recorded and evicted while
        Postgres is read, and the load would put back what it was before.
        """
        partition = keys.partition_of(tenant_id, wallet_id, len(self._epochs))
        epoch, time_ms = self._epochs[partition], await self.now_ms(partition)
        name = keys.wallet_keys(partition, epoch, tenant_id, wallet_id)[keys.WALLET]
        is_live = await self._connection.call("EXISTS", name, partition=partition) == 1
        return Ticket(epoch=epoch, time_ms=time_ms, is_live=is_live)

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

    async def due_wallets(self, limit: int) -> list[list[tuple[str, str]]]:
        """For every partition: (tenant_id, wallet_id) of wallets with something due now, soonest first.

        Partitions of a node that does not answer have none while others do.

        Args:
            limit: Most wallets of one partition.

        Raises:
            StoreUnavailableError: No node answered.
        """
        due: list[list[tuple[str, str]]] = [[] for _ in self._epochs]
        for group, found in await self._ask_each(lambda group: self._due_of_node(group, limit)):
            for partition, wallets in zip(group, found, strict=True):
                due[partition] = wallets
        return due

    async def _due_of_node(self, partitions: Sequence[int], limit: int) -> list[list[tuple[str, str]]]:
        now_ms = await self.now_ms(partitions[0])
        return await asyncio.gather(*(self._due_wallets(partition, now_ms, limit) for partition in partitions))

    async def _due_wallets(self, partition: int, now_ms: int, limit: int) -> list[tuple[str, str]]:
        key = keys.due_wallets(partition, self._epochs[partition])
        members = await self._connection.call(
            "ZRANGEBYSCORE", key, "-inf", now_ms, "LIMIT", 0, limit, partition=partition
        )
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

    async def _ask_each(self, ask: Callable[[list[int]], Coroutine[None, None, _A]]) -> list[tuple[list[int], _A]]:
        """Ask every node, with the partitions that it has; an answer for each that gave one.

        Raises:
            StoreUnavailableError: None did.
        """
        groups = self._connection.groups(range(len(self._epochs)))
        replies = await asyncio.gather(*(ask(group) for group in groups), return_exceptions=True)
        answered: list[tuple[list[int], _A]] = []
        failure: BaseException | None = None
        for group, reply in zip(groups, replies, strict=True):
            if not isinstance(reply, BaseException):
                answered.append((group, reply))
            elif isinstance(reply, StoreUnavailableError):
                failure = reply
            else:
                raise reply
        if failure is not None and not answered:
            raise failure
        return answered

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
        return self._settled(verb, request, await self._run(verb, request, _SETTLE))

    def _settled(
        self, verb: str, request: CommitRequest | ReleaseRequest | RefundRequest, reply: SettleReply
    ) -> SettleReply:
        """The reply, if the script did it."""
        if reply.status == "HOLD_UNKNOWN":
            raise HoldUnknownError(request.wallet_id, request.hold_id, UnknownAt(int(request.epoch), reply.now_ms))
        if reply.status == "ID_REUSED" and isinstance(request, RefundRequest):
            raise id_reused("refund", request.refund_id, changed_field(reply.fingerprint, request.digest))
        if reply.status == "GRANTS_MISSING":
            raise GrantsMissingError(reply.grants)
        if reply.status != "OK":
            raise refusal(request.wallet_id, request.hold_id, reply)
        count_settlement(self._metrics, verb, reply)
        return reply


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
