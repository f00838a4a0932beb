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
    Cap,
    CapStatus,
    DenialReason,
    ExpiryAction,
    GrantSource,
    Hold,
    OveragePolicy,
    WalletReading,
    WalletState,
)
from drawdown_server.holds.recorded import RecordedHold


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
    min_units: int = 0
    """0: all or nothing; else 1 .. units, and as much as there is between the two is held."""
    overage_policy: OveragePolicy = OveragePolicy.CHARGE_AVAILABLE
    known: bool = True
    """False when the tenant has no such asset. The script decides when that matters."""


class AuthorizeRequest(WalletRequest, kw_only=True):
    """Request of ``authorize``."""

    hold_id: str
    fingerprint: str
    ways: list[list[AmountRequest]]
    """Ways to pay, tried in order; at least one."""
    ttl_ms: int
    subjects: list[str]
    expiry_action: ExpiryAction
    labels: str
    """JSON object of strings; empty for none."""
    open_holds_max: int
    tombstone_ms: int
    outbox_backlog_limit: int = 0
    """Refused when more events of the partition than this wait for Postgres; 0 = no limit."""


class TotalUsed(msgspec.Struct, frozen=True):
    """Units of one asset used so far under a hold."""

    asset: str
    units: int
    """0 .. UNITS_MAX."""


class CommitRequest(WalletRequest, kw_only=True, omit_defaults=True):
    """Request of ``commit``."""

    hold_id: str
    amounts: list[TotalUsed]
    final: bool
    """False reports progress: debited at once, the rest stays held."""
    tombstone_ms: int
    lost: RecordedHold | None = None
    """The hold that Redis lost, as its token or the ledger has it: used if Redis still does not know it."""
    ticket_ms: int = 0
    """Of ``lost``: Redis TIME of the HOLD_UNKNOWN after which the ledger was asked."""


class ExtendRequest(WalletRequest, kw_only=True):
    """Request of ``extend``."""

    hold_id: str
    ttl_ms: int
    """The hold expires this long from now; 0 leaves its expiry as it is."""
    amounts: list[TotalUsed]
    """Total units to hold by asset, debited ones included; never less than before. Others stay as they are."""
    tombstone_ms: int


class ChargeRequest(WalletRequest, kw_only=True):
    """Request of ``charge``: an Authorize and its Commit in one step; ``hold_id`` is the charge's id."""

    hold_id: str
    fingerprint: str
    amounts: list[AmountRequest]
    subjects: list[str]
    labels: str
    tombstone_ms: int
    outbox_backlog_limit: int = 0
    """As in ``AuthorizeRequest``."""


class RefundRequest(WalletRequest, kw_only=True):
    """Request of ``refund``."""

    hold_id: str
    refund_id: str
    digest: str
    """Of the amounts: the same id with other amounts is an error."""
    amounts: list[TotalUsed]
    grants: list[PackedGrant]
    """The grants that paid, as Postgres knows them: one that is used up lives again by a refund."""
    recorded: RecordedHold | None
    """The hold as the ledger has it, for when Redis has forgotten it."""
    tombstone_ms: int


class ReleaseRequest(WalletRequest, kw_only=True):
    """Request of ``release``."""

    hold_id: str
    tombstone_ms: int
    bury: bool
    """Whether a hold that Redis does not know gets a tombstone."""
    forced: bool
    """By an operator, not by the caller: the hold counts as expired, so its usage can still be committed."""


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
    voided: bool = False


class LoadedAsset(msgspec.Struct, frozen=True):
    """One asset of a wallet that is being loaded."""

    asset: str
    debt: int
    overdraft_limit: int
    grants: list[PackedGrant]
    """Those in force; the ones with nothing left are not sent."""
    scheduled: list[PackedGrant]
    """Those whose GRANT is not in the ledger yet, because they are not effective yet."""


class CapUsage(msgspec.Struct, frozen=True, array_like=True):
    """A counter of a cap: units debited."""

    counter: str
    units: int


class LoadRequest(WalletRequest, kw_only=True):
    """Request of ``load``: a wallet as of the last event that Postgres recorded."""

    ticket_ms: int
    """Redis TIME from before Postgres was read."""
    state: WalletState
    sequence: int
    change_number: int
    assets: list[LoadedAsset]
    caps: list[Cap]
    cap_usage: list[CapUsage]
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
    kind: Literal["GRANT", "STATE", "VOID", "EXPIRY", "OVERDRAFT", "CAP", "CAP_REMOVAL"]
    grant: GrantChange | None = None
    """GRANT: the grant. VOID and EXPIRY: the grant, of which id, asset and (EXPIRY) expire_ms count."""
    state: WalletState | None = None
    asset: str = ""
    """OVERDRAFT."""
    limit: int = 0
    """OVERDRAFT."""
    cap: Cap | None = None
    """CAP sets it, CAP_REMOVAL removes the one with this subject, asset and window."""


class ApplyRequest(WalletRequest, kw_only=True):
    """Request of ``apply``."""

    change: Change


class EvictRequest(WalletRequest, kw_only=True):
    """Request of ``evict``: what Postgres has of the wallet."""

    sequence: int
    applied_change_number: int
    change_number: int


class ReadWalletRequest(WalletRequest, kw_only=True):
    """Request of ``read_wallet``."""

    assets: list[str]
    """None means all."""
    with_grants: bool


class ReadHoldRequest(WalletRequest, kw_only=True):
    """Request of ``read_hold``."""

    hold_id: str


class ReadCapsRequest(WalletRequest, kw_only=True):
    """Request of ``read_caps``."""

    subjects: list[str]
    """Subjects to show beside those that have a cap of their own."""


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
    "BACKLOG_FULL",
    "ID_REUSED",
    "HOLD_UNKNOWN",
    "HOLD_RELEASED",
    "HOLD_COMMITTED",
    "ASSET_NOT_HELD",
    "EXCEEDS_HOLD",
    "INSUFFICIENT_FUNDS",
    "TOTAL_BELOW_DEBITED",
    "HOLD_EXPIRED",
    "BELOW_HOLD",
    "EXCEEDS_DEBITED",
    "GRANTS_MISSING",
    "BALANCE_OUT_OF_RANGE",
    "TICKET_EXPIRED",
    "GAP",
    "HAS_HOLDS",
    "NOT_RECORDED",
    "TOO_YOUNG",
]


class Reply(msgspec.Struct, kw_only=True, frozen=True):
    """What every reply begins with."""

    status: Status


class AuthorizeReply(Reply, kw_only=True, frozen=True):
    """Reply of ``authorize``, ``charge`` and ``extend``."""

    hold: Hold | None = None
    balances: list[AssetBalance] = []
    cap: CapStatus | None = None
    """CAP_EXCEEDED: the cap."""
    observed: list[CapStatus] = []
    """Caps in OBSERVE mode that would have denied it."""
    replayed: bool = False
    reason: DenialReason | None = None
    asset: str = ""
    required: int = 0
    available: int = 0
    fingerprint: str = ""


class SettleReply(Reply, kw_only=True, frozen=True):
    """Reply of ``commit``, ``release`` and ``refund``."""

    fingerprint: str = ""
    """ID_REUSED: digest of the first refund with this id."""
    now_ms: int = 0
    """HOLD_UNKNOWN of a commit: Redis TIME."""
    grants: list[str] = []
    """GRANTS_MISSING: those that a refund must bring as well."""
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


class EvictReply(Reply, kw_only=True, frozen=True):
    """Reply of ``evict``: gone, or why not."""


class ReadWalletReply(Reply, kw_only=True, frozen=True):
    """Reply of ``read_wallet``."""

    wallet: WalletReading | None = None


class ReadCapsReply(Reply, kw_only=True, frozen=True):
    """Reply of ``read_caps``."""

    caps: list[Cap] = []
    usage: list[CapStatus] = []


class ReadHoldReply(Reply, kw_only=True, frozen=True):
    """Reply of ``read_hold``."""

    hold: Hold | None = None


class ListHoldsReply(Reply, kw_only=True, frozen=True):
    """Reply of ``list_holds``."""

    holds: list[Hold] = []
