"""What many build first: a hold as a row, under a lock on the wallet's row in Postgres. gRPC, asyncpg, our messages.

One asset per wallet, no grants, no caps, no expiry, and a debit is a row that nobody adds up. Takes the database's URL
and the number of wallets, prints its port.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import asyncpg
import grpc
import uvloop

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import authorization_service_pb2_grpc, types_pb2

if TYPE_CHECKING:
    from asyncpg.pool import Pool

CONNECTIONS = 16
SCHEMA = """
    CREATE TABLE wallets (wallet_id text PRIMARY KEY, available bigint NOT NULL);
    CREATE TABLE holds (wallet_id text, hold_id text, units bigint NOT NULL, PRIMARY KEY (wallet_id, hold_id));
    CREATE TABLE debits (wallet_id text, hold_id text, units bigint NOT NULL, PRIMARY KEY (wallet_id, hold_id));
"""


class PostgresLock(authorization_service_pb2_grpc.AuthorizationServiceServicer):
    """Holds in Postgres."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def Authorize(self, request: pb.AuthorizeRequest, context: object) -> pb.AuthorizeResponse:  # noqa: ARG002, N802
        units = request.amounts[0].units
        async with self._pool.acquire() as connection, connection.transaction():
            available = await connection.fetchval(
                "SELECT available FROM wallets WHERE wallet_id = $1 FOR UPDATE", request.wallet_id
            )
            if available < units:
                return pb.AuthorizeResponse(decision=pb.DECISION_DENIED)
            await connection.execute("INSERT INTO holds VALUES ($1, $2, $3)", request.wallet_id, request.hold_id, units)
            await connection.execute(
                "UPDATE wallets SET available = available - $2 WHERE wallet_id = $1", request.wallet_id, units
            )
        return pb.AuthorizeResponse(
            decision=pb.DECISION_APPROVED,
            hold=types_pb2.Hold(wallet_id=request.wallet_id, hold_id=request.hold_id),
            balances=[types_pb2.Balance(asset="USD", available_units=available - units)],
        )

    async def Commit(self, request: pb.CommitRequest, context: object) -> pb.CommitResponse:  # noqa: ARG002, N802
        units = request.amounts[0].units
        async with self._pool.acquire() as connection, connection.transaction():
            held = await connection.fetchval(
                "DELETE FROM holds WHERE wallet_id = $1 AND hold_id = $2 RETURNING units",
                request.wallet_id,
                request.hold_id,
            )
            await connection.execute(
                "INSERT INTO debits VALUES ($1, $2, $3)", request.wallet_id, request.hold_id, units
            )
            available = await connection.fetchval(
                "UPDATE wallets SET available = available + $2 WHERE wallet_id = $1 RETURNING available",
                request.wallet_id,
                held - units,
            )
        return pb.CommitResponse(
            hold=types_pb2.Hold(wallet_id=request.wallet_id, hold_id=request.hold_id),
            balances=[types_pb2.Balance(asset="USD", available_units=available)],
        )


async def main(url: str, wallets: int) -> None:
    async with asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
        await pool.execute(SCHEMA)
        await pool.executemany(
            "INSERT INTO wallets VALUES ($1, $2)", [(f"wallet-{number:06d}", 10**12) for number in range(wallets)]
        )
        server = grpc.aio.server()
        authorization_service_pb2_grpc.add_AuthorizationServiceServicer_to_server(PostgresLock(pool), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
