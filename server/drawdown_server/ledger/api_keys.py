"""API keys in Postgres. Nothing here can be used as a key: of each there is an HMAC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from drawdown_server.errors import DrawdownError, ErrorReason
from drawdown_server.identity.api_keys import SecretRecord
from drawdown_server.identity.scopes import Scope
from drawdown_server.ledger.audit import write_audit
from drawdown_server.ledger.batches import Batches
from drawdown_server.ledger.database import Connection, Database, Pool, affected, from_ms, to_ms
from drawdown_server.ledger.queries import QUERIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import asyncpg

    from drawdown_server.identity.admin_call import State
    from drawdown_server.identity.api_keys import SecretDigest

FIRST_ROTATION: Final = ""
"""The rotation of a key's first secret. No caller can name it: an id has at least one character."""
_UNKNOWN_REVISION: Final = -1


class ApiKeySecretRow(msgspec.Struct, frozen=True):
    """A secret of a key that has not ended."""

    secret_id: str
    pepper_id: str
    create_ms: int
    expire_ms: int
    """Of a secret that was rotated out; 0 for the newest."""


class ApiKeyRow(msgspec.Struct, frozen=True):
    """A key."""

    tenant_id: str
    key_id: str
    display_name: str
    scopes: frozenset[Scope]
    create_ms: int
    expire_ms: int
    revoke_ms: int
    secrets: list[ApiKeySecretRow]
    """Oldest first."""


class ApiKeyStore(Database):
    """Keys."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self._secret_reads = Batches(self._read_secrets)

    async def create_api_key(
        self,
        tenant_id: str,
        key_id: str,
        *,
        display_name: str,
        scopes: frozenset[Scope],
        expire_ms: int,
        secret: SecretDigest,
    ) -> tuple[ApiKeyRow, bool]:
        """Create a key with its first secret, or find the one that has its id already, with the secrets that it has.

        Returns:
            The key as it is stored, and whether this call created it (if not, the caller compares the content).
        """
        async with self._transaction() as connection:
            created = await connection.fetchval(
                QUERIES["api_key_create"], tenant_id, key_id, display_name, sorted(scopes), from_ms(expire_ms)
            )
            if created is not None:
                await _add_secret(connection, tenant_id, key_id, FIRST_ROTATION, secret, 0)
            row = await _get(connection, tenant_id, key_id)
            assert row is not None, "keys are never deleted"  # noqa: S101
            if created is not None:
                await write_audit(connection, before=None, after=_state(row))
        return row, created is not None

    async def get_api_key(self, tenant_id: str, key_id: str) -> ApiKeyRow | None:
        """A key by its id."""
        async with self._connection() as connection:
            return await _get(connection, tenant_id, key_id)

    async def list_api_keys(self, tenant_id: str, after_key_id: str, limit: int) -> list[ApiKeyRow]:
        """A page of keys by id, after ``after_key_id`` ("" = from the start)."""
        async with self._connection() as connection:
            return _rows(await connection.fetch(QUERIES["api_key_list"], tenant_id, after_key_id, limit))

    async def rotate_api_key(
        self, tenant_id: str, key_id: str, rotation_id: str, *, overlap_ms: int, secret: SecretDigest
    ) -> tuple[ApiKeyRow, bool]:
        """Give a key another secret; those before it end after the overlap.

        Returns:
            The key, and whether this call rotated it: not when that rotation was made before.

        Raises:
            DrawdownError: KEY_NOT_FOUND, KEY_INACTIVE, or ID_REUSED for a rotation with another overlap.
        """
        async with self._transaction() as connection:
            key = await connection.fetchrow(QUERIES["api_key_lock"], tenant_id, key_id)
            if key is None:
                raise key_not_found(key_id)
            before = await _get(connection, tenant_id, key_id)
            known = await connection.fetchval(QUERIES["api_key_rotation_get"], tenant_id, key_id, rotation_id)
            if known is None:
                if key["ended"]:
                    raise DrawdownError(
                        ErrorReason.KEY_INACTIVE, f"key {key_id} is revoked or expired: make another one", key_id=key_id
                    )
                await connection.execute(QUERIES["api_key_secrets_end"], tenant_id, key_id, overlap_ms)
                await _add_secret(connection, tenant_id, key_id, rotation_id, secret, overlap_ms)
                await connection.execute(QUERIES["api_key_changed"], tenant_id, key_id)
            elif known != overlap_ms:
                raise DrawdownError(
                    ErrorReason.ID_REUSED,
                    f"rotation {rotation_id} was made with another overlap",
                    resource="rotation",
                    id=rotation_id,
                    field="overlap",
                )
            row = await _get(connection, tenant_id, key_id)
            assert before is not None, "it is locked"  # noqa: S101
            assert row is not None, "it is locked"  # noqa: S101
            if known is None:
                await write_audit(connection, before=_state(before), after=_state(row))
        return row, known is None

    async def revoke_api_key(self, tenant_id: str, key_id: str) -> tuple[ApiKeyRow, bool]:
        """End a key with all its secrets.

        Returns:
            The key, and whether this call revoked it.

        Raises:
            DrawdownError: KEY_NOT_FOUND.
        """
        async with self._transaction() as connection:
            await connection.execute(QUERIES["api_key_lock"], tenant_id, key_id)
            before = await _get(connection, tenant_id, key_id)
            if before is None:
                raise key_not_found(key_id)
            revoked = affected(await connection.execute(QUERIES["api_key_revoke"], tenant_id, key_id)) == 1
            row = await _get(connection, tenant_id, key_id)
            assert row is not None, "keys are never deleted"  # noqa: S101
            if revoked:
                await write_audit(connection, before=_state(before), after=_state(row))
        return row, revoked

    async def read_secret(self, secret_id: str) -> SecretRecord | None:
        """One secret, ended ones too; None if there never was one. Those that are asked for together share a query."""
        return await self._secret_reads.read(secret_id)

    async def read_changed_secrets(self, known: Mapping[str, int]) -> tuple[int, dict[str, SecretRecord | None]]:
        """Postgres' time in milliseconds, and those of the known secrets whose key has another revision.

        Args:
            known: Revisions by the ids of secrets.
        """
        async with self._connection() as connection:
            now_ms = to_ms(await connection.fetchval(QUERIES["clock"]))
            return now_ms, await _read(connection, known) if known else {}

    async def _read_secrets(self, secret_ids: Sequence[str]) -> Mapping[str, SecretRecord]:
        async with self._connection() as connection:
            found = await _read(connection, dict.fromkeys(secret_ids, _UNKNOWN_REVISION))
        return {secret_id: record for secret_id, record in found.items() if record is not None}


def _state(row: ApiKeyRow) -> State:
    """A key, as a record of the audit log shows it: of its secrets the names."""
    return {
        "display_name": row.display_name,
        "scopes": sorted(row.scopes),
        "expire_time": from_ms(row.expire_ms),
        "revoke_time": from_ms(row.revoke_ms),
        "secrets": [
            {"secret_id": secret.secret_id, "expire_time": from_ms(secret.expire_ms)} for secret in row.secrets
        ],
    }


def key_not_found(key_id: str) -> DrawdownError:
    """The error for a key that does not exist."""
    return DrawdownError(ErrorReason.KEY_NOT_FOUND, f"key {key_id} does not exist", key_id=key_id)


async def _add_secret(
    connection: Connection, tenant_id: str, key_id: str, rotation_id: str, secret: SecretDigest, overlap_ms: int
) -> None:
    await connection.execute(
        QUERIES["api_key_secret_create"],
        tenant_id,
        key_id,
        rotation_id,
        secret.secret_id,
        secret.pepper_id,
        secret.digest,
        overlap_ms,
    )


async def _get(connection: Connection, tenant_id: str, key_id: str) -> ApiKeyRow | None:
    rows = _rows(await connection.fetch(QUERIES["api_key_get"], tenant_id, key_id))
    return rows[0] if rows else None


async def _read(connection: Connection, revisions: Mapping[str, int]) -> dict[str, SecretRecord | None]:
    rows = await connection.fetch(QUERIES["api_key_secrets_read"], list(revisions), list(revisions.values()))
    return {row["secret_id"]: None if row["tenant_id"] is None else _record(row) for row in rows}


def _record(row: asyncpg.Record) -> SecretRecord:
    return SecretRecord(
        secret_id=row["secret_id"],
        tenant_id=row["tenant_id"],
        key_id=row["key_id"],
        scopes=_scopes(row["scopes"]),
        pepper_id=row["pepper_id"],
        digest=row["digest"],
        revision=row["revision"],
        end_ms=to_ms(row["end_time"]),
    )


def _scopes(names: Sequence[str]) -> frozenset[Scope]:
    """The scopes that this version knows: one of a newer version gives no rights here."""
    return frozenset(scope for scope in Scope if scope in names)


def _rows(records: Sequence[asyncpg.Record]) -> list[ApiKeyRow]:
    """From a row per secret, in the order of the keys."""
    rows: dict[str, ApiKeyRow] = {}
    for record in records:
        row = rows.setdefault(record["key_id"], _row(record))
        if record["secret_id"] is not None and not row.revoke_ms:
            row.secrets.append(
                ApiKeySecretRow(
                    secret_id=record["secret_id"],
                    pepper_id=record["pepper_id"],
                    create_ms=to_ms(record["secret_create_time"]),
                    expire_ms=to_ms(record["secret_expire_time"]),
                )
            )
    return list(rows.values())


def _row(record: asyncpg.Record) -> ApiKeyRow:
    return ApiKeyRow(
        tenant_id=record["tenant_id"],
        key_id=record["key_id"],
        display_name=record["display_name"],
        scopes=_scopes(record["scopes"]),
        create_ms=to_ms(record["create_time"]),
        expire_ms=to_ms(record["expire_time"]),
        revoke_ms=to_ms(record["revoke_time"]),
        secrets=[],
    )
