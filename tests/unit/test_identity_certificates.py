"""Which caller a certificate names."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from drawdown_server.errors import ConfigurationError
from drawdown_server.identity.certificates import KNOWN_MAX, CallerEntry, CallerTable, MappedCertificates
from drawdown_server.identity.scopes import Scope

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

READ = frozenset({Scope.READ})
FUNDS = frozenset({Scope.FUNDS})
TABLE = CallerTable(
    [
        CallerEntry("spiffe://org/gateway", "acme", READ),
        CallerEntry("spiffe://org/billing/*", "acme", FUNDS),
        CallerEntry("spiffe://org/billing/eu/*", "acme-eu", FUNDS),
        CallerEntry("spiffe://org/billing/eu/main", "main", FUNDS),
        CallerEntry("spiffe://Org/gateway", "upper", READ),
        CallerEntry("https://org/gateway", "web", READ),
        CallerEntry("Console.Acme.internal", "acme", READ),
        CallerEntry("host", "short", READ),
    ]
)


def tenant(*uris: str, dns: tuple[str, ...] = ()) -> str | None:
    caller = TABLE.caller((tuple(u.encode() for u in uris), tuple(d.encode() for d in dns)))
    return None if caller is None else caller.tenant_id


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("spiffe://org/gateway", "acme"),
        ("spiffe://Org/gateway", "upper"),
        ("https://org/gateway", "web"),
        ("spiffe://org/billing/a", "acme"),
        ("spiffe://org/billing/a/b", "acme"),
        ("spiffe://org/billing/eu", "acme"),
        ("spiffe://org/billing/eu/x", "acme-eu"),
        ("spiffe://org/billing/eu/main", "main"),
        ("spiffe://org/billing/eu/main/x", "acme-eu"),
        ("spiffe://org/billing/", None),
        ("spiffe://org/billing", None),
        ("spiffe://org/gateway/", None),
        ("spiffe://org/gatewa", None),
        ("spiffe://org/gateway2", None),
        ("spiffe://org.evil/billing/a", None),
        ("spiffe://org/billing/../gateway", None),
        ("spiffe://org/billing/./a", None),
        ("spiffe://org/billing//a", None),
        ("spiffe://org/billing/%2e%2e/a", None),
        ("spiffe://org/billing/*", "acme"),  # no pattern in a certificate: a path like any other
        ("console.acme.internal", None),  # a URI that looks like a DNS name
        ("spiffe://org/gatew\u00e4y", None),
        ("", None),
    ],
)
def test_a_uri_leads_to_its_caller_or_to_nobody(uri: str, expected: str | None) -> None:
    assert tenant(uri) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("console.acme.internal", "acme"),
        ("CONSOLE.acme.internal.", "acme"),
        ("host", "short"),
        ("*.acme.internal", None),
        ("x.console.acme.internal", None),
        ("acme.internal", None),
        ("spiffe://org/gateway", None),  # a DNS name that looks like a URI
    ],
)
def test_a_dns_name_leads_to_its_caller_or_to_nobody(name: str, expected: str | None) -> None:
    assert tenant(dns=(name,)) == expected


def test_names_that_lead_to_one_caller_agree_and_those_that_lead_to_two_name_nobody() -> None:
    assert tenant("spiffe://org/unknown", "spiffe://org/gateway") == "acme"
    assert tenant("spiffe://org/gateway", dns=("console.acme.internal",)) == "acme"  # the same tenant and scopes
    assert tenant("spiffe://org/gateway", "spiffe://org/billing/a") is None  # other scopes
    assert tenant("spiffe://org/gateway", dns=("host",)) is None  # another tenant
    assert tenant() is None


def test_the_principal_is_the_name_that_led_to_the_caller() -> None:
    caller = TABLE.caller(((b"spiffe://org/unknown", b"spiffe://org/billing/a"), ()))
    assert caller is not None
    assert (caller.principal, caller.scopes) == ("certificate:spiffe://org/billing/a", FUNDS)


GOOD = '[[caller]]\nsan = "spiffe://org/gateway"\ntenant = "acme"\nscopes = ["read"]\n'
MISTAKES = {
    "no TOML": ("caller = [", "Invalid value"),
    "no text": (b"\xff".decode("latin-1"), "Invalid statement"),
    "no callers": ("", "caller"),
    "a word that is not known": (GOOD + "scope = 1\n", "unknown field `scope`"),
    "a scope that is not known": (GOOD.replace("read", "root"), "root"),
    "no scope": (GOOD.replace('"read"', ""), "scopes must name at least one"),
    "no tenant": (GOOD.replace('tenant = "acme"', ""), "missing required field `tenant`"),
    "a bad tenant": (GOOD.replace("acme", "a b"), "tenant must be"),
    "twice": (GOOD + GOOD, "caller 2 (spiffe://org/gateway): san is there twice"),
    "a star in the middle": (GOOD.replace("org/gateway", "org/*/x"), "whole URI"),
    "a star that is no path": (GOOD.replace("gateway", "gate*"), "whole URI"),
    "a star for the host": (GOOD.replace("org/gateway", "*"), "whole URI"),
    "a query": (GOOD.replace("gateway", "gateway?x"), "whole URI"),
    "a wildcard host": (GOOD.replace("spiffe://org/gateway", "*.org"), "no wildcard"),
    "an address": (GOOD.replace("spiffe://org/gateway", "10.0.0.1"), "no address"),
    "an empty name": (GOOD.replace("spiffe://org/gateway", ""), "san must be"),
}


@pytest.mark.parametrize(("text", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_file_is_named_at_start_and_leaves_the_old_callers_later(
    tmp_path: Path, text: str, expected: str
) -> None:
    file = tmp_path / "callers.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        MappedCertificates(file)
    assert expected in str(refused.value)
    assert "certificate_callers" in str(refused.value)

    file.write_text(GOOD)
    callers = MappedCertificates(file)
    file.write_text(text)
    with capture_logs() as logs:
        callers.run_once()
        callers.run_once()
    assert [line["event"] for line in logs] == ["certificate_callers.not_reloaded"]
    assert callers.caller_of(Peer("spiffe://org/gateway")) is not None
    assert (callers.reloads_total, callers.failures_total) == (0, 1)


class Peer:
    """A connection with a certificate."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.encode()

    def auth_context(self) -> Mapping[str, list[bytes]]:
        return {"peer_uri": [self.uri], "x509_common_name": [b"spiffe://org/gateway"]}


class Nobody:
    """A connection without a certificate."""

    def auth_context(self) -> Mapping[str, list[bytes]]:
        return {}


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        MappedCertificates(tmp_path / "missing.toml")


async def test_a_caller_that_is_taken_out_of_the_file_calls_no_more(tmp_path: Path) -> None:
    file = tmp_path / "callers.toml"
    file.write_text(GOOD)
    callers, stop = MappedCertificates(file), asyncio.Event()
    gateway, other = Peer("spiffe://org/gateway"), Peer("spiffe://org/other")
    assert [callers.caller_of(peer) is not None for peer in (gateway, other, Nobody())] == [True, False, False]

    file.write_text(GOOD.replace("gateway", "other"))
    running = asyncio.create_task(callers.run(stop))
    async with asyncio.timeout(10):
        while callers.reloads_total == 0:  # noqa: ASYNC110 - what is waited for is a look at a file
            await asyncio.sleep(0)
    assert [callers.caller_of(peer) is not None for peer in (gateway, other, Nobody())] == [False, True, False]
    stop.set()
    await running


def test_however_many_certificates_call_little_is_remembered(tmp_path: Path) -> None:
    file = tmp_path / "callers.toml"
    file.write_text(GOOD.replace("gateway", "*"))
    callers = MappedCertificates(file)
    for number in range(KNOWN_MAX + 2):
        caller = callers.caller_of(Peer(f"spiffe://org/{number}"))
        assert caller is not None
        assert caller.principal == f"certificate:spiffe://org/{number}"
    assert len(callers._known) <= KNOWN_MAX
