"""From response messages to plain values: pure, shared by both clients."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from drawdown._enums import (
    CapMode,
    CapWindow,
    Decision,
    DenialReason,
    EntryKind,
    ExpiryAction,
    GrantSource,
    HoldState,
    OveragePolicy,
    WalletState,
)
from drawdown._types import (
    Asset,
    Authorization,
    Balance,
    Cap,
    CapStatus,
    ChargeResult,
    CommitResult,
    Denial,
    Entry,
    Extension,
    Grant,
    GrantBalance,
    GrantResult,
    GrantUpdate,
    Hold,
    HoldAmount,
    Page,
    RefundResult,
    ReleaseResult,
    Wallet,
    WalletBalance,
    WalletCaps,
)
from drawdown.v1 import (
    asset_service_pb2,
    authorization_service_pb2,
    balance_service_pb2,
    cap_service_pb2,
    grant_service_pb2,
    ledger_service_pb2,
    types_pb2,
    wallet_service_pb2,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from google.protobuf.descriptor import EnumDescriptor
    from google.protobuf.timestamp_pb2 import Timestamp

E = TypeVar("E", bound=StrEnum)


def _reader(kind: type[E], descriptor: EnumDescriptor, prefix: str) -> Callable[[int], E]:
    """Reads one enum: by number, where a number that is newer than this client is UNSPECIFIED."""
    by_number = {value.number: kind(value.name.removeprefix(prefix)) for value in descriptor.values}
    unspecified = by_number[0]
    return lambda number: by_number.get(number, unspecified)


_decision = _reader(Decision, authorization_service_pb2.Decision.DESCRIPTOR, "DECISION_")
_denial_reason = _reader(DenialReason, authorization_service_pb2.DenialReason.DESCRIPTOR, "DENIAL_REASON_")
_wallet_state = _reader(WalletState, types_pb2.WalletState.DESCRIPTOR, "WALLET_STATE_")
_grant_source = _reader(GrantSource, types_pb2.GrantSource.DESCRIPTOR, "GRANT_SOURCE_")
_hold_state = _reader(HoldState, types_pb2.HoldState.DESCRIPTOR, "HOLD_STATE_")
_overage_policy = _reader(OveragePolicy, types_pb2.OveragePolicy.DESCRIPTOR, "OVERAGE_POLICY_")
_expiry_action = _reader(ExpiryAction, types_pb2.ExpiryAction.DESCRIPTOR, "EXPIRY_ACTION_")
_entry_kind = _reader(EntryKind, types_pb2.EntryKind.DESCRIPTOR, "ENTRY_KIND_")
_cap_window = _reader(CapWindow, types_pb2.CapWindow.DESCRIPTOR, "CAP_WINDOW_")
_cap_mode = _reader(CapMode, types_pb2.CapMode.DESCRIPTOR, "CAP_MODE_")


def create_asset(response: asset_service_pb2.CreateAssetResponse) -> Asset:
    return _asset(response.asset)


def get_asset(response: asset_service_pb2.GetAssetResponse) -> Asset:
    return _asset(response.asset)


def list_assets(response: asset_service_pb2.ListAssetsResponse) -> Page[Asset]:
    return Page(tuple(map(_asset, response.assets)), response.next_page_token)


def wallet(
    response: wallet_service_pb2.CreateWalletResponse
    | wallet_service_pb2.GetWalletResponse
    | wallet_service_pb2.FreezeWalletResponse
    | wallet_service_pb2.UnfreezeWalletResponse
    | wallet_service_pb2.CloseWalletResponse,
) -> Wallet:
    return _wallet(response.wallet)


def list_wallets(response: wallet_service_pb2.ListWalletsResponse) -> Page[Wallet]:
    return Page(tuple(map(_wallet, response.wallets)), response.next_page_token)


def set_overdraft_limit(response: wallet_service_pb2.SetOverdraftLimitResponse) -> Balance:
    return _balance(response.balance)


def create_grant(response: grant_service_pb2.CreateGrantResponse) -> GrantResult:
    return GrantResult(_grant(response.grant), _balance(response.balance), response.replayed)


def get_grant(response: grant_service_pb2.GetGrantResponse) -> Grant:
    return _grant(response.grant)


def list_grants(response: grant_service_pb2.ListGrantsResponse) -> Page[Grant]:
    return Page(tuple(map(_grant, response.grants)), response.next_page_token)


def grant_update(
    response: grant_service_pb2.VoidGrantResponse | grant_service_pb2.SetGrantExpiryResponse,
) -> GrantUpdate:
    return GrantUpdate(_grant(response.grant), _balance(response.balance))


def set_cap(response: cap_service_pb2.SetCapResponse) -> Cap:
    return _cap(response.cap)


def remove_cap(_response: cap_service_pb2.RemoveCapResponse) -> None:
    return None


def list_caps(response: cap_service_pb2.ListCapsResponse) -> WalletCaps:
    return WalletCaps(tuple(map(_cap, response.caps)), _cap_statuses(response.usage))


def get_balance(response: balance_service_pb2.GetBalanceResponse) -> WalletBalance:
    return WalletBalance(
        balances=_balances(response.balances),
        wallet_sequence=response.wallet_sequence,
        state=_wallet_state(response.state),
        open_holds=response.open_holds,
    )


def authorize(response: authorization_service_pb2.AuthorizeResponse, hold_id: str) -> Authorization:
    """Reads a decision; ``hold_id`` is the request's, as a denial has no hold to read it from."""
    return Authorization(
        decision=_decision(response.decision),
        hold_id=hold_id,
        denial=_denial(response.denial) if response.HasField("denial") else None,
        hold=_hold(response.hold) if response.HasField("hold") else None,
        balances=_balances(response.balances),
        replayed=response.replayed,
        alternative_index=response.alternative_index,
        observed_caps=_cap_statuses(response.observed_caps),
    )


def extend(response: authorization_service_pb2.ExtendResponse) -> Extension:
    return Extension(
        decision=_decision(response.decision),
        denial=_denial(response.denial) if response.HasField("denial") else None,
        hold=_hold(response.hold),
        balances=_balances(response.balances),
        observed_caps=_cap_statuses(response.observed_caps),
    )


def charge(response: authorization_service_pb2.ChargeResponse, charge_id: str) -> ChargeResult:
    """Reads a decision; ``charge_id`` is the request's, as a denial has no hold to read it from."""
    return ChargeResult(
        decision=_decision(response.decision),
        charge_id=charge_id,
        denial=_denial(response.denial) if response.HasField("denial") else None,
        hold=_hold(response.hold) if response.HasField("hold") else None,
        debited=_units_by_asset(response.debited),
        uncollected=_units_by_asset(response.uncollected),
        balances=_balances(response.balances),
        wallet_sequence=response.wallet_sequence,
        replayed=response.replayed,
        observed_caps=_cap_statuses(response.observed_caps),
        in_ledger=response.in_ledger,
    )


def commit(response: authorization_service_pb2.CommitResponse) -> CommitResult:
    return CommitResult(
        hold=_hold(response.hold),
        debited=_units_by_asset(response.debited),
        released=_units_by_asset(response.released),
        uncollected=_units_by_asset(response.uncollected),
        balances=_balances(response.balances),
        wallet_sequence=response.wallet_sequence,
        late=response.late,
        replayed=response.replayed,
        in_ledger=response.in_ledger,
    )


def release(
    response: authorization_service_pb2.ReleaseResponse | authorization_service_pb2.ForceReleaseResponse,
) -> ReleaseResult:
    return ReleaseResult(_hold(response.hold), _balances(response.balances), response.replayed)


def refund(response: authorization_service_pb2.RefundResponse) -> RefundResult:
    return RefundResult(
        _hold(response.hold),
        _balances(response.balances),
        response.wallet_sequence,
        response.replayed,
        response.in_ledger,
    )


def get_hold(response: authorization_service_pb2.GetHoldResponse) -> Hold:
    return _hold(response.hold)


def list_holds(response: authorization_service_pb2.ListHoldsResponse) -> Page[Hold]:
    return Page(tuple(map(_hold, response.holds)), response.next_page_token)


def list_entries(response: ledger_service_pb2.ListEntriesResponse) -> Page[Entry]:
    return Page(tuple(map(_entry, response.entries)), response.next_page_token)


def _asset(message: types_pb2.Asset) -> Asset:
    return Asset(
        asset=message.asset,
        scale=message.scale,
        display_name=message.display_name,
        default_overage_policy=_overage_policy(message.default_overage_policy),
        create_time=_time(message.create_time),
    )


def _wallet(message: types_pb2.Wallet) -> Wallet:
    return Wallet(
        wallet_id=message.wallet_id,
        state=_wallet_state(message.state),
        display_name=message.display_name,
        labels=dict(message.labels),
        create_time=_time(message.create_time),
        update_time=_time(message.update_time),
    )


def _grant(message: types_pb2.Grant) -> Grant:
    return Grant(
        wallet_id=message.wallet_id,
        grant_id=message.grant_id,
        asset=message.asset,
        units=message.units,
        remaining_units=message.remaining_units,
        priority=message.priority,
        source=_grant_source(message.source),
        effective_time=_time(message.effective_time),
        expire_time=_time(message.expire_time),
        labels=dict(message.labels),
        create_time=_time(message.create_time),
        void_time=_time(message.void_time),
    )


def _balances(messages: Iterable[types_pb2.Balance]) -> dict[str, Balance]:
    return {message.asset: _balance(message) for message in messages}


def _balance(message: types_pb2.Balance) -> Balance:
    return Balance(
        asset=message.asset,
        settled_units=message.settled_units,
        held_units=message.held_units,
        available_units=message.available_units,
        debt_units=message.debt_units,
        overdraft_limit_units=message.overdraft_limit_units,
        grants=tuple(map(_grant_balance, message.grants)),
        scheduled_grants=tuple(map(_grant_balance, message.scheduled_grants)),
    )


def _grant_balance(message: types_pb2.GrantBalance) -> GrantBalance:
    return GrantBalance(
        grant_id=message.grant_id,
        available_units=message.available_units,
        held_units=message.held_units,
        priority=message.priority,
        source=_grant_source(message.source),
        effective_time=_time(message.effective_time),
        expire_time=_time(message.expire_time),
    )


def _hold(message: types_pb2.Hold) -> Hold:
    return Hold(
        wallet_id=message.wallet_id,
        hold_id=message.hold_id,
        state=_hold_state(message.state),
        amounts={amount.asset: _hold_amount(amount) for amount in message.amounts},
        create_time=_time(message.create_time),
        expire_time=_time(message.expire_time),
        settle_time=_time(message.settle_time),
        subjects=tuple(message.subjects),
        overage_policy=_overage_policy(message.overage_policy),
        expiry_action=_expiry_action(message.expiry_action),
        labels=dict(message.labels),
        hold_token=message.hold_token,
        wallet_sequence=message.wallet_sequence,
        alternative_index=message.alternative_index,
    )


def _hold_amount(message: types_pb2.HoldAmount) -> HoldAmount:
    return HoldAmount(
        asset=message.asset,
        authorized_units=message.authorized_units,
        held_units=message.held_units,
        debited_units=message.debited_units,
        uncollected_units=message.uncollected_units,
        refunded_units=message.refunded_units,
        overage_policy=_overage_policy(message.overage_policy),
    )


def _denial(message: authorization_service_pb2.Denial) -> Denial:
    return Denial(
        reason=_denial_reason(message.reason),
        asset=message.asset,
        required_units=message.required_units,
        available_units=message.available_units,
        cap=_cap_status(message.cap) if message.HasField("cap") else None,
        retry_time=_time(message.retry_time),
    )


def _cap(message: types_pb2.Cap) -> Cap:
    return Cap(
        wallet_id=message.wallet_id,
        subject=message.subject,
        asset=message.asset,
        window=_cap_window(message.window),
        limit_units=message.limit_units,
        mode=_cap_mode(message.mode),
    )


def _cap_statuses(messages: Iterable[types_pb2.CapStatus]) -> tuple[CapStatus, ...]:
    return tuple(map(_cap_status, messages))


def _cap_status(message: types_pb2.CapStatus) -> CapStatus:
    return CapStatus(
        subject=message.subject,
        asset=message.asset,
        window=_cap_window(message.window),
        limit_units=message.limit_units,
        used_units=message.used_units,
        reset_time=_time(message.reset_time),
        cap_subject=message.cap_subject,
        mode=_cap_mode(message.mode),
    )


def _entry(message: types_pb2.Entry) -> Entry:
    return Entry(
        wallet_id=message.wallet_id,
        wallet_sequence=message.wallet_sequence,
        line=message.line,
        kind=_entry_kind(message.kind),
        asset=message.asset,
        units=message.units,
        debit_account=message.debit_account,
        credit_account=message.credit_account,
        grant_id=message.grant_id,
        hold_id=message.hold_id,
        subjects=tuple(message.subjects),
        occurred_time=_time(message.occurred_time),
        labels=dict(message.labels),
    )


def _units_by_asset(messages: Iterable[types_pb2.Amount]) -> dict[str, int]:
    return {message.asset: message.units for message in messages}


def _time(timestamp: Timestamp) -> datetime | None:
    """UTC; None for the zero timestamp, which is how an unset one reads (nothing here happened in 1970)."""
    if not timestamp.seconds and not timestamp.nanos:
        return None
    return timestamp.ToDatetime(tzinfo=UTC)
