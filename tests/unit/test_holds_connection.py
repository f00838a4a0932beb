"""What the store's errors mean to us; the connection itself is tested on real ones in contract/test_connection.py."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from drawdown_server.errors import ErrorReason, StoreUnavailableError
from drawdown_server.holds.address import Address
from drawdown_server.holds.socket import FunctionMissingError, RedirectError, domain_error, pack

REFUSED = [
    "OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'",
    "BUSY Redis is busy running a script. You can only call FUNCTION KILL or SHUTDOWN NOSAVE.",
    "LOADING Redis is loading the dataset in memory",
    "MISCONF Errors writing to the AOF file: No space left on device",
    "READONLY You can't write against a read only replica.",
    "NOREPLICAS Not enough good replicas to write.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "CLUSTERDOWN The cluster is down",
    "TRYAGAIN the wallet is in format 3, this server reads 2",
    "ERR Error running script (call to authorize_abc): @user_function:1: Script killed by user with FUNCTION KILL.",
]
BUGS = [
    "ERR units out of range: 9007199254740992 script: commit_abc, on @user_function:25.",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "NOPERM User gate has no permissions to run the 'fcall' command",
    "",
]


@pytest.mark.parametrize("text", REFUSED)
def test_a_store_in_trouble_may_be_called_again(text: str) -> None:
    with capture_logs() as logs:
        error = domain_error(text)
    assert isinstance(error, StoreUnavailableError)
    assert error.message == "valkey cannot take this call now"
    assert logs[0]["error"] == text


@pytest.mark.parametrize("text", BUGS)
def test_any_other_error_is_internal_and_its_text_stays_here(text: str) -> None:
    with capture_logs() as logs:
        error = domain_error(text)
    assert (error.reason, error.message, error.metadata) == (ErrorReason.INTERNAL, "internal error", {})
    assert logs[0]["error"] == text


@pytest.mark.parametrize("text", ["ERR Function not found", "ERR function not found"])
def test_a_lost_function_is_its_own_error(text: str) -> None:
    error = domain_error(text)
    assert isinstance(error, FunctionMissingError)
    assert isinstance(error, StoreUnavailableError)


@pytest.mark.parametrize(
    ("text", "address", "asks"),
    [
        ("MOVED 3999 10.0.0.7:6381", Address("10.0.0.7", 6381), False),
        ("MOVED 3999 fd00::7:6381", Address("fd00::7", 6381), False),
        ("ASK 3999 node-7.example.org:6381", Address("node-7.example.org", 6381), True),
        ("TRYAGAIN Multiple keys request during rehashing of slot", None, False),
        ("MOVED 3999 :", None, False),
    ],
)
def test_a_node_that_does_not_have_the_partition_says_where_it_is(
    text: str, address: Address | None, asks: bool
) -> None:
    error = domain_error(text)
    assert isinstance(error, RedirectError)
    assert isinstance(error, StoreUnavailableError)
    assert (error.address, error.asks, error.message) == (address, asks, "valkey cannot take this call now")


def test_a_command_on_the_wire() -> None:
    assert pack("SET", b"\xff", 7, "é") == b"*4\r\n$3\r\nSET\r\n$1\r\n\xff\r\n$1\r\n7\r\n$2\r\n\xc3\xa9\r\n"
