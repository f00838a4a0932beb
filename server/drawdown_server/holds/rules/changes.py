"""What comes from Postgres: a wallet on its first use, and the numbered changes that administrators make."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Final

from drawdown_server.holds.messages import ApplyReply, EvictReply, LoadReply
from drawdown_server.holds.rules.audit import Books
from drawdown_server.holds.rules.caps import CapBook
from drawdown_server.holds.rules.events import EventKind
from drawdown_server.holds.rules.grants import Asset, Grant
from drawdown_server.holds.rules.wallet import Wallet

if TYPE_CHECKING:
    from drawdown_server.holds.messages import ApplyRequest, Change, EvictRequest, GrantChange, LoadRequest
    from drawdown_server.holds.rules.events import Event, Line

TICKET_MAX_MS: Final = 30_000
"""Older readings of Postgres are refused: the wallet may have been here and gone again since."""

LIVE_MIN_MS: Final = 60_000
"""A wallet stays at least this long: whoever was reading Postgres before it came cannot load what it was then."""


def load(
    wallet: Wallet | None, request: LoadRequest, events: list[Event], now_ms: int
) -> tuple[Wallet | None, LoadReply]:
    """Bring a wallet as of the last event that Postgres recorded. What is live is never overwritten.

    The changes that Postgres has recorded since are applied in the same step: nobody may see a wallet that is already
    frozen there as active. Time has its effect when an asset is first used, not here.

    Order of checks: already here; ticket not too old, and not of a clock that was set back since.
    """
    if wallet is not None:
        return wallet, LoadReply(status="OK", loaded=False)
    if not 0 <= now_ms - request.ticket_ms <= TICKET_MAX_MS:
        return None, LoadReply(status="TICKET_EXPIRED")
    assets = {
        loaded.asset: Asset(
            loaded.asset,
            debt=loaded.debt,
            overdraft_limit=loaded.overdraft_limit,
            grants=sorted((Grant.unpack(packed) for packed in loaded.grants), key=Grant.burn_key),
            scheduled=[Grant.unpack(packed) for packed in loaded.scheduled],
        )
        for loaded in request.assets
    }
    usage = {used.counter: used.units for used in request.cap_usage}
    wallet = Wallet(
        tenant_id=request.tenant_id,
        wallet_id=request.wallet_id,
        state=request.state,
        sequence=request.sequence,
        change_number=request.change_number,
        events=events,
        now_ms=now_ms,
        loaded_ms=now_ms,
        assets=assets,
        caps=CapBook({(cap.subject, cap.asset, cap.window): cap for cap in request.caps}, dict(usage)),
        books=Books.opened(request.sequence, assets.values(), usage),
    )
    for asset in assets.values():
        # Units of a hold that was lost with an older store are free again: they may stand beside a debt now.
        lines = asset.repay()
        if lines:
            wallet.record(EventKind.TIME, lines)
    for change in request.changes:
        apply_change(wallet, change)
    return wallet, LoadReply(status="OK", loaded=True)


def evict(wallet: Wallet, request: EvictRequest) -> EvictReply:
    """Whether an idle wallet may go: only Postgres has it from then on, and the next load brings it back as it is.

    Order of checks: holds, remembered ones too; everything recorded, and nothing that time has done meanwhile; age.
    """
    if wallet.holds:
        return EvictReply(status="HAS_HOLDS")
    numbers = (request.sequence, request.applied_change_number, request.change_number)
    # Tried on a copy: a scheduled grant for which there is no room yet goes on waiting, wherever the wallet is.
    by_time = [line for asset in wallet.assets.values() for line in deepcopy(asset).refresh(wallet.now_ms)]
    if by_time or numbers != (wallet.sequence, wallet.change_number, wallet.change_number):
        return EvictReply(status="NOT_RECORDED")
    if wallet.now_ms < wallet.loaded_ms + LIVE_MIN_MS:
        return EvictReply(status="TOO_YOUNG")
    return EvictReply(status="OK")


def apply(wallet: Wallet, request: ApplyRequest) -> ApplyReply:
    """Apply a change: exactly the number after the last one, so each is applied once, in order. One event each.

    Order of checks: applied before; the one before is missing. Everything else was checked before Postgres recorded
    the change: from then on it has to succeed.
    """
    number = request.change.change_number
    if number <= wallet.change_number:
        return ApplyReply(status="OK", applied=False)
    if number > wallet.change_number + 1:
        return ApplyReply(status="GAP", change_number=wallet.change_number)
    apply_change(wallet, request.change)
    return ApplyReply(status="OK", applied=True)


def apply_change(wallet: Wallet, change: Change) -> None:
    """Apply the next change. Its asset is brought up to date before."""
    wallet.touch([change.grant.asset if change.grant else change.asset])
    lines = effect(wallet, change)
    wallet.change_number = change.change_number
    labels = change.grant.labels if change.grant and change.kind == "GRANT" else ""
    wallet.record(EventKind(change.kind), lines, change_number=change.change_number, labels=labels)


def effect(wallet: Wallet, change: Change) -> list[Line]:
    """What a change does, and the lines that its event carries."""
    if change.grant is not None:
        return change_grant(wallet, change.kind, change.grant)
    if change.state is not None:
        wallet.state = change.state
    elif change.cap is not None:
        set_or_remove = wallet.caps.set if change.kind == "CAP" else wallet.caps.remove
        set_or_remove(change.cap)
    else:
        wallet.asset(change.asset).overdraft_limit = change.limit
    return []


def change_grant(wallet: Wallet, kind: str, grant: GrantChange) -> list[Line]:
    """GRANT: funds come in, now or at their time. VOID takes back what is left. EXPIRY gives it another end."""
    if kind == "GRANT":
        new = Grant(
            grant.grant_id,
            free=grant.units,
            pinned=0,
            priority=grant.priority,
            expire_ms=grant.expire_ms,
            source=grant.source,
            effective_ms=grant.effective_ms,
            create_ms=grant.create_ms,
        )
        return wallet.asset(grant.asset).add(new, wallet.now_ms)
    asset = wallet.asset(grant.asset)
    if kind == "VOID":
        return asset.void(grant.grant_id, wallet.now_ms)
    return asset.change_expiry(grant.grant_id, grant.expire_ms, wallet.now_ms)
