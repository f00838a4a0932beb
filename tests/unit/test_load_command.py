"""``drawdown load`` as it is typed: what is wrong is said before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from drawdown.v1 import balance_service_pb2
from fake_drawdown import Failure, FakeDrawdown

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say how much: 100, for example"),
        (["--rate", "5", "--concurrency", "5"], "it is one or the other"),
        (["--rate", "much"], "'much' is no load such as 500"),
        (["--rate", "5", "--duration", "1"], "'1' is no time such as"),
        (["--rate", "5", "--duration", "0s"], "it must be above 0"),
        (["--rate", "5", "--html", "missing/report.html"], "missing/report.html is no file that can be written"),
        (["--rate", "5", "--save", "/"], "/ is no file that can be written"),
        (["--rate", "5", "--warmup", "x"], "'x' is no time such as"),
        (["--rate", "5", "--mix", "debit=1"], "there is no flow 'debit'"),
        (["--rate", "5", "--used", "90..10"], "'90..10' is no percentage"),
        (["--rate", "5", "--amount", "5"], "is not of the form"),
        (["--rate", "5", "--assert", "p99<5"], "p99 is a time: give it a unit"),
        (["--rate", "5", "--fund", "5u USD"], "it needs --create"),
        (["--rate", "5", "--amount", "5u USD", "--amount", "6u USD"], "USD is given twice"),
        (["--rate", "5", "--price", "USD=3,15"], "it needs --trace"),
        (["--rate", "5", "--trace", "missing.csv", "--amount", "5u USD"], "amounts come from the trace"),
        (["--trace", "missing.csv"], "trace missing.csv does not exist"),
        (["--rate", "5", "--processes", "0"], "--processes"),
    ],
)
def test_wrong_usage_is_exit_code_2(fake: FakeDrawdown, run: Any, words: list[str], message: str) -> None:  # noqa: ANN401
    result = run("load", *words)
    assert result.code == 2
    assert message in " ".join(result.err.replace("│", " ").split())
    assert fake.calls("GetBalance") == []


def test_a_price_that_is_none_is_wrong_usage(run: Any, data_dir: Path) -> None:  # noqa: ANN401
    data_dir.mkdir()
    trace = data_dir / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-01-01,1,2\n")
    result = run("load", "--trace", str(trace), "--price", "USD=3")
    assert result.code == 2
    assert "'USD=3' is no price such as" in " ".join(result.err.split())


def test_a_wallet_that_is_not_there_is_named(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    fake.answer("GetBalance", Failure(grpc.StatusCode.NOT_FOUND, "no such wallet", "WALLET_NOT_FOUND"))
    result = run("load", "--rate", "5", "--wallet", "nobody")
    assert result.code == 1
    assert result.err == "error: there is no wallet nobody; --create makes the wallets of a run\n"


def test_an_asset_that_is_not_there_is_not_made(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    fake.answer("GetBalance", balance_service_pb2.GetBalanceResponse())
    fake.answer("GetAsset", Failure(grpc.StatusCode.NOT_FOUND, "no such asset", "ASSET_NOT_FOUND"))
    result = run("load", "--rate", "5", "--create", "--amount", "5u GOLD")
    assert (result.code, fake.calls("CreateAsset")) == (1, [])
    assert result.err == "error: there is no asset GOLD; make it first: drawdown asset create\n"
