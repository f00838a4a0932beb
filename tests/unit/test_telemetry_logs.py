"""What gets into the log, and what never does. Through the real processors, onto the real stderr."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Literal

import pytest
import structlog

from drawdown_server.telemetry.logs import configure_logs

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "hunter2-hunter2"  # noqa: S105  # it is what must not be seen


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    structlog.reset_defaults()
    root.handlers[:] = before


def _connect(password: str) -> None:
    url = f"redis://user:{password}@db:6379/0"
    raise ConnectionError(f"cannot reach {url}")


@pytest.mark.parametrize("output", ["json", "console"])
def test_no_secret_gets_into_the_log(output: Literal["json", "console"], capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("INFO", output)
    log = structlog.get_logger("test")
    log.info(
        "keys",
        authorization=SECRET,
        api_key=SECRET,
        hold_token=SECRET,
        client_secret=SECRET,
        password=SECRET,
        nested={"headers": {"Authorization": f"Bearer {SECRET}", "x-api-key": SECRET}, "rows": [{"token": SECRET}]},
        raw=SECRET.encode(),
    )
    log.info(
        "texts",
        url=f"postgresql://drawdown:{SECRET}@db/ledger",
        query=f"postgresql://db/ledger?password={SECRET}",
        header=f"authorization: Bearer {SECRET}",
        sentence=f"somebody wrote ddk_0123456789ab_{SECRET} and ddw_{SECRET} here",
    )
    try:
        _connect(SECRET)
    except ConnectionError:
        log.exception("traceback")
    logging.getLogger("some.library").error("cannot reach %s", f"http://user:{SECRET}@collector:4317")
    written = capsys.readouterr().err
    assert all(event in written for event in ("keys", "texts", "traceback", "some.library"))
    assert SECRET not in written
    assert "ConnectionError" in written


def test_what_is_no_secret_stays_readable(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("INFO", "json")
    structlog.get_logger("test").info(
        "rpc", method="drawdown.v1.AuthorizationService/Authorize", wallet_id="user:42@example", duration_ms=1.5, n=None
    )
    line = json.loads(capsys.readouterr().err)
    assert line.pop("timestamp")
    assert line == {
        "event": "rpc",
        "level": "info",
        "method": "drawdown.v1.AuthorizationService/Authorize",
        "wallet_id": "user:42@example",
        "duration_ms": 1.5,
        "n": None,
    }


def test_libraries_are_heard_from_warnings_up_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("INFO", "json")
    configure_logs("INFO", "json")
    library = logging.getLogger("some.library")
    library.info("chatter")
    library.warning("trouble with %s", "it")
    (line,) = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (line["event"], line["library"], line["message"]) == ("library.message", "some.library", "trouble with it")
