"""The wallets of the model, one method per verb: takes what the scripts take, answers what they answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from drawdown_server.holds.messages import (
    ApplyReply,
    AuthorizeReply,
    EvictReply,
    ListHoldsReply,
    ReadCapsReply,
    ReadHoldReply,
    ReadWalletReply,
    SettleReply,
    SweepReply,
    WalletRequest,
)
from drawdown_server.holds.model import WalletReading
from drawdown_server.holds.rules import audit, changes
from drawdown_server.holds.rules.authorize import authorize, charge, extend
from drawdown_server.holds.rules.refund import refund
from drawdown_server.holds.rules.settle import commit, release

if TYPE_CHECKING:
    from collections.abc import Callable

    from drawdown_server.holds.messages import (
        ApplyRequest,
        AuthorizeRequest,
        ChargeRequest,
        CommitRequest,
        EvictRequest,
        ExtendRequest,
        ListHoldsRequest,
        LoadReply,
        LoadRequest,
        ReadCapsRequest,
        ReadHoldRequest,
        ReadWalletRequest,
        RefundRequest,
        ReleaseRequest,
        Reply,
        SweepRequest,
    )
    from drawdown_server.holds.rules.events import Event
    from drawdown_server.holds.rules.wallet import Wallet

_Request = TypeVar("_Request", bound=WalletRequest)
_Reply = TypeVar("_Reply", bound="Reply")


class ModelStore:
    """Wallets in virtual time. After every verb the wallet it was about is audited.

    Attributes:
        now_ms: The time; set it as you like, but never back.
        events: What the outbox would carry, of all wallets, in order.
    """

    def __init__(self) -> None:
        self.now_ms = 0
        self.events: list[Event] = []
        self.wallets: dict[tuple[str, str], Wallet] = {}

    def check(self) -> None:
        """Audit every wallet.

        Raises:
            BrokenRuleError: Something does not add up: a bug in the model.
        """
        for wallet in self.wallets.values():
            audit.check(wallet)

    # --- the data plane ------------------------------------------------------------------------------------------

    def authorize(self, request: AuthorizeRequest) -> AuthorizeReply:
        """Hold units."""
        return self._run(authorize, request, AuthorizeReply(status="NOT_LOADED"))

    def charge(self, request: ChargeRequest) -> AuthorizeReply:
        """Hold units and debit them in one step."""
        return self._run(charge, request, AuthorizeReply(status="NOT_LOADED"))

    def extend(self, request: ExtendRequest) -> AuthorizeReply:
        """Give a hold more time or more units."""
        return self._run(extend, request, AuthorizeReply(status="NOT_LOADED"))

    def commit(self, request: CommitRequest) -> SettleReply:
        """Debit what was used."""
        return self._run(commit, request, SettleReply(status="NOT_LOADED"))

    def release(self, request: ReleaseRequest) -> SettleReply:
        """Give everything back."""
        return self._run(release, request, SettleReply(status="NOT_LOADED"))

    def refund(self, request: RefundRequest) -> SettleReply:
        """Give back what was debited."""
        return self._run(refund, request, SettleReply(status="NOT_LOADED"))

    def sweep(self, request: SweepRequest) -> SweepReply:
        """Do what time has made due: holds, then grants, then what may be forgotten."""
        return self._run(_sweep, request, SweepReply(status="NOT_LOADED"))

    # --- from Postgres -------------------------------------------------------------------------------------------

    def load(self, request: LoadRequest) -> LoadReply:
        """Bring a wallet on its first use."""
        name = (request.tenant_id, request.wallet_id)
        wallet, reply = changes.load(self.wallets.get(name), request, self.events, self.now_ms)
        if wallet is not None:
            self.wallets[name] = wallet
            audit.check(wallet)
        return reply

    def apply(self, request: ApplyRequest) -> ApplyReply:
        """Apply a change that an administrator made."""
        return self._run(changes.apply, request, ApplyReply(status="NOT_LOADED"))

    def evict(self, request: EvictRequest) -> EvictReply:
        """Take an idle wallet away."""
        reply = self._run(changes.evict, request, EvictReply(status="NOT_LOADED"))
        if reply.status == "OK":
            del self.wallets[request.tenant_id, request.wallet_id]
        return reply

    # --- reading -------------------------------------------------------------------------------------------------

    def read_wallet(self, request: ReadWalletRequest) -> ReadWalletReply:
        """The balances as the next Authorize will see them; nothing is saved."""
        return self._run(_read_wallet, request, ReadWalletReply(status="NOT_LOADED"))

    def read_hold(self, request: ReadHoldRequest) -> ReadHoldReply:
        """One hold as it is stored."""
        return self._run(_read_hold, request, ReadHoldReply(status="NOT_LOADED"))

    def read_caps(self, request: ReadCapsRequest) -> ReadCapsReply:
        """The caps, and how they stand now."""
        return self._run(_read_caps, request, ReadCapsReply(status="NOT_LOADED"))

    def list_holds(self, request: ListHoldsRequest) -> ListHoldsReply:
        """Open holds, soonest expiry first."""
        return self._run(_list_holds, request, ListHoldsReply(status="NOT_LOADED"))

    # --- running a verb ------------------------------------------------------------------------------------------

    def _run(self, verb: Callable[[Wallet, _Request], _Reply], request: _Request, not_loaded: _Reply) -> _Reply:
        wallet = self.wallets.get((request.tenant_id, request.wallet_id))
        if wallet is None:
            return not_loaded
        wallet.now_ms = self.now_ms
        wallet.touched = set()
        reply = verb(wallet, request)
        audit.check(wallet)
        return reply


def _sweep(wallet: Wallet, request: SweepRequest) -> SweepReply:
    """For wallets that nobody uses, time passes here."""
    expired = wallet.expire_due(request.tombstone_ms)
    wallet.touch(sorted(wallet.assets))
    forgotten = wallet.forget_due()
    more = any(hold.is_due(wallet.now_ms) for hold in wallet.open_holds())
    return SweepReply(status="OK", expired=expired, forgotten=forgotten, more=more)


def _read_wallet(wallet: Wallet, request: ReadWalletRequest) -> ReadWalletReply:
    reading = WalletReading(
        state=wallet.state,
        sequence=wallet.sequence,
        change_number=wallet.change_number,
        open_holds=len(wallet.open_holds()),
        balances=wallet.balances(request.assets or sorted(wallet.assets), with_grants=request.with_grants),
    )
    return ReadWalletReply(status="OK", wallet=reading)


def _read_hold(wallet: Wallet, request: ReadHoldRequest) -> ReadHoldReply:
    hold = wallet.holds.get(request.hold_id)
    return ReadHoldReply(status="OK", hold=hold.answer()) if hold else ReadHoldReply(status="HOLD_UNKNOWN")


def _read_caps(wallet: Wallet, request: ReadCapsRequest) -> ReadCapsReply:
    usage = wallet.caps.statuses(request.subjects, wallet.now_ms)
    return ReadCapsReply(status="OK", caps=wallet.caps.all(), usage=usage)


def _list_holds(wallet: Wallet, request: ListHoldsRequest) -> ListHoldsReply:
    after = (request.after_ms, request.after_id)
    holds = [hold for hold in wallet.open_holds() if (hold.expire_ms, hold.hold_id) > after]
    return ListHoldsReply(status="OK", holds=[hold.answer() for hold in holds[: request.limit]])
