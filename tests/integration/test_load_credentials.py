"""``drawdown load`` against a server that wants TLS and a key: each of its processes brings both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import drawdown
from certificates import Authority
from drawdown_server.identity.scopes import Scope
from integration.credentials import create_key, with_keys
from integration.load_command import WALLETS, load
from integration.server import run_server

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from drawdown_server.config import Config


async def test_a_gateways_key_over_tls_is_enough_for_a_run_without_a_check(
    config: Config, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = Authority()
    certificate, key = ca.issue().write(directory, "server")
    (directory / "ca.crt").write_bytes(ca.pem)
    secure = with_keys(config).model_copy(update={"tls_certificate": certificate, "tls_key": key})
    admin = await create_key(secure, "admin")
    gateway = await create_key(secure, "gateway", scopes=[Scope.AUTHORIZE])
    monkeypatch.setenv("DRAWDOWN_TLS_CA", str(directory / "ca.crt"))
    async with run_server(secure, assets=False) as server:
        target = f"localhost:{server.port}"
        monkeypatch.setenv("DRAWDOWN_API_KEY", admin)
        code, found, err = await load(target, "--create", "--rate", "50", "--duration", "1s", "--processes", "2")
        assert (code, found["errors"]) == (0, []), err
        assert found["conservation"]["is_checked"]

        monkeypatch.setenv("DRAWDOWN_API_KEY", gateway)
        code, found, err = await load(target, "--rate", "50", "--duration", "1s", "--no-check", "--assert", "errors==0")
        assert (code, found["errors"]) == (0, []), err
        assert gateway not in str(found)

        code, _, err = await load(target, "--rate", "50", "--duration", "1s")
        assert (code, "PERMISSION_DENIED" in err) == (1, True), err

        credentials = drawdown.tls_credentials(directory / "ca.crt")
        async with drawdown.AsyncClient(target, credentials=credentials, api_key=admin) as client:
            for number in range(1, WALLETS + 1):
                balance = await client.get_balance(wallet_id=f"load-{number:05d}")
                assert balance.open_holds == 0
        await server.audit.assert_conserved(*(f"load-{number:05d}" for number in range(1, WALLETS + 1)))
