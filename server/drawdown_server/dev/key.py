"""The API key of a developer's machine: made at the first start, and kept in the data directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drawdown_server.config import token_secrets
from drawdown_server.identity.api_keys import Peppers, new_key, secret_id_of
from drawdown_server.identity.scopes import ALL_SCOPES
from drawdown_server.ledger.database import open_pool
from drawdown_server.ledger.store import LedgerStore

if TYPE_CHECKING:
    from pathlib import Path

    from drawdown_server.config import Config

API_KEY_FILE: Final = "api-key"
"""In the data directory, readable by its owner alone: ``export DRAWDOWN_API_KEY=$(cat .drawdown/api-key)``."""


async def dev_key(config: Config, data_dir: Path) -> str:
    """A key with every scope; the one of the last start, unless the database or the pepper is another one.

    Args:
        config: The settings of the server, with a pepper; its database is at the newest schema.
        data_dir: Where it is kept; exists.
    """
    path = data_dir / API_KEY_FILE
    path.touch(mode=0o600)
    kept = path.read_text()
    peppers = Peppers(token_secrets(config.api_key_pepper))
    async with open_pool(config) as pool:
        ledger = LedgerStore(pool)
        if secret_id_of(kept) is not None and await _is_in_force(config, ledger, peppers, kept):
            return kept
        text = new_key()
        await _is_in_force(config, ledger, peppers, text)
    path.write_text(text)
    return text


async def _is_in_force(config: Config, ledger: LedgerStore, peppers: Peppers, text: str) -> bool:
    """Create the key if it is not there. It is another one's, or revoked, when it does not count then."""
    secret = peppers.digest(text)
    row, _ = await ledger.create_api_key(
        config.tenant,
        f"dev-{secret.secret_id}",
        display_name="made by drawdown-server dev",
        scopes=ALL_SCOPES,
        expire_ms=0,
        secret=secret,
    )
    record = await ledger.read_secret(secret.secret_id)
    return not row.revoke_ms and record is not None and peppers.is_of(text, record.pepper_id, record.digest)
