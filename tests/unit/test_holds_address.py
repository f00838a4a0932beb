"""The URL of the store: one server, or some nodes of a cluster."""

from __future__ import annotations

import pytest

from drawdown_server.config import mask_url
from drawdown_server.holds.address import Address, address_of, parse_address, split_url, url_at


@pytest.mark.parametrize(
    ("url", "urls"),
    [
        ("redis://a:6379/0", ["redis://a:6379/0"]),
        ("redis://u:p@a:6379,b:6380,c/0", ["redis://u:p@a:6379/0", "redis://u:p@b:6380/0", "redis://u:p@c/0"]),
        ("rediss://:p@[::1]:1,[::2]:2?x=y", ["rediss://:p@[::1]:1?x=y", "rediss://:p@[::2]:2?x=y"]),
        ("unix:///run/valkey.sock?db=0", ["unix:///run/valkey.sock?db=0"]),
    ],
)
def test_a_url_with_several_hosts_is_one_for_each(url: str, urls: list[str]) -> None:
    assert split_url(url) == urls


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://u:p@a:7000/0", Address("a", 7000)),
        ("redis://a", Address("a", 6379)),
        ("redis://[::1]:7000", Address("::1", 7000)),
    ],
)
def test_where_a_url_leads_to(url: str, address: Address) -> None:
    assert address_of(url) == address


@pytest.mark.parametrize("address", [Address("10.0.0.7", 7000), Address("::1", 7000), Address("node", 7000)])
def test_another_node_is_reached_with_the_same_user_and_options(address: Address) -> None:
    url = url_at("rediss://u:p@a:1,b:2/0?ssl_ca_certs=/ca.pem", address)
    assert address_of(url) == address
    assert url.startswith("rediss://u:p@")
    assert url.endswith("/0?ssl_ca_certs=/ca.pem")


def test_an_address_as_a_node_writes_it() -> None:
    assert parse_address("10.0.0.7:7000") == Address("10.0.0.7", 7000)
    assert parse_address("fd00::7:7000") == Address("fd00::7", 7000)
    with pytest.raises(ValueError, match="invalid literal"):
        parse_address("10.0.0.7:")


def test_the_password_is_masked_however_many_hosts_there_are() -> None:
    assert "secret" not in mask_url("redis://user:secret@a:1,b:2/0")
