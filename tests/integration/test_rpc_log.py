"""The one line per call."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from structlog.testing import capture_logs

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import balance_service_pb2 as balance_pb
from integration.server import DEADLINE_S, Server, run_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from drawdown_server.config import Config

DATA_PLANE = "drawdown.v1.AuthorizationService/"


@asynccontextmanager
async def logging(config: Config, log_sample_ratio: float) -> AsyncIterator[tuple[Server, list[Any]]]:
    """A server, and the lines of the calls to it."""
    lines: list[Any] = []
    with capture_logs() as logs:
        async with run_server(config.model_copy(update={"log_sample_ratio": log_sample_ratio})) as server:
            yield server, lines
            lines += [line for line in logs if line["event"] == "rpc"]


async def test_a_line_says_who_asked_what_and_what_they_were_told(config: Config) -> None:
    async with logging(config, 1.0) as (server, lines):
        wallet = await server.wallet(USD=100)
        await server.authorize(wallet, "h", USD=10)
        await server.authorize(wallet, "h2", USD=1_000)
        await server.assert_conserved(wallet)
    approved, denied = [line for line in lines if line["method"] == f"{DATA_PLANE}Authorize"]
    assert approved.pop("duration_ms") > 0
    assert approved == {
        "event": "rpc",
        "log_level": "info",
        "method": f"{DATA_PLANE}Authorize",
        "code": "OK",
        "tenant": "default",
        "wallet_id": wallet,
        "hold_id": "h",
        "decision": "APPROVED",
    }
    assert (denied["decision"], denied["denial_reason"]) == ("DENIED", "INSUFFICIENT_FUNDS")


async def test_errors_and_administration_are_always_logged_and_the_data_plane_is_sampled(config: Config) -> None:
    async with logging(config, 0.0) as (server, lines):
        wallet = await server.wallet(USD=100)
        await server.authorize(wallet, "h", USD=10)
        await server.balance(wallet)
        failure = await server.failure(pb.AuthorizeRequest(wallet_id=wallet))
        await server.call(pb.ForceReleaseRequest(wallet_id=wallet, hold_id="h", reason="test"))
        await server.failure(balance_pb.GetBalanceRequest(wallet_id="nobody"))
        await server.assert_conserved(wallet)
    told = [(line["method"].partition("/")[2], line["code"]) for line in lines]
    assert told[-5:] == [
        ("CreateWallet", "OK"),
        ("CreateGrant", "OK"),
        ("Authorize", "INVALID_ARGUMENT"),
        ("ForceRelease", "OK"),
        ("GetBalance", "NOT_FOUND"),
    ]
    bad = lines[-3]
    assert (bad["reason"], bad["error"], bad["log_level"]) == ("INVALID_FIELD", failure.message, "info")


async def test_nothing_else_of_a_request_gets_into_the_log(config: Config) -> None:
    secret = "hunter2-hunter2"  # noqa: S105  # it is what must not be seen
    with capture_logs() as logs:
        async with run_server(config.model_copy(update={"log_sample_ratio": 1.0})) as server:
            wallet = await server.wallet(USD=100)
            await server.authorize(wallet, "h", USD=10)
            request = pb.CommitRequest(wallet_id=wallet, hold_id="h", hold_token=secret.encode())
            metadata = (("authorization", f"Bearer {secret}"), ("x-api-key", secret))
            try:
                await server.method("Commit")(request, metadata=metadata, timeout=DEADLINE_S)
            except Exception as error:  # whether it is accepted is not this test's matter
                assert secret not in str(error)
            await server.authorize(wallet, "h3", USD=1)
    assert any(line["event"] == "rpc" and line["method"] == f"{DATA_PLANE}Commit" for line in logs)
    assert secret not in str(logs)


async def test_what_can_be_no_name_is_not_told(config: Config) -> None:
    async with logging(config, 1.0) as (server, lines):
        for wallet_id in ("x" * 129, "w\nfaked line", "\x1b[2J"):
            await server.failure(pb.CommitRequest(wallet_id=wallet_id, hold_id="h"))
    told = [line for line in lines if line["method"] == f"{DATA_PLANE}Commit"]
    assert [(line["hold_id"], line.get("wallet_id")) for line in told] == [("h", None)] * 3
