"""kill -9 of a server at the worst line of CloseWallet: the wallet is frozen, and nobody has decided yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import types_pb2
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from drawdown_server.dev.process import free_port
from faults.processes import program
from integration.server import Rpc, amounts, failure_of, open_channel, run_server, until

if TYPE_CHECKING:
    from pathlib import Path

    from drawdown_server.config import Config

DIES_ONCE_IT_HAS_BEGUN = """
import os, signal
from drawdown_server.ledger.closings import ClosingStore

begin = ClosingStore.begin_closing

async def begin_and_die(self, *names):
    await begin(self, *names)
    os.kill(os.getpid(), signal.SIGKILL)

ClosingStore.begin_closing = begin_and_die
"""


async def state_of(rpc: Rpc, wallet: str) -> types_pb2.WalletState:
    state: types_pb2.WalletState = (await rpc.call(wallet_pb.GetWalletRequest(wallet_id=wallet))).wallet.state
    return state


@pytest.mark.parametrize("retried", [False, True], ids=["left alone", "retried at once"])
async def test_a_close_that_died_is_undone_within_seconds_and_can_be_retried(
    config: Config, directory: Path, retried: bool
) -> None:
    port = free_port()
    settings = config.model_copy(update={"grpc_port": port})
    async with (
        program("serve", settings, directory, before=DIES_ONCE_IT_HAS_BEGUN) as dying,
        open_channel(port) as channel,
    ):
        rpc = Rpc(channel)
        await rpc.create_assets()
        wallet = await rpc.wallet()
        failure = await failure_of(rpc.call(wallet_pb.CloseWalletRequest(wallet_id=wallet)))
        assert failure.code is grpc.StatusCode.UNAVAILABLE
        assert await dying.exit_code() == -9
    async with run_server(config, assets=False) as server:
        if not retried:
            assert await state_of(server, wallet) == types_pb2.WALLET_STATE_FROZEN

            async def is_active() -> bool:
                return await state_of(server, wallet) == types_pb2.WALLET_STATE_ACTIVE

            await until(is_active)
            await server.grant(wallet, "g1", "USD", 5)
            charge = pb.ChargeRequest(wallet_id=wallet, charge_id="c1", amounts=amounts(USD=5))
            assert (await server.call(charge)).decision == pb.DECISION_APPROVED
        reply = await server.call(wallet_pb.CloseWalletRequest(wallet_id=wallet))
        assert reply.wallet.state == types_pb2.WALLET_STATE_CLOSED
        await server.assert_conserved(wallet)
