"""What goes into each hold script and what comes out: one msgpack map each way.

Named fields make the Lua readable (``request.hold_id``), cost about 1 us to unpack, and msgspec checks the types of
every reply, so a script that answers something else fails loudly. Strings are ASCII or UTF-8 text, never raw bytes:
Redis' cmsgpack knows no binary type. Each struct mirrors the header of the Lua file of its verb.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from drawdown_server.holds.model import (
    AssetBalance,
    DenialReason,
    ExpiryAction,
    GrantSource,
    Hold,
    OveragePolicy,
    WalletReading,
    WalletState,
)


class WalletRequest(msgspec.Struct, kw_only=True):
    """What every request begins with."""

    tenant_id: str
    wallet_id: str
    epoch: str = ""
    """Filled in by the store when it sends the request."""


class AmountRequest(msgspec.Struct, frozen=True):
    """One asset to hold."""

    asset: str
    units: int
    """1 .. UNITS_MAX."""
    known: bool = True
    """False when the tenant has no such asset. The script decides when that matters."""


class AuthorizeRequest(WalletRequest, kw_only=True):
    """Request of ``authorize``."""

    hold_id: str
    fingerprint: str
    amounts: list[AmountRequest]
    ttl_ms: int
    subjects: list[str]
    overage_policy: OveragePolicy
    expiry_action: ExpiryAction
    labels: str
    """JSON object of strings; empty for none."""
    open_holds_max: int
    tombstone_ms: int


class TotalUsed(msgspec.Struct, frozen=True):
    """Units of one asset used so far under a hold."""

    asset: str
    units: int
    """0 .. UNITS_MAX."""


class CommitRequest(WalletRequest, kw_only=True):
    """Request of ``commit``."""

    hold_id: str
    amounts: list[TotalUsed]
    tombstone_ms: int


class ReleaseRequest(WalletRequest, kw_only=True):
    """Request of ``release``."""

    hold_id: str
    tombstone_ms: int
    bury: bool
    """Whether a hold that Redis does not know gets a tombstone."""


class SweepRequest(WalletRequest, kw_only=True):
    """Request of ``sweep``."""

    tombstone_ms: int


class PackedGrant(msgspec.Struct, frozen=True, array_like=True):
    """A live grant as ``grants.lua`` keeps it."""

    grant_id: str
    free: int
    pinned: int
    priority: int
    expire_ms: int
    source: GrantSource
    effective_ms: int
    create_ms: int


class LoadedAsset(msgspec.Struct, frozen=True):
    """One asset of a wallet that is being loaded."""

    asset: str
    debt: int
    overdraft_limit: int
    grants: list[PackedGrant]


class LoadRequest(WalletRequest, kw_only=True):
    """Request of ``load``: a wallet as of the last event that Postgres recorded."""

    ticket_ms: int
    """Redis TIME from before Postgres was read."""
    state: WalletState
    sequence: int
    change_number: int
    assets: list[LoadedAsset]
    changes: list[Change]
    """Changes after that which Postgres has recorded, in order: they belong to the wallet that anybody sees."""


class GrantChange(msgspec.Struct, frozen=True):
    """A grant to apply."""

    grant_id: str
    asset: str
    units: int
    priority: int
    source: GrantSource
    effective_ms: int
    expire_ms: int
    create_ms: int
    labels: str


class Change(msgspec.Struct, frozen=True):
    """One numbered change of a wallet, which Postgres has recorded."""

    change_number: int
    kind: Literal["GRANT", "STATE"]
    grant: GrantChange | None = None
    state: WalletState | None = None


class ApplyRequest(WalletRequest, kw_only=True):
    """Request of ``apply``."""

    change: Change


class ReadWalletRequest(WalletRequest, kw_only=True):
    """Request of ``read_wallet``."""

    assets: list[str]
    """None means all."""
    with_grants: bool


class ReadHoldRequest(WalletRequest, kw_only=True):
    """Request of ``read_hold``."""

    hold_id: str


class ListHoldsRequest(WalletRequest, kw_only=True):
    """Request of ``list_holds``: the open holds after (after_ms, after_id), by expiry."""

    after_ms: int
    after_id: str
    limit: int


Status = Literal[
    "OK",
    "DENIED",
    "STALE_EPOCH",
    "NOT_LOADED",
    "ID_REUSED",
    "HOLD_UNKNOWN",
    "HOLD_RELEASED",
    "HOLD_COMMITTED",
    "ASSET_NOT_HELD",
    "EXCEEDS_HOLD",
    "INSUFFICIENT_FUNDS",
    "TICKET_EXPIRED",
    "GAP",
]


class Reply(msgspec.Struct, kw_only=True, frozen=True):
    """What every reply begins with."""

    status: Status


class AuthorizeReply(Reply, kw_only=True, frozen=True):
    """Reply of ``authorize``."""

    hold: Hold | None = None
    balances: list[AssetBalance] = []
    replayed: bool = False
    reason: DenialReason | None = None
    asset: str = ""
    required: int = 0
    available: int = 0
    fingerprint: str = ""


class SettleReply(Reply, kw_only=True, frozen=True):
    """Reply of ``commit`` and of ``release``."""

    hold: Hold | None = None
    balances: list[AssetBalance] = []
    replayed: bool = False
    asset: str = ""
    required: int = 0
    available: int = 0


class SweepReply(Reply, kw_only=True, frozen=True):
    """Reply of ``sweep``."""

    expired: int = 0
    forgotten: int = 0
    more: bool = False


class LoadReply(Reply, kw_only=True, frozen=True):
    """Reply of ``load``."""

    loaded: bool = False


class ApplyReply(Reply, kw_only=True, frozen=True):
    """Reply of ``apply``."""

    applied: bool = False
    change_number: int = 0


class ReadWalletReply(Reply, kw_only=True, frozen=True):
    """Reply of ``read_wallet``."""

    wallet: WalletReading | None = None


class ReadHoldReply(Reply, kw_only=True, frozen=True):
    """Reply of ``read_hold``."""

    hold: Hold | None = None


class ListHoldsReply(Reply, kw_only=True, frozen=True):
    """Reply of ``list_holds``."""

    holds: list[Hold] = []
