"""What a Commit is answered when Valkey does not know its hold: from the ledger, or, if Valkey lost it, by its token.

Why a hold is charged once, whoever repeats or races:

1. Valkey knows the hold: the script settles it once. A hold that it knows never gets here.
2. Valkey settled it and forgot it: it forgets a hold with debits only once these are recorded (``sweep.lua``), so the
   ledger answers, for ever.
3. The state that had settled it was lost. What was recorded of it, the ledger answers: the old epoch's flusher is
   fenced from the moment at which the new epoch is in Postgres. What was not recorded was copied to ``dead_letters``
   before ``left_epoch`` was cleared, if the old outbox was still there; such a Commit is answered as the replay that it
   is, and it is an operator's to record. What is in neither is in no book: to charge it now is to charge it once. (If
   an old outbox turns up later, because the wrong Valkey was served meanwhile, it becomes dead letters then, and
   whoever puts them right looks for the hold first: server/README.md.)
4. Two Commits by the same token race, or one is repeated while the other is on its way to the ledger. Both ask Valkey
   first (a *ticket*: epoch and time of the HOLD_UNKNOWN), then the ledger, then the script again, with the ticket. If
   the other one charged after the ticket, its tombstone lives for at least a second from then on, and the script takes
   no ticket that is a second old; so it finds the tombstone and replays. If it charged before the ticket, the hold had
   been forgotten by then (1 would have found it), hence was recorded, and the ledger read after the ticket has it.
5. The state is lost a second time in between. The script runs in the epoch of the ticket or not at all, and everything
   begins again.

Should all of that fail, ``settled_holds`` takes one first Commit per hold id and time of authorization: the second
event would become a dead letter, not a second debit.

A release leaves no trace in the ledger. So if the caller released a hold in a state that was lost (or in this one, so
long ago that the tombstone is gone), and then commits it by a token of a lost epoch, it is charged as the Commit says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds import keys
from drawdown_server.holds.messages import SettleReply
from drawdown_server.holds.model import HoldState
from drawdown_server.holds.recorded import RecordedAmount, RecordedHold
from drawdown_server.holds.refusals import HoldUnknownError, dead_letter, hold_committed, token_key_unknown
from drawdown_server.holds.token import TOKEN_LIFE_MS
from drawdown_server.ledger.entries import to_recorded
from drawdown_server.rpc.hold_answers import dead_hold, recorded_hold

if TYPE_CHECKING:
    from drawdown_server.holds.messages import CommitRequest
    from drawdown_server.holds.model import Hold
    from drawdown_server.holds.refusals import UnknownAt
    from drawdown_server.holds.store import HoldStore
    from drawdown_server.holds.token import Token, TokenAmount, TokenContent
    from drawdown_server.ledger.events import Event
    from drawdown_server.ledger.rows import SettledHoldRow
    from drawdown_server.ledger.store import LedgerStore

log = structlog.get_logger(__name__)

ATTEMPTS_MAX: Final = 3
"""A Commit for which Postgres took longer than a ticket lives, or which saw the epoch change, begins again."""


class LostHolds:
    """Answers Commits of holds that Valkey does not know.

    Args:
        tombstone_ms: How long a settled hold is remembered: a younger one that is unknown was lost.
    """

    def __init__(self, holds: HoldStore, ledger: LedgerStore, *, tombstone_ms: int) -> None:
        self._holds = holds
        self._ledger = ledger
        self._tombstone_ms = tombstone_ms

    async def commit(self, request: CommitRequest, token: Token | None, unknown: HoldUnknownError) -> SettleReply:
        """The answer to a Commit that the store has refused with ``unknown``.

        Raises:
            HoldUnknownError: Nobody knows the hold, or it was settled too long ago.
            StoreUnavailableError: A store did not answer: nothing is charged unless the ledger has been asked.
            DrawdownError: HOLD_COMMITTED, DEAD_LETTER, TOKEN_KEY_UNKNOWN; of a charge by token, what Commit raises.
        """
        for _ in range(ATTEMPTS_MAX):
            assert unknown.ticket is not None  # noqa: S101  # commit.lua: HOLD_UNKNOWN carries the time
            reply = await self._try(request, token, unknown.ticket)
            if reply is not None:
                return reply
            try:
                return await self._holds.commit(request)
            except HoldUnknownError as error:
                unknown = error
        raise StoreUnavailableError("postgres", "postgres took too long to look for the hold")

    async def _try(self, request: CommitRequest, token: Token | None, ticket: UnknownAt) -> SettleReply | None:
        """One attempt; None when it took too long and must begin again."""
        await self._refuse_during_rebuild(request, ticket)
        names = (request.tenant_id, request.wallet_id, request.hold_id)
        content = token.content if token is not None and token.is_genuine else None
        row = await self._ledger.get_settled_hold(*names)
        if row is not None and content is not None and row.create_ms < content.create_ms:
            row = None  # an earlier use of the id
        elif row is not None and content is not None and row.create_ms > content.create_ms:
            content = None  # a later use: it was authorized again after the loss
        if row is not None and (row.final or has_totals(recorded_hold(row), request)):
            return await self._answer(request, recorded_hold(row))
        dead = await self._ledger.find_dead_commit(*names)
        if dead is not None and is_newer(dead, row, content):
            return await self._answer(request, dead_hold(dead))
        if row is None and content is None and token is not None:
            raise token_key_unknown(token.key_id)
        if not await self._is_lost(request, row, content, ticket):
            raise HoldUnknownError(request.wallet_id, request.hold_id)
        lost = lost_hold(row, content, ticket)
        reply = await self._holds.commit_lost(
            msgspec.structs.replace(request, lost=lost, ticket_ms=ticket.time_ms), ticket
        )
        if reply is not None and not reply.replayed:
            log.warning("hold.lost_and_charged", tenant_id=names[0], wallet_id=names[1], hold_id=names[2])
        return reply

    async def _refuse_during_rebuild(self, request: CommitRequest, ticket: UnknownAt) -> None:
        """What the old epoch left behind is looked for in dead_letters only once all of it is there."""
        partition = await self._ledger.read_partition(
            keys.partition_of(request.tenant_id, request.wallet_id, self._holds.partitions)
        )
        if partition is None or partition.epoch != ticket.epoch or partition.left_epoch:
            raise StoreUnavailableError("valkey", "the wallet's partition is being rebuilt")

    async def _is_lost(
        self, request: CommitRequest, row: SettledHoldRow | None, content: TokenContent | None, ticket: UnknownAt
    ) -> bool:
        """Whether Valkey lost the hold, or may have forgotten it because it was released.

        It was lost if its epoch is over. In the same epoch only one that is younger than any that is forgotten: that
        is how the last writes before a crash or a failover go missing without anybody noticing.
        """
        if content is not None:
            if ticket.time_ms > content.expire_ms + TOKEN_LIFE_MS:
                return False
            is_young = 0 <= ticket.time_ms - content.create_ms < self._tombstone_ms
            if content.epoch < ticket.epoch or (content.epoch == ticket.epoch and is_young):
                return True
        if row is None or ticket.time_ms > row.settle_ms + TOKEN_LIFE_MS:
            return False
        epoch = await self._ledger.event_epoch(request.tenant_id, request.wallet_id, row.wallet_sequence)
        return epoch is not None and epoch < ticket.epoch

    async def _answer(self, request: CommitRequest, hold: Hold) -> SettleReply:
        """A repeat gets the same answer; other totals are refused."""
        if not has_totals(hold, request):
            if hold.state is HoldState.COMMITTED:
                raise hold_committed(request.wallet_id, request.hold_id)
            raise dead_letter(request.wallet_id, request.hold_id)
        assets = [amount.asset for amount in hold.amounts]
        reading = await self._holds.read(request.tenant_id, request.wallet_id, assets=assets)
        return SettleReply(status="OK", hold=hold, balances=reading.balances, replayed=True)


def has_totals(hold: Hold, request: CommitRequest) -> bool:
    """Whether a Commit asks for what is accounted for; as in Valkey, what it does not name was used no more."""
    committed = {amount.asset: amount.debited + amount.uncollected for amount in hold.amounts}
    return committed == committed | {total.asset: total.units for total in request.amounts}


def is_newer(dead: Event, row: SettledHoldRow | None, content: TokenContent | None) -> bool:
    """Whether a dead letter is about this use of the hold's id, and about more than what is recorded of it."""
    if content is not None and dead.hold_create_ms < content.create_ms:
        return False
    if row is None:
        return True
    return (dead.hold_create_ms, dead.wallet_sequence) > (row.create_ms, row.wallet_sequence)


def lost_hold(row: SettledHoldRow | None, content: TokenContent | None, ticket: UnknownAt) -> RecordedHold:
    """The hold as ``commit.lua`` takes it: what the token says was authorized, what the ledger has of its debits.

    Without a token nobody knows the overage policy: then no more is charged than was authorized.
    """
    recorded = None if row is None else to_recorded(row)
    if content is None:
        assert recorded is not None  # noqa: S101  # one of the two is there
        return msgspec.structs.replace(recorded, state=HoldState.EXPIRED)
    so_far = {} if recorded is None else {amount.asset: amount for amount in recorded.amounts}
    return RecordedHold(
        create_ms=content.create_ms,
        settle_ms=ticket.time_ms,
        subjects=content.subjects,
        labels=content.labels or (recorded.labels if recorded else ""),
        late=recorded.late if recorded else False,
        wallet_sequence=recorded.wallet_sequence if recorded else 0,
        amounts=[_lost_amount(amount, so_far.get(amount.asset)) for amount in content.amounts],
        refunds=recorded.refunds if recorded else [],
        state=HoldState.EXPIRED,
        fingerprint=content.fingerprint,
        expire_ms=content.expire_ms,
        expiry_action=content.expiry_action,
        way=content.way,
    )


def _lost_amount(amount: TokenAmount, so_far: RecordedAmount | None) -> RecordedAmount:
    """One asset. A raise after the token was made may be recorded: what was authorized only ever grows."""
    recorded = so_far or RecordedAmount(amount.asset, amount.authorized)
    return msgspec.structs.replace(
        recorded,
        authorized=max(amount.authorized, recorded.authorized),
        overage_policy=amount.overage_policy,
    )
