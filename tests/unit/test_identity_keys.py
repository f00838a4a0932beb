"""API keys and wallet tokens as texts: what is one, what is not, and who can tell."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from typing import Final

import msgspec
import pytest

from drawdown_server.identity.api_keys import Peppers, new_key, secret_id_of
from drawdown_server.identity.wallet_tokens import TEXT_CHARS_MAX, WalletTokenContent, WalletTokens
from drawdown_server.signing import Signer, derived_secrets

ONE: Final = {"one": bytes(range(32))}
TWO: Final = {"two": bytes(range(32, 64))}
CONTENT: Final = WalletTokenContent("acme", "w1", 1_767_225_540_000)


def test_a_key_can_be_recognized_selected_and_checked() -> None:
    key = new_key()
    assert re.fullmatch(r"ddk_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}", key)
    assert secret_id_of(key) == key[4:16]
    assert len({new_key() for _ in range(100)}) == 100


def test_a_key_that_was_mistyped_in_any_place_is_none() -> None:
    key = new_key()
    for place, char in enumerate(key):
        for other in {"0", "z", "_", "é"} - {char}:
            assert secret_id_of(key[:place] + other + key[place + 1 :]) is None, place


@pytest.mark.parametrize("damage", [
    lambda key: key[:-1], lambda key: key + "a", lambda key: " " + key, lambda key: key + "\n", lambda _: "",
    lambda key: key.upper(), lambda key: key.replace("ddk_", "ddw_"),
])  # fmt: skip
def test_a_key_that_was_cut_or_changed_is_none(damage: object) -> None:
    assert callable(damage)
    assert secret_id_of(damage(new_key())) is None


def test_a_digest_is_of_one_key_and_says_nothing_of_it() -> None:
    peppers, key = Peppers(ONE), new_key()
    secret_id, pepper_id, digest = peppers.digest(key)
    assert (secret_id, pepper_id, len(digest)) == (key[4:16], "one", 32)
    assert key[17:].encode() not in digest
    assert peppers.is_of(key, pepper_id, digest)
    assert not peppers.is_of(new_key(), pepper_id, digest)
    assert not Peppers(TWO).is_of(key, pepper_id, digest), "another installation's"
    assert not Peppers({"one": bytes(32)}).is_of(key, pepper_id, digest), "without the pepper it cannot be made"


def test_what_is_no_key_has_no_digest() -> None:
    with pytest.raises(ValueError, match="no key"):
        Peppers(ONE).digest("hunter2")


def test_with_a_new_pepper_in_front_old_keys_go_on() -> None:
    key = new_key()
    _, pepper_id, digest = Peppers(ONE).digest(key)
    rotated = Peppers(TWO | ONE)
    assert rotated.is_of(key, pepper_id, digest)
    assert rotated.digest(key).pepper_id == "two"
    assert "one" in rotated
    assert "one" not in Peppers(TWO)


def test_a_wallet_token_says_what_it_was_made_for() -> None:
    token = WalletTokens(ONE).make(CONTENT)
    assert re.fullmatch(r"ddw_[0-9A-Za-z_-]+", token)
    assert WalletTokens(TWO | ONE).read(token) == CONTENT
    longest = WalletTokenContent("t" * 128, "w" * 128, 2**53)
    keys = WalletTokens({"k" * 32: bytes(32)})
    assert len(keys.make(longest)) < TEXT_CHARS_MAX
    assert keys.read(keys.make(longest)) == longest


def test_no_bit_of_a_wallet_token_can_be_changed() -> None:
    tokens = WalletTokens(ONE)
    token = tokens.make(CONTENT)
    for place, char in enumerate(token[:-1]):  # two bits of the last character mean nothing
        changed = token[:place] + ("A" if char != "A" else "B") + token[place + 1 :]
        assert tokens.read(changed) is None, place


@pytest.mark.parametrize(
    "text", ["", "ddw_", "ddw_AAAA", "ddw_!!!!", "ddw_" + "A" * 2_000, "ddw_é", "ddk_AAAA", "ddw_A"]
)
def test_what_is_no_wallet_token_is_none(text: str) -> None:
    assert WalletTokens(ONE).read(text) is None


def test_what_one_secret_signs_for_a_purpose_is_none_for_another() -> None:
    signer = Signer(derived_secrets(ONE, "something else"))
    forged = WalletTokens(ONE)
    forged._signer = signer
    assert WalletTokens(ONE).read(forged.make(CONTENT)) is None
    assert WalletTokens(ONE).read(WalletTokens({"one": bytes(32)}).make(CONTENT)) is None
    assert WalletTokens(ONE).read(WalletTokens(TWO).make(CONTENT)) is None, "of a key that is not here"


def test_a_signed_content_of_another_form_is_none() -> None:
    tokens = WalletTokens(ONE)
    for content in (b"", b"\xc1", msgspec.msgpack.encode(["t"]), msgspec.msgpack.encode([1, 2, 3])):
        signed = tokens._signer.sign(content)
        text = "ddw_" + urlsafe_b64encode(signed).decode().rstrip("=")
        assert tokens.read(text) is None
