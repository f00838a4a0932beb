"""From plain arguments to request messages: pure, shared by both clients.

A value of a wrong type is a ``TypeError``. A value that cannot even be written into the message is an
``InvalidRequestError`` here, like the ones that the server finds; every other rule is the server's to check.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final, ParamSpec, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from drawdown._amounts import UNITS_MAX
from drawdown._enums import (
    CapMode,
    CapWindow,
    ExpiryAction,
    GrantSource,
    OveragePolicy,
)
from drawdown._exceptions import ErrorReason, InvalidRequestError, Violation
from drawdown._types import (
    Amount,
    Amounts,
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

P = ParamSpec("P")
T = TypeVar("T")

_INT32_MAX: Final = 2**31 - 1


def _checked(build: Callable[P, T]) -> Callable[P, T]:
    """Makes protobuf's own complaints about values (text that is no UTF-8, a ttl of NaN) an InvalidRequestError."""

    @functools.wraps(build)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return build(*args, **kwargs)
        except (ValueError, OverflowError) as error:
            raise _invalid("", str(error)) from error

    return checked


@_checked
def create_asset(
    *, asset: str, scale: int, display_name: str, default_overage_policy: OveragePolicy
) -> asset_service_pb2.CreateAssetRequest:
    return asset_service_pb2.CreateAssetRequest(
        asset=asset,
        scale=_int32(scale, "scale"),
        display_name=display_name,
        default_overage_policy=_overage_policy(default_overage_policy),
    )


@_checked
def get_asset(*, asset: str) -> asset_service_pb2.GetAssetRequest:
    return asset_service_pb2.GetAssetRequest(asset=asset)


@_checked
def list_assets(*, page_size: int, page_token: str) -> asset_service_pb2.ListAssetsRequest:
    return asset_service_pb2.ListAssetsRequest(page_size=_int32(page_size, "page_size"), page_token=page_token)


@_checked
def create_wallet(
    *, wallet_id: str, display_name: str, labels: Mapping[str, str] | None
) -> wallet_service_pb2.CreateWalletRequest:
    return wallet_service_pb2.CreateWalletRequest(wallet_id=wallet_id, display_name=display_name, labels=labels)


@_checked
def get_wallet(*, wallet_id: str) -> wallet_service_pb2.GetWalletRequest:
    return wallet_service_pb2.GetWalletRequest(wallet_id=wallet_id)


@_checked
def list_wallets(*, page_size: int, page_token: str) -> wallet_service_pb2.ListWalletsRequest:
    return wallet_service_pb2.ListWalletsRequest(page_size=_int32(page_size, "page_size"), page_token=page_token)


@_checked
def freeze_wallet(*, wallet_id: str, reason: str) -> wallet_service_pb2.FreezeWalletRequest:
    return wallet_service_pb2.FreezeWalletRequest(wallet_id=wallet_id, reason=reason)


@_checked
def unfreeze_wallet(*, wallet_id: str, reason: str) -> wallet_service_pb2.UnfreezeWalletRequest:
    return wallet_service_pb2.UnfreezeWalletRequest(wallet_id=wallet_id, reason=reason)


@_checked
def close_wallet(*, wallet_id: str, force: bool, reason: str) -> wallet_service_pb2.CloseWalletRequest:
    return wallet_service_pb2.CloseWalletRequest(wallet_id=wallet_id, force=force, reason=reason)


@_checked
def set_overdraft_limit(
    *, wallet_id: str, asset: str, limit_units: int, reason: str
) -> wallet_service_pb2.SetOverdraftLimitRequest:
    return wallet_service_pb2.SetOverdraftLimitRequest(
        wallet_id=wallet_id, asset=asset, limit_units=_units(limit_units, "limit_units"), reason=reason
    )


@_checked
def create_grant(
    *,
    wallet_id: str,
    grant_id: str,
    asset: str,
    units: int,
    source: GrantSource,
    priority: int | None,
    effective_time: datetime | None,
    expire_time: datetime | None,
    labels: Mapping[str, str] | None,
) -> grant_service_pb2.CreateGrantRequest:
    return grant_service_pb2.CreateGrantRequest(
        wallet_id=wallet_id,
        grant_id=grant_id,
        asset=asset,
        units=_units(units, "units"),
        source=f"GRANT_SOURCE_{GrantSource(source)}",
        priority=None if priority is None else _int32(priority, "priority"),
        effective_time=_timestamp(effective_time, "effective_time"),
        expire_time=_timestamp(expire_time, "expire_time"),
        labels=labels,
    )


@_checked
def get_grant(*, wallet_id: str, grant_id: str) -> grant_service_pb2.GetGrantRequest:
    return grant_service_pb2.GetGrantRequest(wallet_id=wallet_id, grant_id=grant_id)


@_checked
def list_grants(*, wallet_id: str, asset: str, page_size: int, page_token: str) -> grant_service_pb2.ListGrantsRequest:
    return grant_service_pb2.ListGrantsRequest(
        wallet_id=wallet_id, asset=asset, page_size=_int32(page_size, "page_size"), page_token=page_token
    )


@_checked
def void_grant(*, wallet_id: str, grant_id: str, reason: str) -> grant_service_pb2.VoidGrantRequest:
    return grant_service_pb2.VoidGrantRequest(wallet_id=wallet_id, grant_id=grant_id, reason=reason)


@_checked
def set_grant_expiry(
    *, wallet_id: str, grant_id: str, expire_time: datetime | None, reason: str
) -> grant_service_pb2.SetGrantExpiryRequest:
    return grant_service_pb2.SetGrantExpiryRequest(
        wallet_id=wallet_id, grant_id=grant_id, expire_time=_timestamp(expire_time, "expire_time"), reason=reason
    )


@_checked
def set_cap(
    *, wallet_id: str, subject: str, asset: str, window: CapWindow, limit_units: int, mode: CapMode
) -> cap_service_pb2.SetCapRequest:
    return cap_service_pb2.SetCapRequest(
        wallet_id=wallet_id,
        subject=subject,
        asset=asset,
        window=f"CAP_WINDOW_{CapWindow(window)}",
        limit_units=_units(limit_units, "limit_units"),
        mode=f"CAP_MODE_{CapMode(mode)}",
    )


@_checked
def remove_cap(*, wallet_id: str, subject: str, asset: str, window: CapWindow) -> cap_service_pb2.RemoveCapRequest:
    return cap_service_pb2.RemoveCapRequest(
        wallet_id=wallet_id, subject=subject, asset=asset, window=f"CAP_WINDOW_{CapWindow(window)}"
    )


@_checked
def list_caps(*, wallet_id: str, subjects: Iterable[str]) -> cap_service_pb2.ListCapsRequest:
    return cap_service_pb2.ListCapsRequest(wallet_id=wallet_id, subjects=_texts(subjects, "subjects"))


@_checked
def get_balance(
    *, wallet_id: str, assets: Iterable[str], include_grants: bool
) -> balance_service_pb2.GetBalanceRequest:
    return balance_service_pb2.GetBalanceRequest(
        wallet_id=wallet_id, assets=_texts(assets, "assets"), include_grants=include_grants
    )


@_checked
def authorize(
    *,
    wallet_id: str,
    hold_id: str,
    amounts: Amounts,
    ttl_s: float | None,
    subjects: Iterable[str],
    alternatives: Iterable[Amounts],
    overage_policy: OveragePolicy,
    expiry_action: ExpiryAction,
    labels: Mapping[str, str] | None,
) -> authorization_service_pb2.AuthorizeRequest:
    return authorization_service_pb2.AuthorizeRequest(
        wallet_id=wallet_id,
        hold_id=hold_id,
        amounts=_amounts(amounts, "amounts"),
        ttl=_duration(ttl_s),
        subjects=_texts(subjects, "subjects"),
        alternatives=[
            authorization_service_pb2.Alternative(amounts=_amounts(other, f"alternatives[{index}].amounts"))
            for index, other in enumerate(alternatives)
        ],
        overage_policy=_overage_policy(overage_policy),
        expiry_action=f"EXPIRY_ACTION_{ExpiryAction(expiry_action)}",
        labels=labels,
    )


@_checked
def commit(
    *,
    wallet_id: str,
    hold_id: str,
    amounts: Amounts,
    final: bool,
    hold_token: bytes,
    wait_for_ledger_s: float | None,
) -> authorization_service_pb2.CommitRequest:
    request = authorization_service_pb2.CommitRequest(
        wallet_id=wallet_id,
        hold_id=hold_id,
        amounts=_amounts(amounts, "amounts"),
        hold_token=hold_token,
        wait_for_ledger=_duration(wait_for_ledger_s),
    )
    if not final:  # unset means true
        request.final = False
    return request


@_checked
def extend(
    *, wallet_id: str, hold_id: str, ttl_s: float | None, amounts: Amounts
) -> authorization_service_pb2.ExtendRequest:
    return authorization_service_pb2.ExtendRequest(
        wallet_id=wallet_id, hold_id=hold_id, ttl=_duration(ttl_s), amounts=_amounts(amounts, "amounts")
    )


@_checked
def charge(
    *,
    wallet_id: str,
    charge_id: str,
    amounts: Amounts,
    subjects: Iterable[str],
    overage_policy: OveragePolicy,
    labels: Mapping[str, str] | None,
    wait_for_ledger_s: float | None,
) -> authorization_service_pb2.ChargeRequest:
    return authorization_service_pb2.ChargeRequest(
        wallet_id=wallet_id,
        charge_id=charge_id,
        amounts=_amounts(amounts, "amounts"),
        subjects=_texts(subjects, "subjects"),
        overage_policy=_overage_policy(overage_policy),
        labels=labels,
        wait_for_ledger=_duration(wait_for_ledger_s),
    )


@_checked
def refund(
    *, wallet_id: str, hold_id: str, refund_id: str, amounts: Amounts, wait_for_ledger_s: float | None
) -> authorization_service_pb2.RefundRequest:
    return authorization_service_pb2.RefundRequest(
        wallet_id=wallet_id,
        hold_id=hold_id,
        refund_id=refund_id,
        amounts=_amounts(amounts, "amounts"),
        wait_for_ledger=_duration(wait_for_ledger_s),
    )


@_checked
def force_release(*, wallet_id: str, hold_id: str, reason: str) -> authorization_service_pb2.ForceReleaseRequest:
    return authorization_service_pb2.ForceReleaseRequest(wallet_id=wallet_id, hold_id=hold_id, reason=reason)


@_checked
def release(*, wallet_id: str, hold_id: str, reason: str) -> authorization_service_pb2.ReleaseRequest:
    return authorization_service_pb2.ReleaseRequest(wallet_id=wallet_id, hold_id=hold_id, reason=reason)


@_checked
def get_hold(*, wallet_id: str, hold_id: str) -> authorization_service_pb2.GetHoldRequest:
    return authorization_service_pb2.GetHoldRequest(wallet_id=wallet_id, hold_id=hold_id)


@_checked
def list_holds(*, wallet_id: str, page_size: int, page_token: str) -> authorization_service_pb2.ListHoldsRequest:
    return authorization_service_pb2.ListHoldsRequest(
        wallet_id=wallet_id, page_size=_int32(page_size, "page_size"), page_token=page_token
    )


@_checked
def list_entries(
    *, wallet_id: str, asset: str, hold_id: str, page_size: int, page_token: str
) -> ledger_service_pb2.ListEntriesRequest:
    return ledger_service_pb2.ListEntriesRequest(
        wallet_id=wallet_id,
        asset=asset,
        hold_id=hold_id,
        page_size=_int32(page_size, "page_size"),
        page_token=page_token,
    )


def _amounts(amounts: Amounts, path: str) -> list[types_pb2.Amount]:
    if isinstance(amounts, Mapping):
        pairs = [Amount(asset, units) for asset, units in amounts.items()]
    else:
        pairs = list(amounts)
    messages = []
    for index, amount in enumerate(pairs):
        if not isinstance(amount, Amount):
            raise TypeError(f"{path} is a mapping {{asset: units}} or holds Amount objects, not {amount!r}")
        messages.append(
            types_pb2.Amount(
                asset=amount.asset,
                units=_units(amount.units, f"{path}[{index}].units"),
                min_units=_units(amount.min_units, f"{path}[{index}].min_units"),
            )
        )
    return messages


def _units(units: int, path: str) -> int:
    if isinstance(units, bool) or not isinstance(units, int):
        raise TypeError(f"{path} is an int in the asset's smallest unit, not {type(units).__name__}: {units!r}")
    if not -UNITS_MAX <= units <= UNITS_MAX:
        raise _invalid(path, f"must be at most {UNITS_MAX}, got {units}")
    return units


def _int32(value: int, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{path} is an int, not {type(value).__name__}: {value!r}")
    if not -_INT32_MAX <= value <= _INT32_MAX:
        raise _invalid(path, f"must be at most {_INT32_MAX}, got {value}")
    return value


def _texts(values: Iterable[str], path: str) -> list[str]:
    if isinstance(values, str):  # a str is an iterable of its characters, which nobody means
        raise TypeError(f"{path} is a list of texts, not one text: {values!r}")
    return list(values)


def _overage_policy(policy: OveragePolicy) -> str:
    return f"OVERAGE_POLICY_{OveragePolicy(policy)}"


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration


def _timestamp(time: datetime | None, path: str) -> Timestamp | None:
    if time is None:
        return None
    if time.tzinfo is None:  # protobuf would silently take it as UTC
        raise _invalid(path, "must have a time zone")
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp


def _invalid(path: str, rule: str) -> InvalidRequestError:
    error = InvalidRequestError(
        f"{path} {rule}".strip(),
        code=grpc.StatusCode.INVALID_ARGUMENT,
        reason=ErrorReason.INVALID_FIELD.value,
        metadata={"field": path} if path else {},
    )
    error.violations = (Violation(path, rule),)
    return error
