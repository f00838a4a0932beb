"""The client for threads: ``_client.py`` without ``await``. A test keeps the two alike."""

from __future__ import annotations

import threading
import uuid
from itertools import cycle
from typing import TYPE_CHECKING, Self, TypeVar

import grpc
from google.protobuf.message import Message

from drawdown import _audit, _keys, _operations, _requests, _responses, _rpcs
from drawdown._channel import (
    CLOSED,
    CLOSED_IN_FLIGHT,
    TARGET_DEFAULT,
    TIMEOUT_S_DEFAULT,
    USE_CLIENT_DEFAULT,
    Metadata,
    Settings,
    Timeout,
    Transport,
)
from drawdown._enums import (
    CapMode,
    CapWindow,
    ExpiryAction,
    GrantSource,
    OveragePolicy,
)
from drawdown._hold import HoldContext
from drawdown._paging import next_token
from drawdown._session_thread import SessionThread
from drawdown._status import to_exception

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from types import TracebackType

    from drawdown._audit import AuditRecord
    from drawdown._enums import Scope
    from drawdown._exceptions import DrawdownError
    from drawdown._keys import ApiKey, ApiKeyResult, WalletToken
    from drawdown._operations import Operation, OperationResult
    from drawdown._rpcs import Rpc
    from drawdown._types import (
        Amounts,
        Asset,
        Authorization,
        Balance,
        Cap,
        ChargeResult,
        CommitResult,
        Entry,
        Extension,
        Grant,
        GrantResult,
        GrantUpdate,
        Hold,
        Page,
        RefundResult,
        ReleaseResult,
        Wallet,
        WalletBalance,
        WalletCaps,
    )

Request = TypeVar("Request", bound=Message)
Result = TypeVar("Result")
Item = TypeVar("Item")


class Client:
    """A connection to Drawdown for threads.

    ::

        with drawdown.Client("127.0.0.1:50051") as client:
            with client.hold(wallet_id="demo", amounts={"USD": 500_000}) as hold:  # units: 0.50 at scale 6
                cost_units = run_the_request()
                hold.commit({"USD": cost_units})

    The same as ``AsyncClient``, call by call; its docstrings explain all parameters. One client serves any number of
    threads. The connection is made by the first call.
    """

    def __init__(
        self,
        target: str = TARGET_DEFAULT,
        *,
        timeout_s: float = TIMEOUT_S_DEFAULT,
        credentials: grpc.ChannelCredentials | None = None,
        api_key: str | None = None,
        plaintext_api_key: bool = False,
        connections: int = 1,
        metadata: Metadata = (),
        transport: Transport | None = None,
    ) -> None:
        self._settings = Settings.of(
            target,
            timeout_s,
            credentials,
            metadata,
            api_key=api_key,
            plaintext_api_key=plaintext_api_key,
            connections=connections,
            transport=transport or "unary",
        )
        self._channels: list[grpc.Channel] = []
        self._turns: Iterator[dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]]] = iter(())
        self._sessions: SessionThread | None = None
        self._closed = False
        self._lock = threading.Lock()  # over opening and closing only

    def __repr__(self) -> str:
        return f"<drawdown.{type(self).__name__} {self._settings.target}{' closed' if self._closed else ''}>"

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls in flight fail."""
        with self._lock:
            if self._sessions is not None and not self._closed:
                self._sessions.close()
            self._closed = True
            for channel in self._channels:
                channel.close()

    # --- the data plane ---

    def authorize(
        self,
        *,
        wallet_id: str,
        amounts: Amounts,
        hold_id: str | None = None,
        ttl_s: float | None = None,
        subjects: Iterable[str] = (),
        alternatives: Iterable[Amounts] = (),
        overage_policy: OveragePolicy = OveragePolicy.UNSPECIFIED,
        expiry_action: ExpiryAction = ExpiryAction.UNSPECIFIED,
        labels: Mapping[str, str] | None = None,
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> Authorization:
        """Reserves units of one or more assets, all or nothing. A denial is an answer and raises nothing.

        The parameters are explained at ``AsyncClient.authorize``.
        """
        hold_id = uuid.uuid4().hex if hold_id is None else hold_id
        request = _requests.authorize(
            wallet_id=wallet_id,
            hold_id=hold_id,
            amounts=amounts,
            ttl_s=ttl_s,
            subjects=subjects,
            alternatives=alternatives,
            overage_policy=overage_policy,
            expiry_action=expiry_action,
            labels=labels,
        )
        return _responses.authorize(self._call(_rpcs.AUTHORIZE, request, timeout_s), hold_id)

    def commit(
        self,
        *,
        wallet_id: str,
        hold_id: str,
        amounts: Amounts,
        final: bool = True,
        hold_token: bytes = b"",
        wait_for_ledger_s: float | None = None,
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> CommitResult:
        """Debits what was really used and gives the rest back.

        The parameters are explained at ``AsyncClient.commit``.
        """
        request = _requests.commit(
            wallet_id=wallet_id,
            hold_id=hold_id,
            amounts=amounts,
            final=final,
            hold_token=hold_token,
            wait_for_ledger_s=wait_for_ledger_s,
        )
        timeout_s = self._settings.timeout_waiting(timeout_s, wait_for_ledger_s)
        return self._call(_rpcs.COMMIT, request, timeout_s)

    def release(
        self, *, wallet_id: str, hold_id: str, reason: str = "", timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> ReleaseResult:
        """Gives everything back. An unknown hold is no error: a delayed Authorize with its id is then refused."""
        request = _requests.release(wallet_id=wallet_id, hold_id=hold_id, reason=reason)
        return self._call(_rpcs.RELEASE, request, timeout_s)

    def extend(
        self,
        *,
        wallet_id: str,
        hold_id: str,
        ttl_s: float | None = None,
        amounts: Amounts = (),
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> Extension:
        """Keeps an open hold for longer, holds more, or both; a denied raise leaves it exactly as it was.

        The parameters are explained at ``AsyncClient.extend``.
        """
        request = _requests.extend(wallet_id=wallet_id, hold_id=hold_id, ttl_s=ttl_s, amounts=amounts)
        return self._call(_rpcs.EXTEND, request, timeout_s)

    def charge(
        self,
        *,
        wallet_id: str,
        amounts: Amounts,
        charge_id: str | None = None,
        subjects: Iterable[str] = (),
        overage_policy: OveragePolicy = OveragePolicy.UNSPECIFIED,
        labels: Mapping[str, str] | None = None,
        wait_for_ledger_s: float | None = None,
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> ChargeResult:
        """Authorize and commit in one step, for usage that is known. A denial is an answer and raises nothing.

        The parameters are explained at ``AsyncClient.charge``.
        """
        charge_id = uuid.uuid4().hex if charge_id is None else charge_id
        request = _requests.charge(
            wallet_id=wallet_id,
            charge_id=charge_id,
            amounts=amounts,
            subjects=subjects,
            overage_policy=overage_policy,
            labels=labels,
            wait_for_ledger_s=wait_for_ledger_s,
        )
        timeout_s = self._settings.timeout_waiting(timeout_s, wait_for_ledger_s)
        return _responses.charge(self._call(_rpcs.CHARGE, request, timeout_s), charge_id)

    def refund(
        self,
        *,
        wallet_id: str,
        hold_id: str,
        refund_id: str,
        amounts: Amounts,
        wait_for_ledger_s: float | None = None,
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> RefundResult:
        """Gives debited units back to the grants that paid, at most what was debited. One id is one refund."""
        request = _requests.refund(
            wallet_id=wallet_id,
            hold_id=hold_id,
            refund_id=refund_id,
            amounts=amounts,
            wait_for_ledger_s=wait_for_ledger_s,
        )
        timeout_s = self._settings.timeout_waiting(timeout_s, wait_for_ledger_s)
        return self._call(_rpcs.REFUND, request, timeout_s)

    def batch(
        self, *, operations: Sequence[Operation], timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> list[OperationResult | DrawdownError]:
        """Up to 256 operations in one message: the results, in order; of one that failed, its exception, not raised.

        The parameters are explained at ``AsyncClient.batch``.
        """
        request = _operations.request_of(operations)
        timeout_s = self._settings.timeout_waiting(timeout_s, _operations.wait_s(operations))
        return _operations.results_of(operations, self._call(_rpcs.BATCH, request, timeout_s))

    def force_release(
        self, *, wallet_id: str, hold_id: str, reason: str, timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> ReleaseResult:
        """For operators: gives back what a stuck hold holds. It counts as expired: usage can still be committed."""
        request = _requests.force_release(wallet_id=wallet_id, hold_id=hold_id, reason=reason)
        return self._call(_rpcs.FORCE_RELEASE, request, timeout_s)

    def hold(
        self,
        *,
        wallet_id: str,
        amounts: Amounts,
        hold_id: str | None = None,
        ttl_s: float | None = None,
        subjects: Iterable[str] = (),
        alternatives: Iterable[Amounts] = (),
        overage_policy: OveragePolicy = OveragePolicy.UNSPECIFIED,
        expiry_action: ExpiryAction = ExpiryAction.UNSPECIFIED,
        labels: Mapping[str, str] | None = None,
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> HoldContext:
        """A hold around a piece of work: ``with client.hold(...) as hold: ...; hold.commit({...})``.

        Entering authorizes, and raises ``Denied`` when the answer is no. Leaving releases the hold, unless the body
        has tried to commit it: then the work was done, and a hold whose commit failed is kept until its ttl, so that
        the commit can be sent again. The parameters are those of ``authorize``.
        """
        hold_id = uuid.uuid4().hex if hold_id is None else hold_id

        def authorize() -> Authorization:
            return self.authorize(
                wallet_id=wallet_id,
                amounts=amounts,
                hold_id=hold_id,
                ttl_s=ttl_s,
                subjects=subjects,
                alternatives=alternatives,
                overage_policy=overage_policy,
                expiry_action=expiry_action,
                labels=labels,
                timeout_s=timeout_s,
            )

        return HoldContext(self, authorize, wallet_id, hold_id)

    def get_hold(self, *, wallet_id: str, hold_id: str, timeout_s: Timeout = USE_CLIENT_DEFAULT) -> Hold:
        """Reads one hold, also some time after it was settled."""
        return self._call(_rpcs.GET_HOLD, _requests.get_hold(wallet_id=wallet_id, hold_id=hold_id), timeout_s)

    def list_holds(
        self, *, wallet_id: str, page_size: int = 0, page_token: str = "", timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> Page[Hold]:
        """One page of a wallet's open holds, soonest expiry first; 1 .. 1000 per page, 0 means 100."""
        request = _requests.list_holds(wallet_id=wallet_id, page_size=page_size, page_token=page_token)
        return self._call(_rpcs.LIST_HOLDS, request, timeout_s)

    def iter_holds(
        self, *, wallet_id: str, page_size: int = 0, timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> Iterator[Hold]:
        """All open holds of a wallet, page by page; ``timeout_s`` is per page."""
        return _items(
            lambda token: self.list_holds(
                wallet_id=wallet_id, page_size=page_size, page_token=token, timeout_s=timeout_s
            )
        )

    def get_balance(
        self,
        *,
        wallet_id: str,
        assets: Iterable[str] = (),
        include_grants: bool = False,
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> WalletBalance:
        """Reads balances as the next Authorize will see them; of every asset of the wallet when none is named."""
        request = _requests.get_balance(wallet_id=wallet_id, assets=assets, include_grants=include_grants)
        return self._call(_rpcs.GET_BALANCE, request, timeout_s)

    # --- assets, wallets, grants, the ledger ---

    def create_asset(
        self,
        *,
        asset: str,
        scale: int,
        display_name: str = "",
        default_overage_policy: OveragePolicy = OveragePolicy.UNSPECIFIED,
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> Asset:
        """Creates an asset: one whole is 10^``scale`` units, for ever. The same content again gives it again."""
        request = _requests.create_asset(
            asset=asset, scale=scale, display_name=display_name, default_overage_policy=default_overage_policy
        )
        return self._call(_rpcs.CREATE_ASSET, request, timeout_s)

    def get_asset(self, *, asset: str, timeout_s: Timeout = USE_CLIENT_DEFAULT) -> Asset:
        """Reads one asset."""
        return self._call(_rpcs.GET_ASSET, _requests.get_asset(asset=asset), timeout_s)

    def list_assets(
        self, *, page_size: int = 0, page_token: str = "", timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> Page[Asset]:
        """One page of the assets, by code; 1 .. 1000 per page, 0 means 100."""
        request = _requests.list_assets(page_size=page_size, page_token=page_token)
        return self._call(_rpcs.LIST_ASSETS, request, timeout_s)

    def iter_assets(self, *, page_size: int = 0, timeout_s: Timeout = USE_CLIENT_DEFAULT) -> Iterator[Asset]:
        """All assets, page by page; ``timeout_s`` is per page."""
        return _items(lambda token: self.list_assets(page_size=page_size, page_token=token, timeout_s=timeout_s))

    def create_wallet(
        self,
        *,
        wallet_id: str,
        display_name: str = "",
        labels: Mapping[str, str] | None = None,
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> Wallet:
        """Creates a wallet without funds. The same content again gives it again."""
        request = _requests.create_wallet(wallet_id=wallet_id, display_name=display_name, labels=labels)
        return self._call(_rpcs.CREATE_WALLET, request, timeout_s)

    def get_wallet(self, *, wallet_id: str, timeout_s: Timeout = USE_CLIENT_DEFAULT) -> Wallet:
        """Reads one wallet; ``get_balance`` reads its funds."""
        return self._call(_rpcs.GET_WALLET, _requests.get_wallet(wallet_id=wallet_id), timeout_s)

    def list_wallets(
        self, *, page_size: int = 0, page_token: str = "", timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> Page[Wallet]:
        """One page of the wallets, by id; 1 .. 1000 per page, 0 means 100."""
        request = _requests.list_wallets(page_size=page_size, page_token=page_token)
        return self._call(_rpcs.LIST_WALLETS, request, timeout_s)

    def iter_wallets(self, *, page_size: int = 0, timeout_s: Timeout = USE_CLIENT_DEFAULT) -> Iterator[Wallet]:
        """All wallets, page by page; ``timeout_s`` is per page."""
        return _items(lambda token: self.list_wallets(page_size=page_size, page_token=token, timeout_s=timeout_s))

    def freeze_wallet(self, *, wallet_id: str, reason: str = "", timeout_s: Timeout = USE_CLIENT_DEFAULT) -> Wallet:
        """Stops new holds; open ones can still be committed and released. Freezing a frozen wallet is no error."""
        request = _requests.freeze_wallet(wallet_id=wallet_id, reason=reason)
        return self._call(_rpcs.FREEZE_WALLET, request, timeout_s)

    def unfreeze_wallet(self, *, wallet_id: str, reason: str = "", timeout_s: Timeout = USE_CLIENT_DEFAULT) -> Wallet:
        """Allows new holds again. Unfreezing an active wallet is no error."""
        request = _requests.unfreeze_wallet(wallet_id=wallet_id, reason=reason)
        return self._call(_rpcs.UNFREEZE_WALLET, request, timeout_s)

    def close_wallet(
        self, *, wallet_id: str, force: bool = False, reason: str = "", timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> Wallet:
        """Closes a wallet for ever. Refused while money, debt or open holds remain, unless forced with a reason."""
        request = _requests.close_wallet(wallet_id=wallet_id, force=force, reason=reason)
        return self._call(_rpcs.CLOSE_WALLET, request, timeout_s)

    def set_overdraft_limit(
        self,
        *,
        wallet_id: str,
        asset: str,
        limit_units: int,
        reason: str = "",
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> Balance:
        """Sets how far below zero the balance of one asset may go; 0 means not at all. Returns the balance."""
        request = _requests.set_overdraft_limit(
            wallet_id=wallet_id, asset=asset, limit_units=limit_units, reason=reason
        )
        return self._call(_rpcs.SET_OVERDRAFT_LIMIT, request, timeout_s)

    def create_grant(
        self,
        *,
        wallet_id: str,
        grant_id: str,
        asset: str,
        units: int,
        source: GrantSource,
        priority: int | None = None,
        effective_time: datetime | None = None,
        expire_time: datetime | None = None,
        labels: Mapping[str, str] | None = None,
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> GrantResult:
        """Puts funds into a wallet, durable and usable before the answer.

        The parameters are explained at ``AsyncClient.create_grant``.
        """
        request = _requests.create_grant(
            wallet_id=wallet_id,
            grant_id=grant_id,
            asset=asset,
            units=units,
            source=source,
            priority=priority,
            effective_time=effective_time,
            expire_time=expire_time,
            labels=labels,
        )
        return self._call(_rpcs.CREATE_GRANT, request, timeout_s)

    def get_grant(self, *, wallet_id: str, grant_id: str, timeout_s: Timeout = USE_CLIENT_DEFAULT) -> Grant:
        """Reads one grant."""
        request = _requests.get_grant(wallet_id=wallet_id, grant_id=grant_id)
        return self._call(_rpcs.GET_GRANT, request, timeout_s)

    def list_grants(
        self,
        *,
        wallet_id: str,
        asset: str = "",
        page_size: int = 0,
        page_token: str = "",
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> Page[Grant]:
        """One page of a wallet's grants, oldest first; 1 .. 1000 per page, 0 means 100."""
        request = _requests.list_grants(wallet_id=wallet_id, asset=asset, page_size=page_size, page_token=page_token)
        return self._call(_rpcs.LIST_GRANTS, request, timeout_s)

    def iter_grants(
        self, *, wallet_id: str, asset: str = "", page_size: int = 0, timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> Iterator[Grant]:
        """All grants of a wallet, page by page; ``timeout_s`` is per page."""
        return _items(
            lambda token: self.list_grants(
                wallet_id=wallet_id, asset=asset, page_size=page_size, page_token=token, timeout_s=timeout_s
            )
        )

    def void_grant(
        self, *, wallet_id: str, grant_id: str, reason: str = "", timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> GrantUpdate:
        """Takes back what is left of a grant: free units at once, held ones when their holds give them back."""
        request = _requests.void_grant(wallet_id=wallet_id, grant_id=grant_id, reason=reason)
        return self._call(_rpcs.VOID_GRANT, request, timeout_s)

    def set_grant_expiry(
        self,
        *,
        wallet_id: str,
        grant_id: str,
        expire_time: datetime | None,
        reason: str = "",
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> GrantUpdate:
        """Changes when a grant expires; None means never. What is over by then expires at once."""
        request = _requests.set_grant_expiry(
            wallet_id=wallet_id, grant_id=grant_id, expire_time=expire_time, reason=reason
        )
        return self._call(_rpcs.SET_GRANT_EXPIRY, request, timeout_s)

    def set_cap(
        self,
        *,
        wallet_id: str,
        asset: str,
        window: CapWindow,
        limit_units: int,
        subject: str = "",
        mode: CapMode = CapMode.UNSPECIFIED,
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> Cap:
        """Sets a cap, new or instead of the one with the same subject, asset and window.

        The parameters are explained at ``AsyncClient.set_cap``.
        """
        request = _requests.set_cap(
            wallet_id=wallet_id, subject=subject, asset=asset, window=window, limit_units=limit_units, mode=mode
        )
        return self._call(_rpcs.SET_CAP, request, timeout_s)

    def remove_cap(
        self,
        *,
        wallet_id: str,
        asset: str,
        window: CapWindow,
        subject: str = "",
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> None:
        """Removes a cap. Removing one that does not exist is no error."""
        request = _requests.remove_cap(wallet_id=wallet_id, subject=subject, asset=asset, window=window)
        self._call(_rpcs.REMOVE_CAP, request, timeout_s)

    def list_caps(
        self, *, wallet_id: str, subjects: Iterable[str] = (), timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> WalletCaps:
        """The caps of a wallet and how they stand; for ``prefix*`` caps name the ``subjects`` to show."""
        return self._call(_rpcs.LIST_CAPS, _requests.list_caps(wallet_id=wallet_id, subjects=subjects), timeout_s)

    def list_entries(
        self,
        *,
        wallet_id: str,
        asset: str = "",
        hold_id: str = "",
        page_size: int = 0,
        page_token: str = "",
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> Page[Entry]:
        """One page of a wallet's ledger, oldest first; what was committed a moment ago may still be on its way."""
        request = _requests.list_entries(
            wallet_id=wallet_id, asset=asset, hold_id=hold_id, page_size=page_size, page_token=page_token
        )
        return self._call(_rpcs.LIST_ENTRIES, request, timeout_s)

    def iter_entries(
        self,
        *,
        wallet_id: str,
        asset: str = "",
        hold_id: str = "",
        page_size: int = 0,
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> Iterator[Entry]:
        """All ledger entries of a wallet, page by page; ``timeout_s`` is per page."""
        return _items(
            lambda token: self.list_entries(
                wallet_id=wallet_id,
                asset=asset,
                hold_id=hold_id,
                page_size=page_size,
                page_token=token,
                timeout_s=timeout_s,
            )
        )

    def create_api_key(
        self,
        *,
        key_id: str,
        scopes: Iterable[Scope],
        display_name: str = "",
        expire_time: datetime | None = None,
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> ApiKeyResult:
        """Creates an API key. Its secret is in this answer and nowhere else: who lost the answer rotates the key."""
        request = _keys.create_api_key(key_id=key_id, scopes=scopes, display_name=display_name, expire_time=expire_time)
        return self._call(_rpcs.CREATE_API_KEY, request, timeout_s)

    def list_api_keys(
        self, *, page_size: int = 0, page_token: str = "", timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> Page[ApiKey]:
        """One page of the API keys, by id, those that ended too; 1 .. 1000 per page, 0 means 100."""
        request = _keys.list_api_keys(page_size=page_size, page_token=page_token)
        return self._call(_rpcs.LIST_API_KEYS, request, timeout_s)

    def iter_api_keys(self, *, page_size: int = 0, timeout_s: Timeout = USE_CLIENT_DEFAULT) -> Iterator[ApiKey]:
        """All API keys, page by page; ``timeout_s`` is per page."""
        return _items(lambda token: self.list_api_keys(page_size=page_size, page_token=token, timeout_s=timeout_s))

    def rotate_api_key(
        self,
        *,
        key_id: str,
        rotation_id: str,
        overlap_s: float | None = None,
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> ApiKeyResult:
        """Gives a key another secret, told in this answer alone."""
        request = _keys.rotate_api_key(key_id=key_id, rotation_id=rotation_id, overlap_s=overlap_s)
        return self._call(_rpcs.ROTATE_API_KEY, request, timeout_s)

    def revoke_api_key(self, *, key_id: str, timeout_s: Timeout = USE_CLIENT_DEFAULT) -> ApiKey:
        """Ends a key for ever, within seconds on every server. Revoking a revoked key is no error."""
        return self._call(_rpcs.REVOKE_API_KEY, _keys.revoke_api_key(key_id=key_id), timeout_s)

    def create_wallet_token(
        self, *, wallet_id: str, ttl_s: float | None = None, timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> WalletToken:
        """Makes a token that can read the balance of one wallet and nothing else, for a front end."""
        request = _keys.create_wallet_token(wallet_id=wallet_id, ttl_s=ttl_s)
        return self._call(_rpcs.CREATE_WALLET_TOKEN, request, timeout_s)

    def list_audit_records(
        self,
        *,
        wallet_id: str = "",
        target: str = "",
        principal: str = "",
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        page_size: int = 0,
        page_token: str = "",
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> Page[AuditRecord]:
        """One page of what administrators did, newest first; from ``start_time`` on, and before ``end_time``."""
        request = _audit.list_audit_records(
            wallet_id=wallet_id,
            target=target,
            principal=principal,
            start_time=start_time,
            end_time=end_time,
            page_size=page_size,
            page_token=page_token,
        )
        return self._call(_rpcs.LIST_AUDIT_RECORDS, request, timeout_s)

    def iter_audit_records(
        self,
        *,
        wallet_id: str = "",
        target: str = "",
        principal: str = "",
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        page_size: int = 0,
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> Iterator[AuditRecord]:
        """All that administrators did, newest first, page by page; ``timeout_s`` is per page."""
        return _items(
            lambda token: self.list_audit_records(
                wallet_id=wallet_id,
                target=target,
                principal=principal,
                start_time=start_time,
                end_time=end_time,
                page_size=page_size,
                page_token=token,
                timeout_s=timeout_s,
            )
        )

    # --- one call ---

    def _open(self) -> dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]]:
        with self._lock:
            if self._closed:
                raise RuntimeError(CLOSED)
            if not self._channels:
                channels = [self._open_channel() for _ in range(self._settings.connections)]
                if self._settings.transport == "session":
                    self._sessions = SessionThread(self._settings)
                self._channels = channels  # all is open, or the next call tries again
                self._turns = cycle(
                    [{rpc.path: channel.unary_unary(rpc.path, None, None) for rpc in _rpcs.ALL} for channel in channels]
                )
            return next(self._turns)

    def _open_channel(self) -> grpc.Channel:
        settings = self._settings
        if settings.credentials is None:
            return grpc.insecure_channel(settings.target, options=settings.channel_options)
        return grpc.secure_channel(settings.target, settings.credentials, options=settings.channel_options)

    def _call(self, rpc: Rpc[Request, Result], request: Request, timeout_s: Timeout) -> Result:
        methods = self._open()
        settings, sessions = self._settings, self._sessions
        timeout_s = settings.timeout(timeout_s)
        if rpc.operation is not None and sessions is not None:
            return sessions.perform(rpc, rpc.operation, request, timeout_s)
        try:
            data = methods[rpc.path](request.SerializeToString(), timeout=timeout_s, metadata=settings.metadata)
        except grpc.RpcError as error:
            if self._closed and error.code() is grpc.StatusCode.CANCELLED:
                raise RuntimeError(CLOSED_IN_FLIGHT) from error
            raise to_exception(error) from error
        except ValueError as error:
            if self._closed:  # between the check and the call; gRPC's own words are about its channel
                raise RuntimeError(CLOSED) from error
            raise
        return rpc.read(data)


def _items(fetch: Callable[[str], Page[Item]]) -> Iterator[Item]:
    token: str | None = ""
    while token is not None:
        page = fetch(token)
        yield from page.items
        token = next_token(page, token)
