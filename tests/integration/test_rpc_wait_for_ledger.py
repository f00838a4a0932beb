"""``wait_for_ledger``: the answer comes once Postgres has it, or when the wait is over. It is done in any case."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import types_pb2
from faults.processes import program
from integration.server import amounts, commit_request, duration, run_server, until

if TYPE_CHECKING:
    from pathlib import Path

    from drawdown_server.config import Config
    from drawdown_server.dev.postgres import PostgresProcess
    from integration.server import Rpc, Server

LONG_S = 20
"""Longer than anything here takes; who waits for so long fails by the deadline of the call."""


def waiting(request: Any, wait_s: float = LONG_S) -> Any:  # noqa: ANN401 - any request that can wait
    request.wait_for_ledger.CopyFrom(duration(wait_s))
    return request


async def held(server: Rpc, hold_id: str = "h") -> str:
    """A wallet with a hold of 10 USD."""
    wallet = await server.wallet(USD=100)
    assert (await server.authorize(wallet, hold_id, USD=10)).decision == pb.DECISION_APPROVED
    return wallet


async def debits(server: Server, wallet: str) -> list[int]:
    """What the ledger has by now."""
    return [e.units for e in await server.entries(wallet) if e.kind == types_pb2.ENTRY_KIND_DEBIT]


async def test_the_answer_says_that_the_ledger_has_it(config: Config) -> None:
    async with run_server(config) as server:
        wallet = await held(server)
        progress = waiting(commit_request(wallet, "h", USD=3))
        progress.final = False
        for request, units in ((progress, [3]), (waiting(commit_request(wallet, "h", USD=7)), [3, 4])):
            assert (await server.call(request)).in_ledger
            assert await debits(server, wallet) == units
        again = await server.call(waiting(commit_request(wallet, "h", USD=7)))
        assert (again.replayed, again.in_ledger) == (True, True)
        assert not (await server.commit(wallet, "h", USD=7)).in_ledger, "nobody asked"
        await server.assert_conserved(wallet)


async def test_a_charge_and_a_refund_can_wait_too(config: Config) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=100)
        charge = waiting(pb.ChargeRequest(wallet_id=wallet, charge_id="c", amounts=amounts(USD=7)))
        for replayed in (False, True):
            reply = await server.call(charge)
            assert (reply.replayed, reply.in_ledger) == (replayed, True)
        assert await debits(server, wallet) == [7]
        refund = waiting(pb.RefundRequest(wallet_id=wallet, hold_id="c", refund_id="r", amounts=amounts(USD=2)))
        for replayed in (False, True):
            reply = await server.call(refund)
            assert (reply.replayed, reply.in_ledger) == (replayed, True)
        assert [e.kind for e in await server.entries(wallet)][-1] == types_pb2.ENTRY_KIND_REFUND
        poor = waiting(pb.ChargeRequest(wallet_id=wallet, charge_id="d", amounts=amounts(USD=700)))
        reply = await server.call(poor)
        assert (reply.decision, reply.in_ledger) == (pb.DECISION_DENIED, False)
        await server.assert_conserved(wallet)


async def test_the_flusher_may_be_another_process(config: Config, directory: Path) -> None:
    async with run_server(config.model_copy(update={"flusher": False})) as server:
        wallet = await held(server)
        first = asyncio.create_task(server.call(waiting(commit_request(wallet, "h", USD=7))))
        async with program("flush", config, directory):
            assert (await first).in_ledger
            assert await debits(server, wallet) == [7]
            await server.assert_conserved(wallet)


async def test_without_a_flusher_the_wait_ends_and_the_commit_stands(config: Config) -> None:
    async with run_server(config.model_copy(update={"flusher": False})) as server:
        wallet = await held(server)
        reply = await server.call(waiting(commit_request(wallet, "h", USD=7), 0.1))
        assert (reply.in_ledger, reply.hold.state) == (False, types_pb2.HOLD_STATE_COMMITTED)
        assert (await server.balance(wallet)).settled_units == 93
    async with run_server(config) as server:
        reply = await server.call(waiting(commit_request(wallet, "h", USD=7)))
        assert (reply.replayed, reply.in_ledger) == (True, True)
        await server.assert_conserved(wallet)


async def test_a_deadline_that_is_shorter_than_the_wait_is_met(config: Config) -> None:
    async with run_server(config.model_copy(update={"flusher": False})) as server:
        wallet = await held(server)
        reply = await server.call(waiting(commit_request(wallet, "h", USD=7)), deadline_s=2)
        assert (reply.in_ledger, reply.replayed) == (False, False)
        without_time = await server.call(waiting(commit_request(wallet, "h", USD=7)), deadline_s=2)
        assert without_time.replayed


async def test_without_postgres_the_wait_ends_and_later_the_ledger_has_it(
    config: Config, postgres_process: PostgresProcess
) -> None:
    async with run_server(config) as server:
        wallet = await held(server)
        await server.assert_conserved(wallet)
        await asyncio.to_thread(postgres_process.stop)
        try:
            assert not (await server.call(waiting(commit_request(wallet, "h", USD=7), 0.5))).in_ledger
            patient = asyncio.create_task(server.call(waiting(commit_request(wallet, "h", USD=7), 30), deadline_s=40))
            await asyncio.wait([patient], timeout=0.1)
            assert not patient.done()
        finally:
            await asyncio.to_thread(postgres_process.start)
        assert (await patient).in_ledger
        await server.assert_conserved(wallet)


async def test_what_the_ledger_could_not_record_is_never_in_it(config: Config) -> None:
    async with run_server(config) as server:
        wallet = await held(server)
        await server.assert_conserved(wallet)
        async with server.audit.stores.ledger._connection() as connection:
            await connection.execute("UPDATE wallets SET sequence = 5 WHERE wallet_id = $1", wallet)
        reply = await server.call(waiting(commit_request(wallet, "h", USD=7)))
        assert (reply.in_ledger, reply.wallet_sequence) == (False, 2)

        async def letters() -> list[Any]:
            return await server.audit.stores.ledger.list_dead_letters(limit=10)

        assert [letter.wallet_sequence for letter in await until(letters)] == [2]
        assert not (await server.call(waiting(commit_request(wallet, "h", USD=7)))).in_ledger


async def test_many_wait_at_once_and_all_are_told(config: Config) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=1_000)
        charges = [
            waiting(pb.ChargeRequest(wallet_id=wallet, charge_id=f"c{n}", amounts=amounts(USD=1))) for n in range(200)
        ]
        replies = await asyncio.gather(*(server.call(charge) for charge in charges))
        assert all(reply.in_ledger for reply in replies)
        assert len(await debits(server, wallet)) == 200
        await server.assert_conserved(wallet)


async def test_a_caller_that_cancels_its_wait_leaves_the_commit(config: Config) -> None:
    async with run_server(config.model_copy(update={"flusher": False})) as server:
        wallet = await held(server)
        call = server.method("Commit")(waiting(commit_request(wallet, "h", USD=7)), timeout=LONG_S)

        async def committed() -> bool:
            return (await server.get_hold(wallet, "h")).state == types_pb2.HOLD_STATE_COMMITTED

        await until(committed)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await server.commit(wallet, "h", USD=7)).replayed


async def test_a_server_that_ends_answers_those_who_wait(config: Config) -> None:
    async with run_server(config.model_copy(update={"flusher": False})) as server:
        wallet = await held(server)
        call = asyncio.create_task(server.call(waiting(commit_request(wallet, "h", USD=7))))

        async def committed() -> bool:
            return (await server.get_hold(wallet, "h")).state == types_pb2.HOLD_STATE_COMMITTED

        await until(committed)
        server.stop.set()
        reply = await call
        assert (reply.in_ledger, reply.hold.state) == (False, types_pb2.HOLD_STATE_COMMITTED)


async def test_a_wait_that_is_none_or_too_long_is_refused(config: Config) -> None:
    async with run_server(config) as server:
        wallet = await held(server)
        refund = pb.RefundRequest(wallet_id=wallet, hold_id="h", refund_id="r", amounts=amounts(USD=2))
        charge = pb.ChargeRequest(wallet_id=wallet, charge_id="c", amounts=amounts(USD=7))
        for request in (commit_request(wallet, "h", USD=7), charge, refund):
            for wait_s in (0, -1, 30.001):
                failure = await server.failure(waiting(request, wait_s))
                assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
                assert failure.fields == ("wait_for_ledger",)
        assert (await server.get_hold(wallet, "h")).state == types_pb2.HOLD_STATE_HELD
        await server.assert_conserved(wallet)
