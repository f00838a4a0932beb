"""The client for asyncio. ``_sync.py`` is its twin: same methods, same parameters, without ``await``."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Self, TypeVar

from google.protobuf.message import Message

from drawdown import _audit, _keys, _operations, _requests, _responses, _rpcs
from drawdown._channel import (
    CLOSED,
    OTHER_LOOP,
    TARGET_DEFAULT,
    TIMEOUT_S_DEFAULT,
    USE_CLIENT_DEFAULT,
    Metadata,
    Settings,
    Timeout,
    Transport,
)
from drawdown._connections import Connections
from drawdown._enums import (
    CapMode,
    CapWindow,
    ExpiryAction,
    GrantSource,
    OveragePolicy,
)
from drawdown._hold import AsyncHoldContext
from drawdown._paging import next_token
from drawdown._sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
    from datetime import datetime
    from types import TracebackType

    import grpc

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


class AsyncClient:
    """A connection to Drawdown for asyncio.

    ::

        async with drawdown.AsyncClient("127.0.0.1:50051") as client:
            async with client.hold(wallet_id="demo", amounts={"USD": 500_000}) as hold:  # units: 0.50 at scale 6
                cost_units = await run_the_request()
                await hold.commit({"USD": cost_units})

    One client serves any number of concurrent calls; make one per process and event loop: in any other loop than the
    one that used it first it raises ``RuntimeError``. The connection is made by the first call. Every call has a
    deadline, is repeated on UNAVAILABLE (safe: each mutation is idempotent by the id it carries), and raises only
    ``DrawdownError`` and its subclasses (see ``drawdown._exceptions`` for the tree).

    Args:
        target: ``host:port``, or any gRPC target such as ``dns:///drawdown:50051``; calls go round all its
            addresses, streams too: one per connection, and more, up to 4, when each has 32 calls in flight.
        timeout_s: Deadline of each call in seconds, above 0 and at most a day, its retries included. A call can set its
            own.
        credentials: For TLS, from ``drawdown.tls_credentials(...)``. None means plaintext.
        api_key: What says who you are, ``ddk_...``, or a wallet token. None: that of the environment's
            ``DRAWDOWN_API_KEY``, if there is one; ``""``: none.
        plaintext_api_key: Send it, or what ``metadata`` has for ``authorization``, without TLS to another machine all
            the same, because something else protects the way.
        connections: How many to each address, 1 to 64; calls take turns. A server with several workers gives each
            connection to one of them: about two per worker use them all.
        metadata: Sent with every call, e.g. ``[("x-request-source", "gateway-3")]``.
        transport: How the data plane's calls travel: ``"session"``, over a few long-lived streams, together with what
            is called at the same time; or ``"unary"``, each as an RPC of its own. A call behaves the same, and is an
            RPC while there is no stream. None: ``"session"`` for asyncio, where many calls at once cost both sides less
            than half; ``"unary"`` for threads, of which one that calls alone would wait longer. Instrumentation of gRPC
            sees a Session as one stream: for a trace per call use ``"unary"``.

    Raises:
        ValueError: A setting breaks its rule; among others, an API key would go to another machine in plain text.
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
            transport=transport or "session",
        )
        self._connections: Connections | None = None
        self._sessions: Sessions | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._background: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<drawdown.{type(self).__name__} {self._settings.target}{' closed' if self._closed else ''}>"

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls in flight fail. Releases that ``hold`` still owes are sent first."""
        self._check_loop()
        if self._background:
            await asyncio.wait(self._background)  # each has its deadline
        self._closed = True
        if self._sessions is not None:
            await self._sessions.close()
        if self._connections is not None:
            await self._connections.close()

    # --- the data plane ---

    async def authorize(
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

        Args:
            wallet_id: Who pays.
            amounts: Units to hold, ``{"USD": 500_000}``; or ``Amount`` objects, which can carry ``min_units``.
            hold_id: Your id of this request. Give one that you can repeat, and the call can be sent again after a
                lost answer. None makes a random one, returned as ``hold_id`` of the answer.
            ttl_s: Seconds the hold lasts unless settled, 1 .. 86,400. None: the server's default, 5 minutes.
            subjects: What caps apply to, e.g. ``["key:sk_1"]``.
            alternatives: Other ways to pay, in order, when ``amounts`` is not affordable.
            overage_policy: What Commit does with more than was held. UNSPECIFIED: the asset's default.
            expiry_action: What happens when nobody settles in time. UNSPECIFIED: the hold is released.
            labels: Copied to the ledger entries.
            timeout_s: Deadline of this call in seconds.
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
        return _responses.authorize(await self._call(_rpcs.AUTHORIZE, request, timeout_s), hold_id)

    async def commit(
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

        Args:
            wallet_id: Who pays.
            hold_id: The hold.
            amounts: Total units used so far under this hold, not increments; assets that are not named count as used
                no more than so far.
            final: Whether the hold is done. False reports progress: debited at once, the rest stays held.
            hold_token: ``hold.hold_token`` of the authorization, or of the last approved ``extend``: with it the usage
                is charged exactly once even if the store has lost the hold.
            wait_for_ledger_s: Answer only once the ledger in Postgres has recorded it, or after so many seconds (30
                at most); ``in_ledger`` says which. It is done in any case. The client's own deadline begins after that.
            timeout_s: Deadline of this call in seconds.
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
        return await self._call(_rpcs.COMMIT, request, timeout_s)

    async def release(
        self, *, wallet_id: str, hold_id: str, reason: str = "", timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> ReleaseResult:
        """Gives everything back. An unknown hold is no error: a delayed Authorize with its id is then refused."""
        request = _requests.release(wallet_id=wallet_id, hold_id=hold_id, reason=reason)
        return await self._call(_rpcs.RELEASE, request, timeout_s)

    async def extend(
        self,
        *,
        wallet_id: str,
        hold_id: str,
        ttl_s: float | None = None,
        amounts: Amounts = (),
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> Extension:
        """Keeps an open hold for longer, holds more, or both; a denied raise leaves it exactly as it was.

        Args:
            wallet_id: Who pays.
            hold_id: The hold.
            ttl_s: The hold then expires this many seconds from now, never earlier than before. None: as before.
            amounts: Total units to have reserved, what was debited so far included; never less than before.
            timeout_s: Deadline of this call in seconds.
        """
        request = _requests.extend(wallet_id=wallet_id, hold_id=hold_id, ttl_s=ttl_s, amounts=amounts)
        return await self._call(_rpcs.EXTEND, request, timeout_s)

    async def charge(
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

        Args:
            wallet_id: Who pays.
            amounts: Units used.
            charge_id: Your id of this charge, unique among holds and charges. Give one that you can repeat, and the
                call can be sent again after a lost answer. None makes a random one.
            subjects: What caps apply to.
            overage_policy: When the funds do not cover it: REJECT denies, CHARGE_AVAILABLE charges what there is,
                CHARGE_FULL goes into debt. UNSPECIFIED: the asset's default.
            labels: Copied to the ledger entries.
            wait_for_ledger_s: Answer only once the ledger in Postgres has recorded it, or after so many seconds (30
                at most); ``in_ledger`` says which. It is done in any case. The client's own deadline begins after that.
            timeout_s: Deadline of this call in seconds.
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
        return _responses.charge(await self._call(_rpcs.CHARGE, request, timeout_s), charge_id)

    async def refund(
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
        return await self._call(_rpcs.REFUND, request, timeout_s)

    async def batch(
        self, *, operations: Sequence[Operation], timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> list[OperationResult | DrawdownError]:
        """Up to 256 operations in one message: the results, in order; of one that failed, its exception, not raised.

        Each operation is denied or fails by itself, as if it had been called alone. Those of one wallet take effect in
        order, those of different wallets at once. The client repeats a batch that was lost as a whole, but no single
        operation that failed as unavailable: send that again, as the same object.

        Args:
            operations: ``drawdown.Authorize(...)``, ``Commit``, ``Release``, ``Extend``, ``Charge``, ``Refund``.
            timeout_s: Deadline of the whole batch in seconds; the client's own begins after the longest wait for the
                ledger.
        """
        request = _operations.request_of(operations)
        timeout_s = self._settings.timeout_waiting(timeout_s, _operations.wait_s(operations))
        return _operations.results_of(operations, await self._call(_rpcs.BATCH, request, timeout_s))

    async def force_release(
        self, *, wallet_id: str, hold_id: str, reason: str, timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> ReleaseResult:
        """For operators: gives back what a stuck hold holds. It counts as expired: usage can still be committed."""
        request = _requests.force_release(wallet_id=wallet_id, hold_id=hold_id, reason=reason)
        return await self._call(_rpcs.FORCE_RELEASE, request, timeout_s)

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
    ) -> AsyncHoldContext:
        """A hold around a piece of work: ``async with client.hold(...) as hold: ...; await hold.commit({...})``.

        Entering authorizes, and raises ``Denied`` when the answer is no. Leaving releases the hold, unless the body
        has tried to commit it: then the work was done, and a hold whose commit failed is kept until its ttl, so that
        the commit can be sent again. The parameters are those of ``authorize``.
        """
        given = hold_id is not None
        hold_id = uuid.uuid4().hex if hold_id is None else hold_id

        async def authorize() -> Authorization:
            return await self.authorize(
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

        return AsyncHoldContext(self, authorize, wallet_id, hold_id, hold_id_given=given, background=self._background)

    async def get_hold(self, *, wallet_id: str, hold_id: str, timeout_s: Timeout = USE_CLIENT_DEFAULT) -> Hold:
        """Reads one hold, also some time after it was settled."""
        return await self._call(_rpcs.GET_HOLD, _requests.get_hold(wallet_id=wallet_id, hold_id=hold_id), timeout_s)

    async def list_holds(
        self, *, wallet_id: str, page_size: int = 0, page_token: str = "", timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> Page[Hold]:
        """One page of a wallet's open holds, soonest expiry first; 1 .. 1000 per page, 0 means 100."""
        request = _requests.list_holds(wallet_id=wallet_id, page_size=page_size, page_token=page_token)
        return await self._call(_rpcs.LIST_HOLDS, request, timeout_s)

    def iter_holds(
        self, *, wallet_id: str, page_size: int = 0, timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> AsyncIterator[Hold]:
        """All open holds of a wallet, page by page; ``timeout_s`` is per page."""
        return _items(
            lambda token: self.list_holds(
                wallet_id=wallet_id, page_size=page_size, page_token=token, timeout_s=timeout_s
            )
        )

    async def get_balance(
        self,
        *,
        wallet_id: str,
        assets: Iterable[str] = (),
        include_grants: bool = False,
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> WalletBalance:
        """Reads balances as the next Authorize will see them; of every asset of the wallet when none is named."""
        request = _requests.get_balance(wallet_id=wallet_id, assets=assets, include_grants=include_grants)
        return await self._call(_rpcs.GET_BALANCE, request, timeout_s)

    # --- assets, wallets, grants, the ledger ---

    async def create_asset(
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
        return await self._call(_rpcs.CREATE_ASSET, request, timeout_s)

    async def get_asset(self, *, asset: str, timeout_s: Timeout = USE_CLIENT_DEFAULT) -> Asset:
        """Reads one asset."""
        return await self._call(_rpcs.GET_ASSET, _requests.get_asset(asset=asset), timeout_s)

    async def list_assets(
        self, *, page_size: int = 0, page_token: str = "", timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> Page[Asset]:
        """One page of the assets, by code; 1 .. 1000 per page, 0 means 100."""
        request = _requests.list_assets(page_size=page_size, page_token=page_token)
        return await self._call(_rpcs.LIST_ASSETS, request, timeout_s)

    def iter_assets(self, *, page_size: int = 0, timeout_s: Timeout = USE_CLIENT_DEFAULT) -> AsyncIterator[Asset]:
        """All assets, page by page; ``timeout_s`` is per page."""
        return _items(lambda token: self.list_assets(page_size=page_size, page_token=token, timeout_s=timeout_s))

    async def create_wallet(
        self,
        *,
        wallet_id: str,
        display_name: str = "",
        labels: Mapping[str, str] | None = None,
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> Wallet:
        """Creates a wallet without funds. The same content again gives it again."""
        request = _requests.create_wallet(wallet_id=wallet_id, display_name=display_name, labels=labels)
        return await self._call(_rpcs.CREATE_WALLET, request, timeout_s)

    async def get_wallet(self, *, wallet_id: str, timeout_s: Timeout = USE_CLIENT_DEFAULT) -> Wallet:
        """Reads one wallet; ``get_balance`` reads its funds."""
        return await self._call(_rpcs.GET_WALLET, _requests.get_wallet(wallet_id=wallet_id), timeout_s)

    async def list_wallets(
        self, *, page_size: int = 0, page_token: str = "", timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> Page[Wallet]:
        """One page of the wallets, by id; 1 .. 1000 per page, 0 means 100."""
        request = _requests.list_wallets(page_size=page_size, page_token=page_token)
        return await self._call(_rpcs.LIST_WALLETS, request, timeout_s)

    def iter_wallets(self, *, page_size: int = 0, timeout_s: Timeout = USE_CLIENT_DEFAULT) -> AsyncIterator[Wallet]:
        """All wallets, page by page; ``timeout_s`` is per page."""
        return _items(lambda token: self.list_wallets(page_size=page_size, page_token=token, timeout_s=timeout_s))

    async def freeze_wallet(
        self, *, wallet_id: str, reason: str = "", timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> Wallet:
        """Stops new holds; open ones can still be committed and released. Freezing a frozen wallet is no error."""
        request = _requests.freeze_wallet(wallet_id=wallet_id, reason=reason)
        return await self._call(_rpcs.FREEZE_WALLET, request, timeout_s)

    async def unfreeze_wallet(
        self, *, wallet_id: str, reason: str = "", timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> Wallet:
        """Allows new holds again. Unfreezing an active wallet is no error."""
        request = _requests.unfreeze_wallet(wallet_id=wallet_id, reason=reason)
        return await self._call(_rpcs.UNFREEZE_WALLET, request, timeout_s)

    async def close_wallet(
        self, *, wallet_id: str, force: bool = False, reason: str = "", timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> Wallet:
        """Closes a wallet for ever. Refused while money, debt or open holds remain, unless forced with a reason."""
        request = _requests.close_wallet(wallet_id=wallet_id, force=force, reason=reason)
        return await self._call(_rpcs.CLOSE_WALLET, request, timeout_s)

    async def set_overdraft_limit(
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
        return await self._call(_rpcs.SET_OVERDRAFT_LIMIT, request, timeout_s)

    async def create_grant(
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

        Args:
            wallet_id: Who receives.
            grant_id: Your id of this money, e.g. the payment's: one id is one grant, for ever.
            asset: The asset's code.
            units: Units, 1 .. 2^53-1.
            source: Where the funds came from.
            priority: Burn priority, 0 .. 100, low first. None: 50.
            effective_time: From when the funds can be used. None: at once.
            expire_time: From when the funds can no longer be used. None: never.
            labels: Copied to the ledger entry.
            timeout_s: Deadline of this call in seconds.
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
        return await self._call(_rpcs.CREATE_GRANT, request, timeout_s)

    async def get_grant(self, *, wallet_id: str, grant_id: str, timeout_s: Timeout = USE_CLIENT_DEFAULT) -> Grant:
        """Reads one grant."""
        request = _requests.get_grant(wallet_id=wallet_id, grant_id=grant_id)
        return await self._call(_rpcs.GET_GRANT, request, timeout_s)

    async def list_grants(
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
        return await self._call(_rpcs.LIST_GRANTS, request, timeout_s)

    def iter_grants(
        self, *, wallet_id: str, asset: str = "", page_size: int = 0, timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> AsyncIterator[Grant]:
        """All grants of a wallet, page by page; ``timeout_s`` is per page."""
        return _items(
            lambda token: self.list_grants(
                wallet_id=wallet_id, asset=asset, page_size=page_size, page_token=token, timeout_s=timeout_s
            )
        )

    async def void_grant(
        self, *, wallet_id: str, grant_id: str, reason: str = "", timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> GrantUpdate:
        """Takes back what is left of a grant: free units at once, held ones when their holds give them back."""
        request = _requests.void_grant(wallet_id=wallet_id, grant_id=grant_id, reason=reason)
        return await self._call(_rpcs.VOID_GRANT, request, timeout_s)

    async def set_grant_expiry(
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
        return await self._call(_rpcs.SET_GRANT_EXPIRY, request, timeout_s)

    async def set_cap(
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

        Args:
            wallet_id: The wallet.
            asset: The asset's code.
            window: The span of time over which it counts. What was used in it before counts, too.
            limit_units: Units allowed per window.
            subject: "" for the whole wallet, an exact subject such as ``key:sk_1``, or ``key:*`` for every subject of
                that prefix that has no exact cap for the same asset and window.
            mode: Whether it denies or only reports. UNSPECIFIED: it denies.
            timeout_s: Deadline of this call in seconds.
        """
        request = _requests.set_cap(
            wallet_id=wallet_id, subject=subject, asset=asset, window=window, limit_units=limit_units, mode=mode
        )
        return await self._call(_rpcs.SET_CAP, request, timeout_s)

    async def remove_cap(
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
        await self._call(_rpcs.REMOVE_CAP, request, timeout_s)

    async def list_caps(
        self, *, wallet_id: str, subjects: Iterable[str] = (), timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> WalletCaps:
        """The caps of a wallet and how they stand; for ``prefix*`` caps name the ``subjects`` to show."""
        return await self._call(_rpcs.LIST_CAPS, _requests.list_caps(wallet_id=wallet_id, subjects=subjects), timeout_s)

    async def list_entries(
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
        return await self._call(_rpcs.LIST_ENTRIES, request, timeout_s)

    def iter_entries(
        self,
        *,
        wallet_id: str,
        asset: str = "",
        hold_id: str = "",
        page_size: int = 0,
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> AsyncIterator[Entry]:
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

    async def create_api_key(
        self,
        *,
        key_id: str,
        scopes: Iterable[Scope],
        display_name: str = "",
        expire_time: datetime | None = None,
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> ApiKeyResult:
        """Creates an API key. Its secret is in this answer and nowhere else: who lost the answer rotates the key.

        Args:
            key_id: Your id for it. The same content again gives the same key, without the secret.
            scopes: What it may do; none that these credentials lack.
            display_name: A name for people.
            expire_time: It counts no more from then on. None: it does not expire.
            timeout_s: Deadline of this call in seconds.
        """
        request = _keys.create_api_key(key_id=key_id, scopes=scopes, display_name=display_name, expire_time=expire_time)
        return await self._call(_rpcs.CREATE_API_KEY, request, timeout_s)

    async def list_api_keys(
        self, *, page_size: int = 0, page_token: str = "", timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> Page[ApiKey]:
        """One page of the API keys, by id, those that ended too; 1 .. 1000 per page, 0 means 100."""
        request = _keys.list_api_keys(page_size=page_size, page_token=page_token)
        return await self._call(_rpcs.LIST_API_KEYS, request, timeout_s)

    def iter_api_keys(self, *, page_size: int = 0, timeout_s: Timeout = USE_CLIENT_DEFAULT) -> AsyncIterator[ApiKey]:
        """All API keys, page by page; ``timeout_s`` is per page."""
        return _items(lambda token: self.list_api_keys(page_size=page_size, page_token=token, timeout_s=timeout_s))

    async def rotate_api_key(
        self,
        *,
        key_id: str,
        rotation_id: str,
        overlap_s: float | None = None,
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> ApiKeyResult:
        """Gives a key another secret, told in this answer alone.

        Args:
            key_id: The key.
            rotation_id: Your id for this rotation: the same again changes nothing, and tells no secret.
            overlap_s: How long the secrets before it go on, 0 .. 2,592,000 (30 days). None: 1 day.
            timeout_s: Deadline of this call in seconds.
        """
        request = _keys.rotate_api_key(key_id=key_id, rotation_id=rotation_id, overlap_s=overlap_s)
        return await self._call(_rpcs.ROTATE_API_KEY, request, timeout_s)

    async def revoke_api_key(self, *, key_id: str, timeout_s: Timeout = USE_CLIENT_DEFAULT) -> ApiKey:
        """Ends a key for ever, within seconds on every server. Revoking a revoked key is no error."""
        return await self._call(_rpcs.REVOKE_API_KEY, _keys.revoke_api_key(key_id=key_id), timeout_s)

    async def create_wallet_token(
        self, *, wallet_id: str, ttl_s: float | None = None, timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> WalletToken:
        """Makes a token that can read the balance of one wallet and nothing else, for a front end.

        Args:
            wallet_id: The wallet.
            ttl_s: Seconds until it ends, 1 .. 86,400: it cannot be revoked. None: 15 minutes.
            timeout_s: Deadline of this call in seconds.
        """
        request = _keys.create_wallet_token(wallet_id=wallet_id, ttl_s=ttl_s)
        return await self._call(_rpcs.CREATE_WALLET_TOKEN, request, timeout_s)

    async def list_audit_records(
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
        return await self._call(_rpcs.LIST_AUDIT_RECORDS, request, timeout_s)

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
    ) -> AsyncIterator[AuditRecord]:
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

    def _open(self) -> Connections:
        if self._closed:
            raise RuntimeError(CLOSED)
        self._check_loop()
        if self._connections is None:
            self._connections = Connections(self._settings)
            self._loop = asyncio.get_running_loop()
            if self._settings.transport == "session":
                self._sessions = Sessions(self._settings, self._connections)
        return self._connections

    def _check_loop(self) -> None:
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise RuntimeError(OTHER_LOOP)

    async def _call(self, rpc: Rpc[Request, Result], request: Request, timeout_s: Timeout) -> Result:
        connections = self._open()
        timeout_s = self._settings.timeout(timeout_s)
        if rpc.operation is not None and self._sessions is not None:
            return await self._sessions.perform(rpc, rpc.operation, request, timeout_s)
        return await connections.call(rpc, request, timeout_s)


async def _items(fetch: Callable[[str], Awaitable[Page[Item]]]) -> AsyncIterator[Item]:
    token: str | None = ""
    while token is not None:
        page = await fetch(token)
        for item in page.items:
            yield item
        token = next_token(page, token)
