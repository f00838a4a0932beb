"""What administrators do to API keys, and the tokens that are made for single wallets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from drawdown_server.errors import DrawdownError, ErrorReason
from drawdown_server.holds.refusals import wallet_not_found
from drawdown_server.identity.api_keys import new_key
from drawdown_server.identity.scopes import check_grantable
from drawdown_server.identity.wallet_tokens import WalletTokenContent
from drawdown_server.ledger.api_keys import key_not_found

if TYPE_CHECKING:
    from drawdown_server.identity.caller import Caller
    from drawdown_server.identity.scopes import Scope
    from drawdown_server.identity.startup import Secrets
    from drawdown_server.ledger.api_keys import ApiKeyRow
    from drawdown_server.ledger.store import LedgerStore

log = structlog.get_logger(__name__)


class KeyAdmin:
    """Keys of the caller's tenant. What a caller lacks itself it can neither give to a key nor get from one.

    Args:
        ledger: Postgres.
        secrets: None: this server has no pepper, and makes neither keys nor tokens.
    """

    def __init__(self, ledger: LedgerStore, secrets: Secrets | None) -> None:
        self._ledger = ledger
        self._secrets = secrets

    async def create_key(
        self, caller: Caller, *, key_id: str, display_name: str, scopes: frozenset[Scope], expire_ms: int
    ) -> tuple[ApiKeyRow, str]:
        """Create a key.

        Returns:
            The key, and what its owner brings with each call. Only once: for a repeat that is empty.

        Raises:
            DrawdownError: PERMISSION_DENIED, or ID_REUSED when it exists with other content.
        """
        check_grantable(caller, sorted(scopes))
        text = new_key()
        row, created = await self._ledger.create_api_key(
            caller.tenant_id,
            key_id,
            display_name=display_name,
            scopes=scopes,
            expire_ms=expire_ms,
            secret=self._needed().peppers.digest(text),
        )
        if created:
            return row, text
        for field, value in (("display_name", display_name), ("scopes", scopes), ("expire_time", expire_ms)):
            stored = row.expire_ms if field == "expire_time" else getattr(row, field)
            if stored != value:
                raise DrawdownError(
                    ErrorReason.ID_REUSED,
                    f"key {key_id} exists with another {field}",
                    resource="key",
                    id=key_id,
                    field=field,
                )
        return row, ""

    async def rotate_key(
        self, caller: Caller, *, key_id: str, rotation_id: str, overlap_ms: int
    ) -> tuple[ApiKeyRow, str]:
        """Give a key another secret.

        Returns:
            The key, and the new secret, only once: for a repeat that is empty.

        Raises:
            DrawdownError: KEY_NOT_FOUND, PERMISSION_DENIED, KEY_INACTIVE, or ID_REUSED for another overlap.
        """
        known = await self._ledger.get_api_key(caller.tenant_id, key_id)
        if known is None:
            raise key_not_found(key_id)
        check_grantable(caller, sorted(known.scopes))
        text = new_key()
        row, rotated = await self._ledger.rotate_api_key(
            caller.tenant_id,
            key_id,
            rotation_id,
            overlap_ms=overlap_ms,
            secret=self._needed().peppers.digest(text),
        )
        return row, text if rotated else ""

    async def revoke_key(self, caller: Caller, key_id: str) -> ApiKeyRow:
        """End a key; within seconds on every server.

        Raises:
            DrawdownError: KEY_NOT_FOUND.
        """
        row, revoked = await self._ledger.revoke_api_key(caller.tenant_id, key_id)
        if revoked:
            log.info("key.revoked", tenant=caller.tenant_id, key=key_id, principal=caller.principal)
        return row

    async def list_keys(self, caller: Caller, after_key_id: str, limit: int) -> list[ApiKeyRow]:
        """A page of keys by id."""
        return await self._ledger.list_api_keys(caller.tenant_id, after_key_id, limit)

    async def create_wallet_token(self, caller: Caller, *, wallet_id: str, ttl_ms: int) -> tuple[str, int]:
        """A token with which the balance of one wallet can be read.

        Returns:
            The token, and when it ends.

        Raises:
            DrawdownError: WALLET_NOT_FOUND.
        """
        secrets = self._needed()
        if await self._ledger.get_wallet(caller.tenant_id, wallet_id) is None:
            raise wallet_not_found(wallet_id)
        expire_ms = secrets.keys.now_ms() + ttl_ms
        return secrets.tokens.make(WalletTokenContent(caller.tenant_id, wallet_id, expire_ms)), expire_ms

    def _needed(self) -> Secrets:
        if self._secrets is None:
            raise DrawdownError(
                ErrorReason.NOT_IMPLEMENTED, "this server makes no credentials: it has no DRAWDOWN_API_KEY_PEPPER"
            )
        return self._secrets
