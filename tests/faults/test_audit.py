"""The audit log on bad days: neither a change without its record, nor a record without its change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import asyncpg
import grpc
import pytest

from drawdown.v1 import audit_service_pb2 as audit_pb
from drawdown.v1 import types_pb2
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from drawdown_server.dev.process import free_port
from faults.mutations import MUTATIONS, prepared
from faults.processes import program
from integration.credentials import create_key, with_keys
from integration.server import Rpc, failure_of, open_channel, run_server

if TYPE_CHECKING:
    from pathlib import Path

    from drawdown_server.config import Config

DIE: Final = "os.kill(os.getpid(), signal.SIGKILL)"
IN_THE_TRANSACTION: Final = f"""
import os, signal
from drawdown_server.ledger import audit

insert = audit._insert

async def insert_and_die(connection, call, *rest):
    await insert(connection, call, *rest)
    if call.method == METHOD:
        {DIE}

audit._insert = insert_and_die
"""
AFTER_THE_TRANSACTION: Final = f"""
import os, signal
from drawdown_server.holds.store import HoldStore
from drawdown_server.identity.admin_call import current_admin_call
from drawdown_server.wallets.changes import ChangeApplier

def dying(function):
    async def die(self, *rest):
        call = current_admin_call()
        if call is not None and call.method == METHOD:
            {DIE}
        return await function(self, *rest)
    return die

ChangeApplier.catch_up = dying(ChangeApplier.catch_up)
HoldStore.release = dying(HoldStore.release)
"""
METHODS: Final = {"CreateGrant": "GrantService", "SetCap": "CapService", "ForceRelease": "AuthorizationService"}
IN_VALKEY: Final = {"ForceRelease"}


async def recorded(rpc: Rpc, wallet: str, method: str) -> int:
    """Records of a method."""
    reply = await rpc.call(audit_pb.ListAuditRecordsRequest(wallet_id=wallet, page_size=1000))
    return sum(record.method == method for record in reply.records)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dies", ["in the transaction", "after the transaction"])
async def test_a_server_that_dies_in_an_administrators_call_leaves_both_or_neither(
    config: Config, directory: Path, name: str, dies: str
) -> None:
    method, mutation, port = f"{METHODS[name]}/{name}", MUTATIONS[name], free_port()
    before = f"METHOD = {method!r}" + (IN_THE_TRANSACTION if dies == "in the transaction" else AFTER_THE_TRANSACTION)
    async with run_server(config) as other:
        wallet = await prepared(other, mutation)
        already = await recorded(other, wallet, method)
        settings = config.model_copy(update={"grpc_port": port})
        async with program("serve", settings, directory, before=before) as dying, open_channel(port) as channel:
            failure = await failure_of(Rpc(channel).call(mutation.request(wallet)))
            assert failure.code is grpc.StatusCode.UNAVAILABLE
            assert await dying.exit_code() == -9
        # What happens in Valkey is recorded before, in a transaction of its own; the record may be alone.
        survives = dies == "after the transaction" or name in IN_VALKEY
        assert await recorded(other, wallet, method) == already + survives
        await other.call(mutation.request(wallet))
        assert await recorded(other, wallet, method) == already + 1
        if name == "ForceRelease":
            assert (await other.get_hold(wallet, "h")).state == types_pb2.HOLD_STATE_EXPIRED
        await other.assert_conserved(wallet)


async def test_who_does_what_another_died_over_is_recorded_as_well(config: Config, directory: Path) -> None:
    port = free_port()
    keyed = with_keys(config).model_copy(update={"grpc_port": port})
    first, second = await create_key(keyed, "first"), await create_key(keyed, "second")
    before = f"METHOD = 'AuthorizationService/ForceRelease'{AFTER_THE_TRANSACTION}"
    async with run_server(with_keys(config), credential=second) as other:
        mutation = MUTATIONS["ForceRelease"]
        wallet = await prepared(other, mutation)
        async with program("serve", keyed, directory, before=before) as dying, open_channel(port) as channel:
            await failure_of(Rpc(channel, first).call(mutation.request(wallet)))
            assert await dying.exit_code() == -9
        for _ in range(2):
            await other.call(mutation.request(wallet))
        reply = await other.call(audit_pb.ListAuditRecordsRequest(wallet_id=wallet, target="hold:h"))
        assert [record.principal for record in reply.records] == ["key:second", "key:first"]
        await other.assert_conserved(wallet)


async def test_what_cannot_be_recorded_is_not_done(config: Config, superuser_url: str) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=10)
        await server.authorize(wallet, "h", USD=5)
        connection = await asyncpg.connect(superuser_url)
        try:
            await connection.execute("ALTER TABLE admin_audit ADD CONSTRAINT broken CHECK (wallet_id = '') NOT VALID")
            for name in ("FreezeWallet", "CloseWallet", "SetOverdraftLimit", "CreateGrant", "SetCap", "ForceRelease"):
                assert (await server.failure(MUTATIONS[name].request(wallet))).code is grpc.StatusCode.INTERNAL, name
            failure = await server.failure(wallet_pb.CreateWalletRequest(wallet_id="unheard-of"))
            assert failure.code is grpc.StatusCode.INTERNAL
        finally:
            await connection.execute("ALTER TABLE admin_audit DROP CONSTRAINT broken")
            await connection.close()
        assert (await server.get_hold(wallet, "h")).state == types_pb2.HOLD_STATE_HELD
        assert (await server.balance(wallet)).available_units == 5
        assert (await server.failure(wallet_pb.GetWalletRequest(wallet_id="unheard-of"))).reason == "WALLET_NOT_FOUND"
        for name, service in METHODS.items():
            expected = 1 if name == "CreateGrant" else 0  # that of the wallet's first funds
            assert await recorded(server, wallet, f"{service}/{name}") == expected, name
        await server.release(wallet, "h")
        await server.assert_conserved(wallet)
