"""Key names: where a wallet lives is for ever, and no two wallets share a key."""

from __future__ import annotations

import re
import string
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawdown_server.holds import keys

ids = st.text(string.ascii_letters + string.digits + "._:@/-", min_size=1, max_size=128)


@pytest.mark.parametrize(
    ("tenant_id", "wallet_id", "partitions", "partition"),
    [("acme", "w1", 64, 41), ("acme", "w2", 64, 19), ("acme", "demo", 1024, 175), ("t", "w", 1, 0)],
)
def test_the_partition_of_a_wallet_never_changes(
    tenant_id: str, wallet_id: str, partitions: int, partition: int
) -> None:
    assert keys.partition_of(tenant_id, wallet_id, partitions) == partition


def test_wallets_spread_evenly() -> None:
    counts = [0] * 64
    for number in range(64_000):
        counts[keys.partition_of("acme", f"wallet-{number}", 64)] += 1
    assert min(counts) > 800
    assert max(counts) < 1_200


def test_the_names() -> None:
    assert keys.wallet_keys(7, 3, "acme", "w1") == (
        "{dd07}:meta",
        "{dd07}:3:outbox",
        "{dd07}:3:due",
        "{dd07}:3:wallet|acme|w1",
        "{dd07}:3:holds|acme|w1",
        "{dd07}:3:open|acme|w1",
        "{dd07}:3:settled|acme|w1",
        "{dd07}:3:caps|acme|w1",
    )
    assert keys.wallet_keys(7, 3, "acme", "w1")[:3] == (keys.meta(7), keys.outbox(7, 3), keys.due_wallets(7, 3))
    assert keys.meta(1023) == "{dd1023}:meta"
    assert keys.wallet_member("acme", "w1") == "acme|w1"


@given(ids, ids, st.integers(0, 1023), st.integers(1, 2**31))
def test_all_keys_of_a_wallet_are_in_one_slot(tenant_id: str, wallet_id: str, partition: int, epoch: int) -> None:
    tags = {re.search(r"\{(.*?)\}", key).group(1) for key in keys.wallet_keys(partition, epoch, tenant_id, wallet_id)}  # type: ignore[union-attr]
    assert tags == {f"dd{partition:02d}"}


@given(st.tuples(ids, ids), st.tuples(ids, ids))
def test_two_wallets_share_no_key_of_their_own(one: tuple[str, str], other: tuple[str, str]) -> None:
    own = set(keys.wallet_keys(1, 1, *one)[3:])
    assert len(own) == 5
    assert (own & set(keys.wallet_keys(1, 1, *other)[3:]) == set()) is (one != other)


@given(ids, ids, st.integers(0, 1023), st.integers(1, 2**31))
def test_the_name_of_a_wallet_says_which_it_is_and_no_other_does(
    tenant_id: str, wallet_id: str, partition: int, epoch: int
) -> None:
    names = [keys.parse_wallet(name) for name in keys.wallet_keys(partition, epoch, tenant_id, wallet_id)]
    wallet = names.pop(keys.WALLET)
    assert wallet == (partition, epoch, tenant_id, wallet_id)
    assert names == [None] * 7


def test_epochs_and_partitions_share_no_key() -> None:
    names = [key for p, epoch in product(range(12), range(1, 12)) for key in keys.wallet_keys(p, epoch, "t", "w")[1:]]
    assert len(set(names)) == len(names)
